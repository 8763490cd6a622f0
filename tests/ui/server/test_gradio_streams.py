"""A page that asks for an event at the moment its stream ends still hears of it, from the real window's server."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Iterator

import httpx
import pytest
from starlette.types import Message, Receive, Scope, Send

from lora_core.ui.server import gradio_streams
from tests.e2e.conftest import Window, start_window
from tests.support.event_loop import in_a_loop
from tests.support.web_page import WebPage

EVENTS = 8
BUSY_S = 0.05  # that a page takes to draw what an event brought, before it reads on


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    window = start_window(tmp_path_factory.mktemp("streams"))
    yield window
    window.stop()


class Client:
    """Asks as Gradio's own script does: a stream is opened only where none is believed open."""

    def __init__(self, http: httpx.AsyncClient, url: str, event: int) -> None:
        self.http, self.url, self.event = http, url, event
        self.session = secrets.token_hex(6)
        self.is_open = False
        self.over: dict[str, asyncio.Event] = {}
        self.tasks: list[asyncio.Task[None]] = []

    async def ask(self) -> asyncio.Event:
        """Ask for an event; what is returned is set when it is over."""
        said = {"data": [json.dumps({"kind": "hello"})], "fn_index": self.event, "session_hash": self.session}
        answer = await self.http.post(f"{self.url}en/gradio_api/queue/join", json=said)
        answer.raise_for_status()
        if not self.is_open:
            self.is_open = True
            self.tasks.append(asyncio.create_task(self.listen()))
        return self.over.setdefault(answer.json()["event_id"], asyncio.Event())

    async def listen(self) -> None:
        address = f"{self.url}en/gradio_api/queue/data?session_hash={self.session}"
        async with self.http.stream("GET", address) as stream:
            async for line in stream.aiter_lines():
                told = json.loads(line.removeprefix("data:")) if line.startswith("data:") else {}
                if told.get("msg") == "process_completed":
                    self.over.setdefault(told["event_id"], asyncio.Event()).set()
                    await asyncio.sleep(BUSY_S)
                elif told.get("msg") == "close_stream":
                    self.is_open = False
                    return


def test_no_event_is_lost_when_a_stream_ends(window: Window) -> None:
    page = WebPage(window.url)

    async def talk() -> None:
        async with httpx.AsyncClient(timeout=120, limits=httpx.Limits(max_connections=None)) as http:
            client = Client(http, window.url, page.event("train-bridge", "input"))
            for _ in range(EVENTS):
                over = await client.ask()
                await asyncio.wait_for(over.wait(), 60)
                await asyncio.sleep(BUSY_S / 4)
            await asyncio.gather(*client.tasks)

    in_a_loop(talk())
    page.close()


class Played:
    """Answers a stream with its end, and joins at once."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body"):
            pass
        body = b'data: {"msg":"close_stream","event_id":null}\n\n' if scope["path"].endswith("data") else b"{}"
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": body})


@pytest.mark.parametrize(
    ("body", "is_held"),
    [
        (b'{"session_hash": "one"}', True), (b'{"session_hash": "other"}', False), (b"no json", False), (b"[]", False),
        (b"", False),
    ],
)  # fmt: skip
def test_an_answer_waits_only_where_its_own_stream_has_just_ended(
    body: bytes, is_held: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def asked(path: str, query: bytes = b"", said: bytes = b"") -> list[Message]:
        parts, sent = [said[:5], said[5:]], []

        async def receive() -> Message:
            return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

        async def send(message: Message) -> None:
            sent.append(message)

        await app({"type": "http", "path": path, "query_string": query, "headers": []}, receive, send)
        return sent

    async def both() -> list[Message]:
        await asked("/en/gradio_api/queue/data", b"session_hash=one")
        return await asked("/en/gradio_api/queue/join", said=body)

    app = gradio_streams.StreamingPatch(Played())
    monkeypatch.setattr(gradio_streams.asyncio, "sleep", sleep)
    answer = in_a_loop(both())
    assert [message["type"] for message in answer] == ["http.response.start", "http.response.body"]
    assert len(waits) == is_held and all(0 < wait <= gradio_streams.HEARD_S for wait in waits)
