"""Gradio's stream of events to a page, which ends without losing one.

When a page's last event is over, Gradio ends the stream that brought its news. A page that asks for another event just
then still believes the stream open, opens no new one, and waits for ever. So where a stream has ended a moment ago, the
answer to such a question is held back until the page has heard of the end; then it opens the next.
"""

from __future__ import annotations

import asyncio
import json
import time
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEARD_S = 0.3  # from sending the end of a stream until the page has heard of it for certain
_END = b'"msg":"close_stream"'  # in what a person wrote, the quotes are escaped


class StreamingPatch:
    """Wraps the app of a page."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._ended: dict[str, float] = {}  # by session, the last moments only

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = scope.get("path", "")
        if path.endswith("/gradio_api/queue/data"):
            await self._stream(scope, receive, send)
        elif path.endswith("/gradio_api/queue/join"):
            await self._join(scope, receive, send)
        else:
            await self.app(scope, receive, send)

    async def _stream(self, scope: Scope, receive: Receive, send: Send) -> None:
        session = parse_qs(scope["query_string"].decode("latin-1")).get("session_hash", [""])[0]

        async def watched(message: Message) -> None:
            if _END in message.get("body", b""):
                now = time.monotonic()
                self._ended = {name: at for name, at in self._ended.items() if now - at < HEARD_S}
                self._ended[session] = now
            await send(message)

        plain = [header for header in scope["headers"] if header[0] != b"accept-encoding"]
        await self.app({**scope, "headers": plain}, receive, watched)

    async def _join(self, scope: Scope, receive: Receive, send: Send) -> None:
        body = bytearray()

        async def overheard() -> Message:
            message = await receive()
            body.extend(message.get("body", b""))
            return message

        async def held_back(message: Message) -> None:
            if message["type"] == "http.response.start" and (ended := self._ended.get(_session(bytes(body)))):
                await asyncio.sleep(max(0.0, ended + HEARD_S - time.monotonic()))
            await send(message)

        await self.app(scope, overheard, held_back)


def _session(body: bytes) -> str:
    """Whose event a body asks for; "" where it does not say."""
    try:
        asked = json.loads(body)
    except ValueError:
        return ""
    return str(asked.get("session_hash")) if isinstance(asked, dict) else ""
