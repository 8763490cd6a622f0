"""lora_core.dataset.captions, caption_editor and edit_log: any encoding in, UTF-8 out, every edit undoable."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from lora_core.dataset import caption_editor, captions, edit_log
from lora_core.dataset.caption_editor import CaptionEditor
from lora_core.dataset.captions import Caption, decode, read_caption
from lora_core.errors import UserError
from lora_core.messages import Message, plain, say
from lora_core.system import files

PORTUGUESE = (
    "a mulher no pôr do sol",
    "coração, ação, emoção",
    "“Olá”, disse João – à câmera…",
    "AÇÃO E CORAÇÃO",
    "três gatos às 3€",
    "pássaro azul",
)
EUROPEAN = ("naïve café", "straße mit Bäumen", "señorita en el jardín", "Œuvre d’art", "smørrebrød på bordet")
JAPANESE = (
    "女の子、青空",
    "カメラを持つ少女",
    "東京タワー",
    "夜景",
    "着物 女性",
    "赤い花 blue sky",
    "ー、。",
    "猫, white cat",
)


@pytest.mark.parametrize("text", [*PORTUGUESE, *EUROPEAN])
def test_western_windows_text_is_told_from_japanese(text: str) -> None:
    assert decode(text.encode("cp1252")) == (text, "cp1252")


@pytest.mark.parametrize("text", JAPANESE)
def test_japanese_windows_text_is_told_from_western(text: str) -> None:
    assert decode(text.encode("cp932")) == (text, "cp932")


@pytest.mark.parametrize("text", [*PORTUGUESE, *JAPANESE, "مرحبا بالعالم", "כלב לבן", "🐱 кот", "plain ascii", ""])
@pytest.mark.parametrize(("how", "named"), [("utf-8", "utf-8"), ("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16")])
def test_unicode_is_read_by_its_mark_or_its_form(tmp_path: Path, text: str, how: str, named: str) -> None:
    (tmp_path / "a.txt").write_bytes(text.encode(how))
    assert read_caption(tmp_path / "a.txt") == Caption(text, named, has_junk=False)


@pytest.mark.parametrize("how", ["utf-16-le", "utf-16-be"])
def test_utf16_without_a_mark_is_known_by_its_nuls(how: str) -> None:
    assert decode("a red ball".encode(how)) == ("a red ball", "utf-16")


def test_bytes_of_no_encoding_are_told_and_kept_as_far_as_possible() -> None:
    assert decode(b"red \x81\x20 ball \xe7") == ("red \ufffd  ball ç", "unknown")


@given(st.binary(max_size=300))
def test_any_bytes_decode_to_something_that_utf8_can_hold(data: bytes) -> None:
    text, encoding = decode(data)
    assert encoding in ("utf-8", "utf-8-sig", "utf-16", "cp932", "cp1252", "unknown")
    captions.clean(text).encode("utf-8")


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
@given(text=st.text(st.characters(codec=None)))
def test_captions_round_trip(tmp_path: Path, text: str) -> None:
    picture, path = tmp_path / "legenda ção.png", tmp_path / "legenda ção.txt"
    picture.touch()
    CaptionEditor(tmp_path).apply({picture: text})
    written = path.read_bytes() if path.exists() else b""
    assert written == captions.clean(text).encode("utf-8")
    assert CaptionEditor(tmp_path).captions == {picture: captions.clean(text)}
    if written:
        assert read_caption(path) == Caption(captions.clean(text), "utf-8", has_junk=False)


def test_controls_are_dropped_and_line_ends_unified() -> None:
    assert captions.clean("\ufeff a\0b\x07\r\nc\rd\te\x85 \n") == "ab\nc\nd\te"
    assert captions.has_junk("a\0")
    assert not captions.has_junk("a\r\n\tb אב \u200f")


def test_a_caption_with_controls_is_read_clean_and_told(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"a\0 ball \r\n")
    assert read_caption(tmp_path / "a.txt") == Caption("a ball", "utf-8", has_junk=True)


def test_what_is_no_caption_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        read_caption(tmp_path / "gone.txt")
    with open(tmp_path / "huge.txt", "wb") as file:
        file.truncate(captions.MAX_BYTES + 1)
    with pytest.raises(OSError, match="larger than 4 MB"):
        read_caption(tmp_path / "huge.txt")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.txt")
        with pytest.raises(OSError, match="not a file"):
            read_caption(tmp_path / "pipe.txt")


# Edits: pure functions ------------------------------------------------------------------------------------------------

A, B, C = Path("a.png"), Path("b.png"), Path("c.png")
TAGGED = {A: "cat, white fur, Sitting", B: "dog,  sitting ,white fur", C: ""}


def test_find_and_replace_plain_text_is_taken_literally() -> None:
    assert captions.find_replace({A: "a.b", B: "axb"}, ".", r"\1") == {A: r"a\1b"}
    assert captions.find_replace({A: "Cat cat"}, "cat", "dog") == {A: "Cat dog"}
    assert captions.find_replace({A: "Cat cat"}, "cat", "dog", ignore_case=True) == {A: "dog dog"}
    assert captions.find_replace(TAGGED, "nothing like it", "x") == {}


def test_find_and_replace_with_patterns() -> None:
    assert captions.find_replace({A: "red ball"}, r"(\w+) (\w+)", r"\2 \1", regex=True) == {A: "ball red"}


@pytest.mark.parametrize(
    ("find", "replace"), [("(", ""), ("a", r"\9"), ("a", r"\q"), ("(?P<x>a)", r"\g<y>"), ("[z-a]", "")]
)
def test_bad_patterns_are_told(find: str, replace: str) -> None:
    with pytest.raises(UserError, match="pattern cannot be used"):
        captions.find_replace({A: "a b"}, find, replace, regex=True)


def test_nothing_to_find_is_told() -> None:
    with pytest.raises(UserError, match="nothing to find"):
        captions.find_replace(TAGGED, "", "x")


def test_prefix_and_suffix() -> None:
    assert captions.add_prefix({A: "cat"}, "photo of a ") == {A: "photo of a cat"}
    assert captions.add_suffix({A: "cat", B: ""}, ", studio") == {A: "cat, studio", B: ", studio"}
    assert captions.add_prefix({A: "cat"}, "") == {}


def test_the_trigger_word_goes_where_it_is_missing() -> None:
    texts = {A: "a red ball", B: "a red AMPULHETA on blue", C: "", Path("d"): "ampulhetas"}
    assert captions.add_trigger(texts, " ampulheta ") == {
        A: "ampulheta, a red ball",
        C: "ampulheta",
        Path("d"): "ampulheta, ampulhetas",
    }
    assert captions.add_trigger({A: "c++ x"}, "c++") == {}
    with pytest.raises(UserError, match="no trigger word"):
        captions.add_trigger(texts, "  ")


def test_tags_are_removed_and_counted_in_any_case() -> None:
    assert captions.remove_tag(TAGGED, "SITTING") == {A: "cat, white fur", B: "dog, white fur"}
    assert captions.remove_tag(TAGGED, "white") == {}
    assert captions.tag_counts(TAGGED) == {"Sitting": 2, "white fur": 2, "cat": 1, "dog": 1}
    assert list(captions.tag_counts(TAGGED)) == ["Sitting", "white fur", "cat", "dog"]
    assert captions.tag_counts({A: "cat, cat"}) == {"cat": 1}


@given(
    st.dictionaries(st.builds(Path, st.text("abc", min_size=1)), st.text(max_size=40)), st.text(min_size=1, max_size=5)
)
def test_edits_never_touch_their_input_and_return_changes_only(texts: dict[Path, str], word: str) -> None:
    before = dict(texts)
    edits: list[Callable[[], dict[Path, str]]] = [
        lambda: captions.add_prefix(texts, word),
        lambda: captions.add_suffix(texts, word),
        lambda: captions.remove_tag(texts, word),
        lambda: captions.find_replace(texts, word, "x"),
    ]
    for edit in edits:
        changed = edit()
        assert texts == before
        assert all(texts[path] != text for path, text in changed.items())


# The editor: edits on disk ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three pictures: one with a caption in cp1252, one in UTF-8, one without; the last in a sub-folder."""
    home = tmp_path / "quadros ção"
    (home / "sub").mkdir(parents=True)
    for name in ("000.png", "001.jpg", "sub/002.png"):
        Image.new("RGB", (8, 8)).save(home / name)
    (home / "000.txt").write_bytes("um coração\r\n".encode("cp1252"))
    (home / "001.txt").write_bytes(b"a dog")
    return home


def on_disk(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*.txt"))}


def test_the_editor_reads_and_writes_nothing_on_opening(folder: Path) -> None:
    before = on_disk(folder)
    editor = CaptionEditor(folder)
    assert editor.captions == {folder / "000.png": "um coração", folder / "001.jpg": "a dog", folder / "sub/002.png": ""}
    assert (editor.next_undo, editor.next_redo) == (None, None)
    assert editor.undo() is None
    assert editor.redo() is None
    assert on_disk(folder) == before
    assert not (folder / ".treino").exists()


def test_edits_reach_the_disk_and_undo_brings_back_the_very_bytes(folder: Path) -> None:
    original = on_disk(folder)
    editor = CaptionEditor(folder)
    assert editor.apply(captions.add_prefix(editor.captions, "photo: "), plain("Add prefix")) == 3
    edited = on_disk(folder)
    assert edited == {"000.txt": "photo: um coração".encode(), "001.txt": b"photo: a dog", "sub/002.txt": b"photo:"}
    assert editor.captions[folder / "000.png"] == "photo: um coração"
    assert editor.next_undo == plain("Add prefix")
    undone = editor.undo()
    assert undone is not None
    assert undone.name == plain("Add prefix")
    assert on_disk(folder) == original
    assert editor.captions[folder / "sub/002.png"] == ""
    assert (editor.next_undo, editor.next_redo) == (None, plain("Add prefix"))
    editor.redo()
    assert on_disk(folder) == edited


def test_undo_and_redo_survive_a_restart(folder: Path) -> None:
    original = on_disk(folder)
    CaptionEditor(folder).apply({folder / "000.png": "one"}, plain("First"))
    CaptionEditor(folder).apply({folder / "000.png": "two"}, plain("Second"))
    CaptionEditor(folder).undo()
    assert read_caption(folder / "000.txt").text == "one"
    assert CaptionEditor(folder).next_redo == plain("Second")
    CaptionEditor(folder).undo()
    assert on_disk(folder) == original
    CaptionEditor(folder).redo()
    CaptionEditor(folder).redo()
    assert read_caption(folder / "000.txt").text == "two"


def test_a_new_edit_ends_what_could_be_redone(folder: Path) -> None:
    editor = CaptionEditor(folder)
    editor.apply({folder / "000.png": "one"})
    editor.undo()
    editor.apply({folder / "000.png": "other"})
    assert editor.redo() is None
    assert CaptionEditor(folder).redo() is None


def test_what_does_not_change_is_no_edit_but_encodings_are_mended(folder: Path) -> None:
    editor = CaptionEditor(folder)
    assert editor.apply({folder / "001.jpg": "a dog", folder / "sub/002.png": "  "}) == 0
    assert editor.next_undo is None
    assert editor.apply({folder / "000.png": editor.captions[folder / "000.png"]}, plain("Save as UTF-8")) == 1
    assert (folder / "000.txt").read_bytes() == "um coração".encode()


def test_changes_from_outside_are_an_edit_of_their_own(folder: Path) -> None:
    editor = CaptionEditor(folder)
    editor.apply({folder / "001.jpg": "ours"}, plain("Ours"))
    (folder / "001.txt").write_bytes(b"theirs")
    first = editor.undo()
    assert first is not None
    assert first.name == edit_log.OUTSIDE
    assert (folder / "001.txt").read_bytes() == b"ours"
    editor.undo()
    assert (folder / "001.txt").read_bytes() == b"a dog"
    editor.redo()
    editor.redo()
    assert (folder / "001.txt").read_bytes() == b"theirs"
    assert editor.captions[folder / "001.jpg"] == "theirs"


def test_a_write_that_fails_half_way_leaves_all_as_it_was(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = on_disk(folder)
    editor = CaptionEditor(folder)
    real = files.write_bytes_whole

    def full(path: Path, data: bytes) -> None:
        if path.name == "002.txt":
            raise files.WriteError(files.explain(OSError(errno.ENOSPC, "No space left"), path))
        real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(caption_editor, "write_bytes_whole", full)
        with pytest.raises(UserError, match="disk is full"):
            editor.apply(captions.add_prefix(editor.captions, "x "), plain("Add prefix"))
    assert on_disk(folder) == original
    assert editor.captions[folder / "001.jpg"] == "a dog"
    for opened in (editor, CaptionEditor(folder)):
        assert opened.undo() is None
        assert on_disk(folder) == original


def test_a_crash_after_the_history_line_loses_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The program dies between logging an edit and writing the captions: undo still ends at the originals."""
    original = on_disk(folder)

    def die(path: Path, data: bytes) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(caption_editor, "write_bytes_whole", die)
        with pytest.raises(KeyboardInterrupt):
            CaptionEditor(folder).apply({folder / "000.png": "new"})
    editor = CaptionEditor(folder)
    while editor.undo():
        pass
    assert on_disk(folder) == original


def test_a_history_cut_at_any_byte_still_opens_and_goes_on(folder: Path) -> None:
    editor = CaptionEditor(folder)
    for text in ("one", "two ção", "three"):
        editor.apply({folder / "001.jpg": text})
    editor.undo()
    history = folder.joinpath(edit_log.HISTORY)
    whole, captions_then = history.read_bytes(), on_disk(folder)
    for cut in range(0, len(whole), 7):
        history.write_bytes(whole[:cut])
        for name, content in captions_then.items():
            (folder / name).write_bytes(content)
        opened = CaptionEditor(folder)
        opened.apply({folder / "001.jpg": "after the cut"})
        assert CaptionEditor(folder).next_undo == edit_log.did("edit")
        CaptionEditor(folder).undo()
        assert on_disk(folder) == captions_then


@pytest.mark.parametrize(
    ("label", "name"),
    [
        ("@replace\ta b\t" + "x" * 60, Message("dataset.did_replace", find="a b", replace="x" * 39 + "…")),
        ("@caption\t{name}.png", Message("dataset.did_caption", name="{name}.png")),
        ("@describe\t2", Message("dataset.did_describe", count="2")),
        ("Changed by another program", Message("dataset.did_outside")),
        ("Earlier edits", Message("dataset.did_earlier")),
        ("Describe the pictures", Message("dataset.did_described")),
        ("Edit captions", Message("dataset.did_edit")),
        ("Of another program", plain("Of another program")),
        ("@nothing\tx", plain("@nothing\tx")),
        ("@replace\tx", plain("@replace\tx")),
        ("@", plain("@")),
    ],
)
def test_the_log_of_an_older_version_opens(folder: Path, label: str, name: Message) -> None:
    (folder / ".treino").mkdir()
    change = {"file": "001.txt", "before": "a cat", "after": "a dog"}
    line = json.dumps({"do": "edit", "label": label, "changes": [change]}) + "\n"
    folder.joinpath(edit_log.HISTORY).write_text(line, encoding="utf-8")
    editor = CaptionEditor(folder)
    assert editor.next_undo == name
    editor.undo()
    assert (folder / "001.txt").read_bytes() == b"a cat"
    assert CaptionEditor(folder).next_redo == name


def test_edits_are_named_in_every_language_and_by_people_who_read_the_log(folder: Path) -> None:
    CaptionEditor(folder).apply({folder / "001.jpg": "x"}, edit_log.did("replace", find="dog", replace="x" * 60))
    name = CaptionEditor(folder).next_undo
    assert name is not None and str(name) == f"“dog” replaced by “{'x' * 39}…”"
    assert say(name, "pt-BR") == f"“dog” trocado por “{'x' * 39}…”"
    line = json.loads(folder.joinpath(edit_log.HISTORY).read_text(encoding="utf-8"))
    assert line["label"] == str(name)


@pytest.mark.parametrize(
    "line", ["null", "[]", "{}", "nonsense", '{"do": "edit"}', '{"do": "edit", "label": 1, "changes": 3}', "[" * 9999]
)
def test_rubbish_in_the_history_is_passed_over(folder: Path, line: str) -> None:
    CaptionEditor(folder).apply({folder / "001.jpg": "one"}, plain("Mine"))
    with open(folder.joinpath(edit_log.HISTORY), "a", encoding="utf-8") as file:
        file.write(line + "\n")
    editor = CaptionEditor(folder)
    assert editor.next_undo == plain("Mine")
    editor.undo()
    assert (folder / "001.txt").read_bytes() == b"a dog"


@pytest.mark.parametrize("name", ["../evil.txt", "sub/../../evil.txt", "evil.bat", "ABSOLUTE"])
def test_a_history_from_elsewhere_cannot_write_outside_the_folder(folder: Path, name: str) -> None:
    name = str(folder.parent / "evil.txt") if name == "ABSOLUTE" else name
    (folder / ".treino").mkdir()
    change = {"file": name, "before": "evil", "after": None}
    line = json.dumps({"do": "edit", "label": "x", "changes": [change]}) + "\n"
    folder.joinpath(edit_log.HISTORY).write_text(line, encoding="utf-8")
    editor = CaptionEditor(folder)
    assert editor.undo() is None
    assert sorted(p.name for p in folder.parent.rglob("evil*")) == []


def test_a_long_history_is_merged_and_keeps_the_originals(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    original = on_disk(folder)
    monkeypatch.setattr(edit_log, "MOST_EDITS", 10)
    editor = CaptionEditor(folder)
    for n in range(20):
        editor.apply({folder / ("000.png" if n % 2 else "001.jpg"): f"text {n}"}, plain(f"Edit {n}"))
    editor.undo()
    latest = on_disk(folder)
    opened = CaptionEditor(folder)
    assert opened.next_redo == plain("Edit 19")
    labels = []
    while edit := opened.undo():
        labels.append(edit.name)
    assert labels[-1] == edit_log.EARLIER
    assert len(labels) < 12
    assert on_disk(folder) == original
    again = CaptionEditor(folder)
    while again.next_redo not in (None, plain("Edit 19")):
        again.redo()
    assert on_disk(folder) == latest


def test_pictures_that_share_a_caption_need_the_same_text(folder: Path) -> None:
    Image.new("RGB", (8, 8)).save(folder / "001.png")
    editor = CaptionEditor(folder)
    with pytest.raises(UserError, match="shares its caption"):
        editor.apply({folder / "001.png": "x", folder / "001.jpg": "y"})
    editor.apply({folder / "001.png": "both"})
    assert editor.captions[folder / "001.jpg"] == "both"


def test_unreadable_captions_are_never_overwritten(folder: Path) -> None:
    (folder / "sub/002.txt").mkdir()
    editor = CaptionEditor(folder)
    assert editor.captions[folder / "sub/002.png"] == ""
    with pytest.raises(UserError, match="cannot be read"):
        editor.apply({folder / "sub/002.png": "x"})


def test_a_deleted_subfolder_does_not_block_undo(folder: Path) -> None:
    editor = CaptionEditor(folder)
    editor.apply({folder / "sub/002.png": "x", folder / "001.jpg": "y"})
    for path in (folder / "sub/002.txt", folder / "sub/002.png"):
        path.unlink()
    (folder / "sub").rmdir()
    editor.undo()
    assert (folder / "001.txt").read_bytes() == b"a dog"
    assert editor.undo() is None


def test_strange_pictures_and_folders_are_told(folder: Path) -> None:
    with pytest.raises(UserError, match="not in the dataset folder"):
        CaptionEditor(folder).apply({Path("elsewhere.png"): "x"})
    with pytest.raises(UserError, match="does not exist"):
        CaptionEditor(folder / "gone")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a user whom permissions bind")
def test_a_read_only_folder_is_told(folder: Path) -> None:
    folder.chmod(0o500)
    try:
        with pytest.raises(UserError, match="cannot be written"):
            CaptionEditor(folder).apply({folder / "001.jpg": "x"})
    finally:
        folder.chmod(0o700)
