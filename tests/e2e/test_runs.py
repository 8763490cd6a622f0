"""The Runs tab in a real browser: list, comparison, details, delete and bring back, messages to other tabs."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lora_core.system.tensor_headers import metadata_of
from tests.e2e.conftest import ROOT, SLOW_MS, Window, settled
from tests.support.prepared_runs import TOY, prepare_run


@pytest.fixture
def runs(window: Window) -> Iterator[Path]:
    """Three good runs and a damaged one, newer than those of other tests."""
    made = [
        prepare_run(window.runs / "cmp-one", (0.5, 0.3), at=4.1e9, shape=TOY),
        prepare_run(window.runs / "cmp-two", (0.45, 0.35), at=4.2e9, shape=TOY, learning_rate=3e-4, lora_rank=4),
        prepare_run(window.runs / "cmp três", (0.6,), at=4.3e9, shape=TOY),
        prepare_run(window.runs / "cmp-broken", (0.6,), at=4.0e9, shape=TOY),
    ]
    made[-1].config_file.write_text("resolution = [", encoding="utf-8")
    yield window.runs
    for run in made:
        shutil.rmtree(run.folder, ignore_errors=True)


def opened(page: Page) -> None:
    expect(page.locator('[role="tab"][data-tab-id="runs"]')).to_have_count(1)
    page.locator("#tab-runs-button").click()
    settled(page.locator("#runs-search input")).fill("cmp")
    expect(page.locator("#runs-list tbody tr")).to_have_count(4)


def choose(page: Page, name: str) -> None:
    page.get_by_role("button", name=name, exact=True).click()
    expect(page.locator("#runs-details h3")).to_have_text(name)


def test_list_compare_and_details(page_en: Page, runs: Path, shot: Callable[[Page, str], Path]) -> None:
    page = page_en
    opened(page)
    page.locator('[data-act="sort"][data-value="best"]').click()
    expect(page.locator("#runs-list tbody tr").first).to_contain_text("cmp-one")
    expect(page.locator('th[aria-sort="ascending"]')).to_contain_text("Best loss")
    for name in ("cmp-one", "cmp-two"):
        page.get_by_label(f"Compare {name}").check()
    expect(page.locator("#runs-details svg .plot-line")).to_have_count(2)
    expect(page.locator(".runs-differ")).to_contain_text("0.0003")
    page.locator("#runs-kind").get_by_text("Training loss").click()
    expect(page.locator('#runs-details svg[role="img"]')).to_contain_text("Training loss")
    shot(page, "runs_compare_en")
    page.locator("#runs-untick").click()
    for name in ("cmp-one", "cmp-two"):
        expect(page.get_by_label(f"Compare {name}")).not_to_be_checked()
    choose(page, "cmp-two")
    expect(page.locator("#runs-details")).to_contain_text("0.3500 at step 200")
    expect(page.locator("#runs-details img").first).to_have_js_property("complete", True)
    shot(page, "runs_details_en")
    page.locator('.runs-name[data-value="cmp-broken"]').click()
    expect(page.locator("#runs-details .runs-wrong")).to_contain_text("config.toml")
    expect(page.locator("#runs-resume")).to_be_disabled()
    expect(page.locator("#runs-export")).to_be_enabled()


def test_rename_delete_and_bring_back_by_keyboard(
    open_page: Callable[..., Page], runs: Path, shot: Callable[[Page, str], Path]
) -> None:
    page = open_page("pt-BR", dark=True)
    opened(page)
    page.locator('.runs-name[data-value="cmp-two"]').focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("#runs-details h3")).to_have_text("cmp-one")
    page.locator("#runs-rename").focus()
    page.keyboard.press("Enter")
    box = page.locator("#runs-new-name input")
    expect(box).to_have_value("cmp-one")
    box.fill("cmp-início")
    box.press("Enter")
    expect(page.locator("#runs-details h3")).to_have_text("cmp-início")
    assert (runs / "cmp-início" / "config.toml").is_file()
    before = sorted(os.listdir(runs / "cmp-início"))

    page.locator("#runs-delete").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#runs-doom")).to_contain_text("Excluir o treino “cmp-início”?")
    expect(page.locator("#runs-doom")).to_contain_text("2 checkpoints")
    shot(page, "runs_delete_pt_dark")
    page.locator("#runs-delete-no").click()
    expect(page.locator("#runs-delete-box")).to_be_hidden()
    page.locator("#runs-delete").click()
    page.locator("#runs-delete-yes").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#runs-list tbody tr")).to_have_count(3)
    assert not (runs / "cmp-início").exists()
    page.locator("#runs-undo").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#runs-list tbody tr")).to_have_count(4)
    assert sorted(os.listdir(runs / "cmp-início")) == before
    shutil.rmtree(runs / "cmp-início")


def test_letters_open_the_other_tabs(page_en: Page, runs: Path) -> None:
    page = page_en
    opened(page)
    choose(page, "cmp-one")
    page.locator("#runs-export").click()
    expect(page.locator("#tab-export-button")).to_have_attribute("aria-selected", "true")
    expect(page.locator("#export-run input")).to_have_value("cmp-one", timeout=90_000)
    page.locator("#tab-runs-button").click()
    page.locator("#runs-again").click()
    expect(page.locator("#tab-train-button")).to_have_attribute("aria-selected", "true")


def test_training_further_from_a_finished_run_and_its_ancestor(
    open_page: Callable[..., Page], window: Window, shot: Callable[[Page, str], Path]
) -> None:
    quick = {
        "pretrained_model_name_or_path": "starter", "train_data_dir": str(ROOT / "Training"), "resolution": 64,
        "bucket_step": 16, "sample_count": 0, "validation_split": 0.0, "lora_rank": 2, "lora_alpha": 3.0,
        "target_modules": ["to_k"], "target_blocks": ["mid"], "save_steps": 2, "device": "cpu",
    }  # fmt: skip
    old = prepare_run(window.runs / "cmp-old", (0.5,), at=4.4e9, shape=(128, 96), **quick)
    page = open_page("en")
    page.locator("#tab-runs-button").click()
    choose(page, "cmp-old")
    page.locator("#runs-further").focus()
    page.keyboard.press("Enter")
    expect(page.locator("#tab-train-button")).to_have_attribute("aria-selected", "true")
    page.locator("#train-topic-lora summary").click()
    expect(page.locator("#train-f-init_lora")).to_have_value(str(old.folder / "zebu.safetensors"))
    why = page.locator("#train-w-lora_rank")
    expect(why).to_have_text("As the LoRA has it from which this training goes on.", timeout=SLOW_MS)
    page.locator("#train-f-init_lora").scroll_into_view_if_needed()
    shot(page, "train_further_en")
    page.fill("#train-f-max_train_steps", "2")
    page.fill("#train-f-lora_rank", "4")
    expect(why).to_have_text("Set by you.")
    page.locator("#train-start").click()
    expect(page.locator("#train-state")).to_have_attribute("data-state", "finished", timeout=SLOW_MS)
    page.locator("#tab-runs-button").click()
    choose(page, "zebu")
    expect(page.locator("#runs-details .runs-numbers")).to_contain_text("Goes on from")
    expect(page.locator("#runs-details .runs-numbers")).to_contain_text("cmp-old · zebu.safetensors")
    shot(page, "runs_ancestor_en")
    assert metadata_of(window.runs / "zebu" / "zebu.safetensors")["treino.init_lora"] == "zebu.safetensors"
    for folder in (old.folder, window.runs / "zebu"):
        shutil.rmtree(folder, ignore_errors=True)
