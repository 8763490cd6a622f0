"""Captions proposed in a real browser: the captioner comes from a hub on loopback, its answers are taken or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from tests.e2e.conftest import ROOT, Window, start_window
from tests.e2e.test_dataset import NAMELESS, open_folder, read
from tests.support import tiny_captioners
from tests.support.hub_server import HubServer
from tests.support.tiny_captioners import ALWAYS

Shot = Callable[[Page, str], Path]
BARE = ("003.png", "007.png", "009.png")


@pytest.fixture(scope="module")
def hub() -> Iterator[HubServer]:
    with HubServer(tiny_captioners.repos()) as server:
        yield server


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory, hub: HubServer) -> Iterator[Window]:
    """A window that takes the hub on loopback for the real one."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("HF_HOME", "HF_HUB_CACHE", "HF_TOKEN", "HF_HUB_OFFLINE"):
            patch.delenv(name, raising=False)
        patch.setenv("HF_ENDPOINT", hub.endpoint)
        window = start_window(tmp_path_factory.mktemp("window"))
    yield window
    window.stop()


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A copy of the sample pictures, three of them without a caption."""
    folder = tmp_path / "amostras"
    shutil.copytree(ROOT / "Training", folder, ignore=shutil.ignore_patterns(".treino"))
    for name in BARE:
        (folder / name).with_suffix(".txt").unlink()
    return folder


def test_captions_are_proposed_looked_at_and_taken(page_en: Page, training: Path, shot: Shot) -> None:
    page = page_en
    open_folder(page, training, 12)
    page.click("#dataset-tab-describe")
    page.select_option("#dataset-captioner", "tags")
    expect(page.locator("#dataset-captioner-note")).to_contain_text("downloaded once: about 361")
    expect(page.locator("#dataset-describe-go")).to_have_text("Describe 3 pictures")
    page.fill("#dataset-front", "ampulheta")
    assert page.evaluate(NAMELESS) == []
    shot(page, "describe-ask-en")
    page.press("#dataset-front", "Enter")
    rows = page.locator("#dataset-proposed li")
    expect(rows).to_have_count(3)
    expect(rows.first).to_contain_text(f"ampulheta, {ALWAYS}")
    expect(rows.first.locator("img")).to_have_js_property("complete", True)
    expect(page.locator("#dataset-captioner-note")).to_have_text("Its model is on this computer.")
    page.get_by_role("checkbox", name="007.png").uncheck()
    expect(page.locator("#dataset-take")).to_have_text("Use these 2 captions")
    assert not (training / "003.txt").exists(), "nothing is written before"
    shot(page, "describe-proposed-en")
    page.click("#dataset-take")
    expect(page.locator("#dataset-told")).to_contain_text("2 captions changed")
    expect(page.locator("#dataset-proposed")).to_be_hidden()
    assert read(training, "003.png") == read(training, "009.png") == f"ampulheta, {ALWAYS}"
    assert not (training / "007.txt").exists()
    expect(page.locator("#dataset-which option").first).to_have_text("Those without a caption (1)")
    page.click("#dataset-undo")
    expect(page.locator("#dataset-which option").first).to_have_text("Those without a caption (3)")
    assert not (training / "003.txt").exists()


def test_sentences_in_portuguese_by_keyboard_and_none_are_used(
    open_page: Callable[..., Page], training: Path, shot: Shot
) -> None:
    page = open_page("pt-BR", dark=True, height=720)
    open_folder(page, training, 12)
    page.locator("[data-name='002.png']").click()
    page.locator("#dataset-tab-one").focus()
    page.keyboard.press("ArrowRight")
    page.locator("#dataset-which").focus()
    page.keyboard.press("End")  # the one chosen
    expect(page.locator("#dataset-describe-go")).to_have_text("Descrever 1 imagem")
    page.locator("#dataset-describe-go").focus()
    page.keyboard.press("Enter")
    rows = page.locator("#dataset-proposed li")
    expect(rows).to_have_count(1)
    expect(rows.first).to_contain_text("002.png")
    expect(rows.first).to_contain_text("a yellow ampulheta on a purple background")  # what is there now
    shot(page, "describe-proposed-pt-dark")
    page.locator("#dataset-forget").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#dataset-proposed")).to_be_hidden()
    assert read(training, "002.png") == "a yellow ampulheta on a purple background"
