"""The part of the Export tab that turns any program's LoRA into a file that every webui loads."""

from __future__ import annotations

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.errors import UserError
from lora_core.models.families.specs import FAMILIES
from lora_core.ui.shared.file_manager import open_folder
from lora_core.ui.tabs.export import choices
from lora_core.ui.tabs.export.form import browse_button, connect_path
from lora_core.ui.tabs.export.views import Views
from lora_core.ui.tabs.page import Page, Updates
from lora_core.webuis.detect import PLAIN, WebUI

FOLDER = "folder"
PRECISIONS = ("fp16", "bf16", "fp32")


@dataclass(frozen=True)
class Source:
    """The LoRA to convert, and the folder that the last conversion went to."""

    path: Path | None = None
    folder: Path | None = None


class ConvertPanel:
    """Its components and what they do."""

    def __init__(self, page: Page, views: Views):
        self.page, self.app, self.text, self.views = page, page.app, page.text, views
        self.source = gr.State(Source())
        with gr.Row(elem_id="convert-columns"):
            with gr.Column(scale=1, min_width=440):
                self._build_source()
            with gr.Column(scale=1, min_width=440):
                self._build_target()

    # --- layout -----------------------------------------------------------------------------------------------

    def _build_source(self) -> None:
        text = self.text
        gr.HTML(f"<h3>{escape(text('export.convert_what'))}</h3><p>{escape(text('export.convert_help'))}</p>")
        with gr.Row():
            self.file = gr.Textbox(
                label=text("export.file"), info=text("export.convert_file_help"), lines=1, max_lines=1,
                elem_id="convert-file", scale=5,
            )  # fmt: skip
            self.file_browse = browse_button(text, "convert-file-browse")
        self.upload = gr.File(
            label=text("export.upload"), file_types=[".safetensors"], height=120, elem_id="convert-upload"
        )
        self.file_wrong = gr.HTML("", elem_id="convert-file-wrong")
        self.summary = gr.HTML("", elem_id="convert-facts")
        self.further = gr.Button(text("export.further"), size="sm", visible=False, elem_id="convert-further")

    def _build_target(self) -> None:
        text = self.text
        gr.HTML(f"<h3>{escape(text('export.convert_how'))}</h3>")
        with gr.Row():
            families = [(text("export.as_told"), ""), *((spec.label, name) for name, spec in FAMILIES.items())]
            self.family = gr.Dropdown(
                families, value="", label=text("export.family"), info=text("export.family_help"), elem_id="convert-family"
            )
            precisions = [(text("export.as_it_is"), ""), *((name, name) for name in PRECISIONS)]
            self.precision = gr.Dropdown(
                precisions, value="", label=text("export.precision"), info=text("export.precision_help"),
                elem_id="convert-precision",
            )  # fmt: skip
        self.family_wrong = gr.HTML("", elem_id="convert-family-wrong")
        self.drop = gr.Checkbox(
            label=text("export.drop"), info=text("export.drop_help"), visible=False, elem_id="convert-drop"
        )
        self.target = gr.Dropdown(
            self.targets(()), value=FOLDER, label=text("export.target"), info=text("export.target_help"),
            elem_id="convert-target",
        )  # fmt: skip
        with gr.Row() as self.folder_row:
            self.folder = gr.Textbox(
                label=text("export.target_folder"), info=text("export.target_folder_help"), lines=1, max_lines=1,
                elem_id="convert-folder", scale=5,
            )  # fmt: skip
            self.folder_browse = browse_button(text, "convert-folder-browse")
        self.name = gr.Textbox(
            label=text("export.name"), info=text("export.name_help"), lines=1, max_lines=1, elem_id="convert-name"
        )
        self.wrong = gr.HTML("", elem_id="convert-wrong")
        self.replace = gr.Checkbox(label=text("export.convert_replace"), visible=False, elem_id="convert-replace")
        self.go = gr.Button(text("export.convert_go"), variant="primary", size="lg", elem_id="convert-go")
        self.result = gr.HTML("", elem_id="convert-result")
        self.open = gr.Button(text("export.open"), size="sm", visible=False, elem_id="convert-open")
        self.paths = gr.HTML("", elem_id="convert-paths", elem_classes="export-paths")

    # --- events -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        page = self.page
        looked = [
            self.source, self.file_wrong, self.summary, self.name, self.drop, self.family, self.family_wrong, self.wrong,
            self.replace, self.result, self.open, self.file, self.further,
        ]  # fmt: skip
        for listener in (self.file.submit, self.file.blur):
            page.on(listener, self.look_at, [self.file, self.source], looked)
        page.on(self.upload.upload, self.take_upload, [self.upload, self.source], looked)
        page.on(self.target.change, lambda target: gr.update(visible=target == FOLDER), [self.target], [self.folder_row])
        fields = [self.source, self.family, self.precision, self.drop, self.target, self.folder, self.name, self.replace]
        outcome = [self.source, self.wrong, self.family_wrong, self.replace, self.result, self.open]
        page.on(self.go.click, self.convert, fields, outcome)
        page.on(self.further.click, self.go_on, [self.source], [page.tabs, page.inbox["train"]])
        page.on(self.open.click, self.open_folder, [self.source])
        connect_path(page, self.file, self.file_browse, self.paths, ".safetensors")
        connect_path(page, self.folder, self.folder_browse, self.paths, "")

    def targets(self, webuis: Sequence[WebUI]) -> list[tuple[str, str]]:
        """The places to put the file: webuis, or a folder."""
        return [*((f"{each.kind} ({each.folder})", str(each.folder)) for each in webuis),
                (self.text("export.target_plain"), FOLDER)]  # fmt: skip

    def look_at(self, file: str, source: Source) -> Updates:
        """Say what the file is."""
        named = file.strip().strip('"')
        if not named or str(source.path) == named:
            return {self.source: gr.skip()}
        updates = self._look(Path(named).expanduser(), Path(named).stem)
        return {**updates, self.further: gr.update(visible=updates[self.source].path is not None)}

    def take_upload(self, file: str | None, source: Source) -> Updates:
        if file is None:
            return {self.source: gr.skip()}
        return {**self._look(Path(file), Path(file).stem), self.file: ""}

    def _look(self, path: Path, name: str) -> Updates:
        self.app.wait_for_core()
        from lora_core.lora.summary import LoraSummary

        clean: Updates = {
            self.family: "", self.family_wrong: "", self.wrong: "", self.replace: gr.update(visible=False, value=False),
            self.result: "", self.open: gr.update(visible=False), self.file: gr.skip(),
            self.further: gr.update(visible=False),  # of an upload, which is soon gone
        }  # fmt: skip
        try:
            summary = LoraSummary.read(path)
        except UserError as wrong:
            said = self.views.wrong(self.text.say(wrong.message))
            return {
                **clean,
                self.source: Source(),
                self.file_wrong: said,
                self.summary: "",
                self.drop: gr.update(visible=False),
            }
        odd = self.text("export.drop_help", n=len(summary.left_out)) if summary.left_out else ""
        family = "" if summary.family else self.views.wrong(self.text("export.family_say"))
        return {
            **clean, self.source: Source(path), self.file_wrong: "", self.summary: self.views.summary(summary),
            self.name: name,
            self.drop: gr.update(visible=bool(summary.left_out), value=False, info=odd), self.family_wrong: family,
        }  # fmt: skip

    def go_on(self, source: Source) -> tuple[Any, dict[str, Any]]:
        """To the Train tab, to go on from this LoRA."""
        return gr.Tabs(selected="train"), {"init_lora": str(source.path), "sent": time.time()}

    def convert(self, *values: Any) -> Updates:
        """Convert; with something wrong, say it at the field."""
        source, family, precision, drop, target, folder, name, replace = values
        self.app.wait_for_core()
        if source.path is None:
            return {self.wrong: self.views.wrong(self.text("export.convert_nothing"))}
        if problem := choices.name_problem(str(name).strip(), self.text):
            return {self.wrong: self.views.wrong(problem)}
        try:
            place = choices.target_of(folder if target == FOLDER else target)
            if (place.lora_folder / f"{name.strip()}.safetensors").exists() and not replace:
                said = self.text("export.convert_taken", name=name.strip(), folder=place.lora_folder)
                return {self.wrong: self.views.wrong(said), self.replace: gr.update(visible=True), self.result: ""}
            result = self._convert(source.path, place, name.strip(), (family, precision, bool(replace), bool(drop)))
        except UserError as wrong:
            return {self.wrong: self.views.wrong(self._in_words(wrong)), self.result: ""}
        return {
            self.source: dataclasses.replace(source, folder=place.lora_folder), self.wrong: "", self.family_wrong: "",
            self.replace: gr.update(visible=False, value=False), self.result: result, self.open: gr.update(visible=True),
        }  # fmt: skip

    def _convert(self, path: Path, place: WebUI, name: str, how: tuple[str, str, bool, bool]) -> str:
        """The result as HTML. A webui also gets the card and, when it runs, is asked to read its list again."""
        from lora_core.lora.convert import convert_lora
        from lora_core.webuis.card import card_for
        from lora_core.webuis.export import KEEP_BOTH, REPLACE, export_lora

        family, precision, replace, drop = how
        if place.kind == PLAIN:
            return self.views.converted(
                convert_lora(path, place.lora_folder / f"{name}.safetensors", family, precision, replace, drop)
            )
        with tempfile.TemporaryDirectory(prefix="treino-") as scratch:
            done = convert_lora(path, Path(scratch) / f"{name}.safetensors", family, precision, False, drop)
            card = card_for(done.path).sidecar
            put = export_lora(done.path, place, name, REPLACE if replace else KEEP_BOTH, card)
        return self.views.done(put)

    def _in_words(self, wrong: UserError) -> str:
        """The window has boxes where the terminal has flags."""
        own = {"lora.family_unknown": "export.family_say", "lora.odd_layers": "export.drop_say"}
        return self.text(own[wrong.kind]) if wrong.kind in own else self.text.say(wrong.message)

    def open_folder(self, source: Source) -> None:
        if source.folder is None:
            raise UserError(self.text("export.convert_nothing"))
        open_folder(source.folder, [source.folder])
