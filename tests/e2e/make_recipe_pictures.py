"""Takes pictures of the Train tab's recipes: `python -m tests.e2e.make_recipe_pictures FOLDER`, some two minutes.

An SDXL file that predicts velocity with 14 pictures captioned in tags, and an SD 1.5 file with 40 captioned in sentences,
on played cards of 8 and of 24 GB. For looking at, not to be kept: the files are hollow, and nobody has such a card here.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests import stripped
from tests.e2e.conftest import FLAGS, program, start_window
from tests.support.played_card_window import CARDS

WINDOW = ("-m", "tests.support.played_card_window")
TAGS = "zebu, 1girl, solo, long hair, red dress, {place}, looking at viewer, masterpiece"
SENTENCE = "a photo of zebu the grey bull, who stands quietly in the {place} and looks at us"
PLACES = ("garden", "kitchen", "rain", "snow", "street")


@dataclass(frozen=True)
class Scene:
    """header: of the base model's file, one of `tests.stripped`. card: of the preset to choose."""

    file: str
    header: str
    pictures: int
    side: int
    caption: str
    card: str


SCENES = {
    "sdxl_v": Scene("noobaiXL_vPred10.safetensors", "sdxl_v", 14, 1152, TAGS, "character"),
    "sd1": Scene("v1-5-pruned-emaonly.safetensors", "sd1_ema_only", 40, 768, SENTENCE, "style"),
}


def prepare(folder: Path, scene: Scene) -> tuple[Path, Path]:
    """The base model's file, and a folder with the pictures."""
    header, pictures = stripped.header(scene.header), folder / "zebu"
    model = stripped.hollow_file(folder / scene.file, header.tensors, dict(header.metadata))
    pictures.mkdir()
    for number in range(scene.pictures):
        color = (90 + 4 * number % 160, 140, 200 - 4 * number % 160)
        Image.new("RGB", (scene.side, scene.side + 64 * (number % 3)), color).save(pictures / f"{number:03}.jpg")
        caption = scene.caption.format(place=PLACES[number % len(PLACES)])
        (pictures / f"{number:03}.txt").write_text(caption, encoding="utf-8")
    return model, pictures


def fill(page: Page, model: Path, pictures: Path, card: str) -> None:
    page.get_by_role("tab", name="Train").or_(page.get_by_role("tab", name="Treinar")).first.click()
    expect(page.locator("#train-plan-steps")).to_be_visible()
    page.locator(f'[data-card="{card}"]').click()
    page.locator("#train-f-trigger_word").fill("zebu")
    page.locator("#train-f-pretrained_model_name_or_path").fill(str(model))
    page.locator("#train-f-train_data_dir").fill(str(pictures))
    page.keyboard.press("Tab")
    expect(page.locator("#train-w-max_train_steps")).to_be_visible()
    expect(page.locator("#train-plan-memory")).to_be_visible()
    page.wait_for_timeout(2500)


def take(page: Page, to: Path, name: str) -> None:
    """The tab as it opens, with a field set by hand, and with all reasons."""
    page.mouse.move(640, 2)
    page.screenshot(path=to / f"{name}.png", full_page=True)
    page.locator("#train-f-lora_rank").fill("8")
    page.locator(".plan-why summary").click()
    page.wait_for_timeout(1500)
    page.screenshot(path=to / f"{name}_why.png", full_page=True)


def main(to: Path) -> None:
    expect.set_options(timeout=60_000)
    to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program(), args=list(FLAGS))
        for card in CARDS:
            for name, scene in SCENES.items():
                home = Path(tempfile.mkdtemp(prefix="ana"))
                model, pictures = prepare(home, scene)
                window = start_window(home, program=WINDOW, PLAYED_CARD=card)
                try:
                    for language, scheme in (("en", "light"), ("pt-BR", "dark")):
                        page = browser.new_page(viewport={"width": 1280, "height": 800}, reduced_motion="reduce")
                        page.on("console", lambda told: print(told.text) if told.type == "error" else None)
                        page.emulate_media(color_scheme=scheme)  # type: ignore[arg-type]
                        page.goto(f"{window.url}{language}/")
                        page.wait_for_selector("#tabs")
                        fill(page, model, pictures, scene.card)
                        take(page, to, f"{name}_{card.replace(' ', '')}_{language}")
                        page.close()
                finally:
                    window.stop()
                    shutil.rmtree(home)
        browser.close()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
