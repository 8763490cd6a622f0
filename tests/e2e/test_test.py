"""The Test tab in a real browser: before and after, the border by mouse and keys, a grid, cancel, reload, export."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from playwright.sync_api import Page, expect

from lora_core.config import TrainConfig
from lora_core.lora import file as lora_file
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.models import load as base_models
from lora_core.runs.run import Run
from lora_core.training.engine import adapters
from tests.e2e.conftest import SLOW_MS, Window, settled
from tests.support.pictures import png_text


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    """What a page shows is waited for as long as a busy machine needs."""
    expect.set_options(timeout=SLOW_MS)
    yield
    expect.set_options(timeout=60_000)


@pytest.fixture(scope="module")
def run(window: Window) -> Iterator[Run]:
    """A finished run of the starter: a real LoRA of random values, strong enough to change every picture."""
    made = Run(window.runs / "zebu de prova")
    config = TrainConfig.of(
        {
            "pretrained_model_name_or_path": "starter", "output_name": "zebu", "trigger_word": "zebu", "resolution": 64,
            "sample_prompts": ["a red zebu"], "sample_inference_steps": 4, "lora_rank": 2, "output_dir": str(made.folder),
        }
    )  # fmt: skip
    made.begin(config)
    model = base_models.load("starter", torch.float32, lambda event: None)
    adapters.attach(model, config)
    torch.manual_seed(1)
    with torch.no_grad():
        for parameter in adapters.named_parameters(model).values():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    facts = TrainingMetadata(
        output_name="zebu",
        family="sd1",
        rank=2,
        alpha=2.0,
        resolution=64,
        trigger_phrase="zebu",
        config_toml=config.to_toml(),
    )
    checkpoint = made.checkpoints / "step_0000010" / "lora.safetensors"
    checkpoint.parent.mkdir(parents=True)
    for path in (made.lora_file(config), checkpoint):
        lora_file.write(path, adapters.extract(model), "sd1", build(facts), "fp16")
    yield made


def open_test(page: Page) -> None:
    page.set_default_timeout(SLOW_MS)
    page.get_by_role("tab", name="Test", exact=True).or_(page.get_by_role("tab", name="Testar")).first.click()
    expect(page.locator("#test-draw")).to_be_visible()


def choose(page: Page, run: Run) -> None:
    """Give the LoRA by its path, by keyboard."""
    page.locator("#test-elsewhere button").first.click()
    box = page.locator("#test-path").locator("input, textarea").first
    settled(box).fill(str(run.folder))
    box.press("Enter")
    expect(page.locator("#test-paste").locator("input, textarea").first).to_have_value(
        "<lora:zebu:1> zebu", timeout=SLOW_MS
    )
    expect(page.locator("#test-prompt textarea")).to_have_value("a red zebu")


def border(page: Page) -> str:
    return str(page.locator(".test-compare").evaluate("frame => frame.style.getPropertyValue('--cut')"))


def test_before_and_after_by_mouse_and_keyboard(
    open_page: Callable[..., Page], run: Run, shot: Callable[[Page, str], Path]
) -> None:
    page = open_page("en", width=1280, height=720)
    open_test(page)
    choose(page, run)
    page.locator("#test-draw").click()
    expect(page.locator(".test-compare")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator(".test-phase")).to_contain_text("Done: 2 pictures")
    page.wait_for_function("[...document.querySelectorAll('.test-compare img')].every(one => one.naturalWidth)")
    slider = page.locator(".test-compare input")
    slider.focus()
    for _ in range(20):
        slider.press("ArrowLeft")
    expect(slider).to_have_attribute("aria-valuetext", "30 %")
    assert border(page) == "30%"
    box = page.locator(".test-compare").bounding_box()
    assert box
    page.mouse.click(box["x"] + box["width"] * 0.8, box["y"] + box["height"] * 0.5)
    assert abs(float(border(page).rstrip("%")) - 80) < 3
    sources = page.locator(".test-compare img").evaluate_all("all => all.map(one => [one.src, one.naturalWidth])")
    assert sources[0][0] != sources[1][0] and {width for _, width in sources} == {64}
    shot(page, "test_compare")
    saved = {path: png_text(path) for path in (run.folder / "tests").glob("*.png")}
    assert sorted("<lora:zebu:1>" in text for text in saved.values()) == [False, True]
    page.locator("#test-history [data-picture]").nth(1).click()
    expect(page.locator('#test-history [aria-pressed="true"]')).to_have_count(1)
    expect(page.locator("#test-stage .test-compare")).to_have_count(0)
    page.locator("#test-history [data-picture]").nth(0).click()
    expect(page.locator("#test-stage .test-compare")).to_have_count(1)
    page.locator("#test-newest").click()
    expect(page.locator('#test-history [aria-pressed="true"]')).to_have_count(0)
    page.locator("#test-export").click()
    expect(page.get_by_role("tab", name="Export")).to_have_attribute("aria-selected", "true")


def test_cancel_in_the_middle_reload_and_a_grid(
    open_page: Callable[..., Page], run: Run, shot: Callable[[Page, str], Path]
) -> None:
    page = open_page("pt-BR", dark=True)
    open_test(page)
    choose(page, run)
    page.locator("#test-more button").first.click()
    for name, value in (("steps", "150"), ("width", "256"), ("height", "256")):  # long enough to be met after a reload
        number = page.locator(f"#test-{name} input[type=number]")
        settled(number).fill(value)
        number.press("Tab")
    page.locator("#test-draw").click()
    expect(page.locator(".test-progress progress[value]")).to_be_visible(timeout=SLOW_MS)
    page.reload()
    open_test(page)
    expect(page.locator("#test-cancel")).to_be_enabled(timeout=SLOW_MS)
    expect(page.locator("#test-draw")).to_be_disabled()
    shot(page, "test_drawing_pt_dark")
    page.locator("#test-cancel").click()
    expect(page.locator(".test-phase")).to_contain_text("Cancelado")
    expect(page.locator("#test-prompt textarea")).to_have_value("a red zebu")

    page.locator("#test-mode").get_by_label("Grade").check()
    expect(page.locator("#test-grid-weights")).to_be_visible()
    page.locator("#test-grid-kind input").click()
    page.get_by_role("option", name="Pesos × prompts").click()
    expect(page.locator("#test-grid-checkpoints")).to_be_hidden()
    weights = page.locator("#test-grid-weights").locator("input, textarea").first
    settled(weights).fill("0, x")
    expect(page.locator(".test-count")).to_contain_text("'x'")
    weights.fill("0, 1")
    page.locator("#test-grid-prompts textarea").fill("a red zebu\na blue star")
    expect(page.locator(".test-count")).to_have_text("4 imagens: 2 colunas, 2 linhas")
    page.locator("#test-more button").first.click()
    for name, value in (("steps", "3"), ("width", "64"), ("height", "64")):
        number = page.locator(f"#test-{name} input[type=number]")
        settled(number).fill(value)
        number.press("Tab")
    page.locator("#test-draw").click()
    expect(page.locator(".test-sheet-link a")).to_be_visible(timeout=SLOW_MS)
    expect(page.locator(".test-grid td img")).to_have_count(4)
    shot(page, "test_grid_pt_dark")
    grids = list((run.folder / "tests").glob("*_grid.png"))
    assert len(grids) == 1 and 'X Values: "0, 1"' in png_text(grids[0])


def test_a_list_that_is_left_with_tab_closes(open_page: Callable[..., Page], run: Run) -> None:
    page = open_page("en", width=1280, height=720)
    page.click("#tab-test-button")
    box = settled(page.locator("#test-lora input"))
    for key in ("Tab", "Shift+Tab"):
        box.focus()
        expect(box).to_have_attribute("aria-expanded", "true")
        page.wait_for_timeout(500)
        page.keyboard.press(key)
        expect(box).not_to_be_focused()
        expect(box).to_have_attribute("aria-expanded", "false", timeout=5_000)
