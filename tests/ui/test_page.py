"""What a tab is given: events whose errors are told, and an app that remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lora_core.errors import UserError
from lora_core.ui.state.app import App
from tests.support.event_loop import in_a_loop


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path / "home", tmp_path / "runs")


def told(app: App, fn: Any, outputs: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    """What a page makes of `fn`, and what it warns of while it runs."""
    return in_a_loop(_told(app, fn, outputs, monkeypatch))


async def _told(app: App, fn: Any, outputs: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, list[str]]:
    import gradio as gr

    from lora_core.ui.shared.texts import Texts
    from lora_core.ui.tabs.page import Page

    said: list[str] = []
    monkeypatch.setattr(gr, "Warning", lambda message, title: said.append(f"{title}: {message}"))
    with gr.Blocks() as blocks:
        tabs, button = gr.Tabs(), gr.Button()
        boxes = [gr.Textbox() for _ in range(outputs)]
        page = Page(app, Texts("en"), tabs)
        page.on(button.click, fn, [], boxes)
    (event,) = blocks.fns.values()
    assert event.api_visibility == "private"
    result = event.fn()
    return (list(result) if isinstance(result, Iterator) else result), said


def test_an_answer_goes_through(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    assert told(app, lambda: ("a", "b"), 2, monkeypatch) == (("a", "b"), [])


def test_a_sentence_for_people_is_a_notice(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise UserError("The folder is empty; choose another.")

    result, said = told(app, fail, 1, monkeypatch)
    assert said == ["Please note: The folder is empty; choose another."] and app.crashes == []
    assert result["__type__"] == "update" and "value" not in result


def test_anything_else_is_kept_for_the_panel(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> tuple[str, str, str]:
        raise KeyError("prompt")

    result, said = told(app, fail, 3, monkeypatch)
    assert said == [] and len(result) == 3
    assert (
        [t.serial for t in app.crashes] == [1] and "KeyError" in app.crashes[0].report and "fail" in app.crashes[0].what
    )


def test_a_generator_tells_what_it_has_until_it_fails(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> Iterator[str]:
        yield "first"
        raise ZeroDivisionError

    result, _ = told(app, fail, 1, monkeypatch)
    assert result[0] == "first" and result[1]["__type__"] == "update" and len(app.crashes) == 1


def test_troubles_do_not_pile_up(app: App) -> None:
    for n in range(30):
        app.note_crash(str(n), ValueError())
    assert [t.serial for t in app.crashes] == list(range(11, 31))


def test_what_is_remembered_is_there_at_the_next_start(app: App, tmp_path: Path) -> None:
    assert app.recall("x") is None and app.recall("x", 3) == 3
    app.remember("x", {"ação": [1, None]})
    app.remember("y", "写真")
    again = App(tmp_path / "home")
    assert (again.recall("x"), again.recall("y")) == ({"ação": [1, None]}, "写真")
    for damaged in ("{", "[]", "", "\0"):
        (tmp_path / "home" / "window.json").write_text(damaged, encoding="utf-8")
        assert App(tmp_path / "home").recall("x", "none") == "none"
    again.remember("z", 1)
    assert json.loads((tmp_path / "home" / "window.json").read_text(encoding="utf-8")) == {"z": 1}


def test_a_home_that_cannot_be_written_is_remembered_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    app = App(tmp_path / "file" / "home", tmp_path)
    app.remember("x", 1)
    assert app.recall("x") == 1


def test_what_the_core_could_not_import_is_told_to_who_waits(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_core.ui.state import app as module

    monkeypatch.setattr(module, "_CORE", ("lora_core.no_such_module",))
    assert not app.core_ready()
    with pytest.raises(ModuleNotFoundError):
        app.wait_for_core()
    assert app.core_ready()
