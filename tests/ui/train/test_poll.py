"""What the Train tab asks each second: only what is new, and an event of Gradio's only for what numbers do not tell."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from lora_core.events import Sample, Step, Warned
from lora_core.messages import plain
from lora_core.runs.run import Run
from lora_core.ui.state.app import App
from lora_core.ui.tabs.train.poll import add_poll_route
from tests.support.prepared_runs import prepare_run


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path / "home", tmp_path / "runs")


@pytest.fixture
def ask(app: App) -> Iterator[Any]:
    server = FastAPI()
    add_poll_route(server, app, lambda: {"born": "today"})
    with TestClient(server) as client:

        def ask(language: str = "en", **has: str) -> dict[str, Any]:
            answer: dict[str, Any] = client.get(f"/poll/{language}", params=has).json()
            return answer

        yield ask


def tell(run: Run, *events: Any) -> None:
    for event in events:
        run.append(event)


def test_without_a_training_there_is_nothing_to_show(ask: Any) -> None:
    assert ask() == {"key": "0", "ping": {"born": "today"}}, "and what the frame asks for"


def test_what_the_page_has_is_not_sent_again(app: App, ask: Any, tmp_path: Path) -> None:
    run = prepare_run(tmp_path / "runs" / "one")
    app.training.show(run)
    first = ask()
    assert "of 200" in first["status_html"] or "200" in first["status_html"]
    assert "<svg" in first["plot_html"]
    has = {"status": first["status"], "plot": first["plot"]}
    assert ask(**has).keys() <= {"key", "ping", "status", "status_html"}, "memory, among the numbers, may have grown"
    logarithmic = ask(**has, log="1")
    assert logarithmic["plot"] != first["plot"] and logarithmic["key"] == first["key"]
    assert ask("pt-BR", **has)["plot_html"] != first["plot_html"]


def test_a_language_there_is_none_of(app: App) -> None:
    server = FastAPI()
    add_poll_route(server, app, dict)
    assert TestClient(server).get("/poll/xx").status_code == 404


def test_steps_change_numbers_and_plot_but_call_for_no_event(app: App, ask: Any, tmp_path: Path) -> None:
    run = prepare_run(tmp_path / "runs" / "one")
    app.training.show(run)
    before = ask()
    tell(run, *(Step(200 + n, 400, 0.2, 1e-4, 2.0, 50.0) for n in range(1, 60)))
    after = ask(status=before["status"], plot=before["plot"])
    assert after["key"] == before["key"]
    assert "259" in after["status_html"] and after["plot"] != before["plot"]


def test_the_plot_is_left_alone_where_it_is_not_asked_for(app: App, ask: Any, tmp_path: Path) -> None:
    run = prepare_run(tmp_path / "runs" / "one")
    app.training.show(run)
    assert ask(draws="0").keys() == {"key", "ping", "status", "status_html"}
    assert "plot_html" in ask(draws="1")


def test_notices_samples_and_another_run_call_for_an_event(app: App, ask: Any, tmp_path: Path) -> None:
    run = prepare_run(tmp_path / "runs" / "one")
    app.training.show(run)
    keys = [ask()["key"]]
    tell(run, Warned(plain("Something to know.")))
    keys.append(ask()["key"])
    tell(run, Sample(200, "samples/new.png", "a zebu", 7))
    keys.append(ask()["key"])
    app.training.show(prepare_run(tmp_path / "runs" / "two"))
    keys.append(ask()["key"])
    assert len(set(keys)) == len(keys)
    assert ask()["key"] == keys[-1]
