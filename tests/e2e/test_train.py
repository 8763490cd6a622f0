"""The Train tab in a real browser: one short run on the starter model, watched, steered and ended."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from lora_core.config import read_values
from lora_core.lora import file as lora_file
from lora_core.runs.run import Run
from tests.e2e.conftest import ROOT, SLOW_MS, Window, points, wait_points

# Steps enough to press every button between, each of them as quick as can be.
QUICK = {
    "train_batch_size": "2", "prior_pictures": "0", "sample_inference_steps": "2", "sample_count": "2",
    "save_steps": "40", "max_train_steps": "100000", "lora_rank": "4",
}  # fmt: skip


def open_train(page: Page) -> None:
    page.get_by_role("tab", name="Train").or_(page.get_by_role("tab", name="Treinar")).first.click()
    expect(page.locator("#train-f-resolution:visible, #train-state:visible").first).to_be_visible()


def set_box(page: Page, name: str, value: str) -> None:
    """Type into a setting's box, wherever it is folded away."""
    page.fill("#train-search", name)
    page.fill(f"#train-f-{name}", value)
    page.fill("#train-search", "")


@pytest.fixture(autouse=True)
def nothing_left_training(window: Window, open_page: Callable[..., Page]) -> Iterator[None]:
    """Whatever a test leaves going is stopped, for the tests of other tabs."""
    yield
    page = open_page("en")
    open_train(page)
    page.wait_for_timeout(1500)
    stop = page.locator("#train-stop")
    if stop.is_visible() and stop.is_enabled():
        stop.click()
        expect(page.locator("#train-state")).to_have_attribute("data-state", "stopped", timeout=SLOW_MS)


def test_a_wrong_value_is_told_at_its_field(open_page: Callable[..., Page], shot: Callable[..., Path]) -> None:
    page = open_page("pt-BR", dark=True)
    open_train(page)
    start = page.locator("#train-start")
    expect(start).to_be_enabled(timeout=SLOW_MS)
    expect(page.locator('[data-card="quickstart"] input')).to_be_checked()

    page.fill("#train-f-train_batch_size", "0")
    page.fill("#train-f-learning_rate", "muito")
    told = page.locator("#train-e-train_batch_size")
    expect(told).to_have_text("0 é pouco; o mínimo é 1")
    expect(page.locator("#train-f-learning_rate")).to_have_attribute("aria-invalid", "true")
    expect(start).to_be_disabled()
    expect(page.locator("#train-reason")).to_contain_text("Tamanho do lote, Taxa de aprendizado")
    shot(page, "train_wrong_pt_dark")
    page.fill("#train-f-train_batch_size", "2")
    page.fill("#train-f-learning_rate", "0,001")  # as one writes it in Portuguese
    expect(told).to_be_hidden()
    expect(start).to_be_enabled()

    page.fill("#train-f-train_data_dir", str(ROOT / "nowhere"))
    expect(page.locator("#train-e-train_data_dir")).to_have_text("Essa pasta não existe.")
    page.locator('[data-card="style"]').click()
    expect(page.locator("#train-f-lora_rank")).to_have_value("32")
    expect(page.locator("#train-f-trigger_word")).to_have_value("")
    page.keyboard.press("ArrowLeft")  # cards are radio buttons: the arrow keys choose
    expect(page.locator("#train-f-lora_rank")).to_have_value("16")

    # More or less memory: a choice fills in its settings, and the list stays open.
    page.locator('[data-card="careful"]').click()
    expect(page.locator("#train-f-learning_rate")).to_have_value("1e-05")
    page.fill("#train-f-train_data_dir", str(ROOT / "Training"))
    page.locator(".plan-levels summary").click()
    page.get_by_role("button", name="Calcular tudo de novo").click()
    expect(page.locator('.plan-levels [aria-pressed="true"]')).to_have_text("Calcular tudo de novo")
    expect(page.locator("#train-f-gradient_checkpointing")).to_be_checked()
    expect(page.locator(".plan-levels table")).to_be_visible()
    shot(page, "train_levels_pt_dark")
    page.locator('[data-card="character"]').click()

    page.fill("#train-search", "semente")
    expect(page.locator("#train-f-seed")).to_be_visible()
    expect(page.locator("#train-f-optimizer")).to_be_hidden()
    page.fill("#train-search", "xyz")
    expect(page.locator(".form-none")).to_be_visible()
    page.fill("#train-search", "")
    page.locator("#train-topic-output summary").click()
    page.locator("#train-f-output_name").scroll_into_view_if_needed()
    page.mouse.wheel(0, 400)
    expect(page.locator("#train-f-lora_rank")).not_to_be_in_viewport()
    expect(start).to_be_in_viewport(ratio=1)  # plan and Start stay beside what is changed


def test_a_run_is_watched_paused_seen_twice_and_stopped(
    open_page: Callable[..., Page], window: Window, shot: Callable[..., Path]
) -> None:
    page = open_page("en")
    open_train(page)
    expect(page.locator("#train-start")).to_be_enabled(timeout=SLOW_MS)
    expect(page.locator("#train-log")).to_be_hidden()
    shot(page, "train_setup")
    for name, value in QUICK.items():
        set_box(page, name, value)
    expect(page.locator("#train-plan-steps")).to_contain_text("100000 steps")
    expect(page.locator("#train-plan-pictures")).to_have_text("11 to train on, 1 held out to measure memorising")
    page.click("#train-start")
    state = page.locator("#train-state")
    expect(state).to_have_attribute("data-state", "running")
    expect(page.locator("#train-phase")).to_be_visible()
    expect(page.locator("#train-start")).to_be_hidden()

    # The plot moves.
    first = wait_points(page, 3)
    assert wait_points(page, first + 3) > first
    expect(page.locator("#train-eta")).to_contain_text("about", timeout=SLOW_MS)
    expect(page.locator('#train-samples tr[data-step="0"] img').first).to_be_visible()
    page.locator('#train-samples tr[data-step="0"] .zoom').first.click()
    expect(page.locator("dialog.zoomed img")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("dialog.zoomed")).to_have_count(0)
    shot(page, "train_live")

    # Paused, nothing moves; a sample can be drawn all the same.
    page.click("#train-pause")
    expect(state).to_have_attribute("data-state", "paused", timeout=SLOW_MS)
    page.wait_for_timeout(1200)
    held = page.locator("#train-step").inner_text()
    page.click("#train-sample-now")
    step = held.split()[0]
    expect(page.locator(f'#train-samples tr[data-step="{step}"] img').first).to_be_visible(timeout=SLOW_MS)
    assert page.locator("#train-step").inner_text() == held
    kept = points(page)

    # A reload and a second tab, in another language, show the same.
    page.reload()
    open_train(page)
    assert wait_points(page, kept) == kept
    expect(state).to_have_attribute("data-state", "paused")
    second = open_page("pt-BR", dark=True)
    open_train(second)
    assert wait_points(second, kept) == kept
    expect(second.locator("#train-start")).to_be_hidden()

    # Pages opened beside a training leave the form alone until its end: an event each second would cost it its speed.
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(4000)
    assert any("/poll/" in url for url in asked) and not any("queue/join" in url for url in asked), asked
    shot(second, "train_paused_pt_dark")
    second.click("#train-go-on")
    expect(state).to_have_attribute("data-state", "running", timeout=SLOW_MS)
    wait_points(page, kept + 1)

    # The log scale is a switch of one page.
    page.locator("#train-log input").check()
    expect(page.locator('#train-plot svg[data-log="1"]')).to_be_visible()
    expect(second.locator('#train-plot svg[data-log="0"]')).to_be_visible()

    page.click("#train-stop")
    expect(state).to_have_attribute("data-state", "stopped", timeout=SLOW_MS)
    expect(page.locator("#train-end")).to_contain_text("Stopped and saved at step")
    for button in ("test-it", "export-it", "resume"):
        expect(page.locator(f"#train-{button}")).to_be_visible()
    for button in ("pause", "stop", "save-now"):
        expect(page.locator(f"#train-{button}")).to_be_hidden()
    shot(page, "train_stopped")

    run = Run(next(path for path in window.runs.iterdir() if path.name == "ampulheta"))
    values = read_values(run.config_file)
    assert (values["train_batch_size"], values["lora_rank"], values["trigger_word"]) == (2, 4, "ampulheta")
    assert lora_file.read(run.folder / "ampulheta.safetensors")[0]
    assert any(run.checkpoints.glob("step_*/state.pt")) and any(run.samples.glob("*.png"))

    # The settings come back with the reload that follows, for a next run in a folder of its own.
    page.click("#train-to-settings")
    expect(page.locator("#train-f-lora_rank")).to_have_value("4")
    expect(page.locator("#train-plan-folder")).to_contain_text("ampulheta 2")
    expect(page.locator("#train-start")).to_be_enabled()


def test_one_question_a_second_and_the_plot_in_every_third(open_page: Callable[..., Page]) -> None:
    page = open_page("en")
    open_train(page)
    page.wait_for_timeout(3000)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.wait_for_timeout(9000)
    polls = [url for url in asked if "/poll/" in url]
    assert len(polls) >= 3, asked
    assert sum(url.endswith("/ping") for url in asked) <= len(polls) // 3, "the answer holds what the frame asks for"
    assert 1 <= sum("draws=1" in url for url in polls) <= len(polls) // 2
    with page.expect_request(lambda request: request.url.endswith("/ping")):  # on other tabs the frame asks by itself
        page.get_by_role("tab", name="Dataset").click()


def test_a_preset_of_ones_own(open_page: Callable[..., Page], window: Window) -> None:
    page = open_page("en")
    open_train(page)
    page.wait_for_timeout(4000)  # the page turns to the run of before once it has asked for it
    if page.locator("#train-to-settings").is_visible():
        page.click("#train-to-settings")
    expect(page.locator("#train-start")).to_be_enabled(timeout=SLOW_MS)
    page.fill("#train-f-lora_rank", "24")
    page.get_by_role("button", name="Save as my preset").first.click()
    page.fill("#train-preset-name textarea, #train-preset-name input", "Meu <b>estilo</b>")
    page.click("#train-preset-save")
    card = page.locator('[data-card="own:Meu _b_estilo__b"]')
    expect(card).to_contain_text("Meu <b>estilo</b>")
    page.locator('[data-card="quickstart"]').click()
    expect(page.locator("#train-f-lora_rank")).to_have_value("16")
    card.click()
    expect(page.locator("#train-f-lora_rank")).to_have_value("24")
    next((window.home / "presets").glob("*.toml")).unlink()
