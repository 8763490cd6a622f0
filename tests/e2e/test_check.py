"""The check of this computer in a real browser, with a check that computes nothing: watched, stopped, read and copied."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.e2e.conftest import SLOW_MS, Window, start_window
from tests.e2e.test_train import open_train

_GROWN_BY_COSTS = """cards => {
    const filled = cards.clientHeight;
    for (const cost of cards.querySelectorAll(".card-cost")) cost.textContent = "";
    return filled - cards.clientHeight;
}"""
PLAYED = ("-m", "tests.support.played_check")


@pytest.fixture(scope="module")
def window(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Window]:
    """One whose check takes 6 s; it begins it by itself."""
    window = start_window(tmp_path_factory.mktemp("window"), "--by-itself", program=PLAYED, PLAYED_CHECK_S="2")
    yield window
    assert window.stop() == 0


def test_it_begins_by_itself_and_is_stopped_in_the_frame(open_page: Callable[..., Page], shot: Callable[..., Path]) -> None:
    page = open_page("pt-BR")
    said = page.locator("#checking")
    expect(said).to_contain_text("Verificando este computador", timeout=SLOW_MS)
    shot(page, "check_frame_pt")
    said.get_by_role("button", name="Parar").click()
    expect(said).to_be_hidden()
    open_train(page)
    found = page.locator("#check details")
    expect(found).not_to_have_attribute("open", "")  # nobody asked for it
    found.locator("summary").click()
    expect(found).to_contain_text("A verificação foi interrompida")


@pytest.mark.parametrize("language, dark", [("en", False), ("pt-BR", True)])
def test_it_is_watched_to_its_end_and_copied(
    language: str, dark: bool, open_page: Callable[..., Page], shot: Callable[..., Path]
) -> None:
    page = open_page(language, dark=dark, height=1000)
    open_train(page)
    start, panel = page.locator("#train-start"), page.locator("#check")
    expect(start).to_be_enabled(timeout=SLOW_MS)
    expect(page.locator(".card-cost").first).not_to_be_empty(timeout=SLOW_MS)
    panel.scroll_into_view_if_needed()
    place = "element => element.getBoundingClientRect().top + scrollY"
    before = start.evaluate(place)
    assert page.locator(".cards").evaluate(_GROWN_BY_COSTS) == 0, "there was room for the costs before they came"
    name = f"check_{language[:2]}_{'dark' if dark else 'light'}"
    shot(page, f"{name}_before")
    button = panel.locator(".check-button")
    button.click()
    expect(button).to_have_text("Stop" if language == "en" else "Parar")
    expect(panel.locator("progress")).to_have_attribute("max", "3")
    expect(panel).to_contain_text("At most" if language == "en" else "No máximo")
    expect(button).to_be_focused()
    assert start.evaluate(place) == before, "nothing moves"
    shot(page, f"{name}_running")
    expect(panel.locator("details")).to_have_attribute("open", "")
    expect(button).to_have_text("Check this computer" if language == "en" else "Verificar este computador")
    expect(page.locator("#checking")).to_be_hidden()
    expect(panel.locator(".check-line-decision")).to_have_count(3)
    copy = panel.locator("button[data-copy]")
    copy.scroll_into_view_if_needed()
    shot(page, f"{name}_report")
    copy.click()
    copied = page.evaluate("navigator.clipboard.readText()")
    assert copied.splitlines() == panel.locator(".check-lines p").all_text_contents() and len(copied.splitlines()) > 8
    expect(page.locator(".card-cost").first).not_to_be_empty(timeout=SLOW_MS)  # made anew, as the plan is


def test_stop_ends_it_and_what_computes_keeps_it_away(open_page: Callable[..., Page], shot: Callable[..., Path]) -> None:
    page = open_page("en")
    open_train(page)
    start, button = page.locator("#train-start"), page.locator("#check .check-button")
    expect(start).to_be_enabled(timeout=SLOW_MS)
    button.click()
    expect(button).to_have_text("Stop")
    button.click()
    expect(button).to_have_text("Check this computer")
    expect(page.locator("#check details")).to_contain_text("The check was stopped")

    button.click()
    expect(button).to_have_text("Stop")
    page.fill("#train-f-max_train_steps", "100000")
    expect(start).to_be_enabled()
    start.click()  # it stops the check first
    expect(page.locator("#train-state")).to_have_attribute("data-state", "running", timeout=SLOW_MS)
    expect(page.locator("#checking")).to_be_hidden()
    page.locator("#train-to-settings").click()
    button.click()
    expect(page.locator("#check [role=alert]")).to_contain_text("Something else is being computed")
    shot(page, "check_beside")
    page.locator("#train-show").click()
    page.locator("#train-stop").click()
    expect(page.locator("#train-state")).to_have_attribute("data-state", "stopped", timeout=SLOW_MS)


def test_after_a_restart_the_last_report_is_there_with_its_date(browser: Browser, tmp_path: Path) -> None:
    """In the program as people start it: only the check before it is played."""
    first = start_window(tmp_path, program=PLAYED, PLAYED_CHECK_S="0.1")
    context = browser.new_context(locale="en", permissions=["clipboard-read", "clipboard-write"])
    page = context.new_page()
    page.goto(f"{first.url}en/")
    open_train(page)
    expect(page.locator("#train-start")).to_be_enabled(timeout=SLOW_MS)
    page.locator("#check .check-button").click()
    expect(page.locator("#check details")).to_have_attribute("open", "")
    lines = page.locator("#check .check-lines p").all_text_contents()
    assert len(lines) > 8 and first.stop() == 0
    again = start_window(tmp_path)
    page.goto(f"{again.url}en/")
    open_train(page)
    found = page.locator("#check summary")
    expect(found).to_contain_text("What the check of 20", timeout=SLOW_MS)
    expect(page.locator("#check .check-lines")).to_be_hidden()
    found.click()
    assert page.locator("#check .check-lines p").all_text_contents() == lines
    page.locator("#check button[data-copy]").click()
    assert page.evaluate("navigator.clipboard.readText()").splitlines() == lines
    context.close()
    assert again.stop() == 0
