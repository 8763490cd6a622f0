"""The list of runs and the details of one as HTML; every word that came from a file is escaped."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.runs.actions import Contents, contents, files_of
from lora_core.runs.index import Row
from lora_core.runs.run import SHEET, run_of
from lora_core.system.units import duration

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

PAGE = 50  # runs shown before "show more"
THUMBNAIL, MOST_SIDE = 96, 1024  # pixels
MOST_FILES = 200
MOST_PICTURES = 6
STATES = {
    "running": "runs.state_running", "pausing": "runs.state_pausing", "paused": "runs.state_paused",
    "stopping": "runs.state_stopping", "finished": "runs.state_finished", "stopped": "runs.state_stopped",
    "failed": "runs.state_failed", "cut": "runs.state_cut", "elsewhere": "runs.state_elsewhere",
}  # fmt: skip
WRONG = {
    "config": "runs.wrong_config", "events": "runs.wrong_events", "lines": "runs.wrong_lines", "lora": "runs.wrong_lora",
}  # fmt: skip
COLUMNS = {
    "name": "runs.column_name", "at": "runs.column_at", "steps": "runs.column_steps", "best": "runs.column_best",
    "state": "runs.column_state",
}  # fmt: skip
FALLING = ("at", "steps")  # columns that begin with the largest


@dataclass(frozen=True)
class ListState:
    """What a page shows of the list: what is searched for, the order, how many, and which runs are chosen."""

    words: str = ""
    state: str = ""
    order: str = "at"
    falling: bool = True
    shown: int = PAGE
    key: str = ""
    ticked: tuple[str, ...] = ()
    anew: int = 0  # counts up to draw a list anew that says the same: a browser keeps the ticks that were made in it


@dataclass(frozen=True)
class ViewContext:
    """What views need of the window. `state(row)` is the live state of a run; `url(path, side)` a picture's address."""

    text: Texts
    url: Callable[[Path, int], str]
    state: Callable[[Row], str]

    def say(self, key: str, **values: object) -> str:
        return escape(self.text(key, **values))

    def date(self, at: float) -> str:
        return time.strftime(self.text("runs.date"), time.localtime(at))

    def chip(self, row: Row) -> str:
        state = self.state(row)
        return f'<span class="chip chip-{state}">{self.say(STATES[state])}</span>'

    def image(self, path: Path | None, side: int, alt: str) -> str:
        """A picture, or an empty frame where there is none or it is damaged."""
        address = self.url(path, side) if path is not None and path.is_file() else ""
        if not address:
            return '<span class="runs-blank" aria-hidden="true"></span>'
        return f'<img src="{escape(address)}" alt="{escape(alt)}" loading="lazy" decoding="async">'


# --- the list --------------------------------------------------------------------------------------------------------


def chosen(rows: Sequence[Row], listed: ListState, state: Callable[[Row], str]) -> list[Row]:
    """The rows that fit what is searched for, in the order that is asked for; what has no value comes last."""
    words = listed.words.casefold().split()
    found = [
        row
        for row in rows
        if all(word in f"{row.name} {row.key} {row.model}".casefold() for word in words)
        and listed.state in ("", state(row), "wrong" if row.wrong else "")
    ]
    keys: dict[str, Callable[[Row], float | str | None]] = {
        "name": lambda row: row.name.casefold(), "at": lambda row: row.at, "steps": lambda row: row.summary.step,
        "best": lambda row: row.summary.best_loss, "state": state,
    }  # fmt: skip
    key = keys[listed.order]
    known = [row for row in found if key(row) is not None]
    known.sort(key=lambda row: key(row), reverse=listed.falling)  # type: ignore[arg-type,return-value]
    return [*known, *(row for row in found if key(row) is None)]


def list_html(rows: Sequence[Row], listed: ListState, context: ViewContext) -> str:
    """A table of runs, the first `listed.shown` of those that fit."""
    if not rows:
        lead = f'<p class="runs-lead">{context.say("runs.none")}</p>'
        return f'<div class="runs-empty">{lead}<p>{context.say("runs.none_help")}</p></div>'
    found = chosen(rows, listed, context.state)
    if not found:
        return f'<div class="runs-empty"><p class="runs-lead">{context.say("runs.none_fit")}</p></div>'
    body = "".join(_row_html(row, listed, context) for row in found[: listed.shown])
    heads = "".join(_head(column, key, listed, context) for column, key in COLUMNS.items())
    rest = len(found) - listed.shown
    more = context.say("runs.more", n=min(rest, PAGE), rest=rest)
    button = f'<button type="button" class="runs-more" data-act="more">{more}</button>' if rest > 0 else ""
    silent = "".join(
        f'<th scope="col"><span class="sr-only">{context.say(key)}</span></th>'
        for key in ("runs.column_tick", "runs.column_picture")
    )
    return (
        f'<p class="runs-count" role="status">{context.say("runs.count", n=len(found), all=len(rows))}</p>'
        f'<table class="runs-table" data-anew="{listed.anew}"><thead><tr>{silent}{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table>{button}"
    )


def _head(column: str, key: str, listed: ListState, context: ViewContext) -> str:
    is_order = listed.order == column
    direction = ("descending" if listed.falling else "ascending") if is_order else "none"
    arrow = ("▾" if listed.falling else "▴") if is_order else ""
    return (
        f'<th scope="col" aria-sort="{direction}" class="runs-col-{column}"><button type="button" data-act="sort" '
        f'data-value="{column}">{context.say(key)}<span aria-hidden="true"> {arrow}</span></button></th>'
    )


def _row_html(row: Row, listed: ListState, context: ViewContext) -> str:
    name, key, told = escape(row.name), escape(row.key), row.summary
    current = ' aria-current="true"' if row.key == listed.key else ""
    tick = (
        f'<input type="checkbox" data-act="tick" value="{key}" aria-label="{context.say("runs.tick", name=row.name)}"'
        f"{' checked' if row.key in listed.ticked else ''}>"
    )
    wrong = f'<span class="runs-wrong-mark" title="{context.say(WRONG[row.wrong[0]])}">⚠</span> ' if row.wrong else ""
    pictures = context.say("runs.pictures", n=told.pictures) if told.pictures else ""
    about = " · ".join(part for part in (escape(row.model), pictures) if part)
    day, _, hour = context.date(row.at).partition(" ")
    steps = f"{told.step}" if told.step >= told.total else f"{told.step}/{told.total}"
    best = context.text.number(f"{told.best_loss:.4f}") if told.best_loss is not None else "–"
    at = f'<span class="runs-sub">{context.say("runs.at_step", step=told.best_step)}</span>' if told.best_step else ""
    return (
        f'<tr data-key="{key}"{current}><td>{tick}</td><td>{context.image(row.picture, THUMBNAIL, "")}</td>'
        f'<th scope="row"><button type="button" class="runs-name" data-act="open" data-value="{key}" title="{name}">'
        f"{wrong}{name}</button>"
        f'<span class="runs-sub">{about}</span></th>'
        f'<td class="runs-at">{escape(day)}<span class="runs-sub">{escape(hour)}</span></td>'
        f'<td class="runs-steps">{steps}</td>'
        f'<td class="runs-best">{best}{at}</td><td>{context.chip(row)}</td></tr>'
    )


# --- one run ---------------------------------------------------------------------------------------------------------


def details_html(row: Row, context: ViewContext, plot: str) -> str:
    """Everything about one run: what is wrong, numbers, pictures, plot, settings, files."""
    return (
        f'<section class="runs-details" aria-label="{escape(row.name)}"><header><h3>{escape(row.name)}</h3>'
        f"{context.chip(row)}</header>{_wrong_html(row, context)}{_numbers_html(row, context)}"
        f"{_pictures_html(row, context)}{plot}{_settings_html(row, context)}{_files_html(row, context)}</section>"
    )


def _wrong_html(row: Row, context: ViewContext) -> str:
    said = [context.say(WRONG[kind], n=row.summary.damaged) for kind in row.wrong]
    if row.why:
        said.append(escape(context.text.say(row.why)))
    if row.summary.failure and context.state(row) == "failed":
        said.insert(0, escape(context.text.say(row.summary.failure)))
    return f'<ul class="runs-wrong" role="alert">{"".join(f"<li>{each}</li>" for each in said)}</ul>' if said else ""


def _numbers_html(row: Row, context: ViewContext) -> str:
    told = row.summary
    loss = context.text.number(f"{told.best_loss:.4f}") if told.best_step else ""
    best = context.text("runs.best_at", loss=loss, step=told.best_step) if told.best_step else ""
    took = duration(told.last_at - told.began_at) if told.last_at > told.began_at else ""
    facts = {
        "runs.fact_began": context.date(row.at), "runs.fact_took": took, "runs.fact_model": row.model,
        "runs.fact_init": _ancestor(row),
        "runs.fact_pictures": str(told.pictures or ""),
        "runs.fact_steps": context.text("runs.steps_of", step=told.step, total=told.total) if told.total else "",
        "runs.fact_best": best,
    }  # fmt: skip
    shown = "".join(
        f"<div><dt>{context.say(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items() if value
    )
    return f'<dl class="runs-numbers">{shown}</dl>'


def _ancestor(row: Row) -> str:
    """The LoRA a run went on from, after the run that made it."""
    if row.config is None or not row.config.init_lora:
        return ""
    path = Path(row.config.init_lora)
    made = run_of(path)
    return f"{made.folder.name} · {path.name}" if made else path.name


def _pictures_html(row: Row, context: ViewContext) -> str:
    """The before/after sheet; without one, the last sample pictures."""
    sheet = row.run.folder / SHEET
    if sheet.is_file():
        return _zoom(sheet, MOST_SIDE, context.text("runs.sheet"), context, "runs-sheet")
    last = row.picture
    if last is None:
        return ""
    group = sorted(last.parent.glob(f"{last.stem.rpartition('_')[0]}_*.png"))[:MOST_PICTURES]
    shown = "".join(_zoom(path, 256, context.text("runs.sample", name=path.stem), context, "") for path in group)
    return f'<div class="runs-samples">{shown}</div>'


def _zoom(path: Path, side: int, caption: str, context: ViewContext, style: str) -> str:
    """A picture that a click enlarges."""
    return (
        f'<button type="button" class="zoom {style}" data-full="{escape(context.url(path, 0))}" '
        f'data-caption="{escape(caption)}">{context.image(path, side, caption)}</button>'
    )


def _settings_html(row: Row, context: ViewContext) -> str:
    if row.config is None:
        return ""
    usual, own = TrainConfig().values(), row.config.values()
    lines = "".join(
        f'<tr><th scope="row">{context.say(f"settings.{name}")}</th><td>{escape(value_text(value, context))}</td></tr>'
        for name, value in own.items()
        if value != usual[name] and name != "output_dir"
    )
    body = f"<table>{lines}</table>" if lines else f"<p>{context.say('runs.settings_usual')}</p>"
    return f"<details open><summary>{context.say('runs.settings')}</summary>{body}</details>"


def value_text(value: object, context: ViewContext) -> str:
    """A setting's value for people."""
    if isinstance(value, bool):
        return context.text("runs.yes") if value else context.text("runs.no")
    if isinstance(value, tuple):
        return "; ".join(map(str, value)) or "–"
    return context.text.number(f"{value:g}") if isinstance(value, float) else str(value) or "–"


def _files_html(row: Row, context: ViewContext) -> str:
    try:
        found = contents(row)
    except OSError:  # deleted meanwhile
        return ""
    folder = row.run.folder
    files = [pair for part in found.parts for pair in files_of(part)]
    lines = "".join(
        f'<tr><th scope="row">{escape(path.relative_to(folder).as_posix())}</th><td>{context.text.size(size)}</td></tr>'
        for path, size in files[:MOST_FILES]
    )
    rest = f"<p>{context.say('runs.files_more', n=len(files) - MOST_FILES)}</p>" if len(files) > MOST_FILES else ""
    head = context.say("runs.files", n=found.files, size=context.text.size(found.size))
    return (
        f"<details><summary>{head}</summary><p><code>{escape(str(folder))}</code></p><table>{lines}</table>{rest}</details>"
    )


def doom_html(row: Row, found: Contents, context: ViewContext) -> str:
    """What goes when a run is deleted, and what stays."""
    parts = [context.say("runs.doom_files", n=found.files, size=context.text.size(found.size))]
    parts += [context.say("runs.doom_lora", name=row.lora.name)] if row.lora else []
    parts += [context.say("runs.doom_checkpoints", n=found.checkpoints)] if found.checkpoints else []
    parts += [context.say("runs.doom_samples", n=found.samples)] if found.samples else []
    items = "".join(f"<li>{part}</li>" for part in parts)
    stays = f"<p>{context.say('runs.doom_stays', names=', '.join(found.stays[:8]))}</p>" if found.stays else ""
    return (
        f'<div role="alert"><p><strong>{context.say("runs.doom", name=row.name)}</strong></p><ul>{items}</ul>{stays}'
        f"<p>{context.say('runs.doom_place')}</p></div>"
    )
