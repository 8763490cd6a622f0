"""What a tab is given to build itself on: the app, the texts of one language, and ways to reach the other tabs."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import gradio as gr

from lora_core.errors import UserError
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App

Updates = dict[Any, Any]  # new values by component
TABS = ("dataset", "train", "test", "export", "runs")
# The script may run again when its tab is drawn anew; two clocks of a tab would be one too many.
_CLOCK = """
const clocks = (window.treinoClocks ??= {}), name = "TAB";
clearInterval(clocks[name]);
const tell = () => {
  props.value = String(Date.now());
  trigger("input");
};
const tick = () => {
  const panel = document.getElementById(`tab-${name}`);
  if (document.hidden || !panel || !panel.getClientRects().length) return;
  ASK;
};
clocks[name] = setInterval(tick, 1000);
setTimeout(tick, 50);
"""


def on_load(tab: str, function: str) -> str:
    """JavaScript that hands a component to a function of the tab's script, which may still be on its way to the page."""
    script = f"window.treino{tab.title()}"
    return f"const go = () => {script} ? {script}.{function}(element, props, trigger, watch) : setTimeout(go, 30); go();"


def bridge(tab: str) -> gr.HTML:
    """The JS bridge of a tab: the tab's script sets its value and makes an `input` event of it. Nobody sees it."""
    return gr.HTML("", html_template="", elem_id=f"{tab}-bridge", visible="hidden", js_on_load=on_load(tab, "bridge"))


@dataclass
class Page:
    """One language of the window. `inbox[tab]`, set together with `tabs`, opens that tab with a message: what to do."""

    app: App
    text: Texts
    tabs: gr.Tabs
    inbox: dict[str, gr.State] = field(default_factory=lambda: {tab: gr.State() for tab in TABS})

    def each_second(
        self, tab: str, fn: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any], ask: str = "tell()"
    ) -> None:
        """Call `fn` every second while somebody looks at the tab. An event of Gradio's takes the interpreter from the
        training for some 20 ms, so tabs nobody sees have none. To be called while the tab is built.

        ask: JavaScript that runs instead, and calls `tell()` when it wants the event.
        """
        script = _CLOCK.replace("TAB", tab).replace("ASK", ask)
        clock = gr.HTML("", html_template="", elem_id=f"{tab}-clock", visible="hidden", js_on_load=script)
        self.on(clock.input, fn, inputs, outputs, queue=False, trigger_mode="once")

    def on(
        self,
        listener: Callable[..., Any],
        fn: Callable[..., Any],
        inputs: Sequence[Any] = (),
        outputs: Sequence[Any] = (),
        **options: Any,
    ) -> Any:
        """Call `fn` on an event. A UserError becomes a notice with its sentence; another error opens the error panel.

        Either way nothing on the page changes.
        """
        options = {"show_progress": "hidden", "api_visibility": "private", **options}
        return listener(self._told(fn, len(outputs)), list(inputs), list(outputs), **options)

    def _told(self, fn: Callable[..., Any], count: int) -> Callable[..., Any]:
        nothing: Any = tuple(gr.skip() for _ in range(count)) if count > 1 else gr.skip() if count else None
        if inspect.isgeneratorfunction(fn):

            @functools.wraps(fn)
            def steps(*values: Any) -> Any:
                try:
                    yield from fn(*values)
                except Exception as error:  # noqa: BLE001  told on the page
                    self._tell(fn, error)
                    yield nothing

            return steps

        @functools.wraps(fn)
        def once(*values: Any) -> Any:
            try:
                return fn(*values)
            except Exception as error:  # noqa: BLE001  told on the page
                self._tell(fn, error)
                return nothing

        return once

    def _tell(self, fn: Callable[..., Any], error: Exception) -> None:
        if isinstance(error, UserError):
            gr.Warning(self.text.say(error.message), title=self.text("frame.notice"))
        else:
            self.app.note_crash(getattr(fn, "__qualname__", repr(fn)), error)
