"""A page without a browser: what its scripts ask the window's server for, over HTTP."""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import secrets
import socket
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

WAIT_S = 120.0  # a busy computer is slow, not wrong


@dataclass(frozen=True)
class Answer:
    """What a server answered, whole."""

    status: int
    headers: dict[str, str]
    body: bytes


def ask(
    url: str, method: str, target: str, body: bytes = b"", headers: dict[str, str] | None = None, wait_s: float = WAIT_S
) -> Answer:
    """One request, its target and headers as they are: no client mends what is hostile in them."""
    host, port = address_of(url)
    sent = {"Host": f"{host}:{port}", "Connection": "close", "Content-Length": str(len(body)), **(headers or {})}
    lines = [f"{method} {target} HTTP/1.1", *(f"{name}: {value}" for name, value in sent.items())]
    with socket.create_connection((host, port), timeout=wait_s) as line:
        line.sendall("\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape"))
        with contextlib.suppress(ConnectionError):  # it may answer before it has read all
            line.sendall(body)
        answer = http.client.HTTPResponse(line, method=method)
        answer.begin()
        return Answer(answer.status, {n.lower(): v for n, v in answer.getheaders()}, answer.read())


def address_of(url: str) -> tuple[str, int]:
    """Host and port of a window."""
    parts = urlsplit(url)
    return parts.hostname or "", parts.port or 80


class WebPage:
    """One open page: its session, its events, and how much the largest answer was."""

    def __init__(self, url: str, language: str = "en"):
        self.url, self.language, self.session = url, language, secrets.token_hex(6)
        self.largest = 0
        self._line = http.client.HTTPConnection(*address_of(url), timeout=WAIT_S)
        self.config: dict[str, Any] = json.loads(self.get(f"/{language}/config"))
        self.events: list[dict[str, Any]] = self.config["dependencies"]
        self._names = {str(c["props"].get("elem_id")): c["id"] for c in self.config["components"]}
        self.largest = 0  # the configuration is asked for once
        self._pictures: set[str] = set()

    def get(self, path: str) -> bytes:
        return self._ask("GET", path)

    def ping(self) -> dict[str, Any]:
        """What frame.js asks every second."""
        told: dict[str, Any] = json.loads(self.get("/ping"))
        return told

    def event(self, element: str, trigger: str) -> int:
        """The number of an element's event."""
        target = [self._names[element], trigger]
        return next(int(event["id"]) for event in self.events if target in event["targets"])

    def call(self, number: int, data: list[object]) -> str:
        """Let an event happen; its answer as JSON."""
        said = {"data": data, "fn_index": number, "session_hash": self.session, "event_data": None}
        path = f"/{self.language}/gradio_api/run/predict"
        return self._ask("POST", path, json.dumps(said).encode()).decode("utf-8")

    def look(self) -> str:
        """What the Train tab asks every second; like a browser it then fetches the pictures it has not seen."""
        told = self.call(self.event("train-clock", "input"), [None, False])
        for picture in set(re.findall(r"/files/[\w.-]+", told)) - self._pictures:
            self._pictures.add(picture)
            self.get(picture)
        return told

    def close(self) -> None:
        self._line.close()

    def _ask(self, method: str, path: str, body: bytes = b"") -> bytes:
        try:
            answer, content = self._exchange(method, path, body)
        except ConnectionError:  # the server lets go of a line that was idle; a browser opens another one as well
            self._line.close()
            answer, content = self._exchange(method, path, body)
        if answer.status >= 400:
            raise OSError(f"{method} {path}: {answer.status} {content[:200]!r}")
        if not path.startswith("/files/"):
            self.largest = max(self.largest, len(content))
        return content

    def _exchange(self, method: str, path: str, body: bytes) -> tuple[http.client.HTTPResponse, bytes]:
        self._line.request(method, path, body or None, {"Content-Type": "application/json"} if body else {})
        answer = self._line.getresponse()
        return answer, answer.read()


class Heartbeat:
    """The connection that every open page keeps, by which Gradio sees it go."""

    def __init__(self, page: WebPage):
        self._line = socket.create_connection(address_of(page.url), timeout=WAIT_S)
        host, port = address_of(page.url)
        target = f"/{page.language}/gradio_api/heartbeat/{page.session}"
        self._line.sendall(f"GET {target} HTTP/1.1\r\nHost: {host}:{port}\r\nAccept: text/event-stream\r\n\r\n".encode())

    def hear(self) -> None:
        """Read what has come, so that the server's side never waits."""
        self._line.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            while self._line.recv(65536):
                pass

    def close(self) -> None:
        self._line.close()
