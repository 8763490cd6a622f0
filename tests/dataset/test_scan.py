"""lora_core.dataset.scan, listing, quality and items: a folder on disk in, a dataset and its report out."""

from __future__ import annotations

import io
import os
import string
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageFilter

from lora_core.dataset import Dataset, Problem, listing, report, scan
from lora_core.dataset.items import LEVELS, problem
from lora_core.errors import UserError
from lora_core.messages import LANGUAGES, Message, catalog, say


def picture(seed: int = 0, width: int = 512, height: int = 512) -> Image.Image:
    """Discs of many sizes and colours: sharp, and unlike the picture of any other seed."""
    rng = np.random.default_rng(seed)
    canvas = np.full((height, width, 3), rng.integers(0, 256, 3), np.uint8)
    for _ in range(60):
        x, y = int(rng.integers(0, width)), int(rng.integers(0, height))
        cv2.circle(canvas, (x, y), int(rng.integers(8, 90)), rng.integers(0, 256, 3).tolist(), -1, cv2.LINE_AA)
    return Image.fromarray(canvas)


def put(folder: Path, name: str, image: Image.Image | bytes, caption: str | bytes | None = "a caption") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(image, bytes):
        path.write_bytes(image)
    else:
        image.save(path)
    if caption is not None:
        path.with_suffix(".txt").write_bytes(caption if isinstance(caption, bytes) else caption.encode())
    return path


def told(problems: tuple[Problem, ...]) -> dict[str, str]:
    """kind -> sentence; every sentence is one, names its file and has no gap left."""
    for each in problems:
        assert "{" not in str(each.message)
        assert "\n" not in str(each.message)
        assert str(each.message).endswith(".")
        assert each.excluded == (each.level == "left out")
    return {each.kind: str(each.message) for each in problems}


# The dataset ----------------------------------------------------------------------------------------------------------


def test_pairs_are_found_in_sub_folders_and_in_a_fixed_order(tmp_path: Path) -> None:
    for name in ("001.JPG", "000.png", "b/002.jpeg", "A/003.webp", "b/004.bmp"):
        put(tmp_path, name, picture(), f"caption of {name}")
    dataset = scan(tmp_path)
    assert [item.path.relative_to(tmp_path).as_posix() for item in dataset.items] == [
        "000.png", "001.JPG", "A/003.webp", "b/002.jpeg", "b/004.bmp",
    ]  # fmt: skip
    assert [item.caption for item in dataset.items][:2] == ["caption of 000.png", "caption of 001.JPG"]
    assert {(item.width, item.height, item.repeats) for item in dataset.items} == {(512, 512, 1)}
    assert dataset.problems == ()
    assert dataset.folder == tmp_path


def test_names_in_any_script_work(tmp_path: Path) -> None:
    for name in ("coração.png", "画像.png", "кот.png", "a b  (1).png"):
        put(tmp_path / "pasta ção 画", name, picture(), "x")
    assert len(scan(tmp_path / "pasta ção 画").items) == 4


@pytest.mark.skipif(os.name == "nt", reason="Windows has no names that are not Unicode")
def test_names_that_are_no_unicode_work(tmp_path: Path) -> None:
    put(tmp_path, os.fsdecode(b"caf\xe9.png"), picture(), None)
    dataset = scan(tmp_path)
    assert "caf?" in told(dataset.problems)["missing_caption"]
    dataset.items[0].caption.encode("utf-8")


def test_exif_rotation_counts_in_width_and_height(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    picture(0, 600, 300).save(tmp_path / "a.jpg", exif=exif)
    (tmp_path / "a.txt").write_bytes(b"x")
    dataset = scan(tmp_path)
    assert (dataset.items[0].width, dataset.items[0].height) == (300, 600)
    assert "upright" in told(report(dataset, 512))["exif_rotated"]


def test_repeats_are_read_from_the_folder_name(tmp_path: Path) -> None:
    for name in ("10_cat/a.png", "3_/b.png", "x_10/c.png", "2023_holiday/d.png", "0_off/e.png", "10_cat/deep/f.png"):
        put(tmp_path, name, picture())
    dataset = scan(tmp_path)
    assert {item.path.name: item.repeats for item in dataset.items} == {
        "a.png": 10, "b.png": 3, "c.png": 1, "d.png": 1, "e.png": 1, "f.png": 1,
    }  # fmt: skip
    ignored = [str(each.message) for each in dataset.problems if each.kind == "repeats_ignored"]
    assert len(ignored) == 2
    assert any("2023_holiday" in message for message in ignored)
    assert scan(tmp_path / "10_cat").items[0].repeats == 10


def test_progress_is_told_after_each_picture_and_may_stop_the_scan(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path, f"{n}.png", picture())
    calls: list[tuple[int, int]] = []
    scan(tmp_path, on_progress=lambda done, total: calls.append((done, total)))
    assert calls == [(n, 5) for n in range(1, 6)]

    def stop(done: int, total: int) -> None:
        raise InterruptedError

    with pytest.raises(InterruptedError):
        scan(tmp_path, on_progress=stop)


def test_hidden_files_are_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture())
    for name in ("._a.png", ".treino/old.png", "__MACOSX/a.png", ".git/b.png"):
        put(tmp_path, name, b"not a picture")
    dataset = scan(tmp_path)
    assert len(dataset.items) == 1
    assert dataset.problems == ()


# Captions -------------------------------------------------------------------------------------------------------------


def test_captions_are_one_line_and_clean(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(), "  a red\r\nball,\t on  blue \n")
    assert scan(tmp_path).items[0].caption == "a red ball, on blue"


@pytest.mark.parametrize(
    ("name", "trigger", "caption"),
    [
        ("000.png", "ampulheta", "ampulheta"),
        ("red_ball-02.png", "", "red ball"),
        ("000.png", "", ""),
        ("IMG_20210102_123456.png", "", ""),
        ("DSC01234.png", "", ""),
        ("pôr.do.sol (3).png", "", "pôr do sol"),
        ("photo of a cat.png", "", "photo of a cat"),
    ],
)
@pytest.mark.parametrize("content", [None, "", " \r\n\t", b"\xef\xbb\xbf", b"\0\0\0\0"])
def test_without_a_caption_the_trigger_or_the_name_is_used_and_told(
    tmp_path: Path, name: str, trigger: str, caption: str, content: str | bytes | None
) -> None:
    put(tmp_path, name, picture(), content)
    dataset = scan(tmp_path, trigger)
    assert dataset.items[0].caption == caption
    sentence = told(dataset.problems)["missing_caption" if content is None else "empty_caption"]
    assert (f'"{caption}"' if caption else "an empty caption") in sentence
    assert name.removesuffix("png") + "txt" in sentence


def test_captions_in_other_encodings_are_read_and_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(), "coração".encode("cp1252"))
    put(tmp_path, "b.png", picture(), "女の子".encode("cp932"))
    put(tmp_path, "c.png", picture(), "gato".encode("utf-8-sig"))
    put(tmp_path, "d.png", picture(), "cão".encode("utf-16"))
    put(tmp_path, "e.png", picture(), b"caf\x81\xff\xff")
    dataset = scan(tmp_path)
    assert [item.caption for item in dataset.items][:4] == ["coração", "女の子", "gato", "cão"]
    kinds = {each.path.name: (each.kind, dict(each.message.params).get("encoding")) for each in dataset.problems}
    assert kinds == {
        "a.png": ("caption_encoding", "cp1252"),
        "b.png": ("caption_encoding", "cp932"),
        "d.png": ("caption_encoding", "utf-16"),
        "e.png": ("caption_unreadable", None),
    }


def test_odd_captions_are_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(), b"a red\0 ball\x1b[31m")
    put(tmp_path, "b.png", picture(), "word " * 200_000)
    put(tmp_path, "c.png", picture(), None)
    (tmp_path / "c.txt").mkdir()
    dataset = scan(tmp_path, "zwx")
    assert dataset.items[0].caption == "a red ball[31m"
    assert len(dataset.items[1].caption) == 10_000
    assert dataset.items[2].caption == "zwx"
    assert set(told(dataset.problems)) == {"caption_controls", "caption_cut", "caption_no_access"}


# What is left out, and what stops the scan ----------------------------------------------------------------------------


def test_bad_pictures_among_good_ones_are_told_and_left_out(tmp_path: Path) -> None:
    good = io.BytesIO()
    picture().save(good, "PNG")
    put(tmp_path, "good.png", picture())
    put(tmp_path, "cut.png", good.getvalue()[:-3000])
    put(tmp_path, "zero.png", b"")
    put(tmp_path, "page.png", b"<html></html>")
    put(tmp_path, "film.gif", b"GIF89a")
    put(tmp_path, "phone.heic", b"x", None)
    put(tmp_path, "dir.png/inside.jpg", picture())
    dataset = scan(tmp_path)
    assert [item.path.name for item in dataset.items] == ["inside.jpg", "good.png"]
    left_out = {each.path.name: each.kind for each in dataset.problems if each.excluded}
    assert left_out == {
        "cut.png": "truncated", "zero.png": "empty_file", "page.png": "not_a_picture", "dir.png": "folder",
        "film.gif": "unknown_suffix", "phone.heic": "unknown_suffix",
    }  # fmt: skip
    told(dataset.problems)


def test_wrong_extensions_and_shared_captions_are_told_and_kept(tmp_path: Path) -> None:
    jpeg = io.BytesIO()
    picture().save(jpeg, "JPEG")
    put(tmp_path, "a.png", jpeg.getvalue())
    put(tmp_path, "b.jpg", picture(1))
    put(tmp_path, "b.png", picture(2))
    put(tmp_path, "c.jpeg", picture(3))
    dataset = scan(tmp_path)
    assert len(dataset.items) == 4
    sentences = told(dataset.problems)
    assert set(sentences) == {"wrong_extension", "same_stem"}
    assert sentences["wrong_extension"] == "a.png is a JPEG picture by its content: rename it to a.jpg."
    assert "b.jpg" in sentences["same_stem"]
    assert "b.png" in sentences["same_stem"]


def test_folders_that_cannot_be_used_are_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        scan(tmp_path / "gone")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(UserError, match="is a file"):
        scan(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no pictures"):
        scan(tmp_path / "empty")
    put(tmp_path / "phone", "a.heic", b"x", "text")
    with pytest.raises(UserError, match=r"only \.heic"):
        scan(tmp_path / "phone")


def test_a_folder_that_holds_half_the_disk_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/1.png", "a/2.png", "b/3.png"):
        put(tmp_path, name, b"")
    monkeypatch.setattr(listing, "MOST_FILES", 8)  # two folders, three pictures, three captions
    assert len(listing.list_folder(tmp_path).pictures) == 3
    monkeypatch.setattr(listing, "MOST_FILES", 7)
    with pytest.raises(UserError, match="more than 7 files: choose the folder with the pictures"):
        listing.list_folder(tmp_path)


def test_no_readable_picture_names_the_first_and_why(tmp_path: Path) -> None:
    for n in range(5):
        put(tmp_path, f"{n}.png", b"" if n else b"<html>")
    with pytest.raises(UserError) as error:
        scan(tmp_path)
    sentence = str(error.value)
    assert "0.png is an HTML page" in sentence
    assert "2.png is empty" in sentence
    assert "3.png" not in sentence
    assert "2 more" in sentence
    seen = scan(tmp_path, may_be_empty=True)
    assert not seen.items
    assert [each.kind for each in report(seen, 512)] == ["not_a_picture"] + ["empty_file"] * 4


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_closed_folders_are_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture())
    put(tmp_path, "closed/b.png", picture())
    (tmp_path / "closed").chmod(0)
    try:
        assert set(told(scan(tmp_path).problems)) == {"no_access"}
    finally:
        (tmp_path / "closed").chmod(0o700)


def test_a_listing_error_is_told_by_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "a.png", picture())
    put(tmp_path, "closed/b.png", picture())
    real = os.scandir

    def scandir(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", scandir)
    dataset = scan(tmp_path)
    assert len(dataset.items) == 1
    assert "closed cannot be opened" in told(dataset.problems)["no_access"]


# The report -----------------------------------------------------------------------------------------------------------


def kinds(dataset: Dataset, resolution: int = 512) -> dict[str, set[str]]:
    found: dict[str, set[str]] = {item.path.name: set() for item in dataset.items}
    problems = report(dataset, resolution)
    told(problems)
    for each in problems:
        found.setdefault(each.path.name, set()).add(each.kind)
    return found


def test_good_pictures_have_nothing_to_report(tmp_path: Path) -> None:
    for n in range(6):
        put(tmp_path, f"{n:03}.png", picture(n))
    assert report(scan(tmp_path), 512, lambda text: len(text.split())) == ()


def test_sizes_are_judged_by_the_resolution(tmp_path: Path) -> None:
    put(tmp_path, "just.png", picture(1, 256, 600))
    put(tmp_path, "tiny.png", picture(2, 255, 600))
    put(tmp_path, "strip.png", picture(3, 1600, 520))
    put(tmp_path, "three.png", picture(4, 1560, 520))
    assert kinds(scan(tmp_path)) == {
        "just.png": set(), "tiny.png": {"tiny"}, "strip.png": {"extreme_aspect"}, "three.png": set(),
    }  # fmt: skip
    assert all("tiny" in each for each in kinds(scan(tmp_path), 2048).values())


def test_the_content_of_pictures_is_judged(tmp_path: Path) -> None:
    put(tmp_path, "sharp.png", picture(1))
    put(tmp_path, "blurred.png", picture(2).filter(ImageFilter.GaussianBlur(4)))
    put(tmp_path, "enlarged.jpg", picture(3).resize((96, 96)).resize((512, 512), Image.Resampling.BICUBIC))
    put(tmp_path, "printed.jpg", picture(4).convert("CMYK"))
    put(tmp_path, "deep.png", picture(5).convert("L").convert("I;16").point(lambda v: v * 257))
    glass = picture(6).convert("RGBA")
    glass.putalpha(100)
    put(tmp_path, "glass.png", glass)
    picture(7).save(tmp_path / "moving.webp", save_all=True, append_images=[picture(8)])
    (tmp_path / "moving.txt").write_bytes(b"x")
    assert kinds(scan(tmp_path)) == {
        "sharp.png": set(),
        "blurred.png": {"blurred"},
        "enlarged.jpg": {"blurred"},
        "printed.jpg": {"cmyk"},
        "deep.png": {"sixteen_bit"},
        "glass.png": {"transparent"},
        "moving.webp": {"animated"},
    }


def test_near_duplicates_are_told_once_with_the_first(tmp_path: Path) -> None:
    original = picture(1)
    put(tmp_path, "a.png", original)
    put(tmp_path, "b.jpg", original.resize((300, 300)))
    put(tmp_path, "c.png", ImageEnhance.Brightness(original).enhance(1.08))
    put(tmp_path, "d/c.png", original.crop((6, 6, 506, 506)))
    red, green, blue = original.split()
    put(tmp_path, "e.png", Image.merge("RGB", (blue, red, green)))
    put(tmp_path, "f.png", picture(2))
    put(tmp_path, "g.png", original.rotate(90))
    found = [each for each in report(scan(tmp_path), 512) if each.kind == "near_duplicate"]
    assert [each.path.relative_to(tmp_path).as_posix() for each in found] == ["b.jpg", "c.png", "d/c.png"]
    assert all("a.png" in str(each.message) for each in found)
    assert f"{tmp_path.name}/a.png" in str(found[2].message)


def test_plain_pictures_of_different_colours_are_no_duplicates(tmp_path: Path) -> None:
    for name in ("red", "blue", "white", "black"):
        put(tmp_path, f"{name}.png", Image.new("RGB", (512, 512), name))
    assert report(scan(tmp_path), 512) == ()


def test_long_captions_are_told_when_a_counter_is_given(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(1), "word " * 75)
    put(tmp_path, "b.png", picture(2), "word " * 76)
    dataset = scan(tmp_path)
    assert report(dataset, 512) == ()
    problems = report(dataset, 512, lambda text: len(text.split()))
    assert [(each.path.name, each.kind) for each in problems] == [("b.png", "long_caption")]
    assert "76 tokens" in str(problems[0].message)


def test_the_report_holds_what_the_scan_told_in_the_order_of_the_pictures(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(1, 100, 100), None)
    put(tmp_path, "b.png", b"")
    put(tmp_path, "c.png", picture(2, 100, 100), None)
    dataset = scan(tmp_path)
    assert [(each.path.name, each.kind) for each in report(dataset, 512)] == [
        ("b.png", "empty_file"),
        ("a.png", "missing_caption"),
        ("a.png", "tiny"),
        ("c.png", "missing_caption"),
        ("c.png", "tiny"),
    ]


def test_a_picture_deleted_after_the_scan_is_told(tmp_path: Path) -> None:
    put(tmp_path, "a.png", picture(1))
    put(tmp_path, "b.png", picture(2))
    dataset = scan(tmp_path)
    (tmp_path / "b.png").unlink()
    assert [(each.path.name, each.kind) for each in report(dataset, 512)] == [("b.png", "no_access")]


# The sentences --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("kind", LEVELS)
def test_every_sentence_names_the_file_and_ends_with_a_full_stop(kind: str, language: str) -> None:
    fields = [name for _, name, _, _ in string.Formatter().parse(catalog("en")[f"dataset.problem_{kind}"]) if name]
    word = Message("dataset.value_html")
    filled = problem(Path("some.png"), kind, **{name: word for name in fields if name not in ("name", "text_name")})
    sentence = say(filled.message, language)
    assert "some." in sentence or kind == "repeats_ignored"
    assert sentence.endswith(".")
    assert set(fields) <= dict(filled.message.params).keys()
    assert language == "en" or ("HTML page" not in sentence and sentence != str(filled.message))


def test_every_kind_of_problem_has_a_sentence_and_none_is_left_over() -> None:
    told = {key.removeprefix("dataset.problem_") for key in catalog("en") if key.startswith("dataset.problem_")}
    assert told == set(LEVELS)
