"""What the Dataset tab's script asks for: one route of JSON in, JSON out, and one for dropped pictures."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from lora_core.dataset import add_prefix, add_suffix, add_trigger, find_replace, fixes, remove_tag
from lora_core.errors import UserError
from lora_core.file_names import plain
from lora_core.ui.app import ROOT, App
from lora_core.ui.dataset_desk import LARGE, Desk, about_tokens
from lora_core.ui.texts import LANGUAGES, Texts

LARGEST_PICTURE = 64 * 2**20  # bytes of one dropped file
MOST_SHOWN = 200  # changes in a preview
MOST_COMPLETIONS = 30
ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".txt")
_DIALOG = """
import sys, tkinter
from tkinter import filedialog
root = tkinter.Tk(); root.withdraw(); root.attributes("-topmost", True)
sys.stdout.buffer.write((filedialog.askdirectory(initialdir=sys.argv[1]) or "").encode("utf-8"))
"""
Asked = Mapping[str, Any]


def add_routes(server: FastAPI, app: App) -> None:
    """Let `server` answer the tab's script."""
    clerk = Clerk(app)

    @server.post("/dataset")
    async def dataset(request: Request) -> Response:
        try:
            asked = await request.json()
            if not isinstance(asked, dict):
                raise ValueError("no object")
        except ValueError:
            return JSONResponse({"error": "This is no question."}, 400)
        return await run_in_threadpool(clerk.answer, asked)

    @server.post("/dataset/upload/{place}/{name}")
    async def upload(place: str, name: str, request: Request) -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > LARGEST_PICTURE:
                return JSONResponse({"error": f"{name} is larger than {LARGEST_PICTURE >> 20} MB."}, 413)
        return await run_in_threadpool(clerk.receive, place, name, bytes(content))


class Clerk:
    """Answers one question at a time with what to show, or with a sentence under "error"."""

    def __init__(self, app: App) -> None:
        self.app, self.desk = app, app.dataset
        self.texts = {language: Texts(language) for language in LANGUAGES}
        self.acts: dict[str, Callable[[Asked, Texts], dict[str, Any]]] = {
            "state": self.state, "open": self.open, "browse": self.browse, "complete": self.complete, "look": self.look,
            "caption": self.caption, "preview": self.preview, "apply": self.apply, "undo": self.undo, "redo": self.redo,
            "fix": self.fix, "resolution": self.resolution,
        }  # fmt: skip

    def answer(self, asked: Asked) -> Response:
        text = self.texts.get(str(asked.get("language")), self.texts["en"])
        act = self.acts.get(str(asked.get("act")))
        if act is None:
            return JSONResponse({"error": "There is no such act."}, 400)
        try:
            return JSONResponse(act(asked, text))
        except UserError as wrong:
            return JSONResponse({"error": str(wrong)})
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            return JSONResponse({"error": f"This is no question: {type(wrong).__name__}."}, 400)

    # --- looking ----------------------------------------------------------------------------------------------

    def state(self, asked: Asked, text: Texts) -> dict[str, Any]:
        self.desk.notice(time.monotonic())
        return self.desk.state(text, self.app.files.url, int(asked["version"]), int(asked["edits"]))

    def open(self, asked: Asked, text: Texts) -> dict[str, Any]:
        name = str(asked["folder"]).strip().strip('"')
        if not name:
            raise UserError(text("dataset.no_folder"))
        self.desk.open(Path(name))
        return {}

    def browse(self, asked: Asked, text: Texts) -> dict[str, Any]:
        """The system's own folder dialog, in a process of its own: tkinter wants a main thread."""
        start = str(self.desk.folder or Path.home())
        done = subprocess.run([sys.executable, "-c", _DIALOG, start], capture_output=True, check=False)
        if done.returncode:
            raise UserError(text("dataset.no_dialog"))
        return {"folder": done.stdout.decode("utf-8").strip()}

    def complete(self, asked: Asked, text: Texts) -> dict[str, Any]:
        """Folders that begin with what was typed."""
        typed = os.path.expanduser(str(asked["folder"]))
        parent, _, start = typed.replace("\\", "/").rpartition("/")
        try:
            entries = sorted(os.scandir(parent + "/"), key=lambda e: e.name.casefold()) if parent or typed else []
            found = [e.path for e in entries if _suits(e, start)]
        except OSError:  # half-typed
            found = []
        return {"folders": [os.path.normpath(path) for path in found[:MOST_COMPLETIONS]]}

    def look(self, asked: Asked, text: Texts) -> dict[str, Any]:
        """One picture, large, with what the model sees of it."""
        path = self.desk.picture(str(asked["name"]))
        item = next((i for i in (self.desk.dataset.items if self.desk.dataset else ()) if i.path == path), None)
        if item is None:
            raise UserError(text("dataset.not_readable", name=path.name))
        return {"url": self.app.files.url(path, LARGE), **self.desk.crop(item.width, item.height)}

    def resolution(self, asked: Asked, text: Texts) -> dict[str, Any]:
        self.desk.set_resolution(int(asked["resolution"]))
        return {}

    # --- editing ----------------------------------------------------------------------------------------------

    def caption(self, asked: Asked, text: Texts) -> dict[str, Any]:
        """Save a caption, unless it is no longer the one that was edited: then say what it is now."""
        path, wanted, was = self.desk.picture(str(asked["name"])), str(asked["text"]), str(asked["was"])
        book = self.desk.opened()
        book.reload()
        now = book.captions[path]
        if now not in (was, wanted) and not asked.get("force"):
            return {"conflict": now}
        if book.apply({path: wanted}, text("dataset.edit_caption", name=path.name)):
            self._after(path)
        return {"saved": book.captions[path], "tokens": about_tokens(book.captions[path]), **self._undo()}

    def preview(self, asked: Asked, text: Texts) -> dict[str, Any]:
        """What an edit of many would change."""
        changed, before = self._changed(asked, text), self.desk.opened().captions
        rows = [[self.desk.name(path), before[path], after] for path, after in list(changed.items())[:MOST_SHOWN]]
        return {"count": len(changed), "changes": rows}

    def apply(self, asked: Asked, text: Texts) -> dict[str, Any]:
        changed = self._changed(asked, text)
        label = text(f"dataset.edit_{asked['edit']}", find=asked.get("find", ""), replace=asked.get("replace", ""))
        count = self.desk.opened().apply(changed, label)
        self.desk.edited(rescan=True)
        return {"count": count, **self._undo()}

    def _changed(self, asked: Asked, text: Texts) -> dict[Path, str]:
        book = self.desk.opened()
        names = asked.get("names")
        chosen = {self.desk.picture(str(name)) for name in names} if isinstance(names, list) else None
        captions = {p: c for p, c in book.captions.items() if chosen is None or p in chosen}
        find, replace = str(asked.get("find", "")), str(asked.get("replace", ""))
        match asked["edit"]:
            case "replace":
                if not find:
                    raise UserError(text("dataset.nothing_to_find"))
                regex, ignore_case = bool(asked.get("regex")), bool(asked.get("case"))
                return find_replace(captions, find, replace, regex=regex, ignore_case=ignore_case)
            case "prefix":
                return add_prefix(captions, find)
            case "suffix":
                return add_suffix(captions, find)
            case "trigger":
                return add_trigger(captions, find)
            case "remove_tag":
                return remove_tag(captions, find)
        raise ValueError("no such edit")

    def undo(self, asked: Asked, text: Texts) -> dict[str, Any]:
        return self._step(self.desk.opened().undo)

    def redo(self, asked: Asked, text: Texts) -> dict[str, Any]:
        return self._step(self.desk.opened().redo)

    def _step(self, step: Callable[[], Any]) -> dict[str, Any]:
        edit = step()
        if edit is not None:
            self.desk.edited(rescan=True)
        names = [change.file for change in edit.changes][:1] if edit else []
        return {"done": edit.label if edit else "", "file": names[0] if names else "", **self._undo()}

    def fix(self, asked: Asked, text: Texts) -> dict[str, Any]:
        """Mend one problem."""
        book, folder = self.desk.opened(), self.desk.folder
        assert folder is not None
        fix, name = str(asked["fix"]), str(asked["name"])
        path = self.desk.picture(name)
        label = text(f"dataset.fix_{fix}_label", name=path.name)
        if fix == fixes.LEAVE_OUT:
            fixes.leave_out(book, folder, [path], label)
        elif fix == fixes.TURN:
            fixes.turn(book, folder, path, int(asked["quarters"]), label)
        elif fix == fixes.TO_UTF8:
            fixes.to_utf8(book, path, label)
        elif fix == fixes.RENAME:
            fixes.rename(book, folder, path, str(asked["better"]), label)
        self.desk.edited(rescan=True)
        return self._undo()

    def _after(self, path: Path) -> None:
        about_captions = any(p.path == path and "caption" in p.kind for p in self.desk.problems)
        self.desk.edited(rescan=about_captions)

    def _undo(self) -> dict[str, Any]:
        book = self.desk.opened()
        return {"undo": book.undo_label, "redo": book.redo_label}

    # --- dropped pictures -------------------------------------------------------------------------------------

    def receive(self, place: str, name: str, content: bytes) -> Response:
        """Put a dropped file into the dataset called `place` below the user's own Treino folder; nothing is overwritten."""
        from lora_core.files import WriteError, write_bytes_whole

        text = self.texts["en"]
        safe_place, safe_name = plain(place), Path(name.replace("\\", "/")).name
        stem, ending = plain(Path(safe_name).stem), Path(safe_name).suffix.lower()
        if not safe_place or not stem or ending not in ENDINGS:
            return JSONResponse({"error": text("dataset.no_picture", name=name)})
        folder = Path.home() / "Treino" / safe_place
        try:
            folder.mkdir(parents=True, exist_ok=True)
            target = folder / f"{stem}{ending}"
            if target.exists() and target.read_bytes() != content:
                return JSONResponse({"error": text("dataset.name_taken", name=target.name)})
            write_bytes_whole(target, content)
        except (OSError, WriteError) as wrong:
            return JSONResponse({"error": str(wrong)})
        return JSONResponse({"folder": str(folder)})


def first_folder(desk: Desk, remembered: object) -> None:
    """Open what was open last, or the sample pictures: a newcomer sees pictures at once."""
    for candidate in (Path(str(remembered)) if remembered else None, ROOT / "Training"):
        if candidate is None or not candidate.is_dir():
            continue
        try:
            desk.open(candidate)
        except UserError:
            continue
        return


def can_browse() -> bool:
    """Whether there is a screen for the system's folder dialog, and something to show it with."""
    import importlib.util

    has_screen = sys.platform in ("win32", "darwin") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))
    return has_screen and importlib.util.find_spec("_tkinter") is not None


def _suits(entry: os.DirEntry[str], start: str) -> bool:
    hidden = entry.name.startswith(".") and not start.startswith(".")
    return entry.name.casefold().startswith(start.casefold()) and not hidden and entry.is_dir()
