"""lora_core.ui.tabs.train.computer_check: the panel in both languages, and the routes that steer the check."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lora_core.check.kept import Kept
from lora_core.messages import Message
from lora_core.models.computer import Computer, Identity
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.state.computer_check import DONE, FAILED, RUNNING, STOPPING, CheckState
from lora_core.ui.tabs.train.computer_check import add_check_routes, check_html, notice, panel_html
from tests.support.played_check import FOUND, Report, played_check

EN, PT = Texts("en"), Texts("pt-BR")
REPORT = Report((), FOUND, Computer(Identity("a card", 1, "", "", "")), 21.0, True, ())


@pytest.fixture
def app(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> App:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    return App(tmp_path / "home", tmp_path / "runs", check=played_check)


@pytest.fixture
def ask(app: App) -> Iterator[Callable[..., dict[str, Any]]]:
    server = FastAPI()
    add_check_routes(server, app)
    with TestClient(server) as client:

        def ask(does: str = "", language: str = "en") -> dict[str, Any]:
            answer = client.post(f"/check/{language}/{does}") if does else client.get(f"/check/{language}")
            return answer.json() if answer.status_code == 200 else {"status": answer.status_code}

        yield ask


def test_before_during_and_after_there_is_one_button_in_its_place() -> None:
    part = Message("check.name_disk")
    states = {
        "start": CheckState(),
        "stop": CheckState(3, RUNNING, part=part, done=1, total=4, ends_at=1e18),
        "stop\" disabled": CheckState(4, STOPPING),
        "start\">": CheckState(5, DONE, report=REPORT),
    }  # fmt: skip
    for does, state in states.items():
        assert check_html(state, EN).startswith(f'<button type="button" class="check-button" data-check="{does}'), does
    running = check_html(states["stop"], PT)
    assert 'value="1" max="4"' in running and "Os discos (2 de 4)" in running and "No máximo" in running
    assert [notice(state, EN) for state in states.values()] == ["", "Checking this computer", "Ending the check", ""]
    assert 'data-stamp="0"' in panel_html(EN) and EN("train.check_help") in panel_html(EN)


@pytest.mark.parametrize("text", [EN, PT], ids=["en", "pt-BR"])
def test_what_is_copied_is_what_is_read(text: Texts) -> None:
    html = check_html(CheckState(5, DONE, report=REPORT), text)
    copied = re.search(r'data-copy="([^"]*)"', html)
    assert copied and unescape(copied[1]).splitlines() == [text.say(line) for line in REPORT.lines()]
    shown = re.findall(r'<p class="check-([\w-]+)">([^<]*)</p>', html)
    assert [unescape(line) for _, line in shown] == unescape(copied[1]).splitlines()
    assert {kind for kind, _ in shown} == {"line-good", "line-slower", "line-failed", "line-decision", "took"}
    assert "<details open>" in html
    assert "<details>" in check_html(CheckState(5, DONE, True, report=REPORT), text), "nobody asked for it"


@pytest.mark.parametrize("text", [EN, PT], ids=["en", "pt-BR"])
def test_what_an_earlier_check_found_is_there_with_its_date(text: Texts) -> None:
    earlier = Kept(tuple(REPORT.lines()), time.mktime((2026, 11, 30, 14, 5, 0, 0, 0, -1)))
    html = check_html(CheckState(1, earlier=earlier), text)
    date = "2026-11-30 14:05" if text is EN else "30/11/2026 14:05"
    assert f"<details><summary>{text('train.check_found_at', date=date)}</summary>" in html and date in html
    copied = re.search(r'data-copy="([^"]*)"', html)
    assert copied and unescape(copied[1]).splitlines() == [text.say(line) for line in REPORT.lines()]
    assert date not in check_html(CheckState(2, RUNNING, earlier=earlier, ends_at=1e18), text)
    assert date not in check_html(CheckState(3, DONE, earlier=earlier, report=REPORT), text), "there is a newer one"
    assert date in check_html(CheckState(4, FAILED, earlier=earlier, error=Message("models.no_bf16")), text)


def test_the_routes_start_it_stop_it_and_tell_it(app: App, ask: Callable[..., dict[str, Any]]) -> None:
    assert ask("start", "pt-BR")["error"] == PT.say(Message("ui.check_too_early"))
    app._core = Future()
    app._core.set_result(None)
    before = ask()
    assert not before["busy"] and before["notice"] == "" and before["stamp"] == "0"
    began = ask("start")
    assert began["error"] == "" and began["stamp"] != before["stamp"]
    stopped = ask("stop")
    assert app.check.wait(20) and stopped["error"] == ""
    ended = ask(language="pt-BR")
    assert not ended["busy"] and PT("train.check_found") in ended["html"]
    for does, language in (("", "xx"), ("start", "xx"), ("begin", "en")):
        assert ask(does, language) == {"status": 404}
