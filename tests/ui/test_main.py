"""lora_core.ui.main: its flags, the port it takes, the password it asks for, and what a second start does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.ui import main
from lora_core.ui.main import LOOPBACK, Flags, parse
from lora_core.ui.server import instance
from tests import ROOT
from tests.e2e.conftest import start_window


def environment(folder: Path, **more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "TREINO_PASSWORD"}
    return {
        **kept,
        "XDG_CONFIG_HOME": str(folder),
        "APPDATA": str(folder),
        "PYTHONUTF8": "1",
        "TREINO_RUNS": str(folder),
        **more,
    }


def gui(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "gui.py"), *arguments]
    return subprocess.run(
        command,
        env=environment(folder, **more),
        capture_output=True,
        text=True,
        encoding="utf-8",
        stdin=subprocess.DEVNULL,
        timeout=240,
        check=False,
    )


def test_flags() -> None:
    assert parse([]) == Flags(None, True, LOOPBACK, "")
    assert parse(["--port", "0", "--no-window", "--listen", "[::1]", "--language", "pt-BR"]) == Flags(
        0, False, "::1", "pt-BR"
    )
    assert parse(["--no_window"]) == parse(["--no-window"])
    for wrong in (["--port", "70000"], ["--port", "-1"], ["--port", "x"], ["--language", "xx"], ["--what"], ["more"]):
        with pytest.raises(UserError):
            parse(wrong)


@pytest.mark.parametrize(
    ("listen", "open_to_others"),
    [
        ("127.0.0.1", False),
        ("localhost", False),
        ("::1", False),
        ("127.9.9.9", False),
        ("0.0.0.0", True),
        ("::", True),
        ("192.168.1.7", True),
        ("studio.local", True),
        ("localhost.evil.example", True),
    ],
)
def test_what_lets_others_in(listen: str, open_to_others: bool) -> None:
    assert parse(["--listen", listen]).on_network is open_to_others


def test_help_tells_every_flag(capsys: pytest.CaptureFixture[str]) -> None:
    assert main.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert all(flag in said for flag in ("--port", "--no-window", "--listen", "--language", "TREINO_PASSWORD"))


def test_help_needs_no_packages(tmp_path: Path) -> None:
    bare = [sys.executable, "-S", str(ROOT / "gui.py"), "--help"]
    asked = subprocess.run(bare, capture_output=True, text=True, env=environment(tmp_path), check=False)
    assert asked.returncode == 0 and "--no-window" in asked.stdout, asked.stderr


def test_a_network_needs_a_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delenv("TREINO_PASSWORD", raising=False)
    monkeypatch.setattr(sys, "stdin", None)  # nobody to ask, as under pythonw
    for address in ("0.0.0.0", "192.0.2.7"):
        assert main.main(["--listen", address, "--no-window", "--port", "0"]) == 2
        told = capsys.readouterr()
        assert (
            told.out == "" and told.err.startswith("Treino: --listen lets other computers in") and told.err.count("\n") == 1
        )
    monkeypatch.setenv("TREINO_PASSWORD", "secret")
    assert main.main(["--listen", "0.0.0.0", "--no-window"]) == 2
    told = capsys.readouterr()
    assert "too short" in told.err and "secret" not in told.err


def test_a_taken_port() -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        taken = other.getsockname()[1]
        with pytest.raises(UserError, match=f"Port {taken} at 127.0.0.1 cannot be used"):
            main._socket(LOOPBACK, taken)
    with pytest.raises(UserError, match="192.0.2.7 cannot be used"):
        main._socket("192.0.2.7", None)


def test_the_next_free_port_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as other:
        other.bind((LOOPBACK, 0))
        other.listen()
        monkeypatch.setattr(main, "PORT", other.getsockname()[1])
        with main._socket("localhost", None) as found:
            assert found.getsockname()[0] == LOOPBACK and found.getsockname()[1] != main.PORT


def test_addresses() -> None:
    assert main._address("::1", 80) == "http://[::1]:80/" and main._address(LOOPBACK, 80) == "http://127.0.0.1:80/"
    assert [main._reached_here(host) for host in ("0.0.0.0", "::", "192.168.1.7")] == [LOOPBACK, "::1", "192.168.1.7"]
    assert main._reached_there("192.168.1.7") == "192.168.1.7" and main._reached_there("0.0.0.0") != "0.0.0.0"


def test_a_second_start_finds_the_first(tmp_path: Path) -> None:
    """It listens at once, so it is found while it is still being built; it ends with Ctrl-C, and its note with it."""
    first = start_window(tmp_path)
    try:
        second = gui(tmp_path / "config", "--no-window")
        assert (second.returncode, second.stdout) == (0, f"Treino is running already: {first.url}\n"), second.stderr
        third = gui(tmp_path / "config", "--listen", "0.0.0.0", TREINO_PASSWORD="correct horse")
        assert third.returncode == 2 and first.url in third.stderr
        assert (first.home / "running.json").exists()
    finally:
        code = first.stop()
    assert code == 0
    assert not (first.home / "running.json").exists() and instance.running(first.home) is None
