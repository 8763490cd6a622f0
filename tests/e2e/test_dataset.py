"""The Dataset tab in a real browser: captions by mouse and keyboard, edits of many, the report, a thousand pictures."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.e2e.conftest import ROOT, Window

Shot = Callable[[Page, str], Path]


@pytest.fixture
def training(tmp_path: Path) -> Path:
    """A copy of the sample pictures, which the tests may change."""
    folder = tmp_path / "amostras ção"
    shutil.copytree(ROOT / "Training", folder, ignore=shutil.ignore_patterns(".treino"))
    return folder


def open_folder(page: Page, folder: Path, count: int) -> None:
    page.fill("#dataset-folder", str(folder))
    page.press("#dataset-folder", "Enter")
    expect(page.locator("#dataset-grid")).to_have_attribute("data-folder", str(folder))
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(count)
    expect(page.locator("#dataset-folder")).to_have_value(str(folder))


def read(folder: Path, name: str) -> str:
    return (folder / name).with_suffix(".txt").read_text(encoding="utf-8").strip()


def saved(page: Page, word: str = "Saved") -> None:
    expect(page.locator("#dataset-saved")).to_have_text(word)


def test_captions_are_written_by_mouse_and_by_keyboard_and_survive_a_reload(
    page_en: Page, training: Path, window: Window, shot: Shot
) -> None:
    page, grid, caption = page_en, page_en.locator("#dataset-grid"), page_en.locator("#dataset-caption")
    open_folder(page, training, 12)
    # By mouse.
    page.locator("[data-name='002.png']").click()
    expect(caption).to_have_value(read(training, "002.png"))
    expect(page.locator("#dataset-size")).to_contain_text("trained")
    caption.fill("a yellow ampulheta, by mouse ")
    saved(page)
    assert read(training, "002.png") == "a yellow ampulheta, by mouse"
    caption.press("End")
    caption.press_sequentially("indeed")  # the space that was typed before the pause is still there
    saved(page)
    assert read(training, "002.png") == "a yellow ampulheta, by mouse indeed"
    expect(page.locator("#dataset-tokens")).to_have_text("about 10 of 75 tokens")
    # By keyboard: from the grid into the caption, on to the next ones without waiting, and back.
    grid.focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Enter")
    expect(caption).to_be_focused()
    for text in ("by keyboard", "quickly", "one after the other"):
        page.keyboard.press("ControlOrMeta+a")
        page.keyboard.type(text)
        page.keyboard.press("Control+Enter")
    page.keyboard.press("Alt+ArrowUp")
    page.keyboard.press("Escape")
    expect(grid).to_be_focused()
    expect(page.locator("#dataset-name")).to_have_text("005.png")
    expect(page.locator("#dataset-position")).to_have_text("6 of 12")
    expect(page.locator("#dataset-undo")).to_have_attribute("title", "Undo: caption of 005.png")
    wanted = ["by keyboard", "quickly", "one after the other"]
    for _ in range(200):  # the last one is still being saved while the page has moved on
        if [read(training, f"{n:03}.png") for n in (3, 4, 5)] == wanted:
            break
        page.wait_for_timeout(100)
    assert [read(training, f"{n:03}.png") for n in (3, 4, 5)] == wanted
    # What was typed a moment before the page goes is kept as well.
    page.locator("[data-name='007.png']").click()
    caption.fill("just before the reload")
    page.reload()
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(12)
    page.locator("[data-name='007.png']").click()
    expect(caption).to_have_value("just before the reload")
    page.locator("[data-name='002.png']").click()
    expect(caption).to_have_value("a yellow ampulheta, by mouse indeed")
    assert read(training, "007.png") == "just before the reload"
    shot(page, "dataset-caption-en")


def test_an_edit_made_elsewhere_is_shown_and_never_written_over(page_en: Page, training: Path) -> None:
    page, caption = page_en, page_en.locator("#dataset-caption")
    open_folder(page, training, 12)
    (training / "000.txt").write_text("seen while it is open", encoding="utf-8")
    expect(caption).to_have_value("seen while it is open")
    # Typed here and written there at the same time: the person chooses.
    with page.expect_response("**/dataset/caption?*", timeout=30_000):
        caption.press("End")
        caption.press_sequentially(" - mine")
        (training / "000.txt").write_text("theirs", encoding="utf-8")
    expect(page.locator("#dataset-conflict")).to_be_visible()
    expect(page.locator("#dataset-conflict blockquote")).to_have_text("theirs")
    assert read(training, "000.png") == "theirs"
    page.click("[data-keep=mine]")
    saved(page)
    assert read(training, "000.png") == "seen while it is open - mine"
    page.click("#dataset-undo")
    expect(caption).to_have_value("theirs")


def test_many_captions_change_after_a_preview_and_undo_brings_them_back(
    open_page: Callable[..., Page], training: Path, shot: Shot
) -> None:
    page = open_page("pt-BR", dark=True, height=720)
    open_folder(page, training, 12)
    page.click("#dataset-tab-many")
    page.fill("#dataset-find", "ampulheta")
    page.fill("#dataset-replace", "hourglass")
    expect(page.locator("#dataset-apply")).to_have_text("Mudar 12 legendas")
    expect(page.locator("#dataset-changes li").first).to_contain_text("a red ampulhetahourglass on a cyan background")
    assert read(training, "000.png") == "a red ampulheta on a cyan background"
    shot(page, "dataset-many-pt-dark")
    page.fill("#dataset-search", "yellow background")
    page.check("#dataset-shown")
    expect(page.locator("#dataset-apply")).to_have_text("Mudar 1 legenda")
    page.press("#dataset-replace", "Enter")
    expect(page.locator("#dataset-told")).to_contain_text("1 legenda mudada")
    assert read(training, "001.jpg") == "a blue hourglass on a yellow background"
    page.click("#dataset-clear")
    # A tag, pressed, shows the pictures that have it; removed, it goes through the same preview.
    page.select_option("#dataset-edit", "suffix")
    page.uncheck("#dataset-shown")
    page.fill("#dataset-find", ", estúdio")
    expect(page.locator("#dataset-apply")).to_have_text("Mudar 12 legendas")
    page.click("#dataset-apply")
    page.click("#dataset-tab-tags")
    page.click("[data-tag='estúdio']")
    expect(page.locator("#dataset-count")).to_have_text("12 imagens")
    page.click("[data-tag='a blue hourglass on a yellow background']")
    expect(page.locator("#dataset-count")).to_have_text("1 de 12 imagens")
    page.click("[data-untag='estúdio']")
    expect(page.locator("#dataset-apply")).to_have_text("Mudar 12 legendas")
    page.keyboard.press("Enter")
    expect(page.locator("#dataset-undo")).to_have_attribute("title", "Desfazer: tag “estúdio” removida")
    for left in ("Desfazer: “, estúdio” depois das legendas", "Desfazer: “ampulheta” trocado por “hourglass”", ""):
        page.click("#dataset-undo")
        expect(page.locator("#dataset-undo")).to_have_attribute("title", left)
    assert read(training, "001.jpg") == "a blue ampulheta on a yellow background"
    expect(page.locator("#dataset-redo")).to_be_enabled()


def test_the_report_is_mended_with_one_click_and_undo_takes_it_back(
    open_page: Callable[..., Page], training: Path, shot: Shot
) -> None:
    page = open_page("en", height=720)
    (training / "broken.png").write_bytes((training / "000.png").read_bytes()[:4000])
    (training / "old.txt").write_bytes("uma ação".encode("cp1252"))
    Image.effect_noise((600, 400), 80).save(training / "old.png")
    open_folder(page, training, 14)
    page.click("#dataset-tab-check")
    report = page.locator("#dataset-problems")
    line = report.locator("li", has_text="broken.png breaks off in the middle")
    expect(line).to_be_visible()
    expect(page.locator("[data-name='broken.png'][role=option]")).to_have_attribute("data-level", "left out")
    shot(page, "dataset-check-en")
    line.get_by_role("button", name="Leave it out").click()
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(13)
    assert not (training / "broken.png").exists()
    report.get_by_role("button", name="Save as UTF-8").click()
    expect(report.get_by_role("button", name="Save as UTF-8")).to_have_count(0)
    assert (training / "old.txt").read_text(encoding="utf-8") == "uma ação"
    # Turned and left out by keyboard, then everything back to where it began.
    page.locator("[data-name='002.png'][role=option]").click()
    page.get_by_role("button", name="Turn right").click()
    expect(page.locator("#dataset-undo")).to_have_attribute("title", "Undo: 002.png turned")
    page.locator("#dataset-grid").focus()
    page.keyboard.press("Delete")
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(12)
    expect(page.locator("#dataset-name")).to_have_text("003.png")
    for _ in range(4):
        expect(page.locator("#dataset-undo")).to_be_enabled()
        page.locator("#dataset-grid").focus()
        with page.expect_response("**/dataset/undo?*"):
            page.keyboard.press("ControlOrMeta+z")
    expect(page.locator("#dataset-grid [role=option]")).to_have_count(14)
    expect(page.locator("#dataset-undo")).to_be_disabled()
    assert (training / "old.txt").read_bytes() == "uma ação".encode("cp1252")
    for name in ("000.png", "002.png"):
        assert (training / name).read_bytes() == (ROOT / "Training" / name).read_bytes()


def test_dropped_pictures_become_a_dataset_that_goes_to_training(
    open_page: Callable[..., Page], training: Path, shot: Shot, window: Window
) -> None:
    page = open_page("en")
    open_folder(page, training, 12)
    page.set_input_files("#dataset-files", [training / "000.png", training / "000.txt"])
    shot(page, "dataset-drop-en")
    page.click("#dataset-add-here")
    expect(page.locator("#dataset-told")).to_contain_text("2 files added")
    expect(page.locator("#dataset-name")).to_have_text("000-2.png")
    assert read(training, "000-2.png") == read(training, "000.png")
    page.evaluate(
        """() => {
            const data = new DataTransfer();
            data.items.add(new File([Uint8Array.from(atob(
                "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
            ), (each) => each.charCodeAt(0))], "dot.png"));
            data.items.add(new File(["no"], "program.exe"));
            const drop = new DragEvent("drop", {dataTransfer: data, bubbles: true, cancelable: true});
            document.getElementById("dataset-grid").dispatchEvent(drop);
        }"""
    )
    page.fill("#dataset-new-name", "dropped")
    page.keyboard.press("Enter")
    made = window.home.parents[1] / "Treino" / "dropped"
    expect(page.locator("#dataset-folder")).to_have_value(str(made))
    assert [path.name for path in made.iterdir() if path.is_file()] == ["dot.png"]
    # Whoever goes to the tab instead of pressing the button trains on these pictures as well; others are offered.
    page.click("#tab-train-button")
    expect(page.locator("#train-form [name=train_data_dir]")).to_have_value(str(made))
    page.fill("#train-f-train_data_dir", str(training))
    page.click("#tab-dataset-button")
    expect(page.locator("#dataset-train")).to_be_visible()
    page.click("#tab-train-button")
    expect(page.locator(".form-open")).to_contain_text(made.name)
    shot(page, "train-other-pictures-en")
    page.click(".form-open")
    expect(page.locator("#train-form [name=train_data_dir]")).to_have_value(str(made))
    expect(page.locator(".form-open")).to_be_hidden()
    page.click("#tab-dataset-button")
    page.click("#dataset-train")
    expect(page.locator("#tab-train-button, #tabs button[role=tab][aria-selected=true]").first).to_be_visible()
    expect(page.locator("#train-form [name=train_data_dir]")).to_have_value(str(made))
    shutil.rmtree(made)


def test_a_thousand_pictures_are_there_at_once_and_scroll(page_en: Page, tmp_path: Path, shot: Shot) -> None:
    folder = tmp_path / "thousand"
    folder.mkdir()
    for n in range(1000):
        Image.new("RGB", (64, 48), (n % 256, n // 4, 120)).save(folder / f"{n:04}.jpg", quality=60)
        (folder / f"{n:04}.txt").write_text(f"plain, colour {n % 7}", encoding="utf-8")
    page, grid = page_en, page_en.locator("#dataset-grid")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/files/" in request.url else None)
    open_folder(page, folder, 1000)
    expect(page.locator("#dataset-cell-0 img")).to_have_js_property("complete", True)
    assert len(asked) < 200  # of what can be seen and little more
    grid.focus()
    page.keyboard.press("End")
    expect(page.locator("#dataset-name")).to_have_text("0999.jpg")
    expect(page.locator("#dataset-cell-999")).to_be_in_viewport()
    expect(page.locator("#dataset-cell-999 img")).to_have_js_property("naturalWidth", 64)
    page.keyboard.press("PageUp")
    page.keyboard.press("ArrowUp")
    expect(page.locator("#dataset-cell-999")).not_to_be_in_viewport()
    page.fill("#dataset-search", "colour 3")
    expect(page.locator("#dataset-count")).to_have_text("143 of 1000 pictures")
    shot(page, "dataset-thousand-en")


def test_a_folder_that_goes_is_told(page_pt: Page, training: Path, tmp_path: Path) -> None:
    page = page_pt
    open_folder(page, training, 12)
    training.rename(tmp_path / "away")
    expect(page.locator("#dataset-error")).to_contain_text("não está mais lá")
    expect(page.locator("#dataset-train")).to_be_disabled()
    (tmp_path / "away").rename(training)
    expect(page.locator("#dataset-error")).to_be_empty()
    expect(page.locator("#dataset-train")).to_be_enabled()
    page.fill("#dataset-folder", str(tmp_path / "nowhere"))
    page.click("#dataset-open")
    expect(page.locator("#dataset-error")).to_contain_text("não existe")


def test_it_works_by_keyboard_alone_and_every_control_has_a_name(open_page: Callable[..., Page], training: Path) -> None:
    page = open_page("en", dark=True, height=720)
    open_folder(page, training, 12)
    page.locator("#dataset-tab-one").focus()
    for name in ("describe", "many", "tags", "check", "sizes", "one"):
        page.keyboard.press("ArrowRight")
        expect(page.locator(f"#dataset-tab-{name}")).to_be_focused()
        expect(page.locator(f"#dataset-view-{name}")).to_be_visible()
        assert page.evaluate(NAMELESS) == []
    reached = set()
    page.locator("#dataset-folder").focus()
    for _ in range(30):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.id"))
    wanted = {"open", "train", "search", "grid", "tab-one", "next", "caption", "leave-out", "show-crop", "resolution"}
    assert {f"dataset-{name}" for name in wanted} <= reached
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= 1280


# Controls that can be seen and that nobody who cannot see them would know.
NAMELESS = """() => [...document.querySelectorAll("#dataset :is(button, input, select, textarea, [role=listbox])")]
    .filter((each) => each.offsetParent && !(each.getAttribute("aria-label") || each.title || each.textContent.trim() ||
        (each.labels && each.labels.length)))
    .map((each) => each.outerHTML.slice(0, 120))"""
