"""The Train tab: presets and settings with a plan before Start, then the run as it is, live."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.config import read_values
from lora_core.errors import UserError
from lora_core.runs.run import Run
from lora_core.ui.tabs.page import Page, Updates, bridge, on_load
from lora_core.ui.tabs.train.buttons import Action, retry_changes
from lora_core.ui.tabs.train.computer_check import panel_html
from lora_core.ui.tabs.train.live import plot_html, samples_html, status_html
from lora_core.ui.tabs.train.poll import LiveView, live_view
from lora_core.ui.tabs.train.setup import Said, Setup


def build(page: Page) -> None:
    """Put the tab's components on the page and connect them."""
    TrainTab(page).connect()


class TrainTab:
    """The components of one page's Train tab and what they do. Whatever is shown comes from App and the run's files."""

    def __init__(self, page: Page):
        self.page, self.app, self.text = page, page.app, page.text
        self.setup = Setup(page.app, page.text)
        self.seen = gr.State({})
        with gr.Column(elem_id="train-setup") as self.setup_column:
            self._build_setup()
        with gr.Column(elem_id="train-live") as self.live_column:
            self._build_live()
        self.bridge = bridge("train")
        self.orders = gr.HTML(
            "", html_template="", elem_id="train-orders", visible="hidden", js_on_load=on_load("train", "orders")
        )
        gr.HTML(self.setup.words_html(), visible="hidden", js_on_load=None)

    # --- layout -----------------------------------------------------------------------------------------------

    def _build_setup(self) -> None:
        text = self.text
        self.cards = gr.HTML(self.setup.cards_html(), elem_id="train-cards", js_on_load=on_load("train", "cards"))
        gr.HTML('<p class="card-purpose" id="train-card-for" aria-live="polite"></p>', js_on_load=None)
        with gr.Row(elem_id="train-columns"):
            with gr.Column(scale=3, min_width=420, elem_id="train-form"):
                gr.HTML(self.setup.form_html(), js_on_load=on_load("train", "form"))
            with gr.Column(scale=2, min_width=320, elem_id="train-side"):
                self.plan = gr.HTML(self.setup.empty_plan(), elem_id="train-plan", js_on_load=None)
                self.start = gr.Button(text("train.start"), variant="primary", interactive=False, elem_id="train-start")
                self.reason = gr.HTML("", elem_id="train-reason", js_on_load=None)
                self.show = gr.Button(text("train.show_training"), visible=False, elem_id="train-show")
                with gr.Accordion(text("train.save_preset"), open=False, elem_id="train-save-fold"):
                    self.title = gr.Textbox(
                        label=text("train.preset_name"), info=text("train.preset_name_help"), max_lines=1,
                        elem_id="train-preset-name",
                    )  # fmt: skip
                    self.keep = gr.Button(text("train.save_preset"), size="sm", elem_id="train-preset-save")
                with gr.Accordion(text("train.load_preset"), open=False, elem_id="train-load-fold"):
                    self.load = gr.File(
                        label=text("train.load_preset_help"), file_types=[".toml", ".safetensors"], height=110,
                        elem_id="train-preset-load",
                    )  # fmt: skip
                gr.HTML(panel_html(text), elem_id="train-check", js_on_load=None)

    def _build_live(self) -> None:
        text = self.text
        self.status = gr.HTML("", elem_id="train-status", js_on_load=on_load("train", "status"))
        with gr.Row(elem_id="train-buttons"):
            self.buttons = {
                name: gr.Button(
                    text(f"train.{name}"), visible=False, elem_id=f"train-{name.replace('_', '-')}", min_width=90,
                    variant="stop" if name == "stop" else "primary" if name in _MAIN else "secondary",
                )
                for name in _BUTTONS
            }  # fmt: skip
        self.told = gr.HTML("", elem_id="train-told", js_on_load=None)
        with gr.Row(elem_id="train-watch"):
            with gr.Column(scale=3, min_width=480):
                self.plot = gr.HTML("", elem_id="train-plot", js_on_load=on_load("train", "plot"))
                self.log = gr.Checkbox(label=text("train.log"), info=text("train.log_help"), elem_id="train-log")
            with gr.Column(scale=2, min_width=320):
                self.samples = gr.HTML("", elem_id="train-samples", js_on_load=None)

    # --- events -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        page, quiet = self.page, {"show_progress": "hidden"}
        setup = [self.orders, self.plan, self.start, self.reason]
        live = [self.seen, self.setup_column, self.live_column, self.status, self.told, self.plot, self.samples,
                self.show, *self.buttons.values()]  # fmt: skip
        page.on(self.bridge.input, self.hear, [self.bridge], setup, trigger_mode="always_last", **quiet)
        page.on(self.start.click, self.begin, [self.bridge, self.seen, self.log], [*setup, *live], **quiet)
        page.each_second("train", self.refresh, [self.seen, self.log], live, ask="window.treinoTrain?.poll(tell)")
        page.on(self.log.change, self.refresh, [self.seen, self.log], live, **quiet)
        for name, button in self.buttons.items():
            if name not in ("test_it", "export_it", "usual_rate"):
                page.on(button.click, self._pressed(name), [self.seen, self.log], live, **quiet)
        page.on(
            self.buttons["usual_rate"].click, self.take_usual_rate, [self.seen, self.log], [self.orders, *live], **quiet
        )
        page.on(self.show.click, self._pressed("show"), [self.seen, self.log], live, **quiet)
        page.on(
            self.keep.click, self.save_preset, [self.bridge, self.title], [self.cards, self.title, self.orders], **quiet
        )
        page.on(self.load.upload, self.load_preset, [self.load], [self.orders, self.load], **quiet)
        message = page.inbox["train"]
        page.on(message.change, self.receive, [message, self.bridge, self.seen, self.log], [self.orders, *live], **quiet)
        for name, target in (("test_it", "test"), ("export_it", "export")):
            page.on(
                self.buttons[name].click, self._message_to(target), [], [page.tabs, page.inbox[target]], **quiet
            )  # fmt: skip

    def hear(self, payload: str) -> Updates:
        """What the form says: it is there, a card was chosen, something was typed."""
        said = json.loads(payload)
        if said["kind"] == "hello":
            return {self.orders: self.setup.hello()}
        if said["kind"] == "card":
            return {self.orders: self.setup.choose(said["card"], said["values"])}
        if said["kind"] == "browse":
            return {self.orders: self.setup.browse(said["name"], said["values"])}
        if said["kind"] == "folder":
            return {self.orders: self.setup.take_folder(said["folder"], said["values"])}
        form_says = Said.of(said)
        found = self.setup.look_at(form_says)
        order = {
            "problems": found.problems, "again": found.again, "n": said["n"], "arrives": said.get("arrives", 0),
            "recipe": found.moved,
        }  # fmt: skip
        if order["arrives"]:
            order |= self.setup.arrive(said["values"])
        if not said.get("models"):
            order["models"] = self.setup.found_models()
        order["costs"] = self.setup.costs(form_says, said.get("costs", ""))
        return {
            self.orders: json.dumps(order, ensure_ascii=False),
            self.plan: found.plan,
            self.start: gr.update(interactive=not found.reason),
            self.reason: found.reason_html,
        }

    def begin(self, payload: str, seen: dict[str, Any], log: bool) -> Updates:
        """Start; with something wrong, say what instead."""
        said = Said.of(json.loads(payload))
        found = self.setup.look_at(said)
        if found.reason or found.config is None:
            raise UserError(found.reason)
        self.setup.start(found.config, replace(said, boxed=found.boxed))
        return self.refresh(seen, log)

    def _pressed(self, name: str) -> Any:
        def press(seen: dict[str, Any], log: bool) -> Updates:
            training = self.app.training
            match name:
                case "to_settings":
                    return self.refresh({**seen, "setup": True}, log)
                case "show":
                    return self.refresh({**seen, "setup": False}, log)
                case "resume":
                    self.setup.resume(self._run())
                case "retry":
                    self.setup.retry(self._run(), retry_changes(self._run()))
                case "go_on":
                    training.unpause()
                case _:
                    getattr(training, name)()
            return self.refresh(seen, log)

        return press

    def take_usual_rate(self, seen: dict[str, Any], log: bool) -> Updates:
        """The form with the settings of the run, but for its learning rate: they are looked at before anything starts."""
        order = self.setup.with_usual_rate(self._run())
        return {**self.refresh({**seen, "setup": True}, log), self.orders: order}

    def _message_to(self, target: str) -> Any:
        def send() -> tuple[Any, dict[str, Any]]:
            run = self._run()
            message: dict[str, Any] = {"lora": str(run.lora_file(run.config()))}
            if target == "export":
                samples = self.app.training.history(run).samples
                latest = samples[max(samples)] if samples else []
                message["picture"] = str(run.folder / latest[0].path) if latest else None
            return gr.Tabs(selected=target), message

        return send

    def receive(self, message: dict[str, Any], payload: str, seen: dict[str, Any], log: bool) -> Updates:
        """A message from another tab: pictures to train on, settings to use again, a run or a LoRA to go on with."""
        if not message:
            return {self.seen: gr.skip()}
        if folder := message.get("resume"):
            self.setup.resume(Run(Path(folder)))
            return self.refresh(seen, log)
        now = json.loads(payload).get("values", {}) if payload else {}
        updates = self.refresh({**seen, "setup": True}, log)
        if values := message.get("config"):
            return {**updates, self.orders: self.setup.fill(values)}
        if lora := message.get("init_lora"):
            return {**updates, self.orders: self.setup.take_lora(lora, now)}
        return {**updates, self.orders: self.setup.take_folder(str(message["train_data_dir"]), now)}

    def save_preset(self, payload: str, title: str) -> Updates:
        said = json.loads(payload)
        name = self.setup.save_preset(title, said["values"])
        gr.Info(self.text("train.preset_saved", name=title.strip()))
        return {self.cards: self.setup.cards_html(name), self.title: "", self.orders: gr.skip()}

    def load_preset(self, path: str) -> Updates:
        order = self.setup.fill(read_values(Path(path)))
        gr.Info(self.text("train.preset_loaded", name=Path(path).name))
        return {self.orders: order, self.load: None}

    # --- the live view ----------------------------------------------------------------------------------------

    def refresh(self, seen: dict[str, Any], log: bool) -> Updates:
        """What changed since this page was told last; nothing when nothing did."""
        now = dict(seen)
        training = self.app.training
        if now.get("serial", 0) != training.serial:
            now.update(serial=training.serial, setup=False)
        is_setup = training.run is None or bool(now.get("setup"))
        updates: Updates = {}

        def tell(part: str, component: Any, shown: Any, value: Any) -> None:
            if now.get(part) != shown:
                now[part] = shown
                updates[component] = value

        tell("mode", self.setup_column, is_setup, gr.update(visible=True if is_setup else "hidden"))
        if self.setup_column in updates:
            updates[self.live_column] = gr.update(visible="hidden" if is_setup else True)
        can_show = is_setup and training.run is not None
        tell("show", self.show, can_show, gr.update(visible=can_show))
        if not is_setup and (found := live_view(self.app, self.text)):
            self._tell_live(found, log, tell)
        if now == seen:
            return {self.seen: gr.skip()}
        return {**updates, self.seen: now}

    def _tell_live(self, found: LiveView, log: bool, tell: Any) -> None:
        context = found.context
        status, plot = status_html(context), plot_html(context, log)
        tell("status", self.status, status, status)
        for name, (action, label) in found.buttons.items():
            tell(f"button {name}", self.buttons[name], (action, label), _button(action, label))
        tell("told", self.told, found.told, found.told)
        tell("plot", self.plot, hash(plot), plot)
        tell("samples", self.samples, (str(context.history.run.folder), found.samples), samples_html(context))

    def _run(self) -> Run:
        run = self.app.training.run
        assert run is not None, "these buttons are shown with a run only"
        return run


_MAIN = ("go_on", "test_it", "resume", "retry", "usual_rate")
_BUTTONS = (
    "pause", "go_on", "sample_now", "save_now", "stop", "test_it", "export_it", "resume", "retry", "usual_rate",
    "to_settings",
)  # fmt: skip


def _button(action: Action, label: str) -> Any:
    return gr.update(visible=action.visible, interactive=action.enabled, value=label)
