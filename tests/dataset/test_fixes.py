"""lora_core.dataset.fixes: one click mends, one undo takes it back, and nothing is ever deleted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lora_core.dataset import caption_editor, fixes, report, scan, survey
from lora_core.dataset.caption_editor import CaptionBook
from lora_core.dataset.edit_log import HISTORY, Move
from lora_core.errors import UserError
from lora_core.system.files import WriteError


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(3):
        picture = Image.new("RGB", (64, 32), "white")
        picture.paste((255, 0, 0), (0, 0, 8, 8))  # red in the corner at the top left
        picture.save(tmp_path / f"{number}.png")
        (tmp_path / f"{number}.txt").write_text(f"caption {number}", encoding="utf-8")
    return tmp_path


def content(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_a_picture_left_out_comes_back_with_its_caption_after_a_restart(folder: Path) -> None:
    before = content(folder)
    fixes.leave_out(CaptionBook(folder), folder, [folder / "1.png"], "Leave out 1.png")
    assert sorted(content(folder)) == ["0.png", "0.txt", "2.png", "2.txt"]
    assert [item.path.name for item in scan(folder).items] == ["0.png", "2.png"]
    again = CaptionBook(folder)
    assert again.undo_label == "Leave out 1.png"
    again.undo()
    assert content(folder) == before and again.captions[folder / "1.png"] == "caption 1"
    again.redo()
    assert "1.png" not in content(folder)


def test_a_caption_edited_before_its_picture_went_comes_back_edited(folder: Path) -> None:
    before, book = content(folder), CaptionBook(folder)
    book.apply({folder / "1.png": "edited"}, "Edit")
    edited = content(folder)
    fixes.leave_out(book, folder, [folder / "1.png"], "Leave out")
    assert book.undo_label == "Leave out"
    again = CaptionBook(folder)
    again.apply({folder / "0.png": "other"}, "Other")
    assert [again.undo_label, *(edit.label for edit in iter(again.undo, None))] == [
        "Other", "Other", "Leave out", "Edit"
    ]  # fmt: skip
    assert content(folder) == before
    while again.redo():
        pass
    assert "1.txt" not in content(folder) and content(folder)["0.txt"] == b"other"
    again.undo()
    again.undo()
    assert content(folder) == edited and again.redo_label == "Leave out"


def test_an_edit_after_a_move_expects_nothing_while_both_are_taken_back(folder: Path) -> None:
    before, book = content(folder), CaptionBook(folder)
    book.move([Move("1.png", "9.png"), Move("1.txt", "9.txt")], "Rename")
    book.apply({folder / "9.png": "nine"}, "Edit")
    book.undo()
    book.undo()
    assert content(folder) == before
    assert [edit.label for edit in iter(book.redo, None)] == ["Rename", "Edit"]
    assert content(folder)["9.txt"] == b"nine"


def test_a_shared_caption_stays_with_the_picture_that_stays(folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "1.jpg")
    fixes.leave_out(CaptionBook(folder), folder, [folder / "1.png"], "")
    assert (folder / "1.txt").is_file()
    fixes.leave_out(CaptionBook(folder), folder, [folder / "1.jpg"], "")
    assert not (folder / "1.txt").exists()


@pytest.mark.parametrize(
    ("quarters", "size", "corner"), [(1, (32, 64), (31, 0)), (2, (64, 32), (63, 31)), (3, (32, 64), (0, 63))]
)
def test_turning_is_exact_and_can_be_taken_back(
    folder: Path, quarters: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    before = content(folder)
    book = CaptionBook(folder)
    fixes.turn(book, folder, folder / "0.png", quarters, "Turn")
    with Image.open(folder / "0.png") as turned:
        assert turned.size == size and turned.convert("RGB").getpixel(corner) == (255, 0, 0)
    fixes.turn(book, folder, folder / "0.png", 4 - quarters, "Turn back")
    book.undo()
    book.undo()
    assert content(folder) == before


def test_a_stored_turn_is_put_upright_before_it_is_turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: shown, it is 32 wide
    with Image.open(folder / "0.png") as picture:
        picture.save(folder / "3.jpg", exif=exif, quality=95)
    fixes.turn(CaptionBook(folder), folder, folder / "3.jpg", 2, "Turn")
    with Image.open(folder / "3.jpg") as turned:
        assert turned.size == (32, 64) and turned.getexif().get(0x0112, 1) == 1


def test_a_wrong_ending_and_an_odd_encoding_are_mended(folder: Path) -> None:
    (folder / "2.png").unlink()
    Image.new("RGB", (40, 40)).save(folder / "2.png", "JPEG")
    (folder / "2.txt").write_bytes("coração".encode("cp1252"))
    book = CaptionBook(folder)
    told = {problem.kind: problem for problem in scan(folder).problems}
    assert fixes.fixes_for(told["wrong_extension"]) == (fixes.RENAME,)
    assert fixes.fixes_for(told["caption_encoding"]) == (fixes.TO_UTF8,)
    fixes.rename(book, folder, folder / "2.png", dict(told["wrong_extension"].values)["better"], "Rename")
    fixes.to_utf8(book, folder / "2.jpg", "UTF-8")
    assert (folder / "2.txt").read_text(encoding="utf-8") == "coração" and not scan(folder).problems
    book.undo()
    book.undo()
    assert (folder / "2.png").is_file() and (folder / "2.txt").read_bytes() == "coração".encode("cp1252")


def test_what_is_in_the_way_stays_and_nothing_is_half_moved(folder: Path) -> None:
    book = CaptionBook(folder)
    before = content(folder)
    with pytest.raises(WriteError, match="in the way"):
        book.move([Move("0.png", "9.png"), Move("1.png", "2.png")], "Both")
    assert content(folder) == before and book.undo_label == ""


def test_the_report_offers_what_helps_and_each_can_be_taken_back(folder: Path) -> None:
    Image.new("RGB", (300, 200), "green").save(folder / "moving.gif")
    Image.new("CMYK", (300, 200)).save(folder / "print.jpg")
    Image.new("RGB", (9, 9)).save(folder / "1.jpg")
    (folder / "0.txt").unlink()
    (folder / "drawing.svg").write_text("<svg/>", encoding="utf-8")
    Image.new("RGB", (80, 80), "blue").save(folder / "blue_hill.png")
    exif = Image.Exif()
    exif[0x0112] = 8
    Image.new("RGB", (90, 60), "red").save(folder / "camera.jpg", exif=exif)
    before, book = content(folder), CaptionBook(folder)
    told = {(p.path.name, p.kind): p for p in report(survey(folder), 64)}
    offered = {key: fixes.fixes_for(problem) for key, problem in told.items()}
    assert offered["moving.gif", "unknown_suffix"] == offered["print.jpg", "cmyk"] == (fixes.TO_PNG,)
    assert offered["drawing.svg", "unknown_suffix"] == offered["0.png", "missing_caption"] == ()
    assert offered["1.png", "same_stem"] == (fixes.SEPARATE, fixes.LEAVE_OUT)
    assert offered["camera.jpg", "exif_rotated"] == (fixes.UPRIGHT,)
    missing = told["blue_hill.png", "missing_caption"]
    assert (fixes.fixes_for(missing), fixes.stand_in(missing)) == ((fixes.KEEP_CAPTION,), "blue hill")
    fixes.to_png(book, folder, folder / "moving.gif", "PNG")
    fixes.to_png(book, folder, folder / "print.jpg", "PNG")
    fixes.separate(book, folder, folder / "1.png", "Separate")
    fixes.turn(book, folder, folder / "camera.jpg", 0, "Upright")
    fixes.keep_caption(book, missing.path, fixes.stand_in(missing), "Keep")
    left = {(p.path.name, p.kind) for p in report(survey(folder), 64)}
    mended = {
        ("moving.gif", "unknown_suffix"), ("print.jpg", "cmyk"), ("1.png", "same_stem"), ("camera.jpg", "exif_rotated"),
        ("blue_hill.png", "missing_caption"),
    }  # fmt: skip
    assert mended <= set(told) and not mended & left
    assert {"moving.png", "print.png", "1-2.png"} <= set(content(folder)) and "print.jpg" not in content(folder)
    assert content(folder)["1-2.txt"] == content(folder)["1.txt"] == b"caption 1"
    with Image.open(folder / "camera.jpg") as picture:
        assert picture.size == (60, 90)
    assert [edit.label for edit in iter(book.undo, None)] == ["Keep", "Upright", "Separate", "PNG", "PNG"]
    assert content(folder) == before


def test_an_animation_is_not_turned(folder: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "0.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several frames"):
        fixes.turn(CaptionBook(folder), folder, folder / "0.png", 1, "Turn")


def test_pictures_are_added_under_free_names_with_their_captions(folder: Path) -> None:
    before, book = content(folder), CaptionBook(folder)
    staged = folder / fixes.ADDED / "x"
    staged.mkdir(parents=True)
    for name in ("new.png", "1.png", "1.txt"):
        (staged / name).write_bytes(name.encode())
    placed = fixes.add(book, folder, sorted(staged.iterdir()), "Add")
    assert sorted(path.name for path in placed) == ["1-2.png", "1-2.txt", "new.png"]
    assert content(folder) == before | {"1-2.png": b"1.png", "1-2.txt": b"1.txt", "new.png": b"new.png"}
    assert book.captions[folder / "1-2.png"] == "1.txt"
    book.undo()
    assert content(folder) == before
    book.redo()
    assert (folder / "new.png").read_bytes() == b"new.png"


def test_what_is_saved_while_typed_is_one_undo_that_outlives_the_program(folder: Path) -> None:
    before, book = content(folder), CaptionBook(folder)
    for text in ("a", "a b", "a b c"):
        book.apply({folder / "0.png": text}, "Caption of 0.png", join=True)
    book.apply({folder / "1.png": "other"}, "Caption of 1.png", join=True)
    book.apply({folder / "0.png": "a b c d"}, "Caption of 0.png", join=True)
    again = CaptionBook(folder)
    assert [edit.label[-5:] for edit in iter(again.undo, None)] == ["0.png", "1.png", "0.png"]
    assert content(folder) == before
    again.redo()
    assert content(folder)["0.txt"] == b"a b c"
    (folder / "0.txt").write_bytes(b"theirs")
    again.apply({folder / "0.png": "mine"}, "Caption of 0.png", join=True)
    again.undo()
    assert content(folder)["0.txt"] == b"theirs"


def test_a_joined_edit_that_fails_leaves_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, book = content(folder), CaptionBook(folder)
    book.apply({folder / "0.png": "first"}, "Edit", join=True)
    saved = content(folder)

    def full(path: Path, data: bytes) -> None:
        raise WriteError("full")

    with monkeypatch.context() as patch:
        patch.setattr(caption_editor, "write_bytes_whole", full)
        with pytest.raises(WriteError, match="full"):
            book.apply({folder / "0.png": "second"}, "Edit", join=True)
        Image.new("RGB", (9, 9)).save(folder / "1.jpg")
        with pytest.raises(WriteError, match="full"):
            fixes.separate(book, folder, folder / "1.jpg", "Separate")
    (folder / "1.jpg").unlink()
    assert content(folder) == saved and book.undo_label == CaptionBook(folder).undo_label == "Edit"
    book.undo()
    assert content(folder) == before


@pytest.mark.parametrize("survived", [0, 1])
def test_a_crash_halfway_through_a_turn_can_be_taken_back(
    folder: Path, survived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    before, real, calls = content(folder), os.rename, []

    def die(source: Path, target: Path) -> None:
        calls.append(source)
        if len(calls) > survived:
            raise KeyboardInterrupt
        real(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(caption_editor.os, "rename", die)
        with pytest.raises(KeyboardInterrupt):
            fixes.turn(CaptionBook(folder), folder, folder / "0.png", 1, "Turn")
    book = CaptionBook(folder)
    assert book.undo_label == "Turn"
    book.undo()
    assert content(folder) == before
    book.redo()
    with Image.open(folder / "0.png") as turned:
        assert turned.size == (32, 64)


def test_what_was_deleted_for_good_does_not_hold_up_earlier_edits(folder: Path) -> None:
    before, book = content(folder), CaptionBook(folder)
    book.apply({folder / "0.png": "edited"}, "Edit")
    fixes.leave_out(book, folder, [folder / "1.png"], "Leave out")
    shutil.rmtree(folder / fixes.LEFT_OUT)
    assert [edit.label for edit in iter(book.undo, None)] == ["Leave out", "Edit"]
    assert content(folder) == {name: data for name, data in before.items() if not name.startswith("1.")}


def test_a_new_picture_in_the_place_of_one_left_out_is_not_written_over(folder: Path) -> None:
    book = CaptionBook(folder)
    fixes.leave_out(book, folder, [folder / "1.png"], "Leave out")
    (folder / "1.png").write_bytes(b"new")
    with pytest.raises(WriteError, match=r"1\.png is in the way"):
        book.undo()
    assert (folder / "1.png").read_bytes() == b"new" and not (folder / "1.txt").exists()
    (folder / "1.png").unlink()
    book.undo()
    assert (folder / "1.txt").is_file() and (folder / "1.png").stat().st_size > 3


def test_a_history_from_elsewhere_moves_nothing_outside_the_folder(folder: Path) -> None:
    outside = folder.parent / "mine.png"
    outside.write_bytes(b"mine")
    (folder / HISTORY).parent.mkdir()
    record = {"do": "edit", "label": "x", "changes": [], "moves": [["../mine.png", "0.txt"]]}
    (folder / HISTORY).write_text(json.dumps(record) + "\n", encoding="utf-8")
    book = CaptionBook(folder)
    assert book.undo() is None and outside.read_bytes() == b"mine"
