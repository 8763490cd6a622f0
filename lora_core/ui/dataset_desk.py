"""The dataset that is open in the window: scanned in the background, edited at once, the same for every page."""

from __future__ import annotations

import os
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from lora_core.dataset import CaptionBook, Dataset, Item, Problem, bucket_size, crop_box, level, report, scan, tag_counts
from lora_core.dataset.fixes import fixes_for
from lora_core.errors import UserError
from lora_core.ui.texts import Texts

THUMBNAIL, LARGE = 192, 1280  # pixels
TOKENS = 75  # that CLIP reads of a caption
MOST_RECENT = 8
_CHECK_EVERY_S = 2.0


class Superseded(Exception):
    """Another folder was opened while this one was being read."""


class Desk:
    """`version` grows when pictures or problems change, `edits` when captions do: a page asks with those it has seen."""

    def __init__(self, allow: Callable[[Path], None], recall: Callable[..., Any], remember: Callable[[str, Any], None]):
        self._allow, self._recall, self._remember = allow, recall, remember
        self._lock = threading.RLock()
        self.folder: Path | None = None
        self.book: CaptionBook | None = None
        self.dataset: Dataset | None = None
        self.problems: tuple[Problem, ...] = ()
        self.error = ""
        self.version = self.edits = 0
        self.done = self.total = 0
        self.resolution = int(recall("dataset.resolution", 512))
        self._stamp: tuple[float, int] = (0.0, 0)
        self._checked_at = 0.0
        self._opening = 0

    # --- opening ----------------------------------------------------------------------------------------------

    def open(self, folder: Path, wait: bool = False) -> None:
        """Read a folder in the background.

        Raises:
            UserError: it is missing, no folder, or cannot be listed.
        """
        folder = folder.expanduser().absolute()
        book = CaptionBook(folder)
        with self._lock:
            self._opening += 1
            opening = self._opening
            self.folder, self.book, self.dataset, self.problems, self.error = folder, book, None, (), ""
            self.done = self.total = 0
            self.version += 1
        self._allow(folder)
        recent = [str(folder), *(r for r in self._recall("dataset.recent", []) if r != str(folder))]
        self._remember("dataset.recent", recent[:MOST_RECENT])
        self._remember("dataset.folder", str(folder))
        thread = threading.Thread(target=self._scan, args=(folder, opening), name="scan", daemon=True)
        thread.start()
        if wait:
            thread.join()

    def rescan(self) -> None:
        """Read the open folder again: pictures came, went or changed."""
        with self._lock:
            self._opening += 1
            assert self.folder is not None
            folder, opening = self.folder, self._opening
        self._scan(folder, opening)

    def _scan(self, folder: Path, opening: int) -> None:
        def progress(done: int, total: int) -> None:
            if opening != self._opening:
                raise Superseded
            self.done, self.total = done, total

        stamp = _stamp(folder)
        try:
            dataset = scan(folder, on_progress=progress)
            problems, error = report(dataset, self.resolution), ""
        except Superseded:
            return
        except UserError as wrong:
            dataset, problems, error = Dataset(folder, (), ()), (), str(wrong)
        with self._lock:
            if opening == self._opening:
                self.dataset, self.problems, self.error, self._stamp = dataset, problems, error, stamp
                self.version += 1

    def set_resolution(self, resolution: int) -> None:
        """What the crop preview and the size warnings are for, in pixels."""
        self.resolution = max(64, min(2048, resolution // 8 * 8))
        self._remember("dataset.resolution", self.resolution)
        if self.dataset is not None and self.dataset.items:
            self.problems = report(self.dataset, self.resolution)
        self.version += 1

    def notice(self, now: float) -> None:
        """Look from time to time whether other programs changed the folder. `now` in seconds of any steady clock."""
        with self._lock:
            if self.book is None or self.dataset is None or now - self._checked_at < _CHECK_EVERY_S:
                return
            self._checked_at = now
            folder, seen = self.folder, self._stamp
        assert folder is not None
        if not folder.is_dir():
            if not self.error:
                self.error = f"The folder {folder} is gone: bring it back, or open another one."
                self.version += 1
            return
        if (stamp := _stamp(folder)) == seen and not self.error:
            return
        if stamp[1] != seen[1] or self.error:
            self._reload_book()
            self.rescan()
        else:
            self._reload_book()
            self._stamp = stamp

    def _reload_book(self) -> None:
        assert self.book is not None
        before = self.book.captions
        self.book.reload()
        if self.book.captions != before:
            self.edits += 1

    # --- edits ------------------------------------------------------------------------------------------------

    def picture(self, name: str) -> Path:
        """The picture with this path relative to the folder; raises UserError when it is not in the dataset."""
        book = self.opened()
        assert self.folder is not None
        path = self.folder.joinpath(*name.split("/"))
        if path not in book.captions:
            raise UserError(f"{name} is not in the dataset any more.")
        return path

    def opened(self) -> CaptionBook:
        """The open book; raises UserError when no folder is open."""
        if self.book is None:
            raise UserError("No dataset is open: choose a folder first.")
        return self.book

    def edited(self, rescan: bool = False) -> None:
        """After an edit of ours: pages are to show it, and it is no change by another program."""
        assert self.folder is not None
        self.edits += 1
        self._stamp = _stamp(self.folder)
        if rescan:
            self.rescan()

    # --- what a page shows ------------------------------------------------------------------------------------

    def state(self, text: Texts, url: Callable[[Path, int], str], version: int, edits: int) -> dict[str, Any]:
        """What changed since the page saw `version` and `edits`, as JSON."""
        with self._lock:
            told: dict[str, Any] = {
                "version": self.version, "edits": self.edits, "done": self.done, "total": self.total,
                "reading": self.folder is not None and self.dataset is None, "error": self.error,
                "folder": str(self.folder or ""), "resolution": self.resolution,
                "undo": self.book.undo_label if self.book else "", "redo": self.book.redo_label if self.book else "",
            }  # fmt: skip
            if version != self.version:
                told["recent"] = [r for r in self._recall("dataset.recent", []) if isinstance(r, str)]
                told["items"] = self._items(url)
                told["problems"] = self._problems(text, url)
                told["buckets"] = self._buckets()
            if (version, edits) != (self.version, self.edits) and self.book and self.folder:
                captions = self.book.captions
                told["captions"] = {self.name(path): caption for path, caption in captions.items()}
                told["tags"] = list(tag_counts(captions).items())[:400]
            return told

    def _items(self, url: Callable[[Path, int], str]) -> list[dict[str, Any]]:
        if self.dataset is None:
            return []
        levels: dict[Path, str] = {}
        for problem in self.problems:
            if levels.get(problem.path) != "warning":
                levels[problem.path] = level(problem)
        return [
            {"name": self.name(item.path), "url": url(item.path, THUMBNAIL), "width": item.width, "height": item.height,
             "repeats": item.repeats, "level": levels.get(item.path, "")}
            for item in self.dataset.items
        ]  # fmt: skip

    def _problems(self, text: Texts, url: Callable[[Path, int], str]) -> list[dict[str, Any]]:
        return [
            {"name": self.name(p.path), "url": url(p.path, 96), "kind": p.kind, "level": level(p),
             "message": said(p, text), "fixes": list(fixes_for(p)),
             "better": dict(p.values).get("better", "")}
            for p in self.problems
        ]  # fmt: skip

    def _buckets(self) -> list[list[int]]:
        """Rows of width, height and number of pictures."""
        items: Sequence[Item] = self.dataset.items if self.dataset else ()
        counted = Counter(self.size_of(item.width, item.height) for item in items)
        return [[width, height, count] for (width, height), count in counted.most_common()]

    def size_of(self, width: int, height: int) -> tuple[int, int]:
        """The size a picture is trained at."""
        return bucket_size(width, height, self.resolution, min(64, self.resolution))

    def crop(self, width: int, height: int) -> dict[str, Any]:
        """What the model sees of a picture: a box in percent of its sides, and the size in pixels."""
        size = self.size_of(width, height)
        left, top, right, bottom = crop_box(width, height, size)
        box = [100 * left / width, 100 * top / height, 100 * (right - left) / width, 100 * (bottom - top) / height]
        return {"box": box, "size": list(size)}

    def name(self, path: Path) -> str:
        """A path relative to the folder, with forward slashes; \"\" is the folder itself."""
        assert self.folder is not None
        return path.relative_to(self.folder).as_posix() if path != self.folder else ""


def about_tokens(caption: str) -> int:
    """Roughly how many tokens CLIP makes of a caption: one per short word and sign, more for long words."""
    words = "".join(c if c.isalnum() else f" {c} " if not c.isspace() else " " for c in caption).split()
    return sum(1 + (len(word) - 1) // 8 if word.isascii() else 1 + len(word.encode()) // 5 for word in words)


def _stamp(folder: Path) -> tuple[float, int]:
    """The newest change of a text file, and a sum over which files there are."""
    newest, files = 0.0, 0
    for here, folders, names in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        for name in names:
            if name.startswith("."):
                continue
            try:
                about = os.stat(os.path.join(here, name))
            except OSError:  # gone between listing and looking
                continue
            if name.lower().endswith(".txt"):
                newest = max(newest, about.st_mtime)
            else:
                files ^= hash((here, name, about.st_size, about.st_mtime_ns))
    return newest, files


def said(problem: Problem, text: Texts) -> str:
    """The problem's sentence in a language; English is the problem's own."""
    key = f"problems.{problem.kind}"
    return text(key, **dict(problem.values)) if key in text else problem.message
