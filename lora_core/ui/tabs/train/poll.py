"""What the Train tab shows each second, without an event of Gradio's: the numbers and the plot of the run.

An event takes the interpreter from the training for some 20 ms, and the page as long to take it in. So the page asks
here, and makes an event only when the `key` says that something else has changed: buttons, notices, samples, state.
It asks once: the answer holds what the frame would ask for by itself. And it asks for the plot, which is most of what
is drawn, every few seconds only.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import psutil
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lora_core.errors import UserError
from lora_core.messages import LANGUAGES
from lora_core.runs.run import SHEET, Run
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.tabs.train.buttons import Action, actions, label_of
from lora_core.ui.tabs.train.live import ViewContext, end_html, plot_html, status_html, told_html

_PROCESS = psutil.Process()
ENDS = ("finished", "stopped", "cut", "elsewhere")  # states that something is told of below the buttons


@dataclass(frozen=True)
class LiveView:
    """What there is to see of the app's training. `buttons`: what each does now, and its label."""

    context: ViewContext
    buttons: dict[str, tuple[Action, str]]
    told: str

    @property
    def samples(self) -> int:
        return sum(map(len, self.context.history.samples.values()))


def live_view(app: App, text: Texts) -> LiveView | None:
    """None where nothing was trained in this window and no run is open."""
    training, run = app.training, app.training.run
    if run is None:
        return None
    state, history = training.state(run), training.history(run)
    app.files.allow(run.folder)
    context = ViewContext(text, history, state, app.files.url, _PROCESS.memory_info().rss)
    buttons = {
        name: (action, label_of(name, history, text) if action.visible else text(f"train.{name}"))
        for name, action in actions(training, run, state, history).items()
    }
    failure = training.failure()
    end = end_html(context, _lora(run), run.folder / SHEET) if state in ENDS else ""
    if buttons["usual_rate"][0].visible:
        end += f'<p id="train-hardly">{escape(text("train.hardly_changed"))}</p>'
    return LiveView(context, buttons, told_html(context, text.say(failure.message) if failure else "", end))


def add_poll_route(server: FastAPI, app: App, pulse: Callable[[], dict[str, Any]]) -> None:
    """`/poll/<language>`: the digests of what the page has in, what it has not out, and `pulse()`.

    Asked with `draws=0`, it leaves the plot alone. A route of Starlette's: FastAPI's reading of parameters would take
    longer than the answer.
    """
    texts = {language: Texts(language) for language in LANGUAGES}

    def poll(request: Request) -> Response:
        asked = request.query_params
        if (language := request.path_params["language"]) not in texts:
            return PlainTextResponse("Not found", 404)
        answer: dict[str, Any] = {"ping": pulse()}
        found = live_view(app, texts[language])
        serial = app.training.serial
        if found is None:
            return JSONResponse({**answer, "key": str(serial)})
        folder, seen = (
            str(found.context.history.run.folder),
            (found.context.state, found.buttons, found.told, found.samples),
        )
        answer["key"] = _digest(repr((serial, folder, seen)))
        parts = {"status": status_html(found.context)}
        if asked.get("draws") != "0":
            parts["plot"] = plot_html(found.context, asked.get("log") == "1")
        for part, html in parts.items():
            if (digest := _digest(html)) != asked.get(part):
                answer |= {part: digest, f"{part}_html": html}
        return JSONResponse(answer)

    server.router.routes.append(Route("/poll/{language}", poll))


def _digest(text: str) -> str:
    return hashlib.blake2s(text.encode(), digest_size=8).hexdigest()


def _lora(run: Run) -> Path:
    try:
        return run.lora_file(run.config())
    except UserError:  # its settings are damaged; the folder is still where to look
        return run.folder
