"""What the Dataset tab's script asks for: one route of JSON in, JSON out, and one for dropped pictures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.responses import JSONResponse, Response

from lora_core.dataset import (
    Problem,
    add_prefix,
    add_suffix,
    add_trigger,
    count_tokens,
    find_replace,
    fixes,
    remove_tag,
)
from lora_core.dataset.edit_log import Edit
from lora_core.errors import UserError
from lora_core.messages import LANGUAGES
from lora_core.ui.shared import file_dialog
from lora_core.ui.shared.dataset_words import complaint, label
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.state.captioning import Order
from lora_core.ui.state.open_dataset import LARGE
from lora_core.ui.tabs.dataset import uploads

MOST_SHOWN = 200  # changes in a preview
Asked = Mapping[str, Any]
Told = dict[str, Any]


def add_routes(server: FastAPI, app: App) -> None:
    """Let `server` answer the tab's script."""
    clerk = Clerk(app)

    @server.post("/dataset")
    async def dataset(request: Request) -> Response:
        try:
            asked = await request.json()
        except ValueError:
            return JSONResponse({"error": "This is no question."}, 400)
        return await run_in_threadpool(clerk.answer, asked)

    @server.post("/dataset/upload/{batch}/{name}")
    async def upload(batch: str, name: str, request: Request, place: str = "", language: str = "en") -> Response:
        content = bytearray()
        async for part in request.stream():
            content += part
            if len(content) > uploads.LARGEST_FILE:
                return JSONResponse({"error": f"{name} is larger than {uploads.LARGEST_FILE >> 20} MB."}, 413)
        asked = {"act": "stage", "batch": batch, "name": name, "place": place, "language": language}
        return await run_in_threadpool(clerk.answer, {**asked, "content": bytes(content)})


class Clerk:
    """Answers one question at a time with what to show, or with a sentence under "error"."""

    def __init__(self, app: App) -> None:
        self.app, self.desk, self.describer = app, app.dataset, app.describer
        self.texts = {language: Texts(language) for language in LANGUAGES}
        self.acts: dict[str, Callable[[Asked, Texts], Told]] = {
            "state": self.state, "open": self.open, "browse": self.browse, "complete": self.complete, "look": self.look,
            "caption": self.caption, "preview": self.preview, "apply": self.apply, "undo": self.undo, "redo": self.redo,
            "fix": self.fix, "turn": self.turn, "resolution": self.resolution, "stage": self.stage, "add": self.add,
            "captioners": self.captioners, "describe": self.describe, "describe_cancel": self.describe_cancel,
            "describe_take": self.describe_take,
        }  # fmt: skip

    def answer(self, asked: Asked) -> Response:
        act = self.acts.get(str(asked.get("act"))) if isinstance(asked, Mapping) else None
        if act is None:
            return JSONResponse({"error": "There is no such act."}, 400)
        text = self.texts.get(str(asked.get("language")), self.texts["en"])
        try:
            return JSONResponse(act(asked, text))
        except UserError as wrong:
            return JSONResponse({"error": complaint(wrong, text)})
        except (KeyError, TypeError, ValueError, AttributeError) as wrong:
            return JSONResponse({"error": f"This is no question: {type(wrong).__name__}."}, 400)
        except Exception as error:  # noqa: BLE001  told on the page by the frame's error panel
            self.app.note_crash(f"dataset {asked['act']}", error)
            return JSONResponse({"error": ""})

    # --- looking ----------------------------------------------------------------------------------------------

    def state(self, asked: Asked, text: Texts) -> Told:
        self.desk.notice(time.monotonic())
        told = self.desk.state(text, self.app.files.url, int(asked["version"]), int(asked["edits"]))
        proposed = self.describer.told(text, self.app.files.url, int(asked.get("job", -1)), int(asked.get("rows", 0)))
        return {**told, "describer": proposed}

    def open(self, asked: Asked, text: Texts) -> Told:
        name = str(asked["folder"]).strip().strip('"')
        if not name:
            raise UserError(text("dataset.no_folder"))
        self.desk.open(Path(name))
        return {}

    def browse(self, asked: Asked, text: Texts) -> Told:
        found = file_dialog.choose(text("dataset.folder"), str(self.desk.folder or ""), "folder")
        if found is None:
            raise UserError(text("dataset.no_dialog"))
        return {"folder": found}

    def complete(self, asked: Asked, text: Texts) -> Told:
        return {"folders": file_dialog.complete(str(asked["folder"])) or self.desk.recent()}

    def look(self, asked: Asked, text: Texts) -> Told:
        """One picture, large, with what the model sees of it."""
        path = self.desk.picture(str(asked["name"]))
        tokens = {"tokens": count_tokens(self.desk.opened()[0].captions.get(path, ""))}
        try:
            return {"url": self.app.files.url(path, LARGE), **tokens, **self.desk.crop(path)}
        except UserError:  # the report tells why
            return {"unreadable": text("dataset.not_readable", name=path.name), **tokens}

    def resolution(self, asked: Asked, text: Texts) -> Told:
        self.desk.set_resolution(int(asked["resolution"]))
        return {}

    # --- captions ---------------------------------------------------------------------------------------------

    def caption(self, asked: Asked, text: Texts) -> Told:
        """Save a caption, unless it is no longer the one that was edited: then say what it is now."""
        path, wanted, was = self.desk.picture(str(asked["name"])), str(asked["text"]), str(asked["was"])
        book, _ = self.desk.opened()
        now = self.desk.edit(lambda: book.reread(path))
        if now not in (was, wanted) and not asked.get("force"):
            return {"conflict": now}
        if now != wanted:
            name = self.desk.name(path)
            self.desk.edit(lambda: book.apply({path: wanted}, label("caption", name), join=bool(asked.get("join"))))
        return {"saved": book.captions[path], "tokens": count_tokens(book.captions[path]), **self.desk.undo(text)}

    def preview(self, asked: Asked, text: Texts) -> Told:
        """What an edit of many would change."""
        changed, before = self._changed(asked, text)
        rows = [[self.desk.name(path), before[path], after] for path, after in list(changed.items())[:MOST_SHOWN]]
        return {"count": len(changed), "changes": rows}

    def apply(self, asked: Asked, text: Texts) -> Told:
        book, _ = self.desk.opened()
        self.desk.edit(book.reload)
        changed, _ = self._changed(asked, text)
        told = label(str(asked["edit"]), str(asked.get("find", "")), str(asked.get("replace", "")))
        return {"count": self.desk.edit(lambda: book.apply(changed, told)), **self.desk.undo(text)}

    def _changed(self, asked: Asked, text: Texts) -> tuple[dict[Path, str], dict[Path, str]]:
        """What an edit of many makes of the captions, and those."""
        book, _ = self.desk.opened()
        names, captions = asked.get("names"), book.captions
        chosen = {self.desk.picture(str(name)) for name in names} if isinstance(names, list) else set(captions)
        before = {path: caption for path, caption in captions.items() if path in chosen}
        find, replace = str(asked.get("find", "")), str(asked.get("replace", ""))
        if not find:
            raise UserError(text("dataset.nothing_to_find"))
        match asked["edit"]:
            case "replace":
                options = {"regex": bool(asked.get("regex")), "ignore_case": bool(asked.get("case"))}
                return find_replace(before, find, replace, **options), before
            case "prefix":
                return add_prefix(before, find), before
            case "suffix":
                return add_suffix(before, find), before
            case "trigger":
                return add_trigger(before, find), before
            case "remove_tag":
                return remove_tag(before, find), before
        raise ValueError("no such edit")

    # --- captions that are proposed ---------------------------------------------------------------------------

    def captioners(self, asked: Asked, text: Texts) -> Told:
        """How large each captioner's download is, and whether it is here."""
        from lora_core import captioners

        about = {
            name: {"size": text.size(each.megabytes * 10**6), "here": captioners.is_here(name)}
            for name, each in captioners.CAPTIONERS.items()
        }
        return {"captioners": about, "no_card": self.app.core_ready() and not _has_card()}

    def describe(self, asked: Asked, text: Texts) -> Told:
        """Let a captioner look at some pictures; what it says is told by `state` as it comes."""
        from lora_core.captioners import CAPTIONERS

        captioner = CAPTIONERS[asked["captioner"]].name
        pictures = tuple(self.desk.picture(str(name)) for name in asked["names"])
        threshold = min(1.0, max(0.0, float(asked["threshold"])))
        self.describer.start(Order(captioner, pictures, threshold, str(asked["trigger"]).strip()))
        return {}

    def describe_cancel(self, asked: Asked, text: Texts) -> Told:
        """Stop; with `forget`, what was proposed goes too."""
        if asked.get("forget"):
            self.describer.discard()
        else:
            self.describer.cancel()
        return {}

    def describe_take(self, asked: Asked, text: Texts) -> Told:
        """Write the captions proposed for these pictures, as one edit."""
        book, _ = self.desk.opened()
        taken = self.describer.chosen({self.desk.picture(str(name)) for name in asked["names"]})
        count = self.desk.edit(lambda: book.apply(taken, label("describe", str(len(taken)))))
        self.describer.discard()
        return {"count": count, **self.desk.undo(text)}

    # --- undo and fixes ---------------------------------------------------------------------------------------

    def undo(self, asked: Asked, text: Texts) -> Told:
        return self._step(self.desk.opened()[0].undo, text)

    def redo(self, asked: Asked, text: Texts) -> Told:
        return self._step(self.desk.opened()[0].redo, text)

    def _step(self, step: Callable[[], Edit | None], text: Texts) -> Told:
        """Take a step in the history; tells the first picture it concerned, for the page to show."""
        edit = self.desk.edit(step)
        files = [change.file for change in edit.changes] + [m for move in edit.moves for m in (move.source, move.target)]
        stems = {file.rpartition(".")[0] for file in files}
        names = [self.desk.name(path) for path in self.desk.opened()[0].captions]
        return {"name": next((n for n in names if n.rpartition(".")[0] in stems), ""), **self.desk.undo(text)}

    def turn(self, asked: Asked, text: Texts) -> Told:
        book, folder = self.desk.opened()
        path = self.desk.picture(str(asked["name"]))
        told, quarters = label("turn", self.desk.name(path)), int(asked["quarters"])
        self.desk.edit(lambda: fixes.turn(book, folder, path, quarters, told))
        return self.desk.undo(text)

    def fix(self, asked: Asked, text: Texts) -> Told:
        """Mend a problem of some pictures; those that cannot be mended are told after the others are."""
        book, folder = self.desk.opened()
        fix, kind = str(asked["fix"]), str(asked.get("kind", ""))
        paths = [self.desk.picture(str(name)) for name in asked["names"]]
        told = label(fix, self.desk.name(paths[0]) if len(paths) == 1 else str(len(paths)))
        if fix == fixes.LEAVE_OUT:
            self.desk.edit(lambda: fixes.leave_out(book, folder, list(dict.fromkeys(paths)), told))
            return self.desk.undo(text)
        wrong: list[str] = []
        for problem in [p for p in self.desk.problems if p.path in paths and p.kind == kind]:
            try:
                self.desk.edit(partial(self._mend, fix, problem))
            except UserError as error:
                wrong.append(complaint(error, text))
        return {**self.desk.undo(text), **({"error": " ".join(wrong[:3])} if wrong else {})}

    def _mend(self, fix: str, problem: Problem) -> None:
        book, folder = self.desk.opened()
        path, told = problem.path, label(fix, self.desk.name(problem.path))
        match fix:
            case fixes.TO_UTF8:
                fixes.to_utf8(book, path, told)
            case fixes.RENAME:
                fixes.rename(book, folder, path, dict(problem.values)["better"], told)
            case fixes.TO_PNG:
                fixes.to_png(book, folder, path, told)
            case fixes.UPRIGHT:
                fixes.turn(book, folder, path, 0, told)
            case fixes.SEPARATE:
                fixes.separate(book, folder, path, told)
            case fixes.KEEP_CAPTION:
                fixes.keep_caption(book, path, fixes.stand_in(problem), told)
            case _:
                raise ValueError("no such fix")

    # --- dropped pictures -------------------------------------------------------------------------------------

    def stage(self, asked: Asked, text: Texts) -> Told:
        """Keep a dropped file until all are there."""
        uploads.stage(self._target(asked), str(asked["batch"]), str(asked["name"]), asked["content"])
        return {}

    def add(self, asked: Asked, text: Texts) -> Told:
        """Put the kept files among the pictures of the open folder, or into a new one, which is opened."""
        folder = self._target(asked)
        files = uploads.staged(folder, str(asked["batch"]))
        if not files:
            raise UserError(text("dataset.nothing_dropped"))
        if asked.get("place"):
            self.desk.open(folder)
        book, _ = self.desk.opened()
        placed = self.desk.edit(lambda: fixes.add(book, folder, files, label("add", str(len(files)))))
        return {"name": next((self.desk.name(p) for p in placed if p in book.captions), ""), **self.desk.undo(text)}

    def _target(self, asked: Asked) -> Path:
        place = str(asked.get("place", ""))
        return uploads.new_folder(place) if place else self.desk.opened()[1]


def _has_card() -> bool:
    from lora_core.models.device import devices  # brings torch

    return any(device.name != "cpu" for device in devices())
