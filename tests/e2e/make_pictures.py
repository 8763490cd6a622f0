"""Takes the pictures of the window in README and docs anew: `python -m tests.e2e.make_pictures`, some three minutes.

The quick start's whole way in a window that was never used, each tab light and dark. Look at them before they are kept.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

from tests.e2e.conftest import FLAGS, ROOT, program, start_window
from tests.support import webui_trees as trees

PICTURES = ROOT / "lora_core" / "ui" / "assets" / "pictures"
SLOW_MS = 120_000


def take(page: Page, name: str) -> None:
    """The window as it is, once light and once dark."""
    page.mouse.move(640, 2)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
        page.wait_for_timeout(500)
        page.screenshot(path=PICTURES / f"{name}-{scheme}.png")


def story(page: Page, home: Path) -> None:
    """From the pictures to the list of runs."""
    webui = home / "stable-diffusion-webui"
    page.locator("#dataset-folder").fill(str(home / "ampulheta"))
    page.get_by_role("button", name="Open", exact=True).click()
    page.locator("#dataset-grid [data-name='002.png']").click()
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(12)
    expect(page.locator("#core")).to_be_empty()
    take(page, "dataset")

    page.locator("#dataset-train").click()
    expect(page.locator("#train-plan-time")).to_be_visible()
    expect(page.locator("#train-start")).to_be_enabled()
    expect(page.locator('[data-card="careful"] .card-cost')).not_to_be_empty()
    take(page, "plan")
    page.locator("#train-start").click()
    expect(page.locator("#train-samples img")).to_have_count(8)  # before, and half-way
    page.wait_for_timeout(4000)
    take(page, "train")
    expect(page.locator("#train-state")).to_have_attribute("data-state", "finished")

    page.locator("#train-test-it").click()
    expect(page.locator("#test-paste input")).to_have_value("<lora:ampulheta:1> ampulheta")
    expect(page.locator("#test-draw")).to_be_enabled()
    page.locator("#test-draw").click()
    expect(page.locator(".test-phase")).to_contain_text("Done: 2 pictures")
    page.locator("#test-stage").scroll_into_view_if_needed()
    take(page, "test")

    page.locator("#test-export").click()
    expect(page.locator("#export-name input")).to_have_value("ampulheta")
    page.locator(f'.export-place[title="{webui / "models" / "Lora"}"]').click()
    take(page, "export")
    page.locator("#export-go").click()
    expect(page.locator("#export-result")).to_contain_text("ampulheta is in")

    page.locator("#tab-runs-button").click()
    expect(page.locator("#runs-list img").first).to_be_visible()
    page.get_by_role("button", name="ampulheta", exact=True).click()
    expect(page.locator("#runs-details h3")).to_have_text("ampulheta")
    take(page, "runs")


def main() -> None:
    expect.set_options(timeout=SLOW_MS)
    home = Path(tempfile.gettempdir()) / "ana"  # a short name, for it is seen
    home.mkdir()
    with sync_playwright() as playwright:
        trees.a1111(home / "stable-diffusion-webui")
        shutil.copytree(ROOT / "Training", home / "ampulheta", ignore=shutil.ignore_patterns(".treino"))
        window = start_window(home)
        try:
            browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
            page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
            page.set_default_timeout(SLOW_MS)
            page.goto(f"{window.url}en/")
            page.wait_for_selector("#tabs")
            story(page, home)
            browser.close()
        finally:
            window.stop()
            shutil.rmtree(home)


if __name__ == "__main__":
    main()
