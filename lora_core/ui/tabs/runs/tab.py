"""The Runs tab: every run of before, side by side where wanted, and what can be done with it."""

from __future__ import annotations

import dataclasses
import json
import time
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.errors import UserError
from lora_core.runs import actions, lock
from lora_core.runs.index import Row, RunIndex
from lora_core.runs.run import SHEET, Run, resumable
from lora_core.ui.shared.file_manager import open_folder
from lora_core.ui.state.training import unended
from lora_core.ui.tabs.page import Page, Updates, bridge, on_load
from lora_core.ui.tabs.runs import compare, views
from lora_core.ui.tabs.runs.views import FALLING, PAGE, STATES, ListState, ViewContext

_BUTTONS = ("resume", "again", "further", "test", "export", "open", "rename", "delete")


def build(page: Page) -> None:
    """Put the tab's components on the page and connect them."""
    RunsTab(page).connect(gr.context.Context.block)


class RunsTab:
    """The components of one page's Runs tab. What is shown is read from the folders; `listed` says what of it."""

    def __init__(self, page: Page):
        self.page, self.app, self.text = page, page.app, page.text
        self.index = RunIndex(page.app.runs_folder, page.app.home / "runs.json")
        self.context = ViewContext(page.text, page.app.files.url, self.state)
        self.deleted: list[actions.Removal] = []  # the last one last
        self.listed = gr.State(ListState())
        self.seen = gr.State("")
        self.bridge = bridge("runs")
        with gr.Row(elem_id="runs-columns"):
            with gr.Column(scale=6, min_width=560):
                self._build_list()
            with gr.Column(scale=5, min_width=420, elem_id="runs-stage"):
                self._build_stage()

    # --- layout -----------------------------------------------------------------------------------------------

    def _build_list(self) -> None:
        text = self.text
        with gr.Row(elem_id="runs-search-row"):
            self.words = gr.Textbox(
                label=text("runs.search"), placeholder=text("runs.search_hint"), max_lines=1, elem_id="runs-search", scale=3
            )
            states = [(text("runs.state_all"), ""), *((text(key), name) for name, key in STATES.items())]
            self.of_state = gr.Dropdown(
                [*states, (text("runs.state_wrong"), "wrong")], value="", label=text("runs.state"),
                elem_id="runs-state", scale=2, min_width=150,
            )  # fmt: skip
        with gr.Row(visible=False, elem_id="runs-undo-row") as self.undo_row:
            self.undo_note = gr.HTML("", elem_id="runs-undo-note")
            self.undo = gr.Button(text("runs.undo"), size="sm", min_width=120, scale=0, elem_id="runs-undo")
        self.list = gr.HTML(f"<p>{text('runs.reading')}</p>", elem_id="runs-list", js_on_load=on_load("runs", "list"))

    def _build_stage(self) -> None:
        text = self.text
        with gr.Row(visible=False, elem_id="runs-compare-row") as self.compare_row:
            kinds = [(text("runs.line_held"), compare.HELD), (text("runs.line_training"), compare.TRAINING)]
            self.kind = gr.Radio(
                kinds, value=compare.HELD, label=text("runs.compare_kind"), elem_id="runs-kind", scale=3, min_width=400
            )
            self.log = gr.Checkbox(label=text("runs.log"), elem_id="runs-log", scale=1, min_width=120)
            self.untick = gr.Button(text("runs.untick"), size="sm", scale=1, min_width=130, elem_id="runs-untick")
        with gr.Row(visible=False, elem_id="runs-buttons") as self.button_row:
            self.buttons = {
                name: gr.Button(
                    text(f"runs.{name}"), size="sm", min_width=96, elem_id=f"runs-{name}",
                    variant="stop" if name == "delete" else "secondary",
                )
                for name in _BUTTONS
            }  # fmt: skip
        with gr.Group(visible=False, elem_id="runs-rename-box") as self.rename_box:
            self.new_name = gr.Textbox(
                label=text("runs.new_name"), info=text("runs.new_name_help"), max_lines=1, elem_id="runs-new-name"
            )
            with gr.Row():
                self.rename_yes = gr.Button(
                    text("runs.rename_yes"), size="sm", variant="primary", elem_id="runs-rename-yes"
                )
                self.rename_no = gr.Button(text("runs.cancel"), size="sm", elem_id="runs-rename-no")
        with gr.Column(visible=False, elem_id="runs-delete-box") as self.delete_box:
            self.doom = gr.HTML("", elem_id="runs-doom")
            with gr.Row():
                self.delete_yes = gr.Button(text("runs.delete_yes"), size="sm", variant="stop", elem_id="runs-delete-yes")
                self.delete_no = gr.Button(text("runs.keep"), size="sm", elem_id="runs-delete-no")
        # Shared with the Train tab: values under the pointer, pictures that a click enlarges.
        self.stage = gr.HTML(self._invitation(), elem_id="runs-details", js_on_load=on_load("train", "plot"))

    def _invitation(self) -> str:
        return f'<div class="runs-empty"><p>{self.context.say("runs.choose")}</p></div>'

    # --- events -----------------------------------------------------------------------------------------------

    def connect(self, tab: Any) -> None:
        page = self.page
        shown = [self.listed, self.list, self.undo_row, self.undo_note]
        stage = [self.compare_row, self.button_row, self.rename_box, self.delete_box, self.stage, *self.buttons.values()]
        both, plot_options = [*shown, *stage], [self.kind, self.log]
        # Each reads what the page shows and some change it: two at once, and one would be forgotten.
        in_turn: dict[str, Any] = {"concurrency_id": "runs", "concurrency_limit": 1}
        page.on(tab.select, self.refresh, [self.listed, *plot_options], both, **in_turn)
        page.on(page.inbox["runs"].change, self.refresh, [self.listed, *plot_options], both, **in_turn)
        asked = [self.words, self.of_state]
        page.each_second("runs", self.follow, [self.seen, *asked, self.listed, *plot_options], [self.seen, *both])
        page.on(
            self.bridge.input,
            self.hear,
            [self.bridge, self.listed, *plot_options],
            both,
            trigger_mode="multiple",
            **in_turn,
        )
        for control, name in ((self.words, "words"), (self.of_state, "state")):
            page.on(
                control.change, self._narrow(name), [control, self.listed], shown, trigger_mode="always_last", **in_turn
            )
        for control in plot_options:
            page.on(control.change, self.show_stage, [self.listed, *plot_options], stage, **in_turn)
        page.on(self.untick.click, self.clear_ticks, [self.listed, *plot_options], both, **in_turn)
        train = {name: "train" for name in ("resume", "again", "further")}
        for name, target in {**train, "test": "test", "export": "export"}.items():
            page.on(
                self.buttons[name].click, self._message(name, target), [self.listed], [page.tabs, page.inbox[target]]
            )  # fmt: skip
        page.on(self.buttons["open"].click, self.open, [self.listed])
        page.on(
            self.buttons["rename"].click, self.ask_name, [self.listed], [self.rename_box, self.delete_box, self.new_name]
        )
        page.on(self.buttons["delete"].click, self.ask_delete, [self.listed], [self.rename_box, self.delete_box, self.doom])
        for button in (self.rename_no, self.delete_no):
            page.on(button.click, self._close, [], [self.rename_box, self.delete_box])
        for listener in (self.rename_yes.click, self.new_name.submit):
            page.on(listener, self.rename, [self.new_name, self.listed, *plot_options], both, **in_turn)
        page.on(self.delete_yes.click, self.delete, [self.listed, *plot_options], both, **in_turn)
        page.on(self.undo.click, self.bring_back, [self.listed, *plot_options], both, **in_turn)

    def refresh(self, listed: ListState, kind: str, log: bool) -> Updates:
        """Everything as it is now."""
        return {**self._list(listed), **self.show_stage(listed, kind, log)}

    def follow(self, seen: str, words: str, of_state: str, listed: ListState, kind: str, log: bool) -> Updates:
        """Show it when a training begins, changes its state or ends; and what was asked for while a list was on its way."""
        training = self.app.training
        now = f"{training.serial} {training.state() if training.job else ''}"
        wanted = dataclasses.replace(listed, words=words or "", state=of_state or "")
        if now != seen and seen:
            return {self.seen: now, **self.refresh(wanted, kind, log)}
        return {self.seen: now, **self._list(wanted)} if wanted != listed else {self.seen: gr.skip() if seen else now}

    def hear(self, payload: str, listed: ListState, kind: str, log: bool) -> Updates:
        """What was pressed in the list."""
        said = json.loads(payload)
        act, value = said["act"], str(said.get("value", ""))
        if act == "open":
            return self.show_stage(dataclasses.replace(listed, key=value), kind, log, chosen=True)
        if act == "tick":
            kept = tuple(key for key in listed.ticked if key != value)
            ticked = (*kept, value) if said["on"] else kept
            if len(ticked) > compare.MOST:
                gr.Info(self.text("runs.most", n=compare.MOST))
                return self._list(dataclasses.replace(listed, anew=listed.anew + 1))
            return self.show_stage(dataclasses.replace(listed, ticked=ticked), kind, log, chosen=True)
        if act == "more":
            return self._list(dataclasses.replace(listed, shown=listed.shown + PAGE))
        if act != "sort" or value not in views.COLUMNS:
            return {self.listed: gr.skip()}
        falling = not listed.falling if listed.order == value else value in FALLING
        return self._list(dataclasses.replace(listed, order=value, falling=falling))

    def _narrow(self, name: str) -> Any:
        def narrow(value: str, listed: ListState) -> Updates:
            return self._list(dataclasses.replace(listed, **{name: value or "", "shown": PAGE}))  # type: ignore[arg-type]

        return narrow

    def clear_ticks(self, listed: ListState, kind: str, log: bool) -> Updates:
        return self.refresh(dataclasses.replace(listed, ticked=(), anew=listed.anew + 1), kind, log)

    # --- what is shown ----------------------------------------------------------------------------------------

    def state(self, row: Row) -> str:
        """The state of a run: live only with a live thread, else what its events say of the end."""
        training = self.app.training
        if training.busy() and training.is_job_of(row.run):
            return training.state(row.run)
        return row.summary.end or unended(row.run)

    def _list(self, listed: ListState) -> Updates:
        last = self.deleted[-1] if self.deleted else None
        note = f'<p role="status">{self.context.say("runs.deleted", name=last.name)}</p>' if last else ""
        return {
            self.listed: listed, self.list: views.list_html(self.index.rows(), listed, self.context),
            self.undo_row: gr.update(visible=last is not None), self.undo_note: note,
        }  # fmt: skip

    def show_stage(self, listed: ListState, kind: str, log: bool, chosen: bool = False) -> Updates:
        """The right side: several ticked runs compared, else the details of the chosen one."""
        rows = [row for key in listed.ticked if (row := self._row(key))]
        one = self._row(listed.key) if len(rows) < 2 and listed.key else None
        html = self._invitation()
        if len(rows) > 1:
            histories = [self.app.training.history(row.run) for row in rows]
            html = compare.overlay_html(rows, histories, self.context, kind, log)
        elif one:
            plot = compare.run_plot(one, self.app.training.history(one.run), self.context)
            html = views.details_html(one, self.context, plot)
        return {
            **({self.listed: listed} if chosen else {}), **self._close(), self.stage: html,
            self.compare_row: _shown(len(rows) > 1), self.button_row: _shown(one is not None),
            **(self._buttons(one) if one else {}),
        }  # fmt: skip

    def _buttons(self, row: Row) -> Updates:
        is_live = self._is_trained(row)
        can = {
            "resume": bool(row.config and resumable(row.run.checkpoints)) and not self.app.training.busy() and not is_live
            and not (row.summary.end == "finished" and row.summary.step >= row.summary.total),
            "again": row.config is not None, "further": bool(row.config and self._lora(row)),
            "test": self._lora(row) is not None, "export": self._lora(row) is not None,
            "open": True, "rename": not is_live and row.key != ".", "delete": not is_live,
        }  # fmt: skip
        return {self.buttons[name]: gr.update(interactive=able) for name, able in can.items()}

    def _row(self, key: str) -> Row | None:
        try:
            return self.index.row(key)
        except UserError:  # deleted meanwhile, here or elsewhere
            return None

    # --- what is done -----------------------------------------------------------------------------------------

    def _message(self, name: str, target: str) -> Any:
        def send(listed: ListState) -> tuple[Any, dict[str, Any]]:
            row = self.index.row(listed.key)
            message: dict[str, Any] = {"sent": time.time()}  # a second message with the same words is a message too
            if name == "resume":
                message["resume"] = str(row.run.folder)
            elif name in ("again", "further"):
                assert row.config is not None, "the buttons are off without settings"
                message["config"] = {key: value for key, value in row.config.values().items() if key != "output_dir"}
                if name == "further":
                    message["config"]["init_lora"] = str(self._lora(row))
            else:
                message["lora"] = str(self._lora(row))
                if name == "export":
                    message["picture"] = str(row.picture) if row.picture and row.picture.name != SHEET else None
            return gr.Tabs(selected=target), message

        return send

    def _lora(self, row: Row) -> Path | None:
        """The finished LoRA, or else that of the last checkpoint."""
        return row.lora or max(row.run.checkpoint_loras(), default=None)

    def open(self, listed: ListState) -> None:
        open_folder(self.index.row(listed.key).run.folder, [self.app.runs_folder])

    def ask_name(self, listed: ListState) -> tuple[Any, Any, str]:
        return _shown(True), _shown(False), self.index.row(listed.key).run.folder.name

    def ask_delete(self, listed: ListState) -> tuple[Any, Any, str]:
        row = self.index.row(listed.key)
        return _shown(False), _shown(True), views.doom_html(row, actions.contents(row), self.context)

    def _close(self) -> Updates:
        return {self.rename_box: _shown(False), self.delete_box: _shown(False)}

    def rename(self, name: str, listed: ListState, kind: str, log: bool) -> Updates:
        row = self._idle(listed)
        folder = actions.rename(row, name.strip(), self.app.runs_folder)
        key = self.index.key_of(folder) or ""
        if self.app.training.run is not None and self.app.training.run.folder.absolute() == row.run.folder.absolute():
            self.app.training.show(Run(folder))
        ticked = tuple(key if each == row.key else each for each in listed.ticked)
        return self.refresh(dataclasses.replace(listed, key=key, ticked=ticked), kind, log)

    def delete(self, listed: ListState, kind: str, log: bool) -> Updates:
        row = self._idle(listed)
        self.deleted.append(actions.delete(row, self.app.runs_folder))
        ticked = tuple(key for key in listed.ticked if key != row.key)
        return self.refresh(dataclasses.replace(listed, key="", ticked=ticked), kind, log)

    def bring_back(self, listed: ListState, kind: str, log: bool) -> Updates:
        folder = actions.restore(self.deleted[-1])
        self.deleted.pop()
        return self.refresh(dataclasses.replace(listed, key=self.index.key_of(folder) or ""), kind, log)

    def _idle(self, listed: ListState) -> Row:
        """The chosen run, when nothing writes to it.

        Raises:
            UserError: it is being trained.
        """
        row = self.index.row(listed.key)
        if self._is_trained(row):
            raise UserError("ui.run_busy")
        return row

    def _is_trained(self, row: Row) -> bool:
        """Whether this or another program trains a run now."""
        training = self.app.training
        return (training.busy() and training.is_job_of(row.run)) or lock.is_held_elsewhere(row.run.folder)


def _shown(is_shown: bool) -> Any:
    return gr.update(visible=is_shown)
