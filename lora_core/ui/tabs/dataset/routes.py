"""What the Dataset tab's script asks for: a route of JSON for each thing, and one for dropped pictures.

What a person asked for and cannot be done is told as a sentence under "error", in the language of the page.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Request
from fastapi import Path as InPath
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from fastapi.routing import APIRoute
from starlette.requests import ClientDisconnect

from lora_core import captioners
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
from lora_core.dataset.edit_log import Edit, did
from lora_core.errors import UserError
from lora_core.messages import LANGUAGES, Message
from lora_core.ui.shared import file_dialog
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.state.captioning import CaptioningRequest
from lora_core.ui.state.open_dataset import LARGE, OpenDataset
from lora_core.ui.tabs.dataset import uploads
from lora_core.ui.tabs.dataset.bodies import (
    Cancel,
    CaptionEdit,
    Description,
    Drop,
    Fix,
    Folder,
    ManyEdit,
    Name,
    Names,
    PathText,
    Resolution,
    Seen,
    Turn,
)  # fmt: skip

MOST_SHOWN = 200  # changes in a preview
Answer = dict[str, Any]


def add_dataset_routes(server: FastAPI, app: App) -> None:
    """Let `server` answer the tab's script."""
    server.state.treino = app
    server.include_router(router)


def _app(request: Request) -> App:
    app: App = request.app.state.treino
    return app


def _text(language: str = LANGUAGES[0]) -> Texts:
    return Texts(language if language in LANGUAGES else LANGUAGES[0])


class _Route(APIRoute):
    """Whatever goes wrong is answered as JSON: a sentence for people, or "" with a report in the frame's error panel."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()

        async def answer(request: Request) -> Response:
            text = _text(request.query_params.get("language", ""))
            try:
                if self.body_field and not _is_text(await request.body()):  # read here: one cut off is no wrong one
                    raise HTTPException(422, "a body that is no UTF-8")
                return await handle(request)
            except UserError as wrong:
                return JSONResponse({"error": text.say(wrong.message)})
            except (RequestValidationError, HTTPException) as wrong:
                what = Message("ui.bad_request", what=_slip(wrong))
                return JSONResponse({"error": text.say(what)}, getattr(wrong, "status_code", 422))
            except ClientDisconnect:
                raise
            except Exception as error:  # noqa: BLE001  told on the page by the frame's error panel
                _app(request).note_crash(request.url.path, error)
                return JSONResponse({"error": ""}, 500)

        return answer


def _is_text(body: bytes) -> bool:
    try:
        body.decode()
    except UnicodeDecodeError:
        return False
    return True


def _slip(wrong: RequestValidationError | HTTPException) -> str:
    if isinstance(wrong, HTTPException):
        return str(wrong.detail)
    return "; ".join(f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in wrong.errors()[:3])


router = APIRouter(prefix="/dataset", route_class=_Route)
InApp = Annotated[App, Depends(_app)]
InLanguage = Annotated[Texts, Depends(_text)]


# --- looking ----------------------------------------------------------------------------------------------------------


@router.post("/state")
def state(seen: Seen, app: InApp, text: InLanguage) -> Answer:
    """What changed since."""
    app.dataset.notice(time.monotonic())
    told = app.dataset.state(text, app.files.url, seen.version, seen.edits)
    return {**told, "describer": app.describer.update(text, app.files.url, seen.job, seen.rows)}


@router.post("/open")
def open_folder(wanted: Folder, app: InApp) -> Answer:
    name = wanted.folder.strip().strip('"')
    if not name:
        raise UserError("ui.no_folder_given")
    app.dataset.open(Path(name))
    return {}


@router.post("/browse")
def browse(app: InApp, text: InLanguage) -> Answer:
    """Let the system's dialog choose a folder."""
    found = file_dialog.choose(text("dataset.folder"), str(app.dataset.folder or ""), "folder")
    if found is None:
        raise UserError("ui.no_dialog")
    return {"folder": found}


@router.post("/complete")
def complete(typed: Folder, app: InApp) -> Answer:
    return {"folders": file_dialog.complete(typed.folder) or app.dataset.recent()}


@router.post("/look")
def look(wanted: Name, app: InApp, text: InLanguage) -> Answer:
    """One picture, large, with what the model sees of it."""
    path = app.dataset.picture(wanted.name)
    tokens = {"tokens": count_tokens(app.dataset.opened().captions.get(path, ""))}
    try:
        return {"url": app.files.url(path, LARGE), **tokens, **app.dataset.crop(path)}
    except UserError:  # the report tells why
        return {"unreadable": text.say(Message("ui.unreadable_picture", name=path.name)), **tokens}


@router.post("/resolution")
def resolution(wanted: Resolution, app: InApp) -> Answer:
    app.dataset.set_resolution(wanted.resolution)
    return {}


# --- captions ---------------------------------------------------------------------------------------------------------


@router.post("/caption")
def caption(wanted: CaptionEdit, app: InApp, text: InLanguage) -> Answer:
    """Save a caption, unless it is no longer the one that was edited: then say what it is now."""
    dataset = app.dataset
    path, editor = dataset.picture(wanted.name), dataset.opened()
    now = dataset.edit(lambda: editor.reread(path))
    if now not in (wanted.was, wanted.text) and not wanted.force:
        return {"conflict": now}
    if now != wanted.text:
        edit = did("caption", name=dataset.name(path))
        dataset.edit(lambda: editor.apply({path: wanted.text}, edit, join=wanted.join))
    return {"saved": editor.captions[path], "tokens": count_tokens(editor.captions[path]), **dataset.steps(text)}


@router.post("/preview")
def preview(wanted: ManyEdit, app: InApp) -> Answer:
    """What an edit of many would change."""
    changed, before = _changed(wanted, app.dataset)
    rows = [[app.dataset.name(path), before[path], after] for path, after in list(changed.items())[:MOST_SHOWN]]
    return {"count": len(changed), "changes": rows}


@router.post("/apply")
def apply(wanted: ManyEdit, app: InApp, text: InLanguage) -> Answer:
    editor = app.dataset.opened()
    app.dataset.edit(editor.reload)
    changed, _ = _changed(wanted, app.dataset)
    return {"count": app.dataset.edit(lambda: editor.apply(changed, _named(wanted))), **app.dataset.steps(text)}


def _changed(wanted: ManyEdit, dataset: OpenDataset) -> tuple[dict[Path, str], dict[Path, str]]:
    """What an edit of many makes of the captions, and those."""
    captions = dataset.opened().captions
    chosen = captions if wanted.names is None else {dataset.picture(name) for name in wanted.names}
    before = {path: caption for path, caption in captions.items() if path in chosen}
    if not wanted.find:
        raise UserError("ui.no_text_given")
    match wanted.edit:
        case "replace":
            found = find_replace(before, wanted.find, wanted.replace, regex=wanted.regex, ignore_case=wanted.case)
        case "prefix":
            found = add_prefix(before, wanted.find)
        case "suffix":
            found = add_suffix(before, wanted.find)
        case "trigger":
            found = add_trigger(before, wanted.find)
        case "remove_tag":
            found = remove_tag(before, wanted.find)
    return found, before


def _named(wanted: ManyEdit) -> Message:
    match wanted.edit:
        case "replace":
            return did("replace", find=wanted.find, replace=wanted.replace)
        case "trigger":
            return did("trigger", word=wanted.find)
        case "remove_tag":
            return did("remove_tag", tag=wanted.find)
    return did(wanted.edit, text=wanted.find)


# --- captions that are proposed ---------------------------------------------------------------------------------------


@router.post("/captioners")
def known_captioners(app: InApp, text: InLanguage) -> Answer:
    """How large each captioner's download is, and whether it is here."""
    about = {
        name: {"size": text.size(each.megabytes * 10**6), "here": captioners.is_here(name)}
        for name, each in captioners.CAPTIONERS.items()
    }
    return {"captioners": about, "no_card": app.core_ready() and not _has_card()}


@router.post("/describe")
def describe(wanted: Description, app: InApp) -> Answer:
    """Let a captioner look at some pictures; what it says is told by `state` as it comes."""
    pictures = tuple(app.dataset.picture(name) for name in wanted.names)
    app.describer.start(CaptioningRequest(wanted.captioner, pictures, wanted.threshold, wanted.trigger.strip()))
    return {}


@router.post("/describe_cancel")
def describe_cancel(wanted: Cancel, app: InApp) -> Answer:
    if wanted.forget:
        app.describer.discard()
    else:
        app.describer.cancel()
    return {}


@router.post("/describe_take")
def describe_take(wanted: Names, app: InApp, text: InLanguage) -> Answer:
    """Write the captions proposed for these pictures, as one edit."""
    dataset = app.dataset
    editor = dataset.opened()
    taken = app.describer.chosen({dataset.picture(name) for name in wanted.names})
    count = dataset.edit(lambda: editor.apply(taken, did("describe", count=str(len(taken)))))
    app.describer.discard()
    return {"count": count, **dataset.steps(text)}


# --- undo and fixes ---------------------------------------------------------------------------------------------------


@router.post("/undo")
def undo(app: InApp, text: InLanguage) -> Answer:
    return _step(app.dataset.opened().undo, app.dataset, text)


@router.post("/redo")
def redo(app: InApp, text: InLanguage) -> Answer:
    return _step(app.dataset.opened().redo, app.dataset, text)


def _step(step: Callable[[], Edit | None], dataset: OpenDataset, text: Texts) -> Answer:
    """Take a step in the edit log; tells the first picture it concerned, for the page to show."""
    edit = dataset.edit(step)
    files = [c.file for c in edit.changes] + [m for move in edit.moves for m in (move.source, move.target)] if edit else []
    stems = {file.rpartition(".")[0] for file in files}
    names = [dataset.name(path) for path in dataset.opened().captions]
    return {"name": next((n for n in names if n.rpartition(".")[0] in stems), ""), **dataset.steps(text)}


@router.post("/turn")
def turn(wanted: Turn, app: InApp, text: InLanguage) -> Answer:
    path, editor = app.dataset.picture(wanted.name), app.dataset.opened()
    app.dataset.edit(lambda: fixes.turn(editor, path, wanted.quarters))
    return app.dataset.steps(text)


@router.post("/fix")
def fix(wanted: Fix, app: InApp, text: InLanguage) -> Answer:
    """Mend a problem of some pictures; those that cannot be mended are told after the others are."""
    dataset = app.dataset
    editor, paths = dataset.opened(), [dataset.picture(name) for name in wanted.names]
    if wanted.fix == "leave_out":
        dataset.edit(lambda: fixes.leave_out(editor, list(dict.fromkeys(paths))))
        return dataset.steps(text)
    wrong: list[str] = []
    for problem in [p for p in dataset.problems if p.path in paths and p.kind == wanted.kind]:
        try:
            dataset.edit(partial(_mend, wanted.fix, problem, dataset))
        except UserError as error:
            wrong.append(text.say(error.message))
    return {**dataset.steps(text), **({"error": " ".join(wrong[:3])} if wrong else {})}


def _mend(fix: fixes.Fix, problem: Problem, dataset: OpenDataset) -> None:
    editor, path = dataset.opened(), problem.path
    match fix:
        case "to_utf8":
            fixes.to_utf8(editor, path)
        case "rename":
            fixes.rename(editor, path, str(dict(problem.message.params)["better"]))
        case "to_png":
            fixes.to_png(editor, path)
        case "upright":
            fixes.turn(editor, path, 0)
        case "separate":
            fixes.separate(editor, path)
        case "keep_caption":
            fixes.keep_caption(editor, path, fixes.stand_in(problem))


# --- dropped pictures -------------------------------------------------------------------------------------------------


@router.post("/upload/{batch}/{name}", response_model=None)
async def upload(
    batch: Annotated[str, InPath(pattern=uploads.BATCH)], name: PathText, request: Request, app: InApp, text: InLanguage,
    place: PathText = "",
) -> Answer | Response:  # fmt: skip
    """Keep a dropped file until all are there."""
    content = bytearray()
    async for part in request.stream():
        content += part
        if len(content) > uploads.LARGEST_FILE:
            large = Message("ui.too_large_dropped", name=name, most=uploads.LARGEST_FILE >> 20)
            return JSONResponse({"error": text.say(large)}, 413)
    await run_in_threadpool(lambda: uploads.stage(_target(place, app), batch, name, bytes(content)))
    return {}


@router.post("/add")
def add(wanted: Drop, app: InApp, text: InLanguage) -> Answer:
    """Put the kept files among the pictures of the open folder, or into a new one, which is opened."""
    dataset, folder = app.dataset, _target(wanted.place, app)
    files = uploads.staged(folder, wanted.batch)
    if not files:
        raise UserError("ui.nothing_dropped")
    if wanted.place:
        dataset.open(folder)
    editor = dataset.opened()
    placed = dataset.edit(lambda: fixes.add(editor, files))
    return {"name": next((dataset.name(p) for p in placed if p in editor.captions), ""), **dataset.steps(text)}


def _target(place: str, app: App) -> Path:
    return uploads.new_folder(place) if place else app.dataset.opened().folder


def _has_card() -> bool:
    from lora_core.models.device import devices  # brings torch

    return any(device.name != "cpu" for device in devices())
