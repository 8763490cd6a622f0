"""The real server with the real pages: what it answers, what it remembers, and what of Gradio it keeps out."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from lora_core.ui.server import gradio_import
from lora_core.ui.server.instance import proof
from lora_core.ui.state.app import App

HOME = "http://127.0.0.1:7861"
SAME = {"sec-fetch-site": "same-origin", "origin": HOME}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    folder = tmp_path_factory.mktemp("server")
    app = App(folder / "home", folder / "runs")
    app._core = Future()  # the pages need none of it, and other tests load it
    app._core.set_result(None)
    (app.uploads / "left").mkdir(parents=True)
    return app


@pytest.fixture(scope="module")
def ours(app: App) -> Iterator[TestClient]:
    gradio_import.prepare(app.uploads)
    from lora_core.ui.server.routes import create

    with TestClient(create(app, secret="s" * 64), base_url=HOME, follow_redirects=False) as client:
        yield client


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_a_page_is_ours(ours: TestClient, language: str) -> None:
    answer = ours.get(f"/{language}/")
    assert answer.status_code == 200 and answer.headers["cache-control"] == "no-store"
    page = answer.text
    assert f'lang="{language}"' in page and "<title>Treino</title>" in page and "iframeResizer" not in page
    nonce = re.search(r"script-src 'self' 'nonce-([\w-]+)'", answer.headers["content-security-policy"])
    assert nonce and ours.get(f"/{language}/").headers["content-security-policy"].find(nonce[1]) < 0
    scripts = re.findall(r"<script([^>]*)>", page)
    assert scripts and all(f'nonce="{nonce[1]}"' in given or "src=" in given for given in scripts)
    fetched = re.findall(r'(?:src|href|content)="((?:https?:)?//[^"]*)"', page)
    assert fetched == []
    assert "fonts.g" not in ours.get(f"/{language}/theme.css").text
    for name in re.findall(r'(?:src|href)="(/[^"]+)"', page):
        assert ours.get(name).status_code == 200, name


def test_the_core_is_not_needed_for_a_page() -> None:
    """In a fresh interpreter, for here it may be loaded already."""
    import subprocess
    import sys

    script = (
        "import sys, tempfile, pathlib\n"
        "from lora_core.ui.server import gradio_import as lean\n"
        "folder = pathlib.Path(tempfile.mkdtemp())\n"
        "lean.prepare(folder)\n"
        "from lora_core.ui import window\n"
        "from lora_core.ui.state.app import App\n"
        "window.build(App(folder, folder), 'en')\n"
        "print(sorted({'torch', 'diffusers', 'transformers', 'peft', 'matplotlib'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=200)
    assert done.stdout.strip().endswith("[]"), done.stdout + done.stderr


def test_greeting(ours: TestClient, app: App) -> None:
    assert ours.get("/", headers={"accept-language": "pt"}).headers["location"] == "/pt-BR/"
    assert ours.get("/en").headers["location"] == "/en/"
    assert ours.post("/preferences", headers=SAME, json={"language": "pt-BR", "appearance": "dark"}).status_code == 200
    assert ours.get("/", headers={"accept-language": "en"}).headers["location"] == "/pt-BR/"
    assert '"appearance": "dark"' in ours.get("/start.js").text
    for wrong in ({"language": "xx", "appearance": 3}, {}):
        assert ours.post("/preferences", headers=SAME, json=wrong).status_code == 200
    for wrong in (b"[]", b"{", b'"x"', b"\xff"):
        assert ours.post("/preferences", headers=SAME, content=wrong).status_code == 400
    assert (app.recall("language"), app.recall("appearance")) == ("pt-BR", "dark")
    app.remember("language", "")


def test_a_file_that_goes_while_it_is_asked_for_is_not_found(
    app: App, tmp_path: Path, ours: TestClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    app.files.allow(tmp_path)
    (tmp_path / "a.png").write_bytes(b"picture")
    url, found = app.files.url(tmp_path / "a.png"), app.files.open

    def opened(token: str) -> Path:
        path = found(token)
        path.unlink()
        return path

    monkeypatch.setattr(app.files, "open", opened)
    assert ours.get(url).status_code == 404


def test_files_and_assets(ours: TestClient, app: App, tmp_path: Path) -> None:
    assert not (app.uploads / "left").exists()  # what an earlier start was sent
    app.files.allow(tmp_path)
    for name, kind in (
        ("a.html", "application/octet-stream"),
        ("a.svg", "application/octet-stream"),
        ("a.png", "image/png"),
    ):
        (tmp_path / name).write_bytes(b"<script>alert(1)</script>")
        answer = ours.get(app.files.url(tmp_path / name))
        assert (answer.status_code, answer.headers["content-type"]) == (200, kind)
    assert ours.get(app.files.url(tmp_path / "gone.png")).status_code == 404
    assert ours.get("/files/x.y").status_code == ours.get("/files/..%2f..%2fetc%2fpasswd").status_code == 403
    icon = ours.get("/favicon.ico")
    assert icon.status_code == 200 and icon.content[:4] == b"\0\0\1\0"
    for name in ("../app.py", "..%2fapp.py", "%2e%2e/app.py", "dataset.html", ".", "icon.svg%00", "/etc/passwd"):
        assert ours.get(f"/assets/{name}").status_code == 404, name
    for language, title in (("en", "Train LoRAs"), ("pt-BR", "Treine LoRAs"), ("xx", "Train LoRAs")):
        manifest = ours.get(f"/manifest.webmanifest?language={language}").json()
        assert title in manifest["description"] and all(ours.get(i["src"]).status_code == 200 for i in manifest["icons"])


def test_an_error_is_told_once(ours: TestClient, app: App) -> None:
    before = ours.get("/ping").json()
    assert before["training"] == "idle" and app.shown.is_set()
    app.note_crash("something", ValueError("a <secret> prompt"))
    serial = ours.get("/ping").json()["crash"]
    assert serial == before["crash"] + 1
    told = ours.get(f"/crash/{serial}?language=pt-BR").json()["html"]
    assert 'role="alert"' in told and "não previu" in told and "<secret>" not in told
    assert ours.get("/crash/99?language=en").status_code == ours.get(f"/crash/{serial}?language=xx").status_code == 404


def test_it_proves_who_it_is(ours: TestClient) -> None:
    assert ours.get("/who?challenge=abc").json()["proof"] == proof("s" * 64, "abc")


def test_gradio_gives_no_file_away(ours: TestClient, app: App) -> None:
    for name in (
        "/etc/passwd",
        str(Path(__file__)),
        f"{app.uploads}/../window.json",
        "//server/share/x",
        "http://127.0.0.1:1/",
    ):
        assert ours.get(f"/en/gradio_api/file={name}").status_code in (403, 404), name
    assert ours.get("/en/gradio_api/info").json() == {"named_endpoints": {}, "unnamed_endpoints": {}}
