"""The edits of a dataset folder in order, kept in a file that outlives the program and a crash of it."""

from __future__ import annotations

import base64
import binascii
import contextlib
import json
import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from lora_core.messages import Message, from_json, plain, to_json
from lora_core.system.files import WriteError, explain, write_text_whole

HISTORY = PurePosixPath(".treino/captions.jsonl")
OUTSIDE, EARLIER = Message("dataset.did_outside"), Message("dataset.did_earlier")
MOST_EDITS = 500  # older ones are merged into one when the log is opened, so the originals stay within reach
MOST_SHOWN = 40  # characters of a text that an edit's name quotes
# Before version 0.2 an edit's name was kept as "@", a kind and values parted by tabs, and these as they stand.
_OLD_NAMES = {
    "Changed by another program": OUTSIDE, "Earlier edits": EARLIER,
    "Describe the pictures": Message("dataset.did_described"), "Edit captions": Message("dataset.did_edit"),
}  # fmt: skip
_OLD_VALUES = {
    "replace": ("find", "replace"), "prefix": ("text",), "suffix": ("text",), "trigger": ("word",), "remove_tag": ("tag",),
    "describe": ("count",), "add": ("count",), "leave_out": ("what",),
    **dict.fromkeys(("caption", "turn", "upright", "to_utf8", "rename", "to_png", "keep_caption", "separate"), ("name",)),
}  # fmt: skip


@dataclass(frozen=True)
class Change:
    """One caption file before and after an edit, as bytes; None where there is no file."""

    file: str  # relative to the dataset folder, with forward slashes
    before: bytes | None
    after: bytes | None


@dataclass(frozen=True)
class Move:
    """A file moved within the dataset folder: both relative to it, with forward slashes."""

    source: str
    target: str


@dataclass(frozen=True)
class Edit:
    """What one undo takes back: captions written, files moved. `name`: what a person did."""

    name: Message
    changes: tuple[Change, ...]
    moves: tuple[Move, ...] = ()


class EditLog:
    """Edits in order, how many of them are in force, and the file that outlives the program.

    A line is an edit ("edit", or "amend" of the last one), or a step: "undo", "redo", "drop".
    """

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

    def amend(self, edit: Edit) -> None:
        """Put `edit` in the place of the last one that is in force."""
        self._log({**_edit_to_json(edit), "do": "amend"})
        self._do("amend", edit)

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
        states: dict[str, bytes | None] = {}
        for edit in self.applied:
            states |= {change.file: change.after for change in edit.changes}
            for move in edit.moves:
                if move.source in states:
                    states[move.target] = states.pop(move.source)
        elsewhere: set[str] = set()  # what has its name only after a move that was taken back
        for edit in self.undone:
            elsewhere |= {move.target for move in edit.moves}
            for change in edit.changes:
                if change.file not in elsewhere:
                    states.setdefault(change.file, change.before)
        return states

    def _do(self, what: str, edit: Edit | None = None) -> None:
        if what == "edit" and edit is not None:
            self._edits[self._position :] = [edit]
            self._position += 1
        elif what == "amend" and edit is not None and self._position > 0:
            self._edits[self._position - 1] = edit
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
                has_edit = record["do"] in ("edit", "amend")
                self._do(record["do"], _edit_from_json(record, self._folder) if has_edit else None)
        if len(self._edits) > MOST_EDITS:
            self._merge_oldest()

    def _merge_oldest(self) -> None:
        """Turn the older half of what is in force into one edit, which keeps the way back to the originals."""
        half = self._position // 2
        # Moves of files stay single: captions before and after one belong to files of other names.
        half = next((n for n, edit in enumerate(self._edits[:half]) if edit.moves), half)
        if half < 2:
            return
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
    moves = {"moves": [[move.source, move.target] for move in edit.moves]} if edit.moves else {}
    return {"do": "edit", "label": str(edit.name), "said": to_json(edit.name), "changes": changes, **moves}


def _edit_from_json(record: dict[str, Any], folder: Path) -> Edit:
    """Raises ValueError, TypeError or KeyError for a record that is none, and for paths a dataset has no claim to."""
    changes = []
    for change in record["changes"]:
        _check_inside(change["file"], folder)
        if not change["file"].lower().endswith(".txt"):
            raise ValueError(change["file"])
        changes.append(Change(change["file"], _from_json(change["before"]), _from_json(change["after"])))
    moves = tuple(Move(str(source), str(target)) for source, target in record.get("moves", ()))
    for move in moves:
        _check_inside(move.source, folder)
        _check_inside(move.target, folder)
    return Edit(_name(record), tuple(changes), moves)


def _name(record: dict[str, Any]) -> Message:
    """What the edit was: its message, or what an older version kept in its place."""
    label = str(record["label"])
    try:
        return from_json(record.get("said"))
    except ValueError:
        pass
    kind, *values = label.removeprefix("@").split("\t")
    if not label.startswith("@") or len(values) != len(_OLD_VALUES.get(kind, ())) or not values:
        return _OLD_NAMES.get(label, plain(label))
    return did(kind, **dict(zip(_OLD_VALUES[kind], values, strict=True)))


def did(kind: str, **values: str) -> Message:
    """The name of an edit; of long texts the beginning."""
    shown = {name: text if len(text) <= MOST_SHOWN else f"{text[: MOST_SHOWN - 1]}…" for name, text in values.items()}
    return Message(f"dataset.did_{kind}", **shown)


def _check_inside(file: str, folder: Path) -> None:
    """A dataset from elsewhere may bring a history: it must not make undo touch what lies outside the folder."""
    if not os.path.abspath(os.path.join(folder, file)).startswith(os.path.join(os.path.abspath(folder), "")):
        raise ValueError(file)


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
