"""The captions of a folder, edited on disk, and files moved within it; every edit undoable - after a restart, too.

The history is `.treino/captions.jsonl` in the dataset folder, one line per edit, undo or redo, written and flushed
before the caption files change. It holds the old bytes of each file, so undo brings back the original exactly:
its encoding, its line ends, or its absence.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from lora_core.dataset.captions import caption_bytes, caption_path, clean, read_caption, why_unreadable
from lora_core.dataset.edit_log import HISTORY, OUTSIDE, Change, Edit, EditLog, Move, did
from lora_core.dataset.listing import list_folder
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system.files import WriteError, explain, write_bytes_whole

OURS = f"{HISTORY.parent}/"  # where files lie that were moved aside


class CaptionEditor:
    """The captions of all pictures in a dataset folder, by picture; edits go to disk at once. Threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Read captions and history; nothing is written. Raises UserError for a folder that cannot be listed."""
        self.folder = folder
        self._lock = threading.RLock()
        self._captions: dict[Path, str] = {}
        self._log = EditLog(folder)
        self.reload()

    @property
    def captions(self) -> dict[Path, str]:
        """A copy of the captions by picture path; "" where there is none."""
        with self._lock:
            return dict(self._captions)

    @property
    def next_undo(self) -> Message | None:
        """What `undo` would take back; None when there is nothing."""
        applied = self._log.applied
        return applied[-1].name if applied else None

    @property
    def next_redo(self) -> Message | None:
        """What `redo` would do again; None when there is nothing."""
        undone = self._log.undone
        return undone[0].name if undone else None

    def reload(self) -> None:
        """Read everything from disk again, for pictures and captions that other programs changed."""
        with self._lock:
            self._captions = {picture: self._read(picture) for picture in list_folder(self.folder).pictures}

    def reread(self, picture: Path) -> str:
        """The caption of a picture as it is on the disk now."""
        with self._lock:
            self._captions[picture] = self._read(picture)
            return self._captions[picture]

    def apply(self, changed: Mapping[Path, str], name: Message | None = None, join: bool = False) -> int:
        """Write new captions (by picture) as one edit called `name`; returns how many files changed.

        The same text again rewrites a file that is not clean UTF-8. Pictures that share a caption file have to be
        given the same text. With `join` the edit becomes part of the last one where that has the same name and
        files: what is saved again and again while it is typed is one undo.
        Raises UserError, and WriteError with every file as it was.
        """
        name = name or did("edit")
        with self._lock:
            self._notice_outside_changes()
            texts: dict[str, str] = {}
            for picture, text in changed.items():
                if picture not in self._captions:
                    raise UserError("dataset.not_in_folder", picture=picture, folder=self.folder)
                if texts.setdefault(self._relative(picture), clean(text)) != clean(text):
                    raise UserError("dataset.shares_caption", name=picture.name)
            changes = tuple(
                Change(file, before, text.encode("utf-8"))
                for file, text in texts.items()
                if (before := self._bytes(file)) != text.encode("utf-8") and (before is not None or text)
            )
            if not changes:
                return 0
            last = self._joinable(name, changes) if join else None
            if last is None:
                self._log.add(Edit(name, changes))
            else:
                first = {change.file: change.before for change in last.changes}
                joined = tuple(Change(change.file, first[change.file], change.after) for change in changes)
                self._log.amend(Edit(name, joined))
            try:
                self._write((change.file, change.after) for change in changes)
            except WriteError:
                self._take_back(changes, last)
                raise
            self._refresh(changes)
            return len(changes)

    def move(self, moves: Iterable[Move], name: Message, changes: Iterable[Change] = ()) -> None:
        """Move files within the folder, in order, then write captions, as one edit.

        Raises WriteError with every file where it was.
        """
        with self._lock:
            self._notice_outside_changes()
            edit = Edit(name, tuple(changes), tuple(moves))
            self._log.add(edit)
            try:
                self._move(edit.moves)
                try:
                    self._write((change.file, change.after) for change in edit.changes)
                except WriteError:
                    self._write((change.file, change.before) for change in edit.changes)
                    self._move([Move(move.target, move.source) for move in reversed(edit.moves)], is_step=True)
                    raise
            except WriteError:
                with contextlib.suppress(WriteError):
                    self._log.drop_last()
                raise
            self.reload()

    def undo(self) -> Edit | None:
        """Take back the last edit and return it; None when there is none. Raises WriteError.

        What another program wrote meanwhile counts as an edit of its own, so that it is not lost either.
        """
        with self._lock:
            self._notice_outside_changes()
            if not self._log.applied:
                return None
            edit = self._log.applied[-1]
            self._move([Move(move.target, move.source) for move in reversed(edit.moves)], is_step=True)
            self._log.step_back()
            self._write((change.file, change.before) for change in edit.changes)
            self._after(edit)
            return edit

    def redo(self) -> Edit | None:
        """Do again what `undo` took back last; None when there is nothing. Raises WriteError."""
        with self._lock:
            self._notice_outside_changes()
            if not self._log.undone:
                return None
            edit = self._log.undone[0]
            self._move(edit.moves, is_step=True)
            self._log.step_forward()
            self._write((change.file, change.after) for change in edit.changes)
            self._after(edit)
            return edit

    def _notice_outside_changes(self) -> None:
        expected = {file: was for file, was in self._log.expected().items() if self._has_place(file)}
        changes = [Change(file, was, now) for file, was in expected.items() if (now := self._bytes(file)) != was]
        if changes:
            self._log.add(Edit(OUTSIDE, tuple(changes)))
            self._refresh(changes)

    def _joinable(self, name: Message, changes: Iterable[Change]) -> Edit | None:
        """The last edit, where a new one of the same captions may become part of it."""
        if self._log.undone or not self._log.applied:
            return None
        last = self._log.applied[-1]
        same = {change.file for change in last.changes} == {change.file for change in changes}
        return last if last.name == name and same and not last.moves else None

    def _take_back(self, changes: Iterable[Change], last: Edit | None) -> None:
        """Undo a half-written edit as far as the disk lets us, and forget it; `last` is what it was joined to."""
        for change in changes:
            with contextlib.suppress(UserError):
                if self._bytes(change.file) != change.before:
                    self._write([(change.file, change.before)])
        with contextlib.suppress(WriteError):
            self._log.drop_last() if last is None else self._log.amend(last)

    def _write(self, contents: Iterable[tuple[str, bytes | None]]) -> None:
        for file, content in contents:
            path = self.folder.joinpath(file)
            if not self._has_place(file):
                continue
            if content is not None:
                write_bytes_whole(path, content)
                continue
            try:
                path.unlink(missing_ok=True)
            except OSError as error:
                raise WriteError(explain(error, path)) from error

    def _move(self, moves: Sequence[Move], is_step: bool = False) -> None:
        """Move files, all or none. Raises WriteError, also for one that is gone or whose new place is taken.

        An undo or redo (`is_step`) passes over what is where it should be, after a crash halfway, and what somebody
        has deleted meanwhile: else the edits before it could never be taken back.
        """
        done: list[tuple[Path, Path]] = []
        source = target = self.folder
        try:
            for move in moves:
                source, target = self.folder.joinpath(move.source), self.folder.joinpath(move.target)
                if is_step and (not source.exists() or (move.target.startswith(OURS) and target.exists())):
                    continue
                if target.exists() and not target.samefile(source):  # the same one: only its letters' case changes
                    raise WriteError("dataset.in_the_way", path=target)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.rename(source, target)
                done.append((target, source))
        except (OSError, WriteError) as error:
            for now, before in reversed(done):
                with contextlib.suppress(OSError):
                    os.rename(now, before)
            if isinstance(error, WriteError):
                raise
            raise WriteError(explain(error, target if source.exists() else source)) from error

    def _after(self, edit: Edit) -> None:
        if edit.moves:
            self.reload()
        else:
            self._refresh(edit.changes)

    def _refresh(self, changes: Iterable[Change]) -> None:
        touched = {change.file for change in changes}
        for picture in self._captions:
            if self._relative(picture) in touched:
                self._captions[picture] = self._read(picture)

    def _read(self, picture: Path) -> str:
        try:
            return read_caption(caption_path(picture)).text
        except OSError:
            return ""  # there is none; the quality report tells of those that exist but cannot be read

    def _bytes(self, file: str) -> bytes | None:
        """What the file holds, None when it is not there. Raises UserError when it is there and cannot be read."""
        path = self.folder.joinpath(file)
        try:
            return caption_bytes(path)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise UserError("dataset.unreadable", path=path, why=why_unreadable(error)) from error

    def _has_place(self, file: str) -> bool:
        """False for captions that went with their whole sub-folder: bringing them back would help nobody."""
        return self.folder.joinpath(file).parent.is_dir() or not self.folder.is_dir()

    def _relative(self, picture: Path) -> str:
        return caption_path(picture).relative_to(self.folder).as_posix()
