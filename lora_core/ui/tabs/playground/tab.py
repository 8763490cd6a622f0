"""The Test tab: a LoRA tried at once, with and without it, at any weight, over checkpoints and prompts."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.errors import UserError
from lora_core.sampling.gallery import Drawn
from lora_core.sampling.params import GenerationParams
from lora_core.ui.state.background import in_background
from lora_core.ui.state.drawing import View
from lora_core.ui.state.lora_library import library_of
from lora_core.ui.tabs.page import Page, Updates, bridge
from lora_core.ui.tabs.playground import views
from lora_core.ui.tabs.playground.form import GRID, Form
from lora_core.webuis.loras import FINISHED

_QUICK_S = 0.3  # between looks at a drawing that was begun on this page


def build(page: Page) -> None:
    """Put the tab's components on the page and connect them."""
    TrialTab(page).connect()


class TrialTab:
    """The components of one page's Test tab. Pictures and progress are the preview worker's, which all pages share."""

    def __init__(self, page: Page) -> None:
        self.page, self.text = page, page.text
        self.library = library_of(page.app)
        self.worker, self.training = self.library.worker, page.app.training
        self.seen = gr.State({})  # what this page shows already
        self.picked = gr.State([])  # names of pictures chosen from the strip, at most two
        # The LoRAs chosen on this page. Written in place, so that what is filled in later knows of a choice under way.
        self.chosen = gr.State([])
        self.bridge = bridge("test")
        with gr.Row(elem_id="test-columns"):
            with gr.Column(scale=4, min_width=360, elem_id="test-form"):
                self.form = Form(page, self.library)
            with gr.Column(scale=6, min_width=480, elem_id="test-side"):
                self._build_side()

    def _build_side(self) -> None:
        text = self.text
        with gr.Row(elem_id="test-buttons"):
            self.draw = gr.Button(text("test.draw"), variant="primary", elem_id="test-draw")
            self.cancel = gr.Button(text("test.cancel"), variant="stop", interactive=False, elem_id="test-cancel")
            self.free = gr.Button(text("test.free"), interactive=False, elem_id="test-free")
        with gr.Group(visible=False, elem_id="test-offer") as self.offer:
            gr.HTML(f'<p class="test-offer-words" role="alert">{escape(text("test.busy_training"))}</p>')
            with gr.Row():
                self.pause = gr.Button(text("test.busy_pause"), variant="primary", elem_id="test-offer-pause")
                self.beside = gr.Button(text("test.busy_beside"), elem_id="test-offer-beside")
                self.not_now = gr.Button(text("test.busy_not_now"), elem_id="test-offer-not-now")
        self.progress = gr.HTML(views.progress(text, View()), elem_id="test-progress")
        self.stage = gr.HTML(views.stage(text, View(), self._url), elem_id="test-stage")
        with gr.Row(elem_id="test-paste-row", equal_height=True):
            self.paste = gr.Textbox(
                label=text("test.paste"), info=text("test.paste_help"), interactive=False, buttons=["copy"], scale=4,
                max_lines=1, elem_id="test-paste",
            )  # fmt: skip
            self.export = gr.Button(text("test.export"), interactive=False, scale=1, elem_id="test-export")
            self.further = gr.Button(text("test.further"), interactive=False, scale=1, elem_id="test-further")
        self.history = gr.HTML("", elem_id="test-history")
        with gr.Row(elem_id="test-history-buttons"):
            self.restore = gr.Button(text("test.restore"), size="sm", interactive=False, elem_id="test-restore")
            self.newest = gr.Button(text("test.newest"), size="sm", interactive=False, elem_id="test-newest")
        self.quick = gr.Timer(_QUICK_S, active=False)

    # --- events -----------------------------------------------------------------------------------------------

    def connect(self) -> None:
        page, form, fields = self.page, self.form, self.form.fields
        live = [
            self.seen, self.picked, self.progress, self.stage, self.history, self.draw, self.cancel, self.free,
            self.restore, self.newest, self.quick,
        ]  # fmt: skip
        whole = [form.facts, form.filled, self.paste, self.export, self.further, *form.inputs]
        state, one_at_a_time = [self.seen, self.picked], {"trigger_mode": "once"}
        ticked = [*state, self.chosen, fields["lora"], fields["prompt"]]
        page.each_second("test", self.tick, ticked, [*live, *whole])
        page.on(self.quick.tick, self.look, state, live, queue=False, trigger_mode="once")
        page.on(self.draw.click, self.press, [*state, *form.inputs], [*live, self.offer, fields["seed"]], **one_at_a_time)
        for button, how in ((self.pause, True), (self.beside, False)):
            page.on(
                button.click, self._begin(how), [*state, *form.inputs], [*live, self.offer, fields["seed"]], **one_at_a_time
            )
        page.on(self.not_now.click, self.decline, [], [self.offer])
        page.on(self.cancel.click, self.stop, state, live)
        page.on(self.free.click, self.let_go, state, live)
        page.on(self.bridge.input, self.pick, [*state, self.bridge], live)
        page.on(self.newest.click, self.unpick, state, live)
        page.on(self.restore.click, self.bring_back, [self.picked], [*whole, form.grid_group])
        page.on(self.export.click, self.send, [self.picked, fields["lora"]], [page.tabs, page.inbox["export"]])
        page.on(self.further.click, self.go_on, [fields["lora"]], [page.tabs, page.inbox["train"]])
        self._connect_form(whole)

    def _connect_form(self, whole: list[Any]) -> None:
        page, form, fields = self.page, self.form, self.form.fields
        page.on(fields["lora"].input, self.choose, [fields["lora"], self.chosen, form.filled, *form.inputs], whole)
        page.on(fields["lora"].focus, form.still_there, [fields["lora"]], [fields["lora"]])
        page.on(form.refresh.click, self.look_again, [fields["lora"]], [fields["lora"]])
        page.on(form.path.submit, self.take, [form.path, self.chosen, form.filled, *form.inputs], [*whole, form.path])
        message = page.inbox["test"]
        page.on(message.change, self.receive, [message, self.chosen, form.filled, *form.inputs], whole)
        page.on(fields["base"].change, form.facts_for, [fields["lora"], fields["base"]], [form.facts])
        page.on(fields["weight"].change, self.paste_for, [fields["lora"], fields["weight"]], [self.paste])
        grid_fields = [fields[name] for name in ("mode", "kind", "weights", "checkpoints", "prompts", "lora")]
        shown = [self.draw, form.grid_group, fields["weights"], fields["checkpoints"], fields["prompts"], form.count]
        in_turn: dict[str, Any] = {"concurrency_id": "grid", "concurrency_limit": 1}  # or an older answer could come last
        for field in grid_fields:
            page.on(field.change, self.lay_out, form.inputs, shown, trigger_mode="always_last", **in_turn)

    # --- drawing ----------------------------------------------------------------------------------------------

    def press(self, seen: dict[str, Any], picked: list[str], *values: Any) -> Updates:
        """Draw, or ask first when a training is running."""
        self.form.read(values)  # what is wrong with it is told before anything is offered
        if self.training.is_in_the_way():
            return {self.offer: gr.update(visible=True)}
        return self._start(seen, values, False)

    def _begin(self, pause: bool) -> Callable[..., Updates]:
        def begin(seen: dict[str, Any], picked: list[str], *values: Any) -> Updates:
            return self._start(seen, values, pause)

        return begin

    def _start(self, seen: dict[str, Any], values: Sequence[Any], pause: bool) -> Updates:
        order = self.form.read(values, roll=True)
        if order.grid is not None:
            self.worker.fill(order.grid, pause)
        else:
            self.worker.compare(order.params, pause)
        self.page.app.remember("test.lora", order.params.lora)
        seed = {self.form.fields["seed"]: order.params.seed, self.offer: gr.update(visible=False)}
        return {**self._live(seen, []), **seed, self.quick: gr.Timer(active=True)}

    def decline(self) -> Updates:
        return {self.offer: gr.update(visible=False)}

    def stop(self, seen: dict[str, Any], picked: list[str]) -> Updates:
        self.worker.cancel()
        return self._live(seen, picked)

    def let_go(self, seen: dict[str, Any], picked: list[str]) -> Updates:
        self.worker.free()
        return self._live(seen, picked)

    # --- what is shown ----------------------------------------------------------------------------------------

    def tick(self, seen: dict[str, Any], picked: list[str], chosen: list[str], lora: str, prompt: str) -> Updates:
        """Every second; the first one also finds the page as it was left."""
        if not seen:
            in_background(self.library.look_into_webuis, "webui LoRAs")
            return {**self._live(seen, picked), **self.form.choices()}
        if seen["is_filled"] or not self.page.app.core_ready():
            return self.look(seen, picked)
        is_begun = bool(chosen or lora or prompt)
        return {**self._live({**seen, "is_filled": True}, picked), **({} if is_begun else self._as_it_was())}

    def look(self, seen: dict[str, Any], picked: list[str]) -> Updates:
        if seen.get("serial") == self.worker.view.serial:
            return {self.seen: gr.skip()}
        return self._live(seen, picked)

    def _live(self, seen: dict[str, Any], picked: list[str]) -> Updates:
        """All that follows the preview worker; parts that would look the same are left alone."""
        view, text = self.worker.view, self.text
        now = {
            "serial": view.serial,
            "busy": view.is_busy,
            "loaded": view.loaded,
            "picked": picked,
            "pictures": view.pictures,
            "is_filled": bool(seen.get("is_filled")),
        }
        updates: Updates = {self.seen: now, self.progress: views.progress(text, view)}
        begun = (view.phase, len(view.cells)) if view.is_busy and not view.done else ()
        now["stage"] = [picked, view.pictures, begun, len(view.cells)] if not picked else [picked]
        recent = self.worker.recent() if self._differs(seen, now, "stage", "pictures", "picked") else []
        if self._differs(seen, now, "stage"):
            updates[self.stage] = views.stage(text, view, self._url, self._find(picked, recent))
        if self._differs(seen, now, "pictures", "picked"):
            updates[self.history] = views.history(text, recent, picked, self._url)
            updates |= {self.picked: picked, self.newest: gr.update(interactive=bool(picked))}
            updates[self.restore] = gr.update(interactive=bool(recent))
        if self._differs(seen, now, "busy", "loaded"):
            updates |= {
                self.draw: gr.update(interactive=not view.is_busy), self.cancel: gr.update(interactive=view.is_busy),
                self.free: gr.update(interactive=bool(view.loaded) and not view.is_busy),
                self.quick: gr.Timer(active=view.is_busy),
            }  # fmt: skip
        return updates

    @staticmethod
    def _differs(seen: dict[str, Any], now: dict[str, Any], *names: str) -> bool:
        return any(name not in seen or seen[name] != now[name] for name in names)

    def _as_it_was(self) -> Updates:
        """The form of the picture that is drawn or was drawn last; else with the LoRA tried last, or the newest."""
        cells = self.worker.view.cells
        if cells:
            return self._bring_back(cells[-1].params)
        remembered = Path(str(self.page.app.recall("test.lora", "")))
        newest = next((found.path for found in self.library.found() if found.kind == FINISHED), None)
        chosen = remembered if remembered.is_file() else newest
        try:
            return self._open(str(chosen), [], {}, [field.value for field in self.form.inputs]) if chosen else {}
        except UserError:  # damaged by now: then the form begins empty
            return {}

    def _find(self, picked: Sequence[str], recent: Sequence[Drawn]) -> list[Drawn]:
        by_name = {views.key(drawn): drawn for drawn in recent}
        return [by_name[name] for name in picked if name in by_name]

    def _url(self, path: Path, side: int) -> str:
        return self.page.app.files.url(path, side)

    # --- the strip of last pictures ---------------------------------------------------------------------------

    def pick(self, seen: dict[str, Any], picked: list[str], message: str) -> Updates:
        """Choose a picture of the strip, or give it back; of three, the one chosen first goes."""
        name = message.partition(" ")[0]
        picked = [other for other in picked if other != name] if name in picked else [*picked, name][-2:]
        return self._live(seen, picked)

    def unpick(self, seen: dict[str, Any], picked: list[str]) -> Updates:
        return self._live(seen, [])

    def bring_back(self, picked: list[str]) -> Updates:
        """What made the picture chosen last, else of the newest with a LoRA."""
        recent = self.worker.recent()
        chosen = self._find(picked[-1:], recent) or [d for d in recent if d.params.has_lora] or recent
        return self._bring_back(chosen[0].params) if chosen else {}

    def _bring_back(self, params: GenerationParams) -> Updates:
        updates = self.form.restore(params)
        if params.lora and Path(params.lora).is_file():
            updates |= self._words(params.lora, params.weight)
        return updates

    # --- the LoRA ---------------------------------------------------------------------------------------------

    def choose(self, path: str, chosen: list[str], filled: dict[str, Any], *values: Any) -> Updates:
        chosen[:] = [path]
        self._ready()
        updates = self.form.fill(path, filled, *values)
        weight = updates.get(self.form.fields["weight"], dict(zip(self.form.fields, values, strict=True))["weight"])
        return {**updates, **self._words(path, float(weight))}

    def take(self, path: str, chosen: list[str], filled: dict[str, Any], *values: Any) -> Updates:
        """A LoRA by its path."""
        if not path.strip():
            return {}
        return {**self._open(path.strip().strip('"'), chosen, filled, values), self.form.path: ""}

    def receive(self, message: dict[str, Any] | None, chosen: list[str], filled: dict[str, Any], *values: Any) -> Updates:
        """A message from another tab."""
        if not message or not message.get("lora"):
            return {}
        return self._open(str(message["lora"]), chosen, filled, values)

    def _open(self, path: str, chosen: list[str], filled: dict[str, Any], values: Sequence[Any]) -> Updates:
        chosen[:] = [path]
        self._ready()
        defaults = self.library.take(Path(path).expanduser())
        # Fills first: the dropdown's update also holds the choices.
        return {**self.choose(str(defaults.path), chosen, filled, *values), **self.form.choices(str(defaults.path))}

    def look_again(self, chosen: str) -> Updates:
        self.library.look_into_webuis()
        return self.form.still_there(chosen)

    def paste_for(self, path: str, weight: float) -> str:
        from lora_core.webuis.card import Sidecar  # brings torch
        from lora_core.webuis.export import prompt_text

        if not path:
            return ""
        defaults = self.library.defaults(Path(path))
        return prompt_text(defaults.name, Sidecar(activation_text=defaults.trigger, preferred_weight=float(weight)))

    def send(self, picked: list[str], lora: str) -> tuple[Any, dict[str, Any]]:
        """To the Export tab, with the picture that is shown."""
        if not lora:
            raise UserError(self.text("test.facts_none"))
        shown = [cell.drawn for cell in self.worker.view.cells if cell.drawn]
        candidates = [*self._find(picked, self.worker.recent()), *shown[::-1], *self.worker.recent()]
        mine = [d for d in candidates if d.params.has_lora and d.params.lora == lora and not d.is_grid]
        return gr.Tabs(selected="export"), {"lora": lora, "picture": str(mine[0].path) if mine else None}

    def go_on(self, lora: str) -> tuple[Any, dict[str, Any]]:
        """To the Train tab, to go on from the chosen LoRA."""
        if not lora:
            raise UserError(self.text("test.facts_none"))
        return gr.Tabs(selected="train"), {"init_lora": lora, "sent": time.time()}

    def _words(self, path: str, weight: float) -> Updates:
        can = gr.update(interactive=bool(path))
        return {self.paste: self.paste_for(path, weight), self.export: can, self.further: can}

    def _ready(self) -> None:
        self.page.app.wait_for_core()

    # --- the grid ---------------------------------------------------------------------------------------------

    def lay_out(self, *values: Any) -> Updates:
        """Show the fields that this kind of grid needs, and how many pictures it makes."""
        fields = self.form.fields
        said = dict(zip(fields, values, strict=True))
        is_grid, kind = said["mode"] == GRID, said["kind"]
        return {
            self.draw: gr.update(value=self.text("test.draw_grid" if is_grid else "test.draw")),
            self.form.grid_group: gr.update(visible=is_grid),
            fields["weights"]: gr.update(visible=kind in "01"), fields["checkpoints"]: gr.update(visible=kind in "02"),
            fields["prompts"]: gr.update(visible=kind in "12"), self.form.count: self.form.count_html(*values),
        }  # fmt: skip
