"""lora_core.dataset.fixes: one click mends, one undo takes it back, and nothing is ever deleted."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from lora_core.dataset import caption_editor, fixes, report, scan
from lora_core.dataset.caption_editor import CaptionEditor
from lora_core.dataset.edit_log import HISTORY, Move
from lora_core.errors import UserError
from lora_core.messages import plain
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
    fixes.leave_out(CaptionEditor(folder), [folder / "1.png"])
    assert sorted(content(folder)) == ["0.png", "0.txt", "2.png", "2.txt"]
    assert [item.path.name for item in scan(folder).items] == ["0.png", "2.png"]
    again = CaptionEditor(folder)
    assert str(again.next_undo) == "1.png left out"
    again.undo()
    assert content(folder) == before and again.captions[folder / "1.png"] == "caption 1"
    again.redo()
    assert "1.png" not in content(folder)


def test_a_caption_edited_before_its_picture_went_comes_back_edited(folder: Path) -> None:
    before, editor = content(folder), CaptionEditor(folder)
    editor.apply({folder / "1.png": "edited"}, plain("Edit"))
    edited = content(folder)
    fixes.leave_out(editor, [folder / "1.png"])
    assert str(editor.next_undo) == "1.png left out"
    again = CaptionEditor(folder)
    again.apply({folder / "0.png": "other"}, plain("Other"))
    assert [str(again.next_undo), *(str(edit.name) for edit in iter(again.undo, None))] == [
        "Other", "Other", "1.png left out", "Edit"
    ]  # fmt: skip
    assert content(folder) == before
    while again.redo():
        pass
    assert "1.txt" not in content(folder) and content(folder)["0.txt"] == b"other"
    again.undo()
    again.undo()
    assert content(folder) == edited and str(again.next_redo) == "1.png left out"


def test_an_edit_after_a_move_expects_nothing_while_both_are_taken_back(folder: Path) -> None:
    before, editor = content(folder), CaptionEditor(folder)
    editor.move([Move("1.png", "9.png"), Move("1.txt", "9.txt")], plain("Rename"))
    editor.apply({folder / "9.png": "nine"}, plain("Edit"))
    editor.undo()
    editor.undo()
    assert content(folder) == before
    assert [str(edit.name) for edit in iter(editor.redo, None)] == ["Rename", "Edit"]
    assert content(folder)["9.txt"] == b"nine"


def test_a_shared_caption_stays_with_the_picture_that_stays(folder: Path) -> None:
    Image.new("RGB", (9, 9)).save(folder / "1.jpg")
    fixes.leave_out(CaptionEditor(folder), [folder / "1.png"])
    assert (folder / "1.txt").is_file()
    fixes.leave_out(CaptionEditor(folder), [folder / "1.jpg"])
    assert not (folder / "1.txt").exists()


@pytest.mark.parametrize(
    ("quarters", "size", "corner"), [(1, (32, 64), (31, 0)), (2, (64, 32), (63, 31)), (3, (32, 64), (0, 63))]
)
def test_turning_is_exact_and_can_be_taken_back(
    folder: Path, quarters: int, size: tuple[int, int], corner: tuple[int, int]
) -> None:
    before = content(folder)
    editor = CaptionEditor(folder)
    fixes.turn(editor, folder / "0.png", quarters)
    with Image.open(folder / "0.png") as turned:
        assert turned.size == size and turned.convert("RGB").getpixel(corner) == (255, 0, 0)
    fixes.turn(editor, folder / "0.png", 4 - quarters)
    editor.undo()
    editor.undo()
    assert content(folder) == before


def test_a_stored_turn_is_put_upright_before_it_is_turned(folder: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # stored turned: shown, it is 32 wide
    with Image.open(folder / "0.png") as picture:
        picture.save(folder / "3.jpg", exif=exif, quality=95)
    fixes.turn(CaptionEditor(folder), folder / "3.jpg", 2)
    with Image.open(folder / "3.jpg") as turned:
        assert turned.size == (32, 64) and turned.getexif().get(0x0112, 1) == 1


def test_a_wrong_ending_and_an_odd_encoding_are_mended(folder: Path) -> None:
    (folder / "2.png").unlink()
    Image.new("RGB", (40, 40)).save(folder / "2.png", "JPEG")
    (folder / "2.txt").write_bytes("coração".encode("cp1252"))
    editor = CaptionEditor(folder)
    told = {problem.kind: problem for problem in scan(folder).problems}
    assert fixes.fixes_for(told["wrong_extension"]) == ("rename",)
    assert fixes.fixes_for(told["caption_encoding"]) == ("to_utf8",)
    fixes.rename(editor, folder / "2.png", str(dict(told["wrong_extension"].message.params)["better"]))
    fixes.to_utf8(editor, folder / "2.jpg")
    assert (folder / "2.txt").read_text(encoding="utf-8") == "coração" and not scan(folder).problems
    editor.undo()
    editor.undo()
    assert (folder / "2.png").is_file() and (folder / "2.txt").read_bytes() == "coração".encode("cp1252")


def test_what_is_in_the_way_stays_and_nothing_is_half_moved(folder: Path) -> None:
    editor = CaptionEditor(folder)
    before = content(folder)
    with pytest.raises(WriteError, match="in the way"):
        editor.move([Move("0.png", "9.png"), Move("1.png", "2.png")], plain("Both"))
    assert content(folder) == before and editor.next_undo is None


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
    before, editor = content(folder), CaptionEditor(folder)
    told = {(p.path.name, p.kind): p for p in report(scan(folder, may_be_empty=True), 64)}
    offered = {key: fixes.fixes_for(problem) for key, problem in told.items()}
    assert offered["moving.gif", "unknown_suffix"] == offered["print.jpg", "cmyk"] == ("to_png",)
    assert offered["drawing.svg", "unknown_suffix"] == offered["0.png", "missing_caption"] == ()
    assert offered["1.png", "same_stem"] == ("separate", "leave_out")
    assert offered["camera.jpg", "exif_rotated"] == ("upright",)
    missing = told["blue_hill.png", "missing_caption"]
    assert (fixes.fixes_for(missing), fixes.stand_in(missing)) == (("keep_caption",), "blue hill")
    fixes.to_png(editor, folder / "moving.gif")
    fixes.to_png(editor, folder / "print.jpg")
    fixes.separate(editor, folder / "1.png")
    fixes.turn(editor, folder / "camera.jpg", 0)
    fixes.keep_caption(editor, missing.path, fixes.stand_in(missing))
    left = {(p.path.name, p.kind) for p in report(scan(folder, may_be_empty=True), 64)}
    mended = {
        ("moving.gif", "unknown_suffix"), ("print.jpg", "cmyk"), ("1.png", "same_stem"), ("camera.jpg", "exif_rotated"),
        ("blue_hill.png", "missing_caption"),
    }  # fmt: skip
    assert mended <= set(told) and not mended & left
    assert {"moving.png", "print.png", "1-2.png"} <= set(content(folder)) and "print.jpg" not in content(folder)
    assert content(folder)["1-2.txt"] == content(folder)["1.txt"] == b"caption 1"
    with Image.open(folder / "camera.jpg") as picture:
        assert picture.size == (60, 90)
    assert [str(edit.name) for edit in iter(editor.undo, None)] == [
        "caption of blue_hill.png", "camera.jpg stored upright", "1.png with a caption of its own", "print.jpg as PNG",
        "moving.gif as PNG",
    ]  # fmt: skip
    assert content(folder) == before


def test_an_animation_is_not_turned(folder: Path) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    frames[0].save(folder / "0.png", save_all=True, append_images=frames[1:])
    with pytest.raises(UserError, match="several frames"):
        fixes.turn(CaptionEditor(folder), folder / "0.png", 1)


def test_pictures_are_added_under_free_names_with_their_captions(folder: Path) -> None:
    before, editor = content(folder), CaptionEditor(folder)
    staged = folder / fixes.ADDED / "x"
    staged.mkdir(parents=True)
    for name in ("new.png", "1.png", "1.txt"):
        (staged / name).write_bytes(name.encode())
    placed = fixes.add(editor, sorted(staged.iterdir()))
    assert sorted(path.name for path in placed) == ["1-2.png", "1-2.txt", "new.png"]
    assert content(folder) == before | {"1-2.png": b"1.png", "1-2.txt": b"1.txt", "new.png": b"new.png"}
    assert editor.captions[folder / "1-2.png"] == "1.txt"
    editor.undo()
    assert content(folder) == before
    editor.redo()
    assert (folder / "new.png").read_bytes() == b"new.png"


def test_what_is_saved_while_typed_is_one_undo_that_outlives_the_program(folder: Path) -> None:
    before, editor = content(folder), CaptionEditor(folder)
    for text in ("a", "a b", "a b c"):
        editor.apply({folder / "0.png": text}, plain("Caption of 0.png"), join=True)
    editor.apply({folder / "1.png": "other"}, plain("Caption of 1.png"), join=True)
    editor.apply({folder / "0.png": "a b c d"}, plain("Caption of 0.png"), join=True)
    again = CaptionEditor(folder)
    assert [str(edit.name)[-5:] for edit in iter(again.undo, None)] == ["0.png", "1.png", "0.png"]
    assert content(folder) == before
    again.redo()
    assert content(folder)["0.txt"] == b"a b c"
    (folder / "0.txt").write_bytes(b"theirs")
    again.apply({folder / "0.png": "mine"}, plain("Caption of 0.png"), join=True)
    again.undo()
    assert content(folder)["0.txt"] == b"theirs"


def test_a_joined_edit_that_fails_leaves_the_one_before(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before, editor = content(folder), CaptionEditor(folder)
    editor.apply({folder / "0.png": "first"}, plain("Edit"), join=True)
    saved = content(folder)

    def full(path: Path, data: bytes) -> None:
        raise WriteError(plain("full"))

    with monkeypatch.context() as patch:
        patch.setattr(caption_editor, "write_bytes_whole", full)
        with pytest.raises(WriteError, match="full"):
            editor.apply({folder / "0.png": "second"}, plain("Edit"), join=True)
        Image.new("RGB", (9, 9)).save(folder / "1.jpg")
        with pytest.raises(WriteError, match="full"):
            fixes.separate(editor, folder / "1.jpg")
    (folder / "1.jpg").unlink()
    assert content(folder) == saved and editor.next_undo == CaptionEditor(folder).next_undo == plain("Edit")
    editor.undo()
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
            fixes.turn(CaptionEditor(folder), folder / "0.png", 1)
    editor = CaptionEditor(folder)
    assert str(editor.next_undo) == "0.png turned"
    editor.undo()
    assert content(folder) == before
    editor.redo()
    with Image.open(folder / "0.png") as turned:
        assert turned.size == (32, 64)


def test_what_was_deleted_for_good_does_not_hold_up_earlier_edits(folder: Path) -> None:
    before, editor = content(folder), CaptionEditor(folder)
    editor.apply({folder / "0.png": "edited"}, plain("Edit"))
    fixes.leave_out(editor, [folder / "1.png"])
    shutil.rmtree(folder / fixes.LEFT_OUT)
    assert [str(edit.name) for edit in iter(editor.undo, None)] == ["1.png left out", "Edit"]
    assert content(folder) == {name: data for name, data in before.items() if not name.startswith("1.")}


def test_a_new_picture_in_the_place_of_one_left_out_is_not_written_over(folder: Path) -> None:
    editor = CaptionEditor(folder)
    fixes.leave_out(editor, [folder / "1.png"])
    (folder / "1.png").write_bytes(b"new")
    with pytest.raises(WriteError, match=r"1\.png is in the way"):
        editor.undo()
    assert (folder / "1.png").read_bytes() == b"new" and not (folder / "1.txt").exists()
    (folder / "1.png").unlink()
    editor.undo()
    assert (folder / "1.txt").is_file() and (folder / "1.png").stat().st_size > 3


def test_a_history_from_elsewhere_moves_nothing_outside_the_folder(folder: Path) -> None:
    outside = folder.parent / "mine.png"
    outside.write_bytes(b"mine")
    (folder / HISTORY).parent.mkdir()
    record = {"do": "edit", "label": "x", "changes": [], "moves": [["../mine.png", "0.txt"]]}
    (folder / HISTORY).write_text(json.dumps(record) + "\n", encoding="utf-8")
    editor = CaptionEditor(folder)
    assert editor.undo() is None and outside.read_bytes() == b"mine"
