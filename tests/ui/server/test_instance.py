"""One window per user: found where it runs, and no note of a dead one mistaken for it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest

from lora_core.ui.server import instance
from lora_core.ui.server.instance import Running, browsers, forget, note, open_app_window, proof, running

SECRET = "s" * 64


@pytest.fixture
def address() -> Iterator[str]:
    """A server that knows the secret."""

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = parse_qs(urlsplit(self.path).query)
            body = json.dumps({"treino": "1", "proof": proof(SECRET, asked["challenge"][0])}).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Answer) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


def test_the_running_window_is_found(tmp_path: Path, address: str) -> None:
    home = tmp_path / "not there yet"
    assert running(home) is None
    me = Running(address, os.getpid(), SECRET)
    note(home, me)
    assert running(home) == me
    if sys.platform != "win32":
        assert (home / "running.json").stat().st_mode & 0o077 == 0
    forget(home)
    assert running(home) is None and not (home / "running.json").exists()
    forget(home)


def test_a_proxy_is_not_asked(tmp_path: Path, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    note(tmp_path, Running(address, os.getpid(), SECRET))
    assert running(tmp_path)


def test_stale_notes_mean_nothing(tmp_path: Path, address: str) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{free.getsockname()[1]}/"
    stale = [
        Running(address, ended.pid, SECRET),  # its process ended
        Running(nobody, os.getpid(), SECRET),  # nobody listens there
        Running(address, os.getpid(), "another secret"),  # another program has the port now
        Running(address, os.getpid(), ""),
    ]
    for each in stale:
        note(tmp_path, each)
        assert running(tmp_path) is None, each
    for damaged in (
        "",
        "{",
        "[]",
        "{}",
        '{"address": 1}',
        '{"address": "", "pid": 1, "secret": "", "more": 2}',
        '"x"',
        "\0",
    ):
        (tmp_path / "running.json").write_text(damaged, encoding="utf-8")
        assert running(tmp_path) is None, damaged


def test_another_ones_note_stays(tmp_path: Path) -> None:
    note(tmp_path, Running("http://127.0.0.1:1/", os.getpid() + 1, SECRET))
    forget(tmp_path)
    assert (tmp_path / "running.json").exists()


def test_a_home_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    note(tmp_path / "file", Running("http://127.0.0.1:1/", 1, SECRET))


def test_proof() -> None:
    assert proof("a", "b") != proof("a", "c") != proof("b", "b") and proof("", "b") == ""


@pytest.mark.skipif(sys.platform != "linux", reason="uses shell scripts as browsers")
class TestAppWindow:
    @pytest.fixture
    def program(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setenv("DISPLAY", ":9")
        monkeypatch.setattr(instance, "_LINUX", ("microsoft-edge", "google-chrome"))
        return tmp_path

    def browser(self, folder: Path, name: str, script: str) -> None:
        (folder / name).write_text(
            f"#!/bin/sh\nprintf '%s\\n' \"$@\" > '{folder}/{name}.said'\n{script}\n", encoding="utf-8"
        )
        (folder / name).chmod(0o755)

    def test_the_first_that_can_opens_it(self, program: Path) -> None:
        self.browser(program, "microsoft-edge", "exit 1")
        self.browser(program, "google-chrome", "exit 0")
        assert list(browsers()) == [str(program / "microsoft-edge"), str(program / "google-chrome")]
        assert open_app_window("http://127.0.0.1:1/", program / "home")
        said = (program / "google-chrome.said").read_text(encoding="utf-8").splitlines()
        assert said[:2] == ["--app=http://127.0.0.1:1/", f"--user-data-dir={program / 'home' / 'browser'}"]

    def test_none_can(self, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.browser(program, "microsoft-edge", "exit 1")
        monkeypatch.setattr(instance, "_LINUX", ("microsoft-edge",))
        assert not open_app_window("http://127.0.0.1:1/", program)
        monkeypatch.delenv("DISPLAY")
        monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
        assert list(browsers()) == []

    def test_a_snap_writes_where_it_may(self, program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (program / "snap").mkdir()
        self.browser(program / "snap", "chromium", "exit 0")
        (program / "google-chrome").symlink_to(program / "snap" / "chromium")
        monkeypatch.setenv("HOME", str(program))
        assert open_app_window("http://127.0.0.1:1/", program)
        said = (program / "snap" / "chromium.said").read_text(encoding="utf-8").splitlines()
        assert said[1] == f"--user-data-dir={program / 'snap' / 'google-chrome' / 'common' / 'treino'}"
