"""lora_core.starter.world and make_training: the reader that measures learning, and the pictures of Training/."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from lora_core.dataset import bucket_size, fit, load_picture, report, scan
from lora_core.starter import make_training, world
from lora_core.starter.world import COLOURS, NEW_SHAPE, SHAPES, Scene, draw, random_scene, read
from tests import ROOT

FORMATS = ((64, 64), (80, 48), (48, 80))
TRAINING = ROOT / "Training"


def test_the_reader_is_right_about_true_drawings() -> None:
    rng = np.random.default_rng(2024)
    right = 0
    for n in range(1000):
        scene = random_scene(rng)
        right += world.matches(draw(scene, *FORMATS[n % 3], rng=rng), scene)
    assert right >= 980


@pytest.mark.parametrize("size", FORMATS)
def test_the_reader_knows_an_hourglass_and_sees_none_in_other_shapes(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(7)
    seen = Counter(read(draw(random_scene(rng, NEW_SHAPE), *size, rng=rng)).shape for _ in range(200))
    assert seen[NEW_SHAPE] >= 196
    for shape in SHAPES:
        assert NEW_SHAPE not in {read(draw(random_scene(rng, shape), *size, rng=rng)).shape for _ in range(60)}


@pytest.mark.parametrize("size", [(32, 32), (64, 64), (512, 512)])
def test_the_reader_names_nothing_where_nothing_is(size: tuple[int, int]) -> None:
    flat = np.full((size[1], size[0], 3), COLOURS["green"], np.uint8)
    assert read(flat) == world.Reading("", "", "green", 0.0)
    noise = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    assert read(noise).shape == ""


def test_a_wrong_shape_colour_or_background_does_not_match() -> None:
    scene = Scene("star", "red", "white")
    picture = draw(scene, 64)
    assert world.matches(picture, scene)
    for other in (Scene("moon", "red", "white"), Scene("star", "blue", "white"), Scene("star", "red", "black")):
        assert not world.matches(picture, other)


def test_training_is_what_the_script_draws(tmp_path: Path) -> None:
    make_training.make(tmp_path)
    names = sorted(p.name for p in tmp_path.iterdir())
    assert names == sorted(p.name for p in TRAINING.iterdir() if not p.name.startswith("."))
    for name in names:
        if name.endswith(".txt"):
            assert (tmp_path / name).read_text(encoding="utf-8") == (TRAINING / name).read_text(encoding="utf-8")
        else:
            drawn, kept = (np.asarray(Image.open(folder / name), int) for folder in (tmp_path, TRAINING))
            assert drawn.shape == kept.shape
            # Other builds of OpenCV and libjpeg may round an edge differently.
            assert np.abs(drawn - kept).mean() < 1


def test_training_is_laid_out_as_users_will_lay_out_theirs() -> None:
    dataset = scan(TRAINING)
    assert [item.path.stem for item in dataset.items] == [f"{n:03}" for n in range(12)]
    assert Counter(item.path.suffix for item in dataset.items) == {".png": 9, ".jpg": 3}
    assert Counter((item.width, item.height) for item in dataset.items) == {(512, 512): 8, (640, 400): 2, (400, 640): 2}
    assert all(make_training.TRIGGER_WORD in item.caption for item in dataset.items)
    assert report(dataset, 512, lambda text: len(text.split())) == ()


def test_training_shows_hourglasses_in_evenly_spread_colours() -> None:
    dataset = scan(TRAINING)
    for item in dataset.items:
        picture = load_picture(item.path)
        for resolution, step in ((64, 16), (64, 64), (512, 64)):
            seen = read(fit(picture, bucket_size(item.width, item.height, resolution, step)))
            assert seen.shape == NEW_SHAPE, (item.path.name, resolution, seen)
            assert item.caption == make_training.caption(Scene(seen.shape, seen.colour, seen.background))
    pairs = [(sheet.colour, sheet.background) for sheet in make_training.SHEETS]
    assert len(set(pairs)) == 12 and set(Counter(colour for colour, _ in pairs).values()) == {3}
    backgrounds = Counter(background for _, background in pairs)
    assert set(backgrounds) == set(COLOURS) and max(backgrounds.values()) <= 2
    assert all(sheet.colour != sheet.background for sheet in make_training.SHEETS)
