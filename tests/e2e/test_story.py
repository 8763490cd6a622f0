"""The whole story on the starter model: pictures, a caption, a training watched and steered, a comparison, an export.

Once by mouse in English, once by keyboard alone in Portuguese, each in a window that was never used.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Locator, Page, expect

from lora_core.runs.run import Run
from tests.e2e.conftest import ROOT, SLOW_MS, Window, points, start_window, wait_points
from tests.support import webui_trees as trees

CAPTION = "a yellow ampulheta on a purple background, drawn"
# A few dozen steps, each of them as quick as can be, and samples between.
SETTINGS = {
    "train_batch_size": "4", "max_train_steps": "60", "save_steps": "20", "prior_pictures": "0",
    "sample_inference_steps": "4", "sample_count": "2",
}  # fmt: skip
Shot = Callable[[Page, str], Path]


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """The home of a person with a webui and a folder of pictures."""
    trees.a1111(tmp_path / "stable-diffusion-webui")
    shutil.copytree(ROOT / "Training", tmp_path / "fotos ção", ignore=shutil.ignore_patterns(".treino"))
    return tmp_path


@pytest.fixture
def window(home: Path) -> Iterator[Window]:
    """A window of one's own instead of the one that all tests share."""
    window = start_window(home)
    yield window
    window.stop()


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """What a page shows is waited for as long as a busy machine needs."""
    expect.set_options(timeout=SLOW_MS)
    yield
    expect.set_options(timeout=60_000)


def wait_caption(home: Path, page: Page) -> None:
    """Until the caption stands on the disk."""
    file = home / "fotos ção" / "002.txt"
    for _ in range(600):
        if file.read_text(encoding="utf-8").strip() == CAPTION:
            return
        page.wait_for_timeout(100)
    raise AssertionError(file.read_text(encoding="utf-8"))


def compared(page: Page) -> float:
    """How far apart the two pictures on the page are, in grey levels of 255 on average."""
    sources = page.locator(".test-compare img").evaluate_all("all => all.map(one => one.src)")
    one, other = (Image.open(io.BytesIO(page.request.get(source).body())).convert("RGB") for source in sources)
    assert one.size == other.size == (64, 64)
    return float(np.abs(np.asarray(one, float) - np.asarray(other, float)).mean())


def check_export(home: Path, window: Window) -> None:
    """The file is that of the run, with its picture and its card beside it."""
    folder = home / "stable-diffusion-webui" / "models" / "Lora"
    assert sorted(path.name for path in folder.iterdir()) == ["ampulheta.json", "ampulheta.png", "ampulheta.safetensors"]
    run = Run(next(path for path in window.runs.iterdir() if (path / "events.jsonl").is_file()))
    assert (folder / "ampulheta.safetensors").read_bytes() == (run.folder / "ampulheta.safetensors").read_bytes()
    assert json.loads((folder / "ampulheta.json").read_text(encoding="utf-8"))["activation text"] == "ampulheta"
    with Image.open(folder / "ampulheta.png") as picture:
        picture.load()


def test_by_mouse_in_english(home: Path, window: Window, open_page: Callable[..., Page], shot: Shot) -> None:
    page = open_page("en")
    page.locator("#dataset-folder").fill(str(home / "fotos ção"))
    page.get_by_role("button", name="Open", exact=True).click()
    page.locator("#dataset-grid [data-name='002.png']").click()
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(12)
    page.locator("#dataset-caption").fill(CAPTION)
    wait_caption(home, page)
    shot(page, "story_1_dataset_en")

    page.locator("#dataset-train").click()
    expect(page.locator("#train-f-train_data_dir")).to_have_value(str(home / "fotos ção"))
    expect(page.locator('[data-card="quickstart"] input')).to_be_checked()
    for name, value in SETTINGS.items():
        page.locator("#train-search").fill(name)
        page.locator(f"#train-f-{name}").fill(value)
    page.locator("#train-search").fill("")
    expect(page.locator("#train-plan-steps")).to_contain_text("60 steps")
    expect(page.locator("#train-start")).to_be_enabled()
    shot(page, "story_2_plan_en")
    page.locator("#train-start").click()

    state = page.locator("#train-state")
    kept = wait_points(page, 3)
    page.locator("#train-pause").click()
    expect(state).to_have_attribute("data-state", "paused")
    page.reload()
    page.locator("#tab-train-button").click()
    assert wait_points(page, kept) >= kept  # the whole curve, not what came since
    expect(state).to_have_attribute("data-state", "paused")
    shot(page, "story_3_paused_en")
    page.locator("#train-go-on").click()
    wait_points(page, points(page) + 1)
    expect(state).to_have_attribute("data-state", "finished")
    expect(page.locator("#train-samples img").first).to_be_visible()
    shot(page, "story_4_finished_en")

    page.locator("#train-test-it").click()
    expect(page.locator("#test-paste input")).to_have_value("<lora:ampulheta:1> ampulheta")
    expect(page.locator("#test-draw")).to_be_enabled()
    page.locator("#test-draw").click()
    expect(page.locator(".test-compare")).to_be_visible()
    expect(page.locator(".test-phase")).to_contain_text("Done: 2 pictures")
    assert compared(page) > 5
    page.locator("#test-stage").scroll_into_view_if_needed()
    shot(page, "story_5_compared_en")

    page.locator("#test-export").click()
    expect(page.locator("#export-name input")).to_have_value("ampulheta")
    page.locator(f'.export-place[title="{home / "stable-diffusion-webui" / "models" / "Lora"}"]').click()
    page.locator("#export-go").click()
    expect(page.locator("#export-result")).to_contain_text("ampulheta is in")
    page.locator("#export-result").scroll_into_view_if_needed()
    shot(page, "story_6_exported_en")
    check_export(home, window)


def tab_to(page: Page, target: Locator) -> None:
    """Press Tab until `target` has the focus."""
    expect(target).to_be_visible()
    for _ in range(200):
        if target.evaluate("element => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"Tab never comes to {target}")


def press(page: Page, selector: str) -> None:
    """Come to a button by Tab and press it."""
    button = page.locator(selector)
    expect(button).to_be_enabled()
    tab_to(page, button)
    page.keyboard.press("Enter")


def type_over(page: Page, selector: str, text: str) -> None:
    tab_to(page, page.locator(selector))
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(text)


def test_by_keyboard_in_portuguese(home: Path, window: Window, open_page: Callable[..., Page], shot: Shot) -> None:
    page = open_page("pt-BR", dark=True)
    type_over(page, "#dataset-folder", str(home / "fotos ção"))
    page.keyboard.press("Enter")
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(12)
    tab_to(page, page.locator("#dataset-grid"))
    page.keyboard.press("Home")
    for _ in range(2):
        page.keyboard.press("ArrowRight")
    expect(page.locator("#dataset-name")).to_have_text("002.png")
    page.keyboard.press("Enter")
    expect(page.locator("#dataset-caption")).to_be_focused()
    page.keyboard.press("ControlOrMeta+a")
    page.keyboard.type(CAPTION)
    wait_caption(home, page)
    shot(page, "story_1_dataset_pt_dark")

    press(page, "#dataset-train")
    expect(page.locator("#train-f-train_data_dir")).to_have_value(str(home / "fotos ção"))
    for name, value in SETTINGS.items():
        type_over(page, "#train-search", name)
        type_over(page, f"#train-f-{name}", value)
    expect(page.locator("#train-plan-steps")).to_contain_text("60 passos")
    shot(page, "story_2_plan_pt_dark")
    press(page, "#train-start")

    state = page.locator("#train-state")
    kept = wait_points(page, 3)
    press(page, "#train-pause")
    expect(state).to_have_attribute("data-state", "paused")
    page.reload()
    tab_to(page, page.locator("#tab-train-button:visible"))
    page.keyboard.press("Enter")
    expect(state).to_be_visible()
    assert wait_points(page, kept) >= kept
    shot(page, "story_3_paused_pt_dark")
    press(page, "#train-go-on")
    expect(state).to_have_attribute("data-state", "finished")
    shot(page, "story_4_finished_pt_dark")

    press(page, "#train-test-it")
    expect(page.locator("#test-paste input")).to_have_value("<lora:ampulheta:1> ampulheta")
    press(page, "#test-draw")
    expect(page.locator(".test-compare")).to_be_visible()
    assert compared(page) > 5
    tab_to(page, page.locator(".test-compare input"))
    page.keyboard.press("ArrowLeft")
    shot(page, "story_5_compared_pt_dark")

    press(page, "#test-export")
    expect(page.locator("#export-name input")).to_have_value("ampulheta")
    tab_to(page, page.locator('input[name="export-place"]:checked'))
    wanted = page.locator(f'.export-place[title="{home / "stable-diffusion-webui" / "models" / "Lora"}"] input')
    for _ in range(page.locator('input[name="export-place"]').count()):
        if wanted.is_checked():
            break
        page.keyboard.press("ArrowDown")
    press(page, "#export-go")
    expect(page.locator("#export-result")).to_contain_text("ampulheta está em")
    shot(page, "story_6_exported_pt_dark")
    check_export(home, window)
