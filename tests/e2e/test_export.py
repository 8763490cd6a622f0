"""The Export tab in a real browser: a prepared run into fake webuis, by mouse and by keyboard, and a conversion."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Locator, Page, expect

from lora_core.lora.summary import LoraSummary
from tests.e2e.conftest import Window, settled
from tests.support import webui_trees as trees
from tests.support.prepared_runs import TOY, prepare_run


@dataclass
class Scene:
    """A finished run, and two webuis in the home of the window's person."""

    run: Path
    comfy: Path
    a1111: Path

    def loras(self) -> list[str]:
        return sorted(path.name for path in (self.comfy / "models" / "loras").iterdir())


@pytest.fixture
def scene(window: Window) -> Iterator[Scene]:
    home = window.home.parents[1]
    run = prepare_run(window.runs / "zebra-toy", (0.3, 0.4), at=4e9, shape=TOY)
    made = Scene(run.folder, trees.comfy(home / "ComfyUI"), trees.a1111(home / "stable-diffusion-webui"))
    yield made
    for folder in (made.run, made.comfy, made.a1111):
        shutil.rmtree(folder)


def opened(page: Page) -> None:
    """The tab with the run filled in."""
    page.locator("#tab-export-button").click()
    page.locator("#export-look").click()
    expect(page.locator("#export-places")).to_contain_text("ComfyUI")
    expect(page.locator("#export-name input")).to_have_value("zebu", timeout=90_000)


def place(page: Page, scene: Scene) -> Locator:
    """The card of the scene's own ComfyUI, whatever else this computer has."""
    return page.locator(f'.export-place[title="{scene.comfy / "models" / "loras"}"]')


def test_by_mouse(page_en: Page, scene: Scene, shot: Callable[[Page, str], Path]) -> None:
    page = page_en
    opened(page)
    expect(page.locator("#export-go")).to_be_in_viewport(ratio=1)  # though it stands below all else
    expect(page.locator("#export-facts")).to_contain_text("a toy model that no webui has")
    expect(page.locator("#export-facts")).to_contain_text("lowest at step 100")
    place(page, scene).click()
    page.locator(".export-picture").nth(1).click()
    name = page.locator("#export-name input")
    name.fill("a/b")
    expect(page.locator("#export-name-wrong")).to_contain_text("not allowed in file names")
    shot(page, "export_en")
    name.fill("zebra")
    expect(page.locator("#export-name-wrong .export-wrong")).to_have_count(0)
    page.locator("#export-go").click()
    expect(page.locator("#export-result")).to_contain_text("zebra is in ComfyUI")
    expect(page.locator("#export-result")).to_contain_text("Press R in ComfyUI")
    assert scene.loras() == ["zebra.json", "zebra.png", "zebra.safetensors"]
    page.locator("#export-result [data-copy]").click()
    expect(page.locator("#export-result [data-copy]")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == "zebu"
    page.locator("#export-result").scroll_into_view_if_needed()
    shot(page, "export_done_en")

    page.locator("#export-go").click()
    expect(page.locator("#export-taken-note")).to_contain_text("has a LoRA named zebra already")
    shot(page, "export_taken_en")
    page.locator("#export-cancel").click()
    expect(page.locator("#export-taken")).to_be_hidden()
    page.locator("#export-go").click()
    page.get_by_role("button", name="Keep both, as zebra-2").click()
    expect(page.locator("#export-result")).to_contain_text("zebra-2 is in ComfyUI")
    page.locator("#export-more").get_by_role("button").click()
    notes = page.locator("#export-notes textarea")
    expect(notes).to_have_value(re.compile("Steps: 200"))  # the fold is open and filled
    settled(notes).fill("newer")
    notes.press("Tab")
    expect(notes).to_have_value("newer")
    page.locator("#export-go").click()
    page.locator("#export-replace").click()
    expect(page.locator("#export-result")).to_contain_text("zebra is in ComfyUI")
    card = scene.comfy / "models" / "loras" / "zebra.json"
    assert json.loads(card.read_text(encoding="utf-8"))["notes"] == "newer"
    assert [name for name in scene.loras() if name.endswith(".safetensors")] == ["zebra-2.safetensors", "zebra.safetensors"]


def test_by_keyboard_in_portuguese(open_page: Callable[..., Page], scene: Scene, shot: Callable[[Page, str], Path]) -> None:
    page = open_page("pt-BR", dark=True)
    opened(page)
    radios = page.locator('input[name="export-place"]')
    page.locator('input[name="export-place"]:checked').focus()
    wanted = place(page, scene).locator("input")
    for _ in range(radios.count()):
        if wanted.is_checked():
            break
        page.keyboard.press("ArrowDown")
    expect(wanted).to_be_checked()
    page.locator("#export-trigger input").focus()
    page.keyboard.press("End")
    page.keyboard.type(" listrada")
    page.locator("#export-go").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#export-result")).to_contain_text("zebu está em ComfyUI")
    card = json.loads((scene.comfy / "models" / "loras" / "zebu.json").read_text(encoding="utf-8"))
    assert card["activation text"] == "zebu listrada"
    shot(page, "export_pt_dark")


def test_any_lora_is_converted(page_en: Page, scene: Scene, tmp_path: Path, shot: Callable[[Page, str], Path]) -> None:
    page = page_en
    page.locator("#tab-export-button").click()
    page.locator("#export-part-convert-button").click()
    box = page.locator("#convert-file input").first
    settled(box).fill(str(tmp_path / "none.safetensors"))
    box.press("Enter")
    expect(page.locator("#convert-file-wrong")).to_contain_text("There is no file", timeout=90_000)
    box.fill(str(scene.run / "zebu.safetensors"))
    box.press("Enter")
    expect(page.locator("#convert-facts")).to_contain_text("Stable Diffusion 1.x")
    page.locator("#convert-folder input").fill(str(tmp_path))
    page.locator("#convert-name input").fill("turned")
    page.locator("#convert-go").click()
    expect(page.locator("#convert-result")).to_contain_text("turned.safetensors")
    assert LoraSummary.read(tmp_path / "turned.safetensors").family == "sd1"
    shot(page, "convert_en")
