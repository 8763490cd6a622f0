"""The dataset that is open in the window: scanned in the background, edited at once, the same for every page."""

from __future__ import annotations

import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_core.dataset import (
    CaptionEditor,
    Dataset,
    Item,
    Problem,
    bucket_size,
    count_tokens,
    crop_box,
    report,
    scan,
    tag_counts,
)
from lora_core.dataset.fixes import fixes_for
from lora_core.dataset.inspection import inspect
from lora_core.errors import UserError
from lora_core.system.files import WriteError, prove_writable, stamps_below
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.background import in_background

THUMBNAIL, LARGE = 224, 1280  # pixels
MOST_RECENT = 8
MOST_TAGS = 400
SMALLEST, LARGEST = 64, 2048  # training sizes, pixels
_CHECK_EVERY_S = 2.0
_Stamps = dict[str, tuple[int, int]]
_REST_S = 0.4  # how long edits have to rest before the folder is checked anew
_WEIGHT = {"left out": 3, "warning": 2, "note": 1}


class Superseded(Exception):
    """Another folder was opened, or this one changed, while it was being read."""


class OpenDataset:
    """One for all pages. A page asks with the `version` and `edits` it has seen.

    `version` grows when pictures or problems change, `edits` when captions do.
    """

    def __init__(self, allow: Callable[[Path], None], recall: Callable[..., Any], remember: Callable[[str, Any], None]):
        self._allow, self._recall, self._remember = allow, recall, remember
        self._lock = threading.RLock()
        self.folder: Path | None = None
        self.editor: CaptionEditor | None = None
        self.dataset: Dataset | None = None
        self.problems: tuple[Problem, ...] = ()
        self.is_gone = self.is_read_only = False
        self.version = self.edits = 0
        self.done = self.total = 0
        self.resolution = int(recall("dataset.resolution", 512))
        self._edited: dict[Path, int] = {}  # the number of the edit that changed each caption last
        self._stamps: tuple[_Stamps, _Stamps] = {}, {}
        self._checked_at = 0.0
        self._reading = 0

    # --- opening ----------------------------------------------------------------------------------------------

    def open(self, folder: Path) -> None:
        """Show a folder at once, and read its pictures in the background.

        Raises:
            UserError: it is missing, no folder, or cannot be listed.
        """
        folder = Path(os.path.abspath(folder.expanduser()))
        editor = CaptionEditor(folder)
        is_read_only = not _can_write(folder)
        with self._lock:
            self.folder, self.editor, self.dataset, self.problems = folder, editor, None, ()
            self.is_gone, self.is_read_only = False, is_read_only
            self.done, self.total = 0, len(editor.captions)
            self._edited = {}
            self._stamps = _stamps(folder)
            self.version += 1
            self._reading += 1  # a reading of the folder before is of no use from here on
        self._allow(folder)
        recent = [str(folder), *(r for r in self.recent() if r != str(folder))]
        self._remember("dataset.recent", recent[:MOST_RECENT])
        self._remember("dataset.folder", str(folder))
        self.read()

    def recent(self) -> list[str]:
        """The folders that were open before, the last first."""
        return [each for each in self._recall("dataset.recent", []) if isinstance(each, str)]

    def read(self, rest_s: float = 0.0) -> None:
        """Read the open folder in the background, after a rest; a reading that still goes on is given up."""
        with self._lock:
            self._reading += 1
            folder, reading = self.opened().folder, self._reading
        in_background(lambda: self._read(folder, reading, rest_s), "scan")

    def _read(self, folder: Path, reading: int, rest_s: float) -> None:
        def progress(done: int, total: int) -> None:
            if reading != self._reading:
                raise Superseded
            self.done, self.total = done, total

        time.sleep(rest_s)
        try:
            progress(self.done, self.total)
            dataset = scan(folder, on_progress=progress, may_be_empty=True)
            problems = report(dataset, self.resolution, count_tokens)
        except (Superseded, UserError):  # a folder that is gone is noticed by `notice`
            return
        with self._lock:
            if reading == self._reading:
                is_same = self.dataset and _shape(self.dataset) == _shape(dataset) and problems == self.problems
                self.dataset, self.problems = dataset, problems
                self.version += not is_same

    def set_resolution(self, resolution: int) -> None:
        """What the crop preview and the size warnings are for, in pixels."""
        self.resolution = max(SMALLEST, min(LARGEST, resolution // 8 * 8))
        self._remember("dataset.resolution", self.resolution)
        self.version += 1
        self.read()

    def notice(self, now: float) -> None:
        """Look from time to time whether other programs changed the folder. `now` in seconds of any steady clock."""
        with self._lock:
            if self.editor is None or self.folder is None or now - self._checked_at < _CHECK_EVERY_S:
                return
            self._checked_at = now
            if self.folder.is_dir() == self.is_gone:
                self.is_gone = not self.is_gone
                self.version += 1
            if self.is_gone or (stamps := _stamps(self.folder)) == self._stamps:
                return
            has_other_pictures, self._stamps = stamps[1] != self._stamps[1], stamps
            before = self.editor.captions
            try:
                self.editor.reload()
            except UserError:  # gone between the two looks; the next one tells
                return
            self._changed(before)
            self.version += has_other_pictures
            self.read()

    # --- edits ------------------------------------------------------------------------------------------------

    def opened(self) -> CaptionEditor:
        """The captions of the open folder; raises UserError when none is open."""
        if self.editor is None:
            raise UserError("ui.no_dataset")
        return self.editor

    def picture(self, name: str) -> Path:
        """The picture with this path relative to the folder; raises UserError when it is not in the dataset."""
        editor = self.opened()
        path = editor.folder.joinpath(*name.split("/"))
        if path not in editor.captions and not any(path == problem.path for problem in self.problems):
            raise UserError("ui.not_in_dataset", name=name)
        return path

    def edit(self, act: Callable[[], Any]) -> Any:
        """Change captions or files in a way that pages are to show, and that is no change by another program."""
        editor = self.opened()
        folder = editor.folder
        if not folder.is_dir():
            raise UserError("ui.folder_missing", folder=folder)
        with self._lock:
            before = editor.captions
            try:
                return act()
            finally:
                self._changed(before)
                stamps = _stamps(folder)
                if stamps[1] != self._stamps[1]:
                    self.problems = tuple(each for each in self.problems if each.path.exists())
                    self.version += 1
                self._stamps = stamps
                self.read(_REST_S)

    def _changed(self, before: dict[Path, str]) -> None:
        assert self.editor is not None
        changed = [path for path, caption in self.editor.captions.items() if before.get(path) != caption]
        if changed:
            self.edits += 1
            self._edited |= dict.fromkeys(changed, self.edits)

    # --- what a page shows ------------------------------------------------------------------------------------

    def state(self, text: Texts, url: Callable[[Path, int], str], version: int, edits: int) -> dict[str, Any]:
        """What changed since the page saw `version` and `edits`, as JSON."""
        with self._lock:
            told: dict[str, Any] = {
                "version": self.version, "edits": self.edits, "done": self.done, "total": self.total,
                "reading": self.folder is not None and self.dataset is None, **self.steps(text),
            }  # fmt: skip
            is_new = version != self.version
            if is_new:
                told |= {
                    "folder": str(self.folder or ""), "gone": self.is_gone, "read_only": self.is_read_only,
                    "resolution": self.resolution, "recent": self.recent(), "items": self._items(url),
                    "problems": self._problems(text, url), "buckets": self._buckets(),
                }  # fmt: skip
            if (is_new or edits != self.edits) and self.editor:
                captions = self.editor.captions
                shown = captions if is_new else [p for p in captions if self._edited.get(p, 0) > edits]
                told["captions"] = {self.name(path): captions[path] for path in shown}
                told["tags"] = list(tag_counts(captions).items())[:MOST_TAGS]
            return told

    def steps(self, text: Texts) -> dict[str, str]:
        """What undo and redo would do."""
        if self.editor is None:
            return {"undo": "", "redo": ""}
        names = {"undo": self.editor.next_undo, "redo": self.editor.next_redo}
        return {step: text.say(name) if name else "" for step, name in names.items()}

    def _items(self, url: Callable[[Path, int], str]) -> list[dict[str, Any]]:
        known = {item.path: item for item in (self.dataset.items if self.dataset else ())}
        levels: dict[Path, str] = {}
        for problem in self.problems:
            if _WEIGHT[problem.level] > _WEIGHT.get(levels.get(problem.path, ""), 0):
                levels[problem.path] = problem.level
        return [
            {"name": self.name(path), "url": url(path, THUMBNAIL), "level": levels.get(path, ""),
             "repeats": known[path].repeats if path in known else 1}
            for path in (self.editor.captions if self.editor else ())
        ]  # fmt: skip

    def _problems(self, text: Texts, url: Callable[[Path, int], str]) -> list[dict[str, Any]]:
        return [
            {"name": self.name(p.path), "url": url(p.path, THUMBNAIL), "kind": p.kind, "level": p.level,
             "message": text.say(p.message), "fixes": list(fixes_for(p))}
            for p in self.problems
        ]  # fmt: skip

    def _buckets(self) -> list[list[int]]:
        """Rows of width, height and number of pictures."""
        items: Sequence[Item] = self.dataset.items if self.dataset else ()
        counted = Counter(self.size_of(item.width, item.height) for item in items)
        return [[width, height, count] for (width, height), count in counted.most_common()]

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """The size a picture is trained at."""
        return bucket_size(width, height, self.resolution, min(64, max(8, self.resolution // 4)))

    def crop(self, path: Path) -> dict[str, Any]:
        """Size of a picture, and what the model sees of it: a box in percent of its sides, and the size in pixels.

        Raises:
            PictureError: it cannot be read.
        """
        seen = inspect(path)
        width, height = seen.width, seen.height
        size = self.size_of(width, height)
        left, top, right, bottom = crop_box(width, height, size)
        box = [100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height]
        return {"box": box, "size": list(size), "width": width, "height": height}

    def name(self, path: Path) -> str:
        """A path relative to the folder, with forward slashes; "" is the folder itself."""
        assert self.folder is not None
        return path.relative_to(self.folder).as_posix() if path != self.folder else ""


def _shape(dataset: Dataset) -> list[tuple[Path, int, int, int]]:
    return [(item.path, item.width, item.height, item.repeats) for item in dataset.items]


def _can_write(folder: Path) -> bool:
    try:
        prove_writable(folder)
    except WriteError:
        return False
    return True


def _stamps(folder: Path) -> tuple[_Stamps, _Stamps]:
    """The stamps of the text files and of the other files."""
    found = stamps_below(folder)
    texts = {path: stamp for path, stamp in found.items() if path.lower().endswith(".txt")}
    return texts, {path: stamp for path, stamp in found.items() if path not in texts}
