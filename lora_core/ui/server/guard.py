"""Who may ask the window's server for what: this computer's own pages, and on a network those who know the password."""

from __future__ import annotations

import asyncio
import hmac
import ipaddress
import re
import secrets
import time
from collections import deque
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lora_core.messages import LANGUAGES
from lora_core.ui.shared.upload_check import lies_below

LARGEST_UPLOAD = 1024 * 2**20  # bytes of one upload: the LoRA of a large model is most of that
LARGEST_CALL = 8 * 2**20  # bytes of any other request
SESSION = "treino-session"
OPEN_PATHS = ("/login", "/who", "/assets/treino.css", "/assets/icon.svg")  # what may be asked before the password
_MOST_WRONG, _WRONG_S = 5, 60.0  # so many wrong passwords in so many seconds, then none is looked at
_PAGES = re.compile(rf"/(?:(?:{'|'.join(LANGUAGES)})/?)?")
# Of Gradio's routes the ones its page needs. The others read files, fetch addresses, run its AI editor and the like.
_GRADIO = re.compile(
    rf"/(?:{'|'.join(LANGUAGES)})/(?:|config|theme\.css|(?:assets|static|svelte)/.+|gradio_api/(?:info|queue/join|queue/data"
    r"|cancel|reset|heartbeat/\w+|upload|upload_progress|run/\w+|startup-events|component_server|theme\.css|file=.+))/?"
)
_MOUNTS = tuple(f"/{name}/" for name in LANGUAGES)
# No file is called so, and Gradio's own routes fail at asking the disk for it.
_IMPOSSIBLE = re.compile(r"/(?:static|assets)/.*(?:\0|[^/]{256}|[\ud800-\udfff])", re.DOTALL)
_FILE = re.compile(r"/[\w-]+/gradio_api/file=(.+)")


class Password:
    """The password of `--listen`, and the sessions of those who gave it."""

    def __init__(self, password: str) -> None:
        self._password = password.encode()
        self._sessions: set[str] = set()
        self._wrong: deque[float] = deque(maxlen=_MOST_WRONG)

    def knows(self, request: Request) -> bool:
        """Whether the request comes from a session."""
        return request.cookies.get(SESSION, "") in self._sessions

    def is_shut(self, now: float) -> bool:
        """Whether too many wrong ones were tried just now."""
        return len(self._wrong) == _MOST_WRONG and now - self._wrong[0] < _WRONG_S

    def try_one(self, given: str, now: float) -> str:
        """A new session for the right password, "" for a wrong one."""
        if not hmac.compare_digest(given.encode(), self._password):
            self._wrong.append(now)
            return ""
        session = secrets.token_urlsafe(32)
        self._sessions.add(session)
        return session


class Guard:
    """Refuses what no page of ours would ask: foreign origins, rebound names, requests without end, strangers."""

    def __init__(
        self, app: ASGIApp, uploads: Path, hosts: Collection[str] = (), password: Password | None = None,
        login_page: Callable[[Request, bool], str] = lambda request, wrong: "",
    ) -> None:  # fmt: skip
        """`hosts`: names besides those of this computer that a request may call it by, where it serves a network."""
        self.app, self.uploads, self.hosts, self.password = app, uploads, frozenset(hosts), password
        self.login_page = login_page

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        headers = {name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._refusal(scope, headers)
        if problem and scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
            return
        send = _with_headers(send)
        if problem:
            await PlainTextResponse(problem[1], problem[0])(scope, receive, send)
            return
        body = _Body(receive, send, _limit(scope["path"]))
        try:
            if self.password and (answer := await self._ask_password(self.password, Request(scope, body.receive))):
                await answer(scope, body.receive, body.send)
                return
            await self.app(scope, body.receive, body.send)
        except ClientDisconnect:
            if not body.is_cut or body.is_answered:
                raise
            await PlainTextResponse("This is too large.", 413)(scope, receive, send)

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> tuple[int, str] | None:
        """Why a request is refused, as status and sentence; None when it is not."""
        path = scope["path"]
        if not _is_ours(headers.get("host", ""), self.hosts):
            return 403, "This address is not Treino's."
        if scope["type"] == "websocket":
            return 403, "Nothing here speaks by websocket."
        if is_foreign(headers, is_page=scope["method"] == "GET" and bool(_PAGES.fullmatch(path))):
            return 403, "Another page asked for this."
        if path.startswith(_MOUNTS) and (_IMPOSSIBLE.search(path) or not _GRADIO.fullmatch(path)):
            return 404, "Not found"
        if (found := _FILE.fullmatch(path)) and not lies_below(found[1], self.uploads):
            return 403, "Refused"
        length = headers.get("content-length", "0")
        if not length.isdecimal() or int(length) > _limit(path):
            return 413, "This is too large."
        return None

    async def _ask_password(self, password: Password, request: Request) -> Response | None:
        """What to answer instead of what was asked, when the password is still wanted; None lets the request in."""
        path = request.url.path
        if path == "/login" and request.method == "POST":
            return await self._log_in(password, request)
        if path in OPEN_PATHS or password.knows(request):
            return None if path != "/login" else HTMLResponse(self.login_page(request, False))
        if request.method == "GET" and _PAGES.fullmatch(path):
            return RedirectResponse("/login", 303)
        return PlainTextResponse("Log in first.", 401)

    async def _log_in(self, password: Password, request: Request) -> Response:
        now = time.monotonic()
        if password.is_shut(now):
            return PlainTextResponse("Too many wrong passwords; wait a minute.", 429)
        given = parse_qs((await request.body()).decode("utf-8", "replace")).get("password", [""])[0]
        session = password.try_one(given, now)
        if not session:
            await asyncio.sleep(0.5)  # makes guessing slow, typing not
            return HTMLResponse(self.login_page(request, True), 401)
        answer = RedirectResponse("/", 303)
        answer.set_cookie(SESSION, session, httponly=True, samesite="strict")
        return answer


def is_foreign(headers: dict[str, str], is_page: bool = False) -> bool:
    """Whether a request was made by a page that is not ours. `is_page`: a link anywhere may lead to it.

    Browsers tell by Sec-Fetch-Site, older ones by Origin; another port of this computer is foreign too. Programs that
    send neither could do whatever they want without us.
    """
    origin = headers.get("origin", "")
    if origin and urlsplit(origin).netloc.lower() != headers.get("host", "").lower():
        return True
    fetched_by = headers.get("sec-fetch-site", "same-origin")
    is_link = is_page and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    return fetched_by not in ("same-origin", "none") and not is_link


def _is_ours(host: str, hosts: Collection[str]) -> bool:
    """Against DNS rebinding: a foreign page can make its own name lead here, but not change the name in the request."""
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    if name == "localhost" or name in hosts:
        return True
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return False
    return address.is_loopback or bool(hosts)  # a number cannot be rebound


def _limit(path: str) -> int:
    """Most bytes of a request to `path`."""
    return LARGEST_UPLOAD if path.startswith("/dataset/upload/") or path.endswith("/gradio_api/upload") else LARGEST_CALL


class _Body:
    """The body of a request, which ends when it grows over `limit`, whatever length it announced."""

    def __init__(self, receive: Receive, send: Send, limit: int) -> None:
        self._receive, self._send, self._left = receive, send, limit
        self.is_cut = self.is_answered = False

    async def receive(self) -> Message:
        message = await self._receive()
        self._left -= len(message.get("body", b""))
        self.is_cut = self._left < 0
        return message if not self.is_cut else {"type": "http.disconnect"}

    async def send(self, message: Message) -> None:
        self.is_answered = True
        await self._send(message)


def policy(nonce: str = "") -> str:
    """The Content-Security-Policy. `nonce`: of the page's own inline scripts, without which none runs.

    unsafe-eval: Gradio compiles the templates of its HTML component; what it compiles comes from this server.
    """
    inline = f" 'nonce-{nonce}'" if nonce else ""
    return (
        f"default-src 'self'; script-src 'self'{inline} 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
        "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' blob: data:; worker-src 'self' blob:; "
        "media-src 'self' blob:; object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'none'"
    )


def _with_headers(send: Send) -> Callable[[Message], Awaitable[None]]:
    # "no-referrer" would make a browser post the password's form with the origin "null", like a foreign page.
    more = {
        b"content-security-policy": policy().encode(), b"x-content-type-options": b"nosniff",
        b"referrer-policy": b"same-origin", b"cross-origin-opener-policy": b"same-origin",
        b"cross-origin-resource-policy": b"same-origin", b"x-frame-options": b"DENY",
    }  # fmt: skip

    async def with_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            # None of Gradio's own permissions for other origins; a page's own policy names its scripts' nonce.
            own = [h for h in message["headers"] if not h[0].lower().startswith(b"access-control-")]
            said = {name.lower() for name, _ in own}
            message = {**message, "headers": [*own, *((n, v) for n, v in more.items() if n not in said)]}
        await send(message)

    return with_headers
