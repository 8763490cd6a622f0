"""The pages of both languages behind one address: each built when its turn comes, or when it is asked for."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import secrets
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from html import escape
from typing import Any

import gradio as gr
from fastapi import FastAPI
from starlette.concurrency import run_in_threadpool
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_core.messages import LANGUAGES
from lora_core.ui import window
from lora_core.ui.server.gradio_streams import StreamingPatch
from lora_core.ui.server.guard import LARGEST_UPLOAD, policy
from lora_core.ui.shared.crash import tell_terminal
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.theme import THEME

_WAIT_S = 8.0  # for a page to be shown before the rest is built and loaded, where nobody looks
# Gradio looks for events every millisecond, outside of Windows: a tenth of a core for each page that waits, taken from
# the training. 50 ms are not felt. Of its own progress, which nothing here reports, it need hear nothing.
_QUEUE_S, _PROGRESS_S = 0.05, 1.0
_SPOKEN = ("leave", "crash_copied", "gone", "restarted", "reload", "loading_core")
_META = re.compile(r'<meta\s+(?:property="og:|name="twitter:)[^>]*?/>\s*', re.DOTALL)
_SCRIPT = re.compile(r"<script(?![^>]*\bsrc=)([^>]*)>(.*?)</script>", re.DOTALL)


@dataclass
class _Language:
    wanted: asyncio.Event = field(default_factory=asyncio.Event)
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    app: ASGIApp | None = None  # None while it is built, and when that failed


class Pages:
    """An ASGI app of `/<language>/...`. A page that is not built yet is waited for."""

    def __init__(self, app: App, first: str) -> None:
        self.app = app
        self.order = (first, *(name for name in LANGUAGES if name != first))
        self._languages: dict[str, _Language] = {}
        self._stop = asyncio.Event()

    @contextlib.asynccontextmanager
    async def running(self, _: Any = None) -> AsyncIterator[None]:
        """Builds the pages one after another, then begins to load the core; ends them when the server ends."""
        self._languages = {name: _Language() for name in self.order}
        task = asyncio.create_task(self._build_all())
        try:
            yield
        finally:
            self._stop.set()
            await task

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = scope["path"].split("/")[1]
        language = self._languages[name]
        language.wanted.set()
        await language.ready.wait()
        if language.app is None:
            await PlainTextResponse("This page could not be built; the terminal says why.", 500)(scope, receive, send)
        elif scope["path"] == f"/{name}/" and scope["method"] == "GET":
            await _answer_page(language.app, name, scope, receive, send)
        else:
            await language.app(scope, receive, send)

    async def _build_all(self) -> None:
        async with contextlib.AsyncExitStack() as stack:
            for position, name in enumerate(self.order):
                language = self._languages[name]
                if position:
                    await self._quiet(language.wanted)
                try:
                    app = await run_in_threadpool(asyncio.run, self._build(name))
                    await stack.enter_async_context(app.router.lifespan_context(app))
                    language.app = StreamingPatch(app)
                except Exception as error:  # noqa: BLE001  told in the terminal; the other language may do
                    tell_terminal(error)
                language.ready.set()
            self.app.load_core()
            await self._stop.wait()

    async def _quiet(self, wanted: asyncio.Event) -> None:
        """Let the first page come up before anything else takes the processor, unless the second one is asked for."""
        for _ in range(round(_WAIT_S / 0.1)):
            if wanted.is_set() or self._stop.is_set() or self.app.shown.is_set():
                return
            await asyncio.sleep(0.1)

    async def _build(self, name: str) -> FastAPI:
        """Awaits nothing: where no loop runs, Gradio makes loops of its own for its locks and leaves them open."""
        inner = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        blocks = window.build(self.app, name)
        blocks._queue.sleep_when_free, blocks._queue.progress_update_sleep_when_free = _QUEUE_S, _PROGRESS_S
        gr.mount_gradio_app(
            inner, blocks, f"/{name}", theme=THEME, css_paths=sorted(window.ASSETS.glob("*.css")),
            footer_links=[], allowed_paths=[], max_file_size=LARGEST_UPLOAD, show_error=False, ssr_mode=False,
            run_history=False, pwa=False, enable_monitoring=False, mcp_server=False,
        )  # fmt: skip
        return inner


async def _answer_page(app: ASGIApp, name: str, scope: Scope, receive: Receive, send: Send) -> None:
    """Gradio's page, made ours: one that asks nobody else for anything, and whose inline scripts are named by a nonce."""
    start: Message = {}
    parts: list[bytes] = []

    async def collect(message: Message) -> None:
        if message["type"] == "http.response.start":
            start.update(message)
        else:
            parts.append(message.get("body", b""))

    plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
    await app({**scope, "headers": plain}, receive, collect)
    nonce = secrets.token_urlsafe(16)
    body = rewritten(b"".join(parts).decode("utf-8"), name, nonce).encode("utf-8")
    kept = [(n, v) for n, v in start["headers"] if n.lower() != b"content-length"]
    more = {"content-length": str(len(body)), "content-security-policy": policy(nonce), "cache-control": "no-store"}
    await send({**start, "headers": [*kept, *((n.encode(), v.encode()) for n, v in more.items())]})
    await send({"type": "http.response.body", "body": body})


def rewritten(page: str, language: str, nonce: str) -> str:
    """Gradio's index.html with our title, icon and scripts, and without its pictures for social networks."""

    def inline(found: re.Match[str]) -> str:
        # It would make the page resize itself inside the frame of another site, and ours is in none.
        return "" if "iframeResizer" in found[2] else f'<script nonce="{nonce}"{found[1]}>{found[2]}</script>'

    page = _SCRIPT.sub(inline, _META.sub("", page))
    page = page.replace('<link rel="manifest" href="/manifest.json" />', "", 1)
    page = page.replace('lang="en"', f'lang="{language}"', 1)
    return page.replace("<head>", f"<head>{head(language)}", 1)


def head(language: str) -> str:
    """What goes into <head>: title, icons, and the tabs' own scripts with the few words that the frame's says."""
    text = Texts(language)
    words = {"language": language, **{name: text(f"frame.{name}") for name in _SPOKEN}}
    scripts = "".join(f'<script defer src="/assets/{path.name}"></script>' for path in window.scripts())
    return (
        f"<title>{escape(text('frame.title'))}</title>"
        '<link rel="icon" href="/assets/icon.svg" type="image/svg+xml"><link rel="icon" href="/favicon.ico" sizes="48x48">'
        '<link rel="apple-touch-icon" href="/assets/icon-192.png">'
        f'<link rel="manifest" href="/manifest.webmanifest?language={language}"><meta name="theme-color" content="#0b4f8a">'
        f'<meta id="treino-words" content="{escape(json.dumps(words, ensure_ascii=False))}">'
        f'<script src="/start.js"></script>{scripts}'
    )
