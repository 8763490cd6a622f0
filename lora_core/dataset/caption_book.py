"""The captions of a folder, edited on disk, every edit undoable - after a restart, too.

The history is `.treino/captions.jsonl` in the dataset folder, one line per edit, undo or redo, written and flushed
before the caption files change. It holds the old bytes of each file, so undo brings back the original exactly:
its encoding, its line ends, or its absence.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lora_core.dataset.captions import caption_bytes, caption_path, clean, decode
from lora_core.dataset.listing import list_folder
from lora_core.errors import UserError
from lora_core.files import WriteError, explain, write_bytes_whole, write_text_whole

HISTORY = PurePosixPath(".treino/captions.jsonl")
OUTSIDE = "Changed by another program"
EARLIER = "Earlier edits"
MOST_EDITS = 500  # older ones are merged into one when the book is opened, so the originals stay within reach


@dataclass(frozen=True)
class Change:
    """One caption file before and after an edit, as bytes; None where there is no file."""

    file: str  # relative to the dataset folder, with forward slashes
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Edit:
    """What one undo takes back."""

    label: str
    changes: tuple[Change, ...]


class CaptionBook:
    """The captions of all pictures in a dataset folder, by picture; edits go to disk at once. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Read captions and history; nothing is written. Raises UserError for a folder that cannot be listed."""
        self._folder = folder
        self._lock = threading.RLock()
        self._captions: dict[Path, str] = {}
        self._history = _History(folder)
        self.reload()

    @property
    def captions(self) -> dict[Path, str]:
        """A copy of the captions by picture path; "" where there is none."""
        with self._lock:
            return dict(self._captions)

    @property
    def undo_label(self) -> str:
        """What `undo` would take back; "" when there is nothing."""
        applied = self._history.applied
        return applied[-1].label if applied else ""

    @property
    def redo_label(self) -> str:
        """What `redo` would do again; "" when there is nothing."""
        undone = self._history.undone
        return undone[0].label if undone else ""

    def reload(self) -> None:
        """Read everything from disk again, for pictures and captions that other programs changed."""
        with self._lock:
            self._captions = {picture: self._read(picture) for picture in list_folder(self._folder).pictures}

    def apply(self, changed: Mapping[Path, str], label: str = "Edit captions") -> int:
        """Write new captions (by picture) as one edit; returns how many files changed.

        The same text again rewrites a file that is not clean UTF-8. Pictures that share a caption file have to be
        given the same text. Raises UserError, and WriteError with every file as it was.
        """
        with self._lock:
            self._notice_outside_changes()
            texts: dict[str, str] = {}
            for picture, text in changed.items():
                if picture not in self._captions:
                    raise UserError(f"{picture} is not in the dataset folder {self._folder}: open that folder again.")
                if texts.setdefault(self._relative(picture), clean(text)) != clean(text):
                    raise UserError(
                        f"{picture.name} shares its caption with another picture: rename one of them first."
                    )
            changes = tuple(
                Change(file, before, text.encode("utf-8"))
                for file, text in texts.items()
                if (before := self._bytes(file)) != text.encode("utf-8") and (before is not None or text)
            )
            if not changes:
                return 0
            self._history.add(Edit(label, changes))
            try:
                self._write((change.file, change.after) for change in changes)
            except WriteError:
                self._take_back(changes)
                raise
            self._refresh(changes)
            return len(changes)

    def undo(self) -> Edit | None:
        """Take back the last edit and return it; None when there is none. Raises WriteError.

        What another program wrote meanwhile counts as an edit of its own, so that it is not lost either.
        """
        with self._lock:
            self._notice_outside_changes()
            if not self._history.applied:
                return None
            edit = self._history.step_back()
            self._write((change.file, change.before) for change in edit.changes)
            self._refresh(edit.changes)
            return edit

    def redo(self) -> Edit | None:
        """Do again what `undo` took back last; None when there is nothing. Raises WriteError."""
        with self._lock:
            self._notice_outside_changes()
            if not self._history.undone:
                return None
            edit = self._history.step_forward()
            self._write((change.file, change.after) for change in edit.changes)
            self._refresh(edit.changes)
            return edit

    def _notice_outside_changes(self) -> None:
        expected = {file: was for file, was in self._history.expected().items() if self._has_place(file)}
        changes = [Change(file, was, now) for file, was in expected.items() if (now := self._bytes(file)) != was]
        if changes:
            self._history.add(Edit(OUTSIDE, tuple(changes)))
            self._refresh(changes)

    def _take_back(self, changes: Iterable[Change]) -> None:
        """Undo a half-written edit as far as the disk lets us, and forget it."""
        for change in changes:
            with contextlib.suppress(UserError):
                if self._bytes(change.file) != change.before:
                    self._write([(change.file, change.before)])
        with contextlib.suppress(WriteError):
            self._history.drop_last()

    def _write(self, contents: Iterable[tuple[str, bytes | None]]) -> None:
        for file, content in contents:
            path = self._folder.joinpath(file)
            if not self._has_place(file):
                continue
            if content is not None:
                write_bytes_whole(path, content)
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise WriteError(explain(error, path)) from error

    def _refresh(self, changes: Iterable[Change]) -> None:
        touched = {change.file for change in changes}
        for picture in self._captions:
            if self._relative(picture) in touched:
                self._captions[picture] = self._read(picture)

    def _read(self, picture: Path) -> str:
        try:
            content = self._bytes(self._relative(picture))
        except UserError:
            return ""  # the quality report tells of captions that exist but cannot be read
        return "" if content is None else clean(decode(content)[0])

    def _bytes(self, file: str) -> bytes | None:
        """What the file holds, None when it is not there. Raises UserError when it is there and cannot be read."""
        path = self._folder.joinpath(file)
        try:
            return caption_bytes(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError(f"{path} cannot be read ({error.strerror or error}): check the file.") from error

    def _has_place(self, file: str) -> bool:
        """False for captions that went with their whole sub-folder: bringing them back would help nobody."""
        return self._folder.joinpath(file).parent.is_dir() or not self._folder.is_dir()

    def _relative(self, picture: Path) -> str:
        return caption_path(picture).relative_to(self._folder).as_posix()


class _History:
    """Edits in order, how many of them are in force, and the file that outlives the program."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder.joinpath(HISTORY)
        self._edits: list[Edit] = []
        self._position = 0
        self._torn = False  # the last line was cut off by a crash: the next one starts on a line of its own
        self._load()

    @property
    def applied(self) -> list[Edit]:
        return self._edits[: self._position]

    @property
    def undone(self) -> list[Edit]:
        return self._edits[self._position :]

    def add(self, edit: Edit) -> None:
        self._log(_edit_to_json(edit))
        self._do("edit", edit)

    def step_back(self) -> Edit:
        self._log({"do": "undo"})
        self._do("undo")
        return self._edits[self._position]

    def step_forward(self) -> Edit:
        self._log({"do": "redo"})
        self._do("redo")
        return self._edits[self._position - 1]

    def drop_last(self) -> None:
        self._do("drop")
        self._log({"do": "drop"})

    def expected(self) -> dict[str, bytes | None]:
        """What each file the history knows of should hold now."""
        states = {change.file: change.after for edit in self.applied for change in edit.changes}
        for edit in self.undone:
            for change in edit.changes:
                states.setdefault(change.file, change.before)
        return states

    def _do(self, what: str, edit: Edit | None = None) -> None:
        if what == "edit" and edit is not None:
            self._edits[self._position :] = [edit]
            self._position += 1
        elif what == "undo" and self._position > 0:
            self._position -= 1
        elif what == "redo" and self._position < len(self._edits):
            self._position += 1
        elif what == "drop" and self._position > 0:
            self._position -= 1
            del self._edits[self._position :]

    def _load(self) -> None:
        try:
            data = self._path.read_bytes()
        except OSError:
            return
        self._torn = bool(data) and not data.endswith(b"\n")
        for line in data.splitlines():
            with contextlib.suppress(ValueError, TypeError, KeyError, AttributeError, RecursionError):
                record = json.loads(line)
                self._do(record["do"], _edit_from_json(record, self._folder) if record["do"] == "edit" else None)
        if len(self._edits) > MOST_EDITS:
            self._merge_oldest()

    def _merge_oldest(self) -> None:
        """Turn the older half of what is in force into one edit, which keeps the way back to the originals."""
        half = self._position // 2
        first: dict[str, bytes | None] = {}
        last: dict[str, bytes | None] = {}
        for change in (change for edit in self._edits[:half] for change in edit.changes):
            first.setdefault(change.file, change.before)
            last[change.file] = change.after
        merged = Edit(EARLIER, tuple(Change(file, first[file], last[file]) for file in first))
        self._edits[:half] = [merged]
        self._position -= half - 1
        lines = [_edit_to_json(edit) for edit in self._edits] + [{"do": "undo"}] * len(self.undone)
        with contextlib.suppress(WriteError):  # a read-only folder keeps its long history
            write_text_whole(self._path, "".join(json.dumps(line) + "\n" for line in lines))
            self._torn = False

    def _log(self, record: dict[str, Any]) -> None:
        """Append a line and see it on the disk. Raises WriteError."""
        line = ("\n" if self._torn else "") + json.dumps(record) + "\n"
        try:
            self._path.parent.mkdir(exist_ok=True)
            with open(self._path, "ab") as file:
                self._torn = True
                file.write(line.encode("ascii"))
                file.flush()
                os.fsync(file.fileno())
                self._torn = False
        except OSError as error:
            raise WriteError(explain(error, self._path)) from error


def _edit_to_json(edit: Edit) -> dict[str, Any]:
    changes = [{"file": c.file, "before": _to_json(c.before), "after": _to_json(c.after)} for c in edit.changes]
    return {"do": "edit", "label": edit.label, "changes": changes}


def _edit_from_json(record: dict[str, Any], folder: Path) -> Edit:
    """Raises ValueError, TypeError or KeyError for a record that is none, and for paths a dataset has no claim to."""
    inside = os.path.join(os.path.abspath(folder), "")
    changes = []
    for change in record["changes"]:
        # A dataset from elsewhere may bring a history: it must not make undo write outside the folder.
        path = os.path.abspath(os.path.join(folder, change["file"]))
        if not path.startswith(inside) or not path.lower().endswith(".txt"):
            raise ValueError(change["file"])
        changes.append(Change(change["file"], _from_json(change["before"]), _from_json(change["after"])))
    return Edit(str(record["label"]), tuple(changes))


def _to_json(content: bytes | None) -> str | list[str] | None:
    """Text where the bytes are UTF-8, so that the history can be read by people; else ["base64", ...]."""
    if content is None:
        return None
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        return ["base64", base64.b64encode(content).decode("ascii")]


def _from_json(value: object) -> bytes | None:
    match value:
        case None:
            return None
        case str():
            return value.encode("utf-8")
        case ["base64", str(coded)]:
            try:
                return base64.b64decode(coded, validate=True)
            except binascii.Error as error:
                raise ValueError("not base64") from error
    raise ValueError("neither text nor base64")
