"""lora_core.sampling.grid: axes, cells and the grid as one picture."""

from __future__ import annotations

import pytest
from PIL import Image

from lora_core.errors import UserError
from lora_core.sampling import grid
from lora_core.sampling.grid import Grid
from lora_core.sampling.params import GenerationParams

BASE = GenerationParams("a zebu", 7, 64, 48, lora="x.safetensors", name="x", weight=1.0, base="starter")
STEPS = grid.checkpoints([("step 100", {"lora": "a", "name": "zebu-100"}), ("step 200", {"lora": "b", "name": "zebu"})])


def test_a_cell_has_the_settings_of_its_row_and_column() -> None:
    made = Grid(BASE, grid.weights("0, 0.5; 1.25"), STEPS)
    assert len(made) == 6
    cell = made.params((1, 2))
    assert (cell.lora, cell.name, cell.weight, cell.prompt) == ("b", "zebu", 1.25, "a zebu")
    assert Grid(BASE, STEPS, grid.prompts("one\n\ntwo\none")).params((1, 0)).prompt == "two"


def test_each_lora_is_loaded_once() -> None:
    for made in (Grid(BASE, STEPS, grid.prompts("one\ntwo\nthree")), Grid(BASE, grid.weights("0 1"), STEPS)):
        loras = [made.params(place).lora for place in made.places()]
        assert loras == sorted(loras) and len(loras) == len(made) == len(set(made.places()))


def test_values_are_read_as_people_write_them() -> None:
    assert grid.weights(" 0.5 , 1;0.50\n-1 ").labels == ("0.5", "1", "-1")
    for wrong, word in (("0.5, one", "one"), ("0,5 7", "7"), ("nan", "nan")):
        with pytest.raises(UserError, match=word):
            grid.weights(wrong)


def test_empty_and_endless_grids_are_refused() -> None:
    with pytest.raises(UserError, match="empty"):
        grid.check(Grid(BASE, grid.weights(""), STEPS))
    many = grid.prompts("\n".join(map(str, range(51))))
    with pytest.raises(UserError, match="102 pictures"):
        grid.check(Grid(BASE, STEPS, many))
    whole = Grid(BASE, STEPS, grid.prompts("one"))
    assert grid.check(whole) is whole


def test_the_sheet_shows_every_picture_in_its_place_and_size() -> None:
    made = Grid(BASE, grid.weights("0, 1"), grid.prompts("short\n" + "a very long prompt " * 30 + "\n" + "w" * 300))
    red, blue = Image.new("RGB", (64, 48), "#ff0000"), Image.new("RGB", (64, 48), "#0000ff")
    page = made.sheet({(0, 0): red, (2, 1): blue})
    reds = [(x, y) for x in range(page.width) for y in range(page.height) if page.getpixel((x, y)) == (255, 0, 0)]
    blues = [(x, y) for x in range(page.width) for y in range(page.height) if page.getpixel((x, y)) == (0, 0, 255)]
    assert len(reds) == len(blues) == 64 * 48
    assert max(x for x, _ in reds) < min(x for x, _ in blues) and max(y for _, y in reds) < min(y for _, y in blues)
    empty = sum(1 for x in range(page.width) for y in range(page.height) if page.getpixel((x, y)) == (228, 231, 235))
    assert empty == 4 * 64 * 48, "cells not drawn are blank, and no label runs into a cell"


def test_the_axes_are_told_as_a1111_tells_them() -> None:
    told = Grid(BASE, grid.weights("0, 1"), grid.prompts("one")).parameters()
    assert told["Script"] == "X/Y/Z plot" and (told["X Type"], told["X Values"]) == ("Weight", "0, 1")
    assert (told["Y Type"], told["Y Values"]) == ("Prompt", "one")
