"""The Export tab: a LoRA into a webui with its picture and card, and any LoRA turned into one that every webui loads."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

from lora_core.errors import UserError
from lora_core.runs.index import RunIndex
from lora_core.ui.shared.file_manager import open_folder
from lora_core.ui.tabs.export import choices
from lora_core.ui.tabs.export.choices import OTHER
from lora_core.ui.tabs.export.convert import ConvertPanel
from lora_core.ui.tabs.export.form import Form
from lora_core.ui.tabs.export.views import Views, heard
from lora_core.ui.tabs.page import Page, Updates
from lora_core.webuis import search
from lora_core.webuis.detect import WebUI

if TYPE_CHECKING:
    from lora_core.webuis.card import ModelCard


def build(page: Page) -> None:
    """Put the tab's components on the page and connect them."""
    tab = gr.context.Context.block
    views, index = Views(page.text, page.app.files.url), RunIndex(page.app.runs_folder, page.app.home / "runs.json")
    with gr.Tabs(elem_id="export-parts"):
        with gr.Tab(page.text("export.part_export"), id="put", elem_id="export-part-put"):
            export = ExportTab(page, views, index)
        with gr.Tab(page.text("export.part_convert"), id="convert", elem_id="export-part-convert"):
            convert = ConvertPanel(page, views)
    export.connect(tab, convert)


@dataclass(frozen=True)
class Places:
    """The webuis found, the folder of the chosen one or OTHER, and where the last export went.

    Apart from what is chosen to export: that may wait for the core, and nothing chosen meanwhile may be lost.
    """

    looked: bool = False
    webuis: tuple[WebUI, ...] = ()
    place: str = ""
    exported: Path | None = None

    @property
    def webui(self) -> WebUI | None:
        return next((webui for webui in self.webuis if str(webui.folder) == self.place), None)


@dataclass(frozen=True)
class Chosen:
    """The LoRA a page has chosen, what it proposes, and the pictures for its card."""

    run: str = ""
    lora: Path | None = None
    card: Any = None  # a ModelCard; its module brings torch
    pictures: tuple[Path, ...] = ()
    picture: Path | None = None


class ExportTab:
    """The components of one page's Export tab and what they do."""

    def __init__(self, page: Page, views: Views, index: RunIndex):
        self.page, self.app, self.text, self.views, self.index = page, page.app, page.text, views, index
        self.chosen, self.places = gr.State(Chosen()), gr.State(Places())
        self.form = Form(page, views)

    def connect(self, tab: Any, convert: ConvertPanel) -> None:
        page, form = self.page, self.form
        convert.connect()
        self.convert = convert
        filled, message = [self.chosen, *form.filled], page.inbox["export"]
        entered = [self.chosen, self.places, *form.card.values(), form.folder, form.own]
        outcome = [
            self.places, form.name_wrong, form.place_wrong, form.taken, form.taken_note, form.keep, form.result,
            form.open_row, form.places, form.folder_note,
        ]  # fmt: skip
        looked = [self.places, form.places, form.folder_row, convert.target]
        for listener in (tab.select, message.change):
            page.on(listener, self.look, [self.places], looked)
        page.on(form.look.click, self.look_again, [self.places], looked)
        page.on(tab.select, self.open, [message, self.chosen, form.run], filled)
        page.on(message.change, self.receive, [message, self.chosen], filled)
        page.on(form.run.input, self.choose_run, [form.run, self.chosen], filled)
        page.on(form.version.input, self.choose_version, [form.version, self.chosen], filled)
        for listener in (form.file.submit, form.file.blur):
            page.on(listener, self.choose_file, [form.file, self.chosen], filled)
        told = [self.chosen, self.places, form.folder_row, form.place_wrong]
        page.on(form.bridge.input, self.hear, [form.bridge, self.chosen, self.places], told, trigger_mode="multiple")
        page.on(
            form.card["name"].change, self.check_name, [form.card["name"]], [form.name_wrong], trigger_mode="always_last"
        )
        for listener in (form.folder.submit, form.folder.blur):
            page.on(listener, self.check_folder, [form.folder], [form.folder_note, form.place_wrong])
        page.on(form.go.click, self._export("cancel"), entered, outcome)
        page.on(form.keep.click, self._export("keep-both"), entered, outcome)
        page.on(form.replace.click, self._export("replace"), entered, outcome)
        page.on(form.leave.click, lambda: gr.update(visible=False), [], [form.taken])
        page.on(form.open.click, self.open_folder, [self.places])
        form.connect_paths()

    # --- what is offered ----------------------------------------------------------------------------------------

    def look(self, places: Places) -> Updates:
        """The webuis on this computer; the one chosen before comes first and is chosen."""
        if not places.looked:
            found = tuple(choices.find_webuis(self.app.home))
            place = str(found[0].folder) if found else OTHER
            places = dataclasses.replace(places, looked=True, webuis=found, place=place)
        return {
            self.places: places, self.form.places: self.views.places(places.webuis, places.place),
            self.form.folder_row: gr.update(visible=places.place == OTHER),
            self.convert.target: gr.update(choices=self.convert.targets(places.webuis)),
        }  # fmt: skip

    def look_again(self, places: Places) -> Updates:
        return self.look(dataclasses.replace(places, looked=False))

    def open(self, message: dict[str, Any] | None, chosen: Chosen, run: str | None) -> Updates:
        """The tab was opened: list the runs, and propose the newest unless a message brings another."""
        listed = self._listed()
        if chosen.lora is None and listed and not message:
            return {**self.choose_run(listed[0][1], chosen), self.form.run: gr.update(choices=listed, value=listed[0][1])}
        is_gone = bool(run) and run not in {key for _, key in listed}
        return {self.form.run: gr.update(choices=listed, value=None) if is_gone else gr.update(choices=listed)}

    def _listed(self) -> list[tuple[str, str]]:
        return [(row.name, row.key) for row in choices.exportable(self.index.rows())]

    def receive(self, message: dict[str, Any] | None, chosen: Chosen) -> Updates:
        """A LoRA that another tab sends, with a picture for its card."""
        if not message or not message.get("lora"):
            return {self.chosen: gr.skip()}
        self.app.wait_for_core()
        lora = Path(message["lora"])
        picture = Path(message["picture"]) if message.get("picture") else None
        place = choices.place_in_runs(lora, self.index)
        key = place[0] if place else ""
        listed = gr.update(choices=self._listed(), value=key or None)
        return {**self._take(lora, chosen, key, picture), self.form.run: listed}

    def choose_run(self, key: str, chosen: Chosen) -> Updates:
        versions = choices.versions(self.index.row(key))
        if not versions:
            raise UserError(self.text("export.no_lora", name=key))
        return self._take(versions[0].path, chosen, key)

    def choose_version(self, path: str, chosen: Chosen) -> Updates:
        return self._take(Path(path), chosen, chosen.run)

    def choose_file(self, path: str, chosen: Chosen) -> Updates:
        named = path.strip().strip('"')
        if not named or (chosen.lora and str(chosen.lora) == named):
            return {self.form.file_wrong: ""}
        try:
            return {**self._take(Path(named).expanduser(), chosen, ""), self.form.file: gr.skip()}
        except UserError as wrong:
            return {self.form.file_wrong: self.views.wrong(self.text.say(wrong.message))}

    def _take(self, source: Path, chosen: Chosen, key: str, picture: Path | None = None) -> Updates:
        """Fill the form with what the LoRA and its run propose."""
        self.app.wait_for_core()
        from lora_core.webuis.card import card_for

        card = card_for(source)
        picture = picture if picture and picture.is_file() else card.picture
        offered = tuple(choices.pictures(card.lora, picture))
        for path in offered:
            self.app.files.allow(path.parent)
        chosen = dataclasses.replace(chosen, run=key, lora=card.lora, card=card, pictures=offered, picture=picture)
        versions = choices.versions(self.index.row(key)) if key else []
        return {
            self.chosen: chosen,
            **self.form.fill(card, self.views.summary(card.summary, card.overfit), self.views.pictures(offered, picture)),
            self.form.version: gr.update(
                choices=[(choices.version_label(each, self.text), str(each.path)) for each in versions],
                value=str(card.lora) if key else None, visible=len(versions) > 1,
            ),
            self.form.file: "" if key else str(card.lora),
            **({} if key else {self.form.run: None}),
        }  # fmt: skip

    # --- what is chosen -----------------------------------------------------------------------------------------

    def hear(self, message: str, chosen: Chosen, places: Places) -> Updates:
        """A card or a picture was chosen."""
        said = heard(message)
        value = said.get("value", "")
        if said.get("name") == "export-picture":
            picture = chosen.pictures[int(value)] if value.isdecimal() and int(value) < len(chosen.pictures) else None
            return {self.chosen: dataclasses.replace(chosen, picture=picture)}
        if said.get("name") == "export-place":
            known = value.isdecimal() and int(value) < len(places.webuis)
            place = str(places.webuis[int(value)].folder) if known else OTHER
            return {
                self.places: dataclasses.replace(places, place=place), self.form.place_wrong: "",
                self.form.folder_row: gr.update(visible=place == OTHER),
            }  # fmt: skip
        return {self.chosen: gr.skip()}

    def check_name(self, name: str) -> str:
        return self.views.wrong(choices.name_problem(name, self.text)) if name else ""

    def check_folder(self, folder: str) -> tuple[str, str]:
        if not folder.strip():
            return "", ""
        try:
            return self.views.other_note(choices.target_of(folder)), ""
        except UserError as wrong:
            return "", self.views.wrong(self.text.say(wrong.message))

    # --- the export ---------------------------------------------------------------------------------------------

    def _export(self, on_existing: str) -> Any:
        def export(chosen: Chosen, places: Places, *values: Any) -> Updates:
            *card, folder, own = values
            named = dict(zip(self.form.card, card, strict=True))
            return self.export(chosen, places, named, (str(folder), own), on_existing)

        return export

    def export(
        self, chosen: Chosen, places: Places, card: dict[str, Any], typed: tuple[str, str | None], on_existing: str
    ) -> Updates:
        """Put the LoRA there; with something wrong, say it at the field, and ask where the name is taken.

        typed: the folder that was named, and a picture of one's own.
        """
        self.app.wait_for_core()
        from lora_core.webuis.export import CANCEL, export_lora, is_taken, next_name

        folder, own = typed
        form = self.form
        if chosen.card is None:
            raise UserError(self.text("export.nothing"))
        name = str(card["name"]).strip()
        if problem := choices.name_problem(name, self.text):
            return {form.name_wrong: self.views.wrong(problem), form.taken: gr.update(visible=False)}
        try:
            webui = places.webui or choices.target_of(folder)
        except UserError as wrong:
            return {form.place_wrong: self.views.wrong(self.text.say(wrong.message)), form.taken: gr.update(visible=False)}
        if on_existing == CANCEL and is_taken(webui.lora_folder, name):
            said = self.text("export.taken", name=name, kind=webui.kind)
            keep = self.text("export.keep_both", name=next_name(webui.lora_folder, name))
            return {form.taken: gr.update(visible=True), form.taken_note: self.views.wrong(said), form.keep: keep}
        sidecar = _sidecar(chosen.card, card)
        picture = Path(own) if own else chosen.picture
        done = export_lora(chosen.card.lora, webui, name, on_existing, sidecar, picture)
        search.remember(self.app.home, webui.folder.absolute())
        webuis = places.webuis
        if webui not in webuis and webui.folder != webui.lora_folder:
            webuis = (webui, *webuis)
        place = str(webui.folder) if webui in webuis else OTHER
        return {
            self.places: dataclasses.replace(places, exported=webui.lora_folder, webuis=webuis, place=place),
            form.name_wrong: "", form.place_wrong: "", form.taken: gr.update(visible=False),
            form.result: self.views.done(done), form.open_row: gr.update(visible=True),
            form.places: self.views.places(webuis, place),
        }  # fmt: skip

    def open_folder(self, places: Places) -> None:
        if places.exported is None:
            raise UserError(self.text("export.nothing"))
        open_folder(places.exported, [places.exported])


def _sidecar(proposed: ModelCard, card: dict[str, Any]) -> Any:
    """The card as a person left it, over what was proposed."""
    return dataclasses.replace(
        proposed.sidecar, activation_text=str(card["trigger"]).strip(), preferred_weight=float(card["weight"] or 0),
        negative_text=str(card["negative"]).strip(), description=str(card["description"]).strip(),
        notes=str(card["notes"]).strip(),
    )  # fmt: skip
