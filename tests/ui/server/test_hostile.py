"""The running window, attacked: no file of others leaves it, no junk ends it, nothing is written where it should not be."""

from __future__ import annotations

import contextlib
import json
import random
import re
import socket
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from lora_core.ui.server import gradio_import
from lora_core.ui.server.guard import LARGEST_CALL, LARGEST_UPLOAD
from lora_core.ui.state.app import App
from tests import ROOT
from tests.e2e.conftest import Window, start_window
from tests.support.event_loop import in_a_loop
from tests.support.web_page import WAIT_S, Answer, WebPage, address_of, ask

SECRET = b"only-the-owner-may-read-this"
JSON = {"Content-Type": "application/json"}
HALF_OPEN = 150  # connections
# Endless by nature; both are asked by name below.
STREAMS = ("/gradio_api/heartbeat/", "/gradio_api/queue/data", "/gradio_api/dev/reload")
# These open a dialog of the system, which would wait for somebody.
DIALOGS = ("browse", "open_folder", "open")


@dataclass
class Target:
    """A running window; `folder` holds all of its files, and secrets beside those that it may serve."""

    window: Window
    folder: Path
    page: WebPage

    @property
    def url(self) -> str:
        return self.window.url

    @property
    def uploads(self) -> Path:
        return self.window.home / "uploads"

    def secrets(self) -> list[Path]:
        return [self.folder / "secret.png", self.window.home / "secret.png", self.window.home / "uploads2" / "secret.png"]

    def outside(self) -> dict[str, tuple[int, int]]:
        """All files that are nobody's business, each with size and time."""
        kept = [p for p in self.folder.rglob("*") if p.is_file() and not _is_own(p.relative_to(self.folder))]
        return {str(path): (path.stat().st_size, path.stat().st_mtime_ns) for path in kept}

    def works(self) -> None:
        """The same process answers, and its page can still be used."""
        assert self.window.process.poll() is None
        assert self.page.ping()["training"] == "idle"
        assert ask(self.url, "GET", "/en/").status == 200
        hello = self.page.call(self.page.event("train-bridge", "input"), [json.dumps({"kind": "hello"})])
        assert "quickstart" in hello


def _is_own(path: Path) -> bool:
    """Whether the window may write there: its memory, its log, and what libraries cache."""
    return path.parts[:2] == ("config", "treino") or path.parts[0] in ("window.log", "cache", ".cache", ".config")


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    folder = tmp_path_factory.mktemp("hostile")
    window = start_window(folder)
    found = Target(window, folder, WebPage(window.url))
    for path in found.secrets():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(SECRET)
    found.uploads.mkdir(parents=True, exist_ok=True)
    with contextlib.suppress(OSError):  # Windows lets not everybody make links
        (found.uploads / "link.png").symlink_to(folder / "secret.png")
        (found.uploads / "up").symlink_to(folder, target_is_directory=True)
        (window.runs / "link.png").symlink_to(folder / "secret.png")
    before = found.outside()
    assert len(before) >= 1
    yield found
    found.works()
    assert found.outside() == before
    found.page.close()
    window.stop()
    assert SECRET.decode() not in (folder / "window.log").read_text(encoding="utf-8")


def harmless(answer: Answer, target: Target) -> None:
    """Whatever was asked, the answer tells no secret, no traceback and, but for the page itself, nobody's folders."""
    is_page = b'"dependencies"' in answer.body
    folders = () if is_page else (str(ROOT).encode(), str(target.folder).encode())
    for word in (SECRET, b"Traceback (most", b'File "', b"root:x:0", *folders):
        assert word not in answer.body, answer.body[:300]


def walk(routes: Iterable[Any]) -> Iterator[tuple[str, str]]:
    """Method and path of every route, those of included routers too."""
    for route in routes:
        if inner := getattr(route, "original_router", None):
            yield from walk(inner.routes)
        elif getattr(route, "path", None):
            for method in route.methods or {"GET"}:
                yield method, route.path


async def gradios_routes() -> list[tuple[str, str]]:
    """What an app of Gradio's answers, whatever is on its page."""
    import gradio as gr
    from gradio.routes import App as Gradio

    with gr.Blocks() as blocks:
        gr.HTML("")
    return list(walk(Gradio.create_app(blocks).routes))


@pytest.fixture(scope="module")
def routes(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """What the window's own server and Gradio's app would answer, from the apps themselves."""
    folder = tmp_path_factory.mktemp("routes")
    gradio_import.prepare(folder / "uploads")
    from lora_core.ui.server.routes import create

    own = list(walk(create(App(folder, folder)).routes))
    found = [*own, *((method, f"/en{path}") for method, path in in_a_loop(gradios_routes()))]
    paths = {path for _, path in found}
    assert {"/files/{token:path}", "/en/gradio_api/file={path_or_url:path}", "/en/gradio_api/upload"} <= paths
    return sorted(set(found))


def filled(path: str, value: str) -> str:
    """A route's path with `value` for each of its parameters."""
    return re.sub(r"\{[^}]*\}", lambda _: value, path)


def names_of(secret: Path, target: Target) -> list[str]:
    """The secret's name in all the ways in which a check may be deceived."""
    plain, up = secret.as_posix(), "../" * 12
    climbed = f"{up}{plain.lstrip('/')}"
    inside = f"{target.uploads.as_posix()}/{'../' * 8}{plain.lstrip('/')}"
    return [
        plain, quote(plain, safe=""), quote(quote(plain, safe=""), safe=""), climbed, quote(climbed, safe=""),
        climbed.replace("..", "%2e%2e"), quote(quote(climbed, safe=""), safe=""), climbed.replace("/", "\\"),
        quote(climbed.replace("/", "\\")), climbed.replace("../", "....//"), climbed.replace("..", "%c0%ae%c0%ae"),
        inside, quote(inside, safe=""), f"//server/share{plain}", f"%5C%5Cserver%5Cshare{quote(plain)}", f"file://{plain}",
        f"{plain}%00.png", f"{target.uploads.as_posix()}/a%00/../../../../{secret.name}", f"~/{secret.name}",
        "%2fetc%2fpasswd", "C:/Windows/win.ini",
    ]  # fmt: skip


def test_no_route_gives_a_file_away(target: Target, routes: list[tuple[str, str]]) -> None:
    open_ended = sorted({p for m, p in routes if "{" in p and m in ("GET", "POST") and not p[3:].startswith(STREAMS)})
    assert len(open_ended) > 12
    for path in open_ended:
        for name in names_of(target.secrets()[0], target):
            answer = ask(target.url, "GET", filled(path, name))
            harmless(answer, target)
            assert answer.status != 200 or b"<html" in answer.body[:200].lower(), (path, name, answer.body[:99])
    linked = [target.uploads / "link.png", target.uploads / "up" / "secret.png", *target.secrets()]
    for name in [*names_of(target.secrets()[1], target), *names_of(target.secrets()[2], target), *map(str, linked)]:
        answer = ask(target.url, "GET", f"/en/gradio_api/file={name}")
        harmless(answer, target)
        assert answer.status in (400, 403, 404), name


def test_what_takes_a_file_puts_it_nowhere_else(target: Target) -> None:
    names = [
        "../../evil.png",
        "..\\..\\evil.png",
        "/tmp/evil.png",
        f"{target.folder}/evil.png",
        "%2e%2e/evil.png",
        "evil\0.png",
    ]
    for name in [*names, "\\\\server\\share\\evil.png", "a" * 5000 + ".png", ".", ".."]:
        part = f'--x\r\nContent-Disposition: form-data; name="files"; filename="{name}"\r\n\r\nevil\r\n--x--\r\n'
        sent = {"Content-Type": "multipart/form-data; boundary=x"}
        answer = ask(target.url, "POST", "/en/gradio_api/upload", part.encode(), sent)
        if answer.status == 200:
            (kept,) = json.loads(answer.body)
            assert Path(kept).resolve().is_relative_to(target.uploads.resolve()), kept
        else:
            harmless(answer, target)
        for batch in ("..", "../..", "a" * 8 + "%2f.."):
            asked = f"/dataset/upload/{batch}/{quote(name, safe='')}?place=x"
            harmless(ask(target.url, "POST", asked, b"evil"), target)
    assert not [*target.folder.glob("evil*"), *target.window.home.glob("evil*"), *target.folder.rglob("Treino")]


def test_an_event_takes_no_file_that_was_not_uploaded(target: Target) -> None:
    """Gradio copied any file of the computer to its uploads, and gave the copy out."""
    far, theirs = "http://192.0.2.1/a.png", [*map(str, target.secrets()), str(target.uploads / "link.png"), "/etc/passwd"]
    takes = [("train-preset-load", "upload", 1), ("convert-upload", "upload", 2), ("dataset-bridge", "input", 1)]
    for secret in [*theirs, "\\\\server\\share\\a", far]:
        for element, trigger, count in takes:
            file = {"path": secret, "meta": {"_type": "gradio.FileData"}}
            for data in (file, [file], {"a": [{"b": file}]}, {**file, "url": far}, {**file, "path": [secret]}):
                said = {"data": [data, None][:count], "fn_index": target.page.event(element, trigger), "session_hash": "f"}
                answer = ask(target.url, "POST", "/en/gradio_api/run/predict", json.dumps(said).encode(), JSON)
                harmless(answer, target)
    copies = [p for p in target.uploads.rglob("*") if p.is_file() and not p.is_symlink() and p.read_bytes() != b"evil"]
    assert copies == []


def test_an_uploaded_file_is_taken(target: Target) -> None:
    part = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.toml"\r\n\r\nlora_rank = 7\r\n--x--\r\n'
    sent = {"Content-Type": "multipart/form-data; boundary=x"}
    (kept,) = json.loads(ask(target.url, "POST", "/en/gradio_api/upload", part, sent).body)
    file = {"path": kept, "meta": {"_type": "gradio.FileData"}, "orig_name": "a.toml"}
    told = target.page.call(target.page.event("train-preset-load", "upload"), [file])
    assert re.search(r"lora_rank\W+7", told), told
    Path(kept).unlink()


def test_no_route_answers_another_origin_or_a_rebound_name(target: Target, routes: list[tuple[str, str]]) -> None:
    host, port = address_of(target.url)
    foreign = [
        {"Host": f"evil.example:{port}"}, {"Host": f"{host}.evil.example"}, {"Origin": "http://evil.example"},
        {"Origin": "null"}, {"Sec-Fetch-Site": "cross-site"}, {"Origin": f"http://{host}:{port + 1}"},
    ]  # fmt: skip
    for number, (method, path) in enumerate(routes):
        headers = foreign[number % len(foreign)]
        answer = ask(target.url, method, filled(path, "a"), b"{}" if method == "POST" else b"", {**JSON, **headers})
        assert answer.status == 403, (method, path, headers)
        assert not [name for name in answer.headers if name.startswith("access-control-")]
    for headers in foreign:
        for method, path in (("OPTIONS", "/dataset/state"), ("GET", "/ping"), ("POST", "/en/gradio_api/queue/join")):
            assert ask(target.url, method, path, b"", headers).status == 403, (method, path, headers)


def test_what_is_too_large_is_not_read(target: Target) -> None:
    for path, limit in (
        ("/preferences", LARGEST_CALL),
        ("/dataset/state", LARGEST_CALL),
        ("/en/gradio_api/upload", LARGEST_UPLOAD),
    ):
        assert ask(target.url, "POST", path, b"", {"Content-Length": str(limit + 1)}).status == 413
    memory = psutil.Process(target.window.process.pid).memory_info().rss
    for path in ("/preferences", "/dataset/state", "/en/gradio_api/run/predict"):
        assert endless(target, path) in ((400, 413) if path.startswith("/en/") else (413,)), path
    assert psutil.Process(target.window.process.pid).memory_info().rss - memory < 8 * LARGEST_CALL
    assert 400 <= ask(target.url, "GET", f"/files/{'a' * 60_000}.b").status < 500
    with contextlib.suppress(ConnectionError):  # it answers before it has read all, and then hangs up
        assert 400 <= ask(target.url, "GET", "/ping", b"", {"X-Long": "x" * 300_000}).status < 500
    target.works()


def endless(target: Target, path: str) -> int:
    """The answer to a body that announces no length and goes over the limit."""
    with socket.create_connection(address_of(target.url), timeout=WAIT_S) as line:
        line.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
        for _ in range(LARGEST_CALL // 65536 + 1):
            line.sendall(b"10000\r\n" + b"x" * 65536 + b"\r\n")
        return int(line.recv(12).split()[1])


def test_slow_requests_do_not_keep_others_waiting(target: Target) -> None:
    host, port = address_of(target.url)
    begun = [
        b"GET /ping HTT",
        f"GET /ping HTTP/1.1\r\nHost: {host}:{port}\r\nX-Slow: ".encode(),
        f"POST /preferences HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n\r\n{{".encode(),
        f"POST /en/gradio_api/run/predict HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n\r\n{{".encode(),
        f"POST /dataset/upload/aaaaaaaa/a.png HTTP/1.1\r\nHost: {host}:{port}\r\nContent-Length: 1000\r\n\r\nx".encode(),
    ]
    lines = []
    try:
        for number in range(HALF_OPEN):
            line = socket.create_connection((host, port), timeout=WAIT_S)
            lines.append(line)
            line.sendall(begun[number % len(begun)])
        target.works()
        answer = ask(target.url, "GET", "/en/config")
        assert answer.status == 200
    finally:
        for line in lines:
            line.close()
    target.works()


def junk() -> list[list[object]]:
    """Data that no page would send with an event."""
    deep: object = "end"
    for _ in range(60):
        deep = [deep]
    return [
        [], [None] * 40, ["x"] * 40, [1e308] * 40, [-1] * 40, [{"a": {"b": [1]}}] * 40, [deep] * 40, ["x" * 300_000],
        ["{}"] * 40, ['{"kind": "card"}'] * 40, [True] * 40, ["\0\ud800" * 9] * 40, [[["x"] * 3]] * 40, ["../../x"] * 40,
    ]  # fmt: skip


def fitted(data: list[object], event: dict[str, Any]) -> list[object]:
    """As many as the event takes, where they are the wrong kind and not the wrong number."""
    return data[: len(event["inputs"])] if len(data) == 40 else data


def test_events_in_any_order_with_junk(target: Target) -> None:
    """Every event of the page first thing in a session that never loaded one: three kinds of junk at once, one queued."""
    kinds, shuffled = junk(), random.Random(0)
    events = [e for e in target.page.events if re.sub(r"_\d+$", "", str(e["api_name"])) not in DIALOGS]
    shuffled.shuffle(events)
    assert len(events) > 80
    for number, event in enumerate(events):
        for turn in range(3):
            data = fitted(kinds[(number * 3 + turn) % len(kinds)], event)
            said = {"data": data, "fn_index": event["id"], "session_hash": f"junk{number % 20}", "event_data": data[:1]}
            answer = ask(target.url, "POST", "/en/gradio_api/run/predict", json.dumps(said).encode(), JSON)
            harmless(answer, target)
            assert answer.status in (200, 422, 500), answer.status
    for wrong in (-1, 9999, "x", None, 1e9):
        said = {"data": [], "fn_index": wrong, "session_hash": "junk"}
        for path in ("run/predict", "queue/join"):
            answer = ask(target.url, "POST", f"/en/gradio_api/{path}", json.dumps(said).encode(), JSON)
            harmless(answer, target)
            assert answer.status >= 400
    for number, event in enumerate(events):
        data = fitted(kinds[number % len(kinds)], event)
        said = {"data": data, "fn_index": event["id"], "session_hash": f"queued{number % 9}"}
        answer = ask(target.url, "POST", "/en/gradio_api/queue/join", json.dumps(said).encode(), JSON)
        harmless(answer, target)
        assert answer.status in (200, 422, 500), answer.status
    target.works()


WORDS = st.sampled_from(["", "x", "\0", "nope/nope", "é" * 500, "9" * 400, "-1", "<b>", "{", "state", "en", "\ud800"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(WORDS, inner, max_size=3),
    max_leaves=6,
)
FIELDS = (
    "name", "names", "text", "was", "version", "edits", "edit", "find", "quarters", "fix", "batch", "folder", "captioner",
)  # fmt: skip
BODIES_OF_OURS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=5)
BODIES = st.binary(max_size=60) | (VALUES | BODIES_OF_OURS).map(lambda value: json.dumps(value).encode())
KINDS = st.sampled_from(
    ["application/json", "text/plain", "multipart/form-data", "multipart/form-data; boundary=", "\u00ff", ""]
)


@settings(max_examples=250, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
          suppress_health_check=list(HealthCheck))  # fmt: skip
@given(st.data())
def test_every_route_with_junk(target: Target, routes: list[tuple[str, str]], data: st.DataObject) -> None:
    """Nothing but a plain answer, to any method with any body and any parameters."""
    own = [(m, p) for m, p in routes if not p[3:].startswith(STREAMS)]
    own += [(m, p) for m, p in own if p.startswith("/dataset/")] * 2
    method, path = data.draw(st.sampled_from(own))
    method = data.draw(st.sampled_from([method, method, method, "PUT", "DELETE", "PATCH", "OPTIONS"]))
    words = quote(data.draw(WORDS).encode("utf-8", "surrogatepass"), safe="")
    query = data.draw(st.sampled_from(["", "?language=xx", "?challenge=%00", "?place=%2e%2e", "?session_hash=a&x[]=1"]))
    kind = data.draw(KINDS)
    answer = ask(target.url, method, filled(path, words) + query, data.draw(BODIES), {"Content-Type": kind})
    harmless(answer, target)
    assert answer.status < 500 or path.startswith("/en/gradio_api"), (method, path, answer.status)
