"""Captions proposed in the Dataset tab: asked for, shown as they come, taken as one edit, cancelled, refused."""

from __future__ import annotations

import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from lora_core.models import device as precision
from lora_core.ui.state import open_dataset
from lora_core.ui.state.app import App
from lora_core.ui.tabs.dataset import routes as dataset_routes
from tests import ROOT
from tests.support import tiny_captioners
from tests.support.hub_server import HubServer, in_use
from tests.support.tiny_captioners import ALWAYS
from tests.ui.dataset.test_tab import Page, read


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three sample pictures, of which one has a caption."""
    home = tmp_path / "quadros"
    home.mkdir()
    for name in ("000.png", "001.jpg", "002.png", "000.txt"):
        shutil.copy(ROOT / "Training" / name, home)
    return home


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with in_use(tiny_captioners.repos(), tmp_path / "hub cache", monkeypatch) as server:
        yield server


@pytest.fixture
def page(tmp_path: Path, folder: Path, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[Page]:
    monkeypatch.setattr(open_dataset, "_REST_S", 0.0)
    app, server = App(tmp_path / "config", tmp_path / "runs"), FastAPI()
    dataset_routes.add_dataset_routes(server, app)
    with TestClient(server) as client:
        page = Page(client, app)
        page.ask("open", folder=str(folder))
        yield page
        app.describer.cancel()
        assert app.describer.wait(60)


def order(*names: str, **more: Any) -> dict[str, Any]:
    return {"captioner": "tags", "names": names, "threshold": 0.35, "trigger": "", **more}


def ended(page: Page) -> dict[str, Any]:
    """What is told once the work has ended."""
    assert page.app.describer.wait(60)
    told: dict[str, Any] = page.ask("state", version=-1, edits=-1)["describer"]
    return told


def test_captions_are_proposed_and_written_only_when_taken(page: Page, folder: Path) -> None:
    assert page.ask("captioners")["captioners"]["tags"] == {"size": "361.4 MiB", "here": False}
    assert page.ask("describe", **order("001.jpg", "002.png", "000.png", trigger="ampulheta")) == {}
    told = ended(page)
    assert (told["phase"], told["done"], told["total"], told["error"], told["notes"]) == ("done", 3, 3, "", [])
    rows = {name: (before, after) for name, _, before, after in told["rows"]}
    assert rows["001.jpg"] == ("", f"ampulheta, {ALWAYS}")
    assert rows["000.png"] == ("a red ampulheta on a cyan background", f"ampulheta, {ALWAYS}")
    assert not (folder / "001.txt").exists() and "red" in read(folder, "000.png")
    assert page.ask("captioners")["captioners"]["tags"]["here"] is True
    assert page.ask("captioners")["no_card"] is False, "nothing is said before the core can tell"
    page.app.wait_for_core()
    assert page.ask("captioners")["no_card"] is (precision.devices()[0].name == "cpu")

    taken = page.ask("describe_take", names=["001.jpg", "002.png"])
    assert (taken["count"], taken["undo"]) == (2, "2 captions proposed by a model")
    assert read(folder, "001.jpg") == read(folder, "002.png") == f"ampulheta, {ALWAYS}"
    assert "red" in read(folder, "000.png"), "what was not ticked stays"
    assert page.ask("state", version=-1, edits=-1)["describer"]["rows"] == []
    page.ask("undo")
    assert not (folder / "001.txt").exists() and not (folder / "002.txt").exists()


def test_rows_are_told_once(page: Page) -> None:
    page.ask("describe", **order("001.jpg", "002.png"))
    told = ended(page)
    again = page.ask("state", version=-1, edits=-1, job=told["job"], rows=1)["describer"]
    assert [row[0] for row in told["rows"]] == ["001.jpg", "002.png"]
    assert [row[0] for row in again["rows"]] == ["002.png"]
    assert len(page.ask("state", version=-1, edits=-1, job=told["job"] - 1, rows=2)["describer"]["rows"]) == 2


def test_nothing_sure_enough_is_no_caption(page: Page, folder: Path) -> None:
    page.ask("describe", **order("001.jpg", threshold=0.99))
    assert [row[3] for row in ended(page)["rows"]] == [""]
    assert page.ask("describe_take", names=["001.jpg"])["count"] == 0
    assert not (folder / "001.txt").exists()


def test_what_cannot_be_read_is_told_and_the_rest_described(page: Page, folder: Path) -> None:
    (folder / "002.png").write_bytes(b"no picture")
    page.ask("describe", **order("002.png", "001.jpg"))
    told = ended(page)
    assert [row[0] for row in told["rows"]] == ["001.jpg"]
    assert told["phase"] == "done" and "002.png" in told["notes"][0]


def test_stopping_keeps_what_was_proposed_and_another_folder_forgets_it(
    page: Page, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from lora_core import captioners

    first, go_on = threading.Event(), threading.Event()

    def slow(name: str, pictures: Any, emit: Any, threshold: float) -> Iterator[tuple[Path, str]]:
        for picture in pictures:
            emit(captioners.Phase("describe", 0, len(pictures)))
            yield picture, "seen"
            first.set()
            assert go_on.wait(60)

    monkeypatch.setattr(captioners, "describe", slow)
    page.ask("describe", **order("001.jpg", "002.png"))
    assert first.wait(60)
    assert "already" in page.ask("describe", **order("000.png"))["error"]
    page.ask("describe_cancel")
    go_on.set()
    told = ended(page)
    assert (told["phase"], [row[3] for row in told["rows"]]) == ("cancelled", ["seen"])
    other = folder.with_name("other")
    shutil.copytree(folder, other)
    page.ask("open", folder=str(other))
    assert page.ask("state", version=-1, edits=-1)["describer"]["rows"] == []


def test_what_is_in_the_way_is_said_in_a_sentence(page: Page, hub: HubServer) -> None:
    unknown = page.client.post("/dataset/describe", json={**order("001.jpg"), "captioner": "../x"})
    assert unknown.status_code == 422 and not page.app.crashes
    assert page.ask("describe", **order())["error"] == "There is no picture to describe: choose others."
    page.language = "pt-BR"
    assert "nenhuma imagem" in page.ask("describe", **order())["error"]
    controls = SimpleNamespace(asked="")
    page.app.training.job = SimpleNamespace(wait=lambda _: False, controls=controls, state="running", run=None)  # type: ignore[assignment]
    page.app.training.is_job_of = lambda run: True  # type: ignore[method-assign]
    assert "Pause-o" in page.ask("describe", **order("001.jpg"))["error"]
    page.app.training.job = None
    hub.repos.clear()
    page.ask("describe", **order("001.jpg"))
    told = ended(page)
    assert told["phase"] == "failed" and "wd-vit-tagger-v3" in told["error"] and not page.app.crashes
