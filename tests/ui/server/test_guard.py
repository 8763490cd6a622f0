"""Who is refused: foreign origins, rebound names, Gradio's other routes, bodies without end, strangers on a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient
from starlette.types import Receive, Scope, Send

from lora_core.ui.server import guard
from lora_core.ui.server.guard import Guard, Password

HOME = "http://127.0.0.1:7861"
POST = {"sec-fetch-site": "same-origin", "origin": HOME}


async def inner(scope: Scope, receive: Receive, send: Send) -> None:
    """Reads all of the body, and tells how much it was."""
    size = len(await Request(scope, receive).body())
    answer = PlainTextResponse(f"in {size}", headers={"access-control-allow-origin": "*", "x-own": "1"})
    await answer(scope, receive, send)


def client(folder: Path, password: str = "", hosts: tuple[str, ...] = (), base: str = HOME) -> TestClient:
    checked = Password(password) if password else None
    app = Guard(inner, folder, hosts, checked, lambda request, wrong: f"password, please{' once more' if wrong else ''}")
    return TestClient(app, base_url=base, follow_redirects=False)


@pytest.fixture
def ours(tmp_path: Path) -> Iterator[TestClient]:
    yield client(tmp_path / "uploads")


def test_our_own_page_is_let_in(ours: TestClient) -> None:
    assert ours.get("/").status_code == 200
    assert ours.get("/en/", headers={"sec-fetch-site": "none", "sec-fetch-mode": "navigate"}).status_code == 200
    assert ours.post("/en/gradio_api/queue/join", headers=POST, json={}).text == "in 2"
    assert ours.get("/ping", headers={"sec-fetch-site": "same-origin"}).status_code == 200
    for base in ("http://localhost:7861", "http://[::1]:7861", "http://127.0.0.2"):
        assert client(Path("x"), base=base).get("/ping").status_code == 200


@pytest.mark.parametrize(
    "host",
    [
        "evil.example",
        "127.0.0.1.evil.example:7861",
        "localhost.evil.example",
        "192.168.1.7:7861",
        "[::",
        "[::1",
        "",
        "0x7f.1",
        "a@b",
    ],
)
def test_a_rebound_name_is_refused(ours: TestClient, host: str) -> None:
    assert ours.get("/", headers={"host": host}).status_code == 403


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "http://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:8080"},
        {"sec-fetch-site": "cross-site"},
        {"sec-fetch-site": "same-site"},
        {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"},
        {"origin": HOME, "sec-fetch-site": "cross-site"},
    ],
)
@pytest.mark.parametrize(
    "path", ["/preferences", "/dataset/state", "/dataset/upload/a/b", "/en/gradio_api/upload", "/en/gradio_api/queue/join"]
)
def test_another_origin_is_refused(ours: TestClient, path: str, headers: dict[str, str]) -> None:
    assert ours.post(path, headers=headers, content=b"x").status_code == 403


def test_another_origin_reads_nothing_but_may_link_to_the_page(ours: TestClient) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    for path in ("/", "/en/", "/pt-BR", "/pt-BR/"):
        assert ours.get(path, headers=link).status_code == 200
    for path in ("/files/x.y", "/ping", "/en/gradio_api/queue/data", "/en/gradio_api/heartbeat/a", "/en/config"):
        assert ours.get(path, headers=link).status_code == 403
        assert ours.get(path, headers={"sec-fetch-site": "same-site", "sec-fetch-mode": "no-cors"}).status_code == 403
    for frame in ("iframe", "embed", "object"):
        assert ours.get("/en/", headers={**link, "sec-fetch-dest": frame}).status_code == 403
    with pytest.raises(Exception) as refused, ours.websocket_connect("/en/gradio_api/queue/join"):
        pass
    assert "1008" in str(vars(refused.value))


@pytest.mark.parametrize(
    "path",
    [
        "proxy=http://evil.example",
        "vibe-edit",
        "vibe-code",
        "openapi.json",
        "dev/reload",
        "deep_link",
        "runs",
        "call/x",
        "stream/a/b/c/playlist.m3u8",
        "custom_component/a/b/c/d",
        "process_recording",
        "run-history/connect",
        "profiling/traces",
    ],
)
def test_gradios_other_routes_are_closed(ours: TestClient, path: str) -> None:
    assert ours.get(f"/en/gradio_api/{path}").status_code == 404
    assert ours.post(f"/en/gradio_api/{path}", headers=POST).status_code == 404
    assert ours.get(f"/en/{path}").status_code == 404


def test_gradios_file_route_gives_what_was_uploaded(tmp_path: Path) -> None:
    uploads, outside = tmp_path / "uploads", tmp_path / "outside.png"
    uploads.mkdir()
    for path in (uploads / "a b.png", outside, tmp_path / "uploads2"):
        path.write_bytes(b"x")
    (uploads / "link.png").symlink_to(outside)
    ours = client(uploads)
    assert ours.get(f"/en/gradio_api/file={uploads / 'a b.png'}").status_code == 200
    for name in (
        str(outside),
        f"{uploads}/../outside.png",
        f"{uploads}/%2e%2e/outside.png",
        f"{uploads}/link.png",
        f"{uploads}2",
        "/etc/passwd",
        "etc/passwd",
        "../../etc/passwd",
        "//server/share/a.png",
        r"\\server\share\a.png",
        "file:///etc/passwd",
        "http://evil.example/a.png",
        f"{uploads}/a%00.png",
        r"C:\Windows\win.ini",
    ):
        assert ours.get(f"/en/gradio_api/file={name}").status_code in (403, 404), name


def test_a_body_has_an_end(ours: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LARGEST_CALL", 1000)
    monkeypatch.setattr(guard, "LARGEST_UPLOAD", 5000)
    assert ours.post("/dataset", headers=POST, content=b"x" * 1000).text == "in 1000"
    assert ours.post("/dataset", headers=POST, content=b"x" * 1001).status_code == 413
    assert ours.post("/dataset/upload/a/b", headers=POST, content=b"x" * 5000).text == "in 5000"
    assert ours.post("/en/gradio_api/upload", headers=POST, content=b"x" * 5001).status_code == 413
    assert ours.post("/dataset", headers={**POST, "content-length": "-1"}, content=b"").status_code == 413
    sent_in_pieces = ours.post("/dataset", headers=POST, content=(b"x" * 600 for _ in range(2)))  # without a length
    assert (sent_in_pieces.status_code, sent_in_pieces.text) == (413, "This is too large.")


def test_headers_keep_the_page_to_itself(ours: TestClient) -> None:
    for answer in (ours.get("/ping"), ours.get("/ping", headers={"host": "evil.example"})):
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert answer.headers["x-frame-options"] == "DENY"
        told = dict(part.strip().split(" ", 1) for part in answer.headers["content-security-policy"].split(";"))
        assert told["default-src"] == told["base-uri"] == told["form-action"] == "'self'"
        assert told["object-src"] == told["frame-ancestors"] == "'none'"
        assert "unsafe-inline" not in told["script-src"] and "http" not in answer.headers["content-security-policy"]
        assert "access-control-allow-origin" not in answer.headers
    assert ours.get("/ping").headers["x-own"] == "1"


def test_a_network_has_to_give_the_password(tmp_path: Path) -> None:
    far = client(tmp_path, "correct horse", ("studio", "studio.local"), "http://studio.local:7861")
    same = {"sec-fetch-site": "same-origin", "origin": "http://studio.local:7861"}
    for path in ("/", "/en/", "/pt-BR/"):
        assert far.get(path).headers["location"] == "/login"
    for path in ("/files/x.y", "/ping", "/en/config", "/en/gradio_api/info", "/assets/frame.js", "/crash/1", "/start.js"):
        assert far.get(path).status_code == 401, path
    for path in ("/dataset", "/preferences", "/en/gradio_api/queue/join", "/en/gradio_api/upload"):
        assert far.post(path, headers=same).status_code == 401, path
    assert far.get("/assets/icon.svg").status_code == far.get("/who").status_code == 200
    assert far.get("/login").text == "password, please"
    wrong = far.post("/login", headers=same, data={"password": "wrong"})
    assert (wrong.status_code, wrong.text) == (401, "password, please once more") and not wrong.cookies
    assert (
        far.post("/login", headers={"origin": "http://evil.example"}, data={"password": "correct horse"}).status_code == 403
    )
    entered = far.post("/login", headers=same, data={"password": "correct horse"})
    assert (entered.status_code, entered.headers["location"]) == (303, "/")
    assert "HttpOnly" in entered.headers["set-cookie"] and "SameSite=strict" in entered.headers["set-cookie"]
    assert far.get("/en/").status_code == far.get("/ping").status_code == 200
    assert far.post("/dataset", headers=same).text == "in 0"
    assert far.get("/ping", headers={"host": "evil.example"}).status_code == 403
    assert far.get("/ping", headers={"host": "192.168.1.7:7861"}).status_code == 200  # a number cannot be rebound
    far.cookies.clear()
    far.cookies.set(guard.SESSION, "guessed")
    assert far.get("/ping").status_code == 401


def test_passwords_cannot_be_tried_without_end() -> None:
    password = Password("correct horse")
    assert [password.try_one(f"guess {n}", 100.0 + n) for n in range(5)] == [""] * 5
    assert password.is_shut(110.0) and not password.is_shut(161.0)
    assert len(password.try_one("correct horse", 161.0)) > 30
