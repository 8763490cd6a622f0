"""lora_core.sampling.gallery: where trial pictures go, and which are listed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from PIL import Image

from lora_core.sampling.gallery import Gallery
from lora_core.sampling.params import GenerationParams
from lora_core.system.files import WriteError
from tests.support.lora_runs import finished_run, write_lora
from tests.support.pictures import png_text

PLAIN = GenerationParams("a zebu", 7, 64, 48, "blurred", 5, 3.0, "Euler a", base="starter")


def worn(lora: Path, **changes: object) -> GenerationParams:
    return dataclasses.replace(PLAIN, lora=str(lora), name="zebu", weight=0.8, hash="ab" * 32, trigger="zebu", **changes)  # type: ignore[arg-type]


def test_a_picture_goes_to_its_run_with_its_text_and_comes_back_with_its_settings(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {100: 0.4})
    gallery, lora = Gallery(tmp_path / "tests"), run.folder / "zebu.safetensors"
    picture = Image.new("RGB", (64, 48), "#123456")
    one, two = (gallery.keep(picture, worn(lora), lora) for _ in range(2))
    base = gallery.keep(picture, PLAIN, lora)
    assert {drawn.path.parent for drawn in (one, two, base)} == {run.folder / "tests"}
    assert len({one.path, two.path, base.path}) == 3, "nothing is written over"
    assert "zebu_w0.8_s7" in one.path.name and "base_s7" in base.path.name
    assert png_text(one.path).startswith("a zebu <lora:zebu:0.8>\nNegative prompt: blurred\nSteps: 5, Sampler: Euler a")
    assert "<lora" not in png_text(base.path) and str(tmp_path) not in png_text(one.path)
    with Image.open(one.path) as opened:
        assert opened.size == (64, 48) and opened.getpixel((3, 3)) == (0x12, 0x34, 0x56)
    assert Gallery(tmp_path / "tests").recent() == [base, two, one]


def test_a_lora_of_no_run_uses_the_gallerys_folder(tmp_path: Path) -> None:
    gallery, lora = Gallery(tmp_path / "tests"), write_lora(tmp_path / "loras" / "x.safetensors")
    assert gallery.keep(Image.new("RGB", (64, 48)), worn(lora), lora).path.parent == tmp_path / "tests"


def test_damaged_lines_and_deleted_pictures_are_passed_over(tmp_path: Path) -> None:
    gallery = Gallery(tmp_path / "tests")
    assert gallery.recent() == []
    first, second = (gallery.keep(Image.new("RGB", (64, 48)), PLAIN) for _ in range(2))
    first.path.unlink()
    with gallery.list_file.open("a", encoding="utf-8") as file:
        file.write('{"path": "x", "settings": {"future": 1}, "at": 1}\n{"pa')
    assert gallery.recent() == [second]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "tests").write_text("a file", encoding="utf-8")
    with pytest.raises(WriteError, match="tests"):
        Gallery(tmp_path / "tests").keep(Image.new("RGB", (8, 8)), PLAIN)


def test_pictures_that_an_older_treino_listed_are_still_there(tmp_path: Path) -> None:
    picture = tmp_path / "one.png"
    Image.new("RGB", (8, 8)).save(picture)
    settings = {
        "base": "starter", "prompt": "a zebu", "seed": 7, "width": 64, "height": 48, "negative": "blurred", "steps": 5,
        "guidance": 3.0, "sampler": "Euler a", "lora": "", "name": "", "hash": "", "trigger": "", "weight": 1.0, "vae": "",
        "prediction_type": "auto",
    }  # fmt: skip
    line = {"path": str(picture), "settings": settings, "at": 1.0, "is_grid": False}
    gallery = Gallery(tmp_path)
    gallery.list_file.write_text(json.dumps(line) + "\n", encoding="utf-8")
    assert [drawn.params for drawn in gallery.recent()] == [PLAIN]
    gallery.list_file.unlink()
    gallery.keep(Image.new("RGB", (8, 8)), PLAIN)
    written = json.loads(gallery.list_file.read_text(encoding="utf-8"))
    assert written["settings"] == settings, "and it still finds those of ours"


def test_weight_zero_or_no_lora_is_the_base_model() -> None:
    none = dataclasses.replace(worn(Path("x.safetensors")), weight=0.0)
    assert not none.has_lora and worn(Path("x.safetensors")).has_lora and not PLAIN.has_lora
    assert worn(Path("x.safetensors")).lora_tag == "<lora:zebu:0.8>"
    assert worn(Path("x.safetensors")).without_lora() == PLAIN
