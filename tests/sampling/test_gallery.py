from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from PIL import Image

from lora_core.sampling.gallery import Album, Settings
from lora_core.sampling.infotext import parameters_of
from lora_core.system.files import WriteError
from tests.support.lora_runs import finished_run, write_lora

PLAIN = Settings("starter", "a zebu", 7, 64, 48, "blurred", 5, 3.0, "Euler a")


def worn(lora: Path, **changes: object) -> Settings:
    return dataclasses.replace(PLAIN, lora=str(lora), name="zebu", weight=0.8, hash="ab" * 32, trigger="zebu", **changes)  # type: ignore[arg-type]


def test_a_picture_goes_to_its_run_with_its_text_and_comes_back_with_its_settings(tmp_path: Path) -> None:
    run = finished_run(tmp_path / "run", {100: 0.4})
    album, lora = Album(tmp_path / "tests"), run.folder / "zebu.safetensors"
    picture = Image.new("RGB", (64, 48), "#123456")
    one, two = (album.keep(picture, worn(lora), lora) for _ in range(2))
    base = album.keep(picture, PLAIN, lora)
    assert {drawn.path.parent for drawn in (one, two, base)} == {run.folder / "tests"}
    assert len({one.path, two.path, base.path}) == 3, "nothing is written over"
    assert "zebu_w0.8_s7" in one.path.name and "base_s7" in base.path.name
    assert parameters_of(one.path).startswith(
        "a zebu <lora:zebu:0.8>\nNegative prompt: blurred\nSteps: 5, Sampler: Euler a"
    )
    assert "<lora" not in parameters_of(base.path) and str(tmp_path) not in parameters_of(one.path)
    with Image.open(one.path) as opened:
        assert opened.size == (64, 48) and opened.getpixel((3, 3)) == (0x12, 0x34, 0x56)
    assert Album(tmp_path / "tests").recent() == [base, two, one]


def test_a_lora_of_no_run_uses_the_albums_folder(tmp_path: Path) -> None:
    album, lora = Album(tmp_path / "tests"), write_lora(tmp_path / "loras" / "x.safetensors")
    assert album.keep(Image.new("RGB", (64, 48)), worn(lora), lora).path.parent == tmp_path / "tests"


def test_damaged_lines_and_deleted_pictures_are_passed_over(tmp_path: Path) -> None:
    album = Album(tmp_path / "tests")
    assert album.recent() == []
    first, second = (album.keep(Image.new("RGB", (64, 48)), PLAIN) for _ in range(2))
    first.path.unlink()
    with album.list_file.open("a", encoding="utf-8") as file:
        file.write('{"path": "x", "settings": {"future": 1}, "at": 1}\n{"pa')
    assert album.recent() == [second]


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "tests").write_text("a file", encoding="utf-8")
    with pytest.raises(WriteError, match="tests"):
        Album(tmp_path / "tests").keep(Image.new("RGB", (8, 8)), PLAIN)


def test_weight_zero_or_no_lora_is_the_base_model() -> None:
    none = dataclasses.replace(worn(Path("x.safetensors")), weight=0.0)
    assert none.shot().lora is None and none.call() is None
    shot = worn(Path("x.safetensors")).shot()
    assert (shot.lora, shot.weight, shot.wish.sampler) == (Path("x.safetensors"), 0.8, "Euler a")
    assert worn(Path("x.safetensors")).without_lora() == PLAIN
