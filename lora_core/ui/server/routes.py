"""The web server behind the window: our own routes beside the pages of both languages."""

from __future__ import annotations

import json
import locale
import mimetypes
import os
import shutil
from collections.abc import Callable, Collection
from html import escape
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from lora_core import __version__
from lora_core.messages import LANGUAGES
from lora_core.ui import window
from lora_core.ui.server import instance
from lora_core.ui.server.error_report import crash_panel
from lora_core.ui.server.guard import Guard, Password
from lora_core.ui.server.pages import Pages
from lora_core.ui.shared.signed_urls import ROUTE, Refused
from lora_core.ui.shared.texts import Texts, preferred
from lora_core.ui.state.app import App
from lora_core.ui.state.lora_library import library_of
from lora_core.ui.tabs.dataset.routes import add_dataset_routes
from lora_core.ui.tabs.train.computer_check import add_check_routes
from lora_core.ui.tabs.train.poll import add_poll_route

APPEARANCES = window.APPEARANCES


def create(app: App, language: str = "", hosts: Collection[str] = (), password: str = "", secret: str = "") -> FastAPI:
    """The whole server.

    hosts: names besides those of this computer that a request may call it by; with a password they have to log in.
    secret: proves to a second start that this is the running window.
    """
    for ending, kind in ((".js", "text/javascript"), (".css", "text/css"), (".svg", "image/svg+xml")):
        mimetypes.add_type(kind, ending)  # Windows takes them from its registry, where any program may have changed them
    shutil.rmtree(app.uploads, ignore_errors=True)
    pages = Pages(app, language or str(app.recall("language", "")) or system_language())
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None, lifespan=pages.running)
    _page_routes(server, app, language)
    _file_routes(server, app)
    pulse = _pulse_of(app)
    _state_routes(server, app, secret, pulse)
    add_dataset_routes(server, app)
    add_poll_route(server, app, pulse)
    add_check_routes(server, app)
    server.add_middleware(_Beside, pages=pages)
    server.add_middleware(
        Guard, uploads=app.uploads, hosts=hosts, password=Password(password) if password else None, login_page=login_page
    )
    return server


class _Beside:
    """Gradio's pages beside our own routes. A mount would cut the path, and Gradio's app is mounted inside once more."""

    def __init__(self, app: ASGIApp, pages: Pages) -> None:
        self.app, self.pages = app, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_page = scope["type"] == "http" and scope["path"].startswith(tuple(f"/{name}/" for name in LANGUAGES))
        await (self.pages if is_page else self.app)(scope, receive, send)


def _page_routes(server: FastAPI, app: App, language: str) -> None:
    @server.get("/")
    def greet(request: Request) -> RedirectResponse:
        chosen = language or str(app.recall("language", ""))
        return RedirectResponse(f"/{preferred(request.headers.get('accept-language', ''), chosen)}/")

    for name in LANGUAGES:  # the page's own address ends in "/"; without it Gradio's relative links would miss
        server.router.routes.append(Route(f"/{name}", lambda request: RedirectResponse(f"{request.url.path}/")))

    @server.get("/start.js")
    def start() -> Response:
        facts = {
            "appearance": app.recall("appearance", "system"), "version": __version__,
            "born": app.born, "crash": app.newest_crash(),
        }  # fmt: skip
        words = "JSON.parse(document.getElementById('treino-words').content)"
        script = f"window.treino = {{...{json.dumps(facts)}, ...{words}}};"
        return Response(script, media_type="text/javascript", headers={"Cache-Control": "no-store"})

    @server.get("/manifest.webmanifest")
    def manifest(language: str = LANGUAGES[0]) -> Response:
        text = Texts(language if language in LANGUAGES else LANGUAGES[0])
        icons = [{"src": f"/assets/icon-{side}.png", "sizes": f"{side}x{side}", "type": "image/png"} for side in (192, 512)]
        said = {
            "name": text("frame.title"), "short_name": text("frame.title"), "description": text("frame.tagline"),
            "lang": text.language, "start_url": "/", "scope": "/", "display": "standalone", "icons": icons,
            "background_color": "#ffffff", "theme_color": "#0b4f8a",
        }  # fmt: skip
        return Response(json.dumps(said, ensure_ascii=False), media_type="application/manifest+json")


class Served(FileResponse):
    """A file, or "Not found" where it has gone since it was looked for: its run may be deleted while a page shows it."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            self.stat_result = await run_in_threadpool(os.stat, self.path)
        except OSError:
            await PlainTextResponse("Not found", 404)(scope, receive, send)
            return
        self.set_stat_headers(self.stat_result)
        await super().__call__(scope, receive, send)


def _file_routes(server: FastAPI, app: App) -> None:
    @server.get("/favicon.ico")
    @server.get("/assets/{name}")
    def asset(name: str = "icon.ico") -> Response:
        path = window.ASSETS / name
        if name not in window.asset_names():
            return PlainTextResponse("Not found", 404)
        return FileResponse(path, media_type=mimetypes.guess_type(name)[0], headers={"Cache-Control": "no-cache"})

    @server.get(f"{ROUTE}{{token:path}}")
    def file(token: str) -> Response:
        try:
            served = app.files.open(token)
        except Refused:
            return PlainTextResponse("Refused", 403)
        except FileNotFoundError:
            return PlainTextResponse("Not found", 404)
        kind = mimetypes.guess_type(served.name)[0] or ""
        # Anything but a picture is bytes to save, so that no file of a dataset runs as a page.
        safe = kind if kind.startswith("image/") and kind != "image/svg+xml" else "application/octet-stream"
        return Served(served, media_type=safe, headers={"Cache-Control": "private, max-age=31536000, immutable"})


def _pulse_of(app: App) -> Callable[[], dict[str, Any]]:
    """What a page hears each second, whatever its tab."""

    def pulse() -> dict[str, Any]:
        app.shown.set()
        library_of(app).worker.relieve()
        state = app.training.state() if app.training.busy() else "idle"
        app.check.begin_by_itself(app.core_ready())
        return {
            "born": app.born, "training": state, "core": app.core_ready(), "crash": app.newest_crash(),
            "check": app.check.state.stamp,
        }  # fmt: skip

    return pulse


def _state_routes(server: FastAPI, app: App, secret: str, pulse: Callable[[], dict[str, Any]]) -> None:
    @server.get("/ping")
    def ping() -> JSONResponse:
        return JSONResponse(pulse())

    @server.get("/who")
    async def who(challenge: str = "") -> JSONResponse:
        return JSONResponse({"treino": __version__, "proof": instance.proof(secret, challenge)})

    @server.get("/crash/{serial}")
    def crash(serial: int, language: str) -> JSONResponse:
        found = [t for t in app.crashes if t.serial == serial]
        if not found or language not in LANGUAGES:
            return JSONResponse({"html": ""}, 404)
        return JSONResponse({"html": crash_panel(found[0], app.training.run, Texts(language))})

    @server.post("/preferences")
    async def preferences(request: Request) -> JSONResponse:
        try:
            said = await request.json()
            language, appearance = said.get("language"), said.get("appearance")
        except (ValueError, AttributeError):
            return JSONResponse({"error": "no preferences"}, 400)
        if language in LANGUAGES:
            app.remember("language", language)
        if appearance in APPEARANCES:
            app.remember("appearance", appearance)
        return JSONResponse({})


def system_language() -> str:
    """The language of the computer, to build its page first."""
    name = (locale.getlocale()[0] or "").lower()  # "pt_BR", on Windows "Portuguese_Brazil"
    return "pt-BR" if name.startswith(("pt", "portuguese")) else LANGUAGES[0]


def login_page(request: Request, wrong: bool) -> str:
    """What is shown on a network before the password is given."""
    text = Texts(preferred(request.headers.get("accept-language", "")))
    problem = f'<p role="alert">{escape(text("frame.login_wrong"))}</p>' if wrong else ""
    title = escape(text("frame.title"))
    return (
        f'<!doctype html><html lang="{text.language}"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width"><link rel="icon" href="/assets/icon.svg">'
        '<link rel="stylesheet" href="/assets/treino.css"></head><body class="login"><main>'
        f'<img src="/assets/icon.svg" alt="" width="64" height="64"><h1>{title}</h1>'
        f'<form method="post" action="/login"><label for="password">{escape(text("frame.login_password"))}</label>'
        '<input id="password" name="password" type="password" autocomplete="current-password" required autofocus>'
        f'{problem}<button type="submit">{escape(text("frame.login_button"))}</button></form></main></body></html>'
    )
