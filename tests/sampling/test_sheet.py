"""lora_core.sampling.sheet: where pictures and labels stand."""

from __future__ import annotations

from PIL import Image

from lora_core.sampling.sheet import sheet


def test_a_sheet_has_a_row_per_prompt_and_a_column_per_state() -> None:
    red, blue = Image.new("RGB", (64, 48), "#ff0000"), Image.new("RGB", (64, 64), "#0000ff")
    pictures = {(0, 0): red, (0, 1): blue, (1, 0): blue, (1, 1): red}
    page = sheet(("without", "with"), ("short", "a long prompt " * 20), pictures, (100, 100), side=230)
    assert page.size == (230 + 2 * 108 + 8, 38 + 2 * 108)
    assert page.getpixel((230 + 50, 38 + 50)) == (255, 0, 0) and page.getpixel((230 + 158, 38 + 50)) == (0, 0, 255)
    assert page.getpixel((230 + 50, 38 + 158)) == (0, 0, 255)
    assert page.getpixel((230 + 50, 38 + 5)) == (255, 255, 255), "a wide picture keeps its shape"


def test_long_labels_stay_in_their_row() -> None:
    page = sheet(("one",), ("w" * 300, ""), {}, (64, 48))
    ink = [y for x in range(120) for y in range(page.height) if page.getpixel((x, y)) != (255, 255, 255)]
    assert ink and max(ink) < page.height - 48 - 8 // 2
