"""The form of the Export tab: its controls, and how a model card fills them."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

import gradio as gr

from lora_core.ui.shared import file_dialog
from lora_core.ui.tabs.export.views import Views
from lora_core.ui.tabs.page import Page, Updates, bridge

if TYPE_CHECKING:
    from lora_core.webuis.card import ModelCard

HEAVIEST = 2.0  # the range of A1111's slider


class Form:
    """Controls; `card` are the fields of the webui's card by name, `filled` is all that a LoRA fills."""

    def __init__(self, page: Page, views: Views):
        self.page, self.text, self.views = page, page.text, views
        self.card: dict[str, Any] = {}
        self.bridge = bridge("export")
        with gr.Row(elem_id="export-columns"):
            with gr.Column(scale=1, min_width=440):
                self._build_what()
                self._build_where()
            with gr.Column(scale=1, min_width=440):
                self._build_card()
                self._build_go()

    @property
    def filled(self) -> list[Any]:
        return [
            *self.card.values(), self.summary, self.pictures, self.version, self.file, self.file_wrong, self.run,
            self.result, self.open_row, self.taken, self.own, self.name_wrong,
        ]  # fmt: skip

    def fill(self, card: ModelCard, summary: str, pictures: str) -> Updates:
        """What a model card says, into the controls; what was said of another export is gone."""
        sidecar = card.sidecar
        values = {
            "name": card.name, "trigger": sidecar.activation_text, "weight": sidecar.preferred_weight or 1.0,
            "negative": sidecar.negative_text, "description": sidecar.description, "notes": sidecar.notes,
        }  # fmt: skip
        return {
            **{self.card[name]: value for name, value in values.items()},
            self.summary: summary, self.pictures: pictures, self.file_wrong: "", self.result: "", self.own: None,
            self.open_row: gr.update(visible=False), self.taken: gr.update(visible=False), self.name_wrong: "",
        }  # fmt: skip

    # --- layout -----------------------------------------------------------------------------------------------

    def _build_what(self) -> None:
        text = self.text
        gr.HTML(f"<h3>{escape(text('export.what'))}</h3>")
        with gr.Row():
            self.run = gr.Dropdown(
                [], value=None, label=text("export.run"), info=text("export.run_help"), elem_id="export-run", scale=1
            )
            self.version = gr.Dropdown(
                [], value=None, label=text("export.version"), info=text("export.version_help"), visible=False,
                elem_id="export-version", scale=1, min_width=240,
            )  # fmt: skip
        with gr.Accordion(text("export.elsewhere"), open=False, elem_id="export-elsewhere"):
            with gr.Row():
                self.file = gr.Textbox(
                    label=text("export.file"), info=text("export.file_help"), lines=1, max_lines=1, elem_id="export-file",
                    scale=5,
                )  # fmt: skip
                self.file_browse = browse_button(text, "export-file-browse")
            self.file_wrong = gr.HTML("", elem_id="export-file-wrong")
        self.summary = gr.HTML(f'<p class="export-note">{escape(text("export.none"))}</p>', elem_id="export-facts")

    def _build_where(self) -> None:
        text = self.text
        with gr.Row(elem_id="export-where-row"):
            gr.HTML(f"<h3>{escape(text('export.where'))}</h3>")
            self.look = gr.Button(text("export.look"), size="sm", scale=0, min_width=150, elem_id="export-look")
        self.places = gr.HTML(f'<p class="export-note">{escape(text("export.looking"))}</p>', elem_id="export-places")
        with gr.Column(visible=False, elem_id="export-folder-row") as self.folder_row:
            with gr.Row():
                self.folder = gr.Textbox(
                    label=text("export.folder"), info=text("export.folder_help"), lines=1, max_lines=1,
                    elem_id="export-folder", scale=5,
                )  # fmt: skip
                self.folder_browse = browse_button(text, "export-folder-browse")
            self.folder_note = gr.HTML("", elem_id="export-folder-note")
        self.place_wrong = gr.HTML("", elem_id="export-place-wrong")
        self.paths = gr.HTML("", elem_id="export-paths", elem_classes="export-paths")

    def _build_card(self) -> None:
        text, card = self.text, self.card
        gr.HTML(f"<h3>{escape(text('export.card'))}</h3>")
        self.pictures = gr.HTML("", elem_id="export-pictures")
        with gr.Accordion(text("export.own"), open=False, elem_id="export-own-fold"):
            self.own = gr.Image(
                type="filepath", sources=["upload", "clipboard"], label=text("export.own"), height=180,
                elem_id="export-own", buttons=[],
            )  # fmt: skip
        card["name"] = gr.Textbox(
            label=text("export.name"), info=text("export.name_help"), lines=1, max_lines=1, elem_id="export-name"
        )
        self.name_wrong = gr.HTML("", elem_id="export-name-wrong")
        card["trigger"] = gr.Textbox(
            label=text("export.trigger"), info=text("export.trigger_help"), lines=1, max_lines=1, elem_id="export-trigger"
        )
        card["weight"] = gr.Slider(
            0, HEAVIEST, value=1, step=0.05, label=text("export.weight"), info=text("export.weight_help"),
            elem_id="export-weight",
        )  # fmt: skip
        with gr.Accordion(text("export.more"), open=False, elem_id="export-more"):
            card["negative"] = gr.Textbox(
                label=text("export.negative"), info=text("export.negative_help"), max_lines=3, elem_id="export-negative"
            )
            card["description"] = gr.Textbox(
                label=text("export.description"), info=text("export.description_help"), max_lines=3,
                elem_id="export-description",
            )  # fmt: skip
            card["notes"] = gr.Textbox(
                label=text("export.notes"), info=text("export.notes_help"), lines=3, max_lines=8, elem_id="export-notes"
            )

    def _build_go(self) -> None:
        text = self.text
        self.go = gr.Button(text("export.go"), variant="primary", size="lg", elem_id="export-go")
        with gr.Column(visible=False, elem_id="export-taken") as self.taken:
            self.taken_note = gr.HTML("", elem_id="export-taken-note")
            with gr.Row():
                self.keep = gr.Button("", size="sm", variant="primary", elem_id="export-keep-both")
                self.replace = gr.Button(text("export.replace"), size="sm", variant="stop", elem_id="export-replace")
                self.leave = gr.Button(text("export.cancel"), size="sm", elem_id="export-cancel")
        self.result = gr.HTML("", elem_id="export-result")
        with gr.Row(visible=False, elem_id="export-open-row") as self.open_row:
            self.open = gr.Button(text("export.open"), size="sm", scale=0, min_width=150, elem_id="export-open")

    # --- paths ------------------------------------------------------------------------------------------------

    def connect_paths(self) -> None:
        """Suggestions while a path is typed, and the system's dialog."""
        connect_path(self.page, self.file, self.file_browse, self.paths, ".safetensors")
        connect_path(self.page, self.folder, self.folder_browse, self.paths, "")


def browse_button(text: Any, elem_id: str) -> Any:
    return gr.Button(
        text("export.browse"), size="sm", scale=0, min_width=100, visible=file_dialog.has_dialogs(), elem_id=elem_id
    )


def connect_path(page: Page, box: Any, button: Any, paths: Any, ending: str) -> None:
    """Complete what is typed into a box, and fill it from the system's dialog. ending "": folders only."""

    def suggest(typed: str) -> str:
        options = "".join(f'<option value="{escape(path)}"></option>' for path in file_dialog.complete(typed, ending))
        return f'<datalist id="export-path-list">{options}</datalist>'

    def browse(typed: str) -> Any:
        chosen = file_dialog.choose(page.text("export.browse"), typed, f"*{ending}" if ending else "folder")
        return chosen or gr.skip()

    page.on(box.input, suggest, [box], [paths], trigger_mode="always_last")
    done = page.on(button.click, browse, [box], [box])
    # As if it had been typed and Enter pressed: what listens to the box hears of it.
    done.then(None, js=f"() => treinoExport.enter({box.elem_id!r})")
