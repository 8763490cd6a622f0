"""lora_core.ui.state.background: work that no page waits for."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from lora_core.ui.state.app import App
from lora_core.ui.state.background import has_ended, in_background


def test_nobody_waits_unless_asked_to() -> None:
    gate = threading.Event()
    future = in_background(gate.wait, "a test")
    assert any(thread.name == "a test" and thread.daemon for thread in threading.enumerate())
    assert not has_ended(future) and not has_ended(future, 0.01)
    gate.set()
    assert has_ended(future, None) and future.result() and has_ended(None)


def test_what_it_raises_is_raised_for_who_asks() -> None:
    future = in_background(lambda: 1 // 0, "a test")
    assert has_ended(future, 5)
    with pytest.raises(ZeroDivisionError):
        future.result()


def test_once_for_all_pages(tmp_path: Path) -> None:
    app, calls, gate = App(tmp_path, tmp_path), [], threading.Event()

    def work() -> str:
        calls.append("begun")
        gate.wait()
        return "found"

    assert app.once("work", work) is None and app.once("work", work) is None
    gate.set()
    assert has_ended(app._once["work"], 5) and app.once("work", work) == "found" and calls == ["begun"]


def test_once_with_an_error_is_told_once(tmp_path: Path) -> None:
    app = App(tmp_path, tmp_path)
    app.once("wrong", lambda: 1 // 0)
    assert has_ended(app._once["wrong"], 5)
    assert app.once("wrong", lambda: 1) is None and [crash.what for crash in app.crashes] == ["wrong"]
