"""The web server behind the window: our own routes, the pages of both languages, and who may ask for what."""

from __future__ import annotations

import ipaddress
import mimetypes
from collections.abc import Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import gradio as gr
from fastapi import FastAPI, Request, Response
from fastapi.responses import FileResponse, JSONResponse, PlainTextResponse, RedirectResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_core import __version__
from lora_core.ui import window
from lora_core.ui.app import App
from lora_core.ui.dataset_routes import add_routes as add_dataset_routes
from lora_core.ui.files import ROUTE, Refused
from lora_core.ui.texts import LANGUAGES, preferred
from lora_core.ui.theme import THEME

LARGEST_UPLOAD = 64 * 2**20  # bytes of one file
LARGEST_REQUEST = 1024 * 2**20  # bytes of one upload of many
LARGEST_CALL = 8 * 2**20  # bytes of any other request
# unsafe-inline and unsafe-eval: Gradio's page starts from inline scripts, and its templates are compiled by eval.
POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self'; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)


def create(app: App, language: str = "", hosts: tuple[str, ...] = ()) -> FastAPI:
    """The whole server. `hosts`: names besides those of this computer that a request may call it by."""
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    _routes(server, app, language)
    add_dataset_routes(server, app)
    for name in LANGUAGES:
        gr.mount_gradio_app(
            server, window.build(app, name), f"/{name}", theme=THEME, css_paths=sorted(window.ASSETS.glob("*.css")),
            head=window.head(app, name), footer_links=[], allowed_paths=[], max_file_size=LARGEST_UPLOAD,
            show_error=False, ssr_mode=False, run_history=False, pwa=False, enable_monitoring=False, mcp_server=False,
        )  # fmt: skip
    server.add_middleware(Guard, hosts=hosts)
    return server


def _routes(server: FastAPI, app: App, language: str) -> None:
    @server.get("/")
    def greet(request: Request) -> RedirectResponse:
        chosen = language or str(app.recall("language", ""))
        return RedirectResponse(f"/{preferred(request.headers.get('accept-language', ''), chosen)}/")

    for name in LANGUAGES:  # the page's own address ends in "/"; without it Gradio's relative links would miss
        server.get(f"/{name}")(lambda name=name: RedirectResponse(f"/{name}/"))

    @server.get("/assets/{name}")
    def asset(name: str) -> Response:
        path = window.ASSETS / name
        if "/" in name or "\\" in name or not path.is_file() or path.parent != window.ASSETS:
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
        headers = {"Cache-Control": "private, max-age=31536000, immutable"}
        return FileResponse(served.path, media_type=_media_type(served.path), headers=headers)

    @server.get("/ping")
    def ping() -> JSONResponse:
        state = app.training.state() if app.training.busy() else "idle"
        return JSONResponse({"treino": __version__, "training": state, "core": app.core_ready()})


def _media_type(path: Path) -> str:
    """Pictures as what they are; anything else as bytes to save, so that no file of a dataset runs as a page."""
    kind = mimetypes.guess_type(path.name)[0] or ""
    return kind if kind.startswith("image/") and kind != "image/svg+xml" else "application/octet-stream"


class Guard:
    """Refuses what no page of ours would ask: foreign origins, rebound names, requests without end."""

    def __init__(self, app: ASGIApp, hosts: tuple[str, ...] = ()) -> None:
        self.app, self.hosts = app, hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        problem = refusal(scope, headers, self.hosts)
        if problem:
            await _refuse(scope, receive, send, *problem)
            return
        limit = LARGEST_REQUEST if "/upload" in scope["path"] else LARGEST_CALL
        await self.app(scope, _bounded(receive, limit), _with_headers(send))


def refusal(scope: Scope, headers: dict[str, str], hosts: tuple[str, ...]) -> tuple[int, str] | None:
    """Why a request is refused, as status and sentence; None when it is not."""
    host = urlsplit(f"//{headers.get('host', '')}").hostname or ""
    if not _is_ours(host, hosts):
        return 403, "This address is not Treino's."
    origin = headers.get("origin", "")
    if origin and urlsplit(origin).netloc.lower() != headers["host"].lower():
        return 403, "Another page asked for this."
    fetched_by = headers.get("sec-fetch-site", "same-origin")
    is_page = scope.get("method") == "GET" and headers.get("sec-fetch-mode") == "navigate"
    if fetched_by not in ("same-origin", "none") and not is_page:
        return 403, "Another page asked for this."
    limit = LARGEST_REQUEST if "/upload" in scope["path"] else LARGEST_CALL
    length = headers.get("content-length", "0")
    if not length.isdecimal() or int(length) > limit:
        return 413, "This is too large."
    return None


def _is_ours(host: str, hosts: tuple[str, ...]) -> bool:
    if host == "localhost" or host in hosts:
        return True
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    # A number cannot be rebound; on a network it is there because --listen asked for it, behind a password.
    return address.is_loopback or bool(hosts)


async def _refuse(scope: Scope, receive: Receive, send: Send, status: int, sentence: str) -> None:
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})
        return
    await PlainTextResponse(sentence, status)(scope, receive, send)


def _bounded(receive: Receive, limit: int) -> Receive:
    """`receive` that ends a body that grows over `limit`, whatever length it announced."""
    seen = 0

    async def bounded() -> Message:
        nonlocal seen
        message = await receive()
        seen += len(message.get("body", b""))
        return message if seen <= limit else {"type": "http.disconnect"}

    return bounded


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    more = [
        (b"content-security-policy", POLICY.encode()), (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"), (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]  # fmt: skip

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            message = {**message, "headers": [*message["headers"], *more]}
        await send(message)

    return with_headers
