"""The check of this computer as HTML, and the routes by which the page's script asks for it and steers it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from html import escape
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from lora_core.errors import UserError
from lora_core.messages import LANGUAGES, Message
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.computer_check import STOPPING, CheckState

if TYPE_CHECKING:
    from lora_core.ui.state.app import App


def panel_html(text: Texts) -> str:
    """What the page is built with; its script fills it with `check_html` from then on."""
    return f'<section id="check" class="check" data-stamp="0">{check_html(CheckState(), text)}</section>'


def check_html(state: CheckState, text: Texts) -> str:
    """One button, how far it is, and what was found. The button stays in its place, so that it keeps the keyboard."""
    does = "stop" if state.is_busy else "start"
    disabled = " disabled" if state.phase == STOPPING else ""
    label = text("train.check_stop" if state.is_busy else "train.check")
    return (
        f'<button type="button" class="check-button" data-check="{does}"{disabled}>{escape(label)}</button>'
        f'<div class="check-now">{_now_html(state, text)}</div>'
        f'<div class="check-found">{_found_html(state, text)}</div>'
    )


def notice(state: CheckState, text: Texts) -> str:
    """What the frame says of it, on every tab; "" where nothing goes on."""
    if not state.is_busy:
        return ""
    return text("train.check_stopping" if state.phase == STOPPING else "train.check_runs")


def _now_html(state: CheckState, text: Texts) -> str:
    if not state.is_busy:
        told = text.say(state.error) if state.error else "" if state.report else text("train.check_help")
        return f'<p class="{"form-wrong" if state.error else "form-help"}">{escape(told)}</p>' if told else ""
    if state.phase == STOPPING or state.part is None:
        what = text("train.check_stopping" if state.phase == STOPPING else "train.check_begins")
    else:
        now = min(state.done + 1, state.total)
        what = text("train.check_part", part=text.say(state.part), done=now, total=state.total)
    what = what[:1].upper() + what[1:]
    left = "" if state.phase == STOPPING else text("train.check_left", n=state.seconds_left)
    named = escape(text("train.check_runs"))
    bar = f'<progress value="{state.done}" max="{max(1, state.total)}" aria-label="{named}"></progress>'
    return f'{bar}<p class="form-help"><span role="status">{escape(what)}</span> <span>{escape(left)}</span></p>'


def _found_html(state: CheckState, text: Texts) -> str:
    """What was found by the last check, or by one before this start of the program."""
    if state.report:
        return _report_html(state.report.lines(), text, text("train.check_found"), not state.by_itself)
    if state.earlier and not state.is_busy:
        date = time.strftime(text("runs.date"), time.localtime(state.earlier.at))
        return _report_html(state.earlier.lines, text, text("train.check_found_at", date=date), is_open=False)
    return ""


def _report_html(lines: Sequence[Message], text: Texts, title: str, is_open: bool) -> str:
    """A report's lines as they are copied, each marked with its kind."""
    said = [(line.key.removeprefix("check.").replace("_", "-"), text.say(line)) for line in lines]
    shown = "".join(f'<p class="check-{kind}">{escape(line)}</p>' for kind, line in said)
    copied, title = escape("\n".join(line for _, line in said)), escape(title)
    return (
        f"<details{' open' if is_open else ''}><summary>{title}</summary>"
        f'<div class="check-lines" tabindex="0" role="region" aria-label="{title}">{shown}</div>'
        f'<button type="button" data-copy="{copied}" data-copied="{escape(text("export.copied"))}">'
        f"{escape(text('train.check_copy'))}</button></details>"
    )


def add_check_routes(server: FastAPI, app: App) -> None:
    """`/check/<language>`: how it stands, as JSON; a POST to it with "start" or "stop" behind does that first."""

    async def answer(request: Request) -> Response:
        language, does = request.path_params["language"], request.path_params.get("does", "")
        if language not in LANGUAGES or does not in ("", "start", "stop"):
            return PlainTextResponse("Not found", 404)
        error = await run_in_threadpool(_do, app, does, Texts(language)) if does else ""
        return JSONResponse({**_told(app.check.state, Texts(language)), "error": error})

    server.router.routes.append(Route("/check/{language}", answer))
    server.router.routes.append(Route("/check/{language}/{does}", answer, methods=["POST"]))


def _do(app: App, does: str, text: Texts) -> str:
    """Start or stop it; the sentence that tells why not."""
    try:
        if does == "stop":
            app.check.stop()
        elif not app.core_ready():
            raise UserError("ui.check_too_early")
        else:
            app.check.start()
    except UserError as wrong:
        return text.say(wrong.message)
    return ""


def _told(state: CheckState, text: Texts) -> dict[str, Any]:
    return {
        "stamp": state.stamp, "busy": state.is_busy, "html": check_html(state, text), "notice": notice(state, text),
        "stop": "" if state.phase == STOPPING else text("train.check_stop"), "why": text("train.check_help"),
    }  # fmt: skip
