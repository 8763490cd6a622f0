"""Choosing what one wants in a real browser: the recipe follows model and pictures, and never what was set by hand."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests import stripped
from tests.e2e.conftest import SLOW_MS
from tests.e2e.test_train import open_train, set_box

TAGS = "rexdog, 1dog, solo, sitting, grass, {n}"
SENTENCES = "a photo of rexdog standing in front of house number {n} in the evening"


def dataset(folder: Path, count: int, caption: str, side: int) -> Path:
    folder.mkdir()
    for n in range(count):
        Image.new("RGB", (side, side), (9 * n % 255, 120, 200)).save(folder / f"{n:03}.png")
        (folder / f"{n:03}.txt").write_text(caption.format(n=n), encoding="utf-8")
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Callable[[str], str]:
    """A base model's file with its header and no weights: what can be told of it before a training."""

    def made(name: str) -> str:
        found = stripped.header(name)
        return str(stripped.hollow_file(tmp_path / f"{name}.safetensors", found.tensors, dict(found.metadata)))

    return made


def value(page: Page, name: str) -> str:
    return page.input_value(f"#train-f-{name}")


def test_a_recipe_follows_model_and_pictures_and_leaves_what_was_set_by_hand(
    open_page: Callable[..., Page], model: Callable[[str], str], tmp_path: Path, shot: Callable[..., Path]
) -> None:
    page = open_page("en", height=1700)
    open_train(page)
    expect(page.locator("#train-start")).to_be_enabled(timeout=SLOW_MS)
    page.fill("#train-f-train_data_dir", str(dataset(tmp_path / "tags", 14, TAGS, 1100)))
    page.fill("#train-f-pretrained_model_name_or_path", model("sdxl_v"))
    page.check('input[name="train-card"][value="style"]', force=True)
    why = page.locator("#train-w-max_train_steps")
    expect(why).to_contain_text("13 pictures, each seen 150 times")
    assert (value(page, "resolution"), value(page, "max_train_steps")) == ("1024", "1950")
    assert value(page, "pretrained_model_name_or_path").endswith("sdxl_v.safetensors"), "the chosen model stays"
    expect(page.locator("#train-w-resolution")).to_contain_text("trained on")
    expect(page.locator('[data-card="style"]')).to_contain_text("1,950 steps, 1024 px")
    page.click(".plan-why summary")
    reasons = page.locator(".plan-why")
    expect(reasons).to_contain_text("predicts velocity reaches black and white by itself")
    shot(page, "recipe-sdxl-v")

    set_box(page, "train_batch_size", "2")
    expect(why).to_contain_text("975 steps of 2")
    assert value(page, "max_train_steps") == "975"
    back = page.locator('[data-field="train_batch_size"] .form-back')
    expect(back).to_have_text("Back to 1")
    expect(page.locator("#train-w-train_batch_size")).to_have_text("Set by you.")
    expect(reasons).to_contain_text("Set by you, and followed by the rest:")

    page.fill("#train-f-pretrained_model_name_or_path", model("sd1"))
    page.fill("#train-f-train_data_dir", str(dataset(tmp_path / "sentences", 40, SENTENCES, 700)))
    expect(why).to_contain_text("36 pictures")
    assert (value(page, "resolution"), value(page, "train_batch_size")) == ("512", "2")
    shot(page, "recipe-sd1")
    back.click()
    expect(back).to_be_hidden()
    assert value(page, "train_batch_size") == "1"
    expect(why).not_to_contain_text("steps of 2")

    page.reload()
    open_train(page)
    expect(page.locator('[data-card="style"] input')).to_be_checked()
    expect(page.locator("#train-w-max_train_steps")).to_contain_text("36 pictures")


def test_reasons_speak_portuguese_and_the_careful_card_has_none(open_page: Callable[..., Page], tmp_path: Path) -> None:
    page = open_page("pt-BR")
    open_train(page)
    expect(page.locator("#train-start")).to_be_enabled(timeout=SLOW_MS)
    page.fill("#train-f-train_data_dir", str(dataset(tmp_path / "tags", 14, TAGS, 600)))
    page.check('input[name="train-card"][value="character"]', force=True)
    expect(page.locator("#train-w-max_train_steps")).to_contain_text("cada uma vista")
    page.check('input[name="train-card"][value="careful"]', force=True)
    expect(page.locator("#train-w-max_train_steps")).to_be_empty()
    assert (value(page, "learning_rate"), value(page, "max_train_steps")) == ("1e-05", "1500")
    page.fill("#train-f-max_train_steps", "70")
    expect(page.locator('[data-field="max_train_steps"] .form-back')).to_have_text("Voltar a 1500")


def test_what_was_set_by_hand_stays_so_where_a_recipe_comes_to_the_same(
    open_page: Callable[..., Page], model: Callable[[str], str]
) -> None:
    page = open_page("en")
    open_train(page)
    expect(page.locator("#train-start")).to_be_enabled(timeout=SLOW_MS)
    sdxl, sd1 = model("sdxl_v"), model("sd1")
    page.locator('[data-card="character"] input').focus()
    page.keyboard.press("Space")
    page.fill("#train-f-pretrained_model_name_or_path", sdxl)
    expect(page.locator('[data-card="object"]')).to_contain_text("1024 px")
    page.locator('[data-card="character"] input').focus()
    page.keyboard.press("ArrowRight")
    expect(page.locator('[data-card="style"] input')).to_be_focused()
    expect(page.locator("#train-f-lora_rank")).to_have_value("32")
    expect(page.locator('[data-card="style"] input')).to_be_focused()

    page.fill("#train-f-resolution", "512")
    back = page.get_by_role("button", name="Training size: Back to 1024")
    expect(back).to_be_visible()
    page.fill("#train-f-pretrained_model_name_or_path", sd1)
    expect(page.get_by_role("button", name="Training size: Back to 512")).to_be_visible()
    page.fill("#train-f-pretrained_model_name_or_path", sdxl)
    expect(back).to_be_visible()
    expect(page.locator("#train-f-resolution")).to_have_value("512")
    back.focus()
    page.keyboard.press("Enter")
    expect(page.locator("#train-f-resolution")).to_have_value("1024")
    expect(page.locator("#train-f-resolution")).to_be_focused()
    expect(page.locator("#train-w-resolution")).to_contain_text("trained on")
