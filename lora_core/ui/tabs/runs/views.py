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
from lora_core.runs.run import SHEET
from lora_core.system.units import duration
from lora_core.ui.shared.translate import translated

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
class Look:
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
class Eyes:
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


def chosen(rows: Sequence[Row], look: Look, state: Callable[[Row], str]) -> list[Row]:
    """The rows that fit what is searched for, in the order that is asked for; what has no value comes last."""
    words = look.words.casefold().split()
    found = [
        row
        for row in rows
        if all(word in f"{row.name} {row.key} {row.model}".casefold() for word in words)
        and look.state in ("", state(row), "wrong" if row.wrong else "")
    ]
    keys: dict[str, Callable[[Row], float | str | None]] = {
        "name": lambda row: row.name.casefold(), "at": lambda row: row.at, "steps": lambda row: row.summary.step,
        "best": lambda row: row.summary.best_loss, "state": state,
    }  # fmt: skip
    key = keys[look.order]
    known = [row for row in found if key(row) is not None]
    known.sort(key=lambda row: key(row), reverse=look.falling)  # type: ignore[arg-type,return-value]
    return [*known, *(row for row in found if key(row) is None)]


def list_html(rows: Sequence[Row], look: Look, eyes: Eyes) -> str:
    """A table of runs, the first `look.shown` of those that fit."""
    if not rows:
        lead = f'<p class="runs-lead">{eyes.say("runs.none")}</p>'
        return f'<div class="runs-empty">{lead}<p>{eyes.say("runs.none_help")}</p></div>'
    found = chosen(rows, look, eyes.state)
    if not found:
        return f'<div class="runs-empty"><p class="runs-lead">{eyes.say("runs.none_fit")}</p></div>'
    body = "".join(_row_html(row, look, eyes) for row in found[: look.shown])
    heads = "".join(_head(column, key, look, eyes) for column, key in COLUMNS.items())
    rest = len(found) - look.shown
    more = eyes.say("runs.more", n=min(rest, PAGE), rest=rest)
    button = f'<button type="button" class="runs-more" data-act="more">{more}</button>' if rest > 0 else ""
    silent = "".join(
        f'<th scope="col"><span class="sr-only">{eyes.say(key)}</span></th>'
        for key in ("runs.column_tick", "runs.column_picture")
    )
    return (
        f'<p class="runs-count" role="status">{eyes.say("runs.count", n=len(found), all=len(rows))}</p>'
        f'<table class="runs-table" data-anew="{look.anew}"><thead><tr>{silent}{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table>{button}"
    )


def _head(column: str, key: str, look: Look, eyes: Eyes) -> str:
    is_order = look.order == column
    direction = ("descending" if look.falling else "ascending") if is_order else "none"
    arrow = ("▾" if look.falling else "▴") if is_order else ""
    return (
        f'<th scope="col" aria-sort="{direction}" class="runs-col-{column}"><button type="button" data-act="sort" '
        f'data-value="{column}">{eyes.say(key)}<span aria-hidden="true"> {arrow}</span></button></th>'
    )


def _row_html(row: Row, look: Look, eyes: Eyes) -> str:
    name, key, told = escape(row.name), escape(row.key), row.summary
    current = ' aria-current="true"' if row.key == look.key else ""
    tick = (
        f'<input type="checkbox" data-act="tick" value="{key}" aria-label="{eyes.say("runs.tick", name=row.name)}"'
        f"{' checked' if row.key in look.ticked else ''}>"
    )
    wrong = f'<span class="runs-wrong-mark" title="{eyes.say(WRONG[row.wrong[0]])}">⚠</span> ' if row.wrong else ""
    pictures = eyes.say("runs.pictures", n=told.pictures) if told.pictures else ""
    about = " · ".join(part for part in (escape(row.model), pictures) if part)
    day, _, hour = eyes.date(row.at).partition(" ")
    steps = f"{told.step}" if told.step >= told.total else f"{told.step}/{told.total}"
    best = eyes.text.number(f"{told.best_loss:.4f}") if told.best_loss is not None else "–"
    at = f'<span class="runs-sub">{eyes.say("runs.at_step", step=told.best_step)}</span>' if told.best_step else ""
    return (
        f'<tr data-key="{key}"{current}><td>{tick}</td><td>{eyes.image(row.picture, THUMBNAIL, "")}</td>'
        f'<th scope="row"><button type="button" class="runs-name" data-act="open" data-value="{key}" title="{name}">'
        f"{wrong}{name}</button>"
        f'<span class="runs-sub">{about}</span></th>'
        f'<td class="runs-at">{escape(day)}<span class="runs-sub">{escape(hour)}</span></td>'
        f'<td class="runs-steps">{steps}</td>'
        f'<td class="runs-best">{best}{at}</td><td>{eyes.chip(row)}</td></tr>'
    )


# --- one run ---------------------------------------------------------------------------------------------------------


def details_html(row: Row, eyes: Eyes, plot: str) -> str:
    """Everything about one run: what is wrong, numbers, pictures, plot, settings, files."""
    return (
        f'<section class="runs-details" aria-label="{escape(row.name)}"><header><h3>{escape(row.name)}</h3>{eyes.chip(row)}'
        f"</header>{_wrong_html(row, eyes)}{_numbers_html(row, eyes)}{_pictures_html(row, eyes)}{plot}"
        f"{_settings_html(row, eyes)}{_files_html(row, eyes)}</section>"
    )


def _wrong_html(row: Row, eyes: Eyes) -> str:
    said = [eyes.say(WRONG[kind], n=row.summary.damaged) for kind in row.wrong]
    if row.why:
        said.append(escape(translated(row.why, eyes.text)))
    if row.summary.failure and eyes.state(row) == "failed":
        said.insert(0, escape(translated(row.summary.failure, eyes.text)))
    return f'<ul class="runs-wrong" role="alert">{"".join(f"<li>{each}</li>" for each in said)}</ul>' if said else ""


def _numbers_html(row: Row, eyes: Eyes) -> str:
    told = row.summary
    loss = eyes.text.number(f"{told.best_loss:.4f}") if told.best_step else ""
    best = eyes.text("runs.best_at", loss=loss, step=told.best_step) if told.best_step else ""
    took = duration(told.last_at - told.began_at) if told.last_at > told.began_at else ""
    facts = {
        "runs.fact_began": eyes.date(row.at), "runs.fact_took": took, "runs.fact_model": row.model,
        "runs.fact_pictures": str(told.pictures or ""),
        "runs.fact_steps": eyes.text("runs.steps_of", step=told.step, total=told.total) if told.total else "",
        "runs.fact_best": best,
    }  # fmt: skip
    shown = "".join(f"<div><dt>{eyes.say(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in facts.items() if value)
    return f'<dl class="runs-numbers">{shown}</dl>'


def _pictures_html(row: Row, eyes: Eyes) -> str:
    """The before/after sheet; without one, the last sample pictures."""
    sheet = row.run.folder / SHEET
    if sheet.is_file():
        return _zoom(sheet, MOST_SIDE, eyes.text("runs.sheet"), eyes, "runs-sheet")
    last = row.picture
    if last is None:
        return ""
    group = sorted(last.parent.glob(f"{last.stem.rpartition('_')[0]}_*.png"))[:MOST_PICTURES]
    shown = "".join(_zoom(path, 256, eyes.text("runs.sample", name=path.stem), eyes, "") for path in group)
    return f'<div class="runs-samples">{shown}</div>'


def _zoom(path: Path, side: int, caption: str, eyes: Eyes, style: str) -> str:
    """A picture that a click enlarges."""
    return (
        f'<button type="button" class="zoom {style}" data-full="{escape(eyes.url(path, 0))}" '
        f'data-caption="{escape(caption)}">{eyes.image(path, side, caption)}</button>'
    )


def _settings_html(row: Row, eyes: Eyes) -> str:
    if row.config is None:
        return ""
    usual, own = TrainConfig().values(), row.config.values()
    lines = "".join(
        f'<tr><th scope="row">{eyes.say(f"settings.{name}")}</th><td>{escape(value_text(value, eyes))}</td></tr>'
        for name, value in own.items()
        if value != usual[name] and name != "output_dir"
    )
    body = f"<table>{lines}</table>" if lines else f"<p>{eyes.say('runs.settings_usual')}</p>"
    return f"<details open><summary>{eyes.say('runs.settings')}</summary>{body}</details>"


def value_text(value: object, eyes: Eyes) -> str:
    """A setting's value for people."""
    if isinstance(value, bool):
        return eyes.text("runs.yes") if value else eyes.text("runs.no")
    if isinstance(value, tuple):
        return "; ".join(map(str, value)) or "–"
    return eyes.text.number(f"{value:g}") if isinstance(value, float) else str(value) or "–"


def _files_html(row: Row, eyes: Eyes) -> str:
    try:
        found = contents(row)
    except OSError:  # deleted meanwhile
        return ""
    folder = row.run.folder
    files = [pair for part in found.parts for pair in files_of(part)]
    lines = "".join(
        f'<tr><th scope="row">{escape(path.relative_to(folder).as_posix())}</th><td>{eyes.text.size(size)}</td></tr>'
        for path, size in files[:MOST_FILES]
    )
    rest = f"<p>{eyes.say('runs.files_more', n=len(files) - MOST_FILES)}</p>" if len(files) > MOST_FILES else ""
    head = eyes.say("runs.files", n=found.files, size=eyes.text.size(found.size))
    return (
        f"<details><summary>{head}</summary><p><code>{escape(str(folder))}</code></p><table>{lines}</table>{rest}</details>"
    )


def doom_html(row: Row, found: Contents, eyes: Eyes) -> str:
    """What goes when a run is deleted, and what stays."""
    parts = [eyes.say("runs.doom_files", n=found.files, size=eyes.text.size(found.size))]
    parts += [eyes.say("runs.doom_lora", name=row.lora.name)] if row.lora else []
    parts += [eyes.say("runs.doom_checkpoints", n=found.checkpoints)] if found.checkpoints else []
    parts += [eyes.say("runs.doom_samples", n=found.samples)] if found.samples else []
    items = "".join(f"<li>{part}</li>" for part in parts)
    stays = f"<p>{eyes.say('runs.doom_stays', names=', '.join(found.stays[:8]))}</p>" if found.stays else ""
    return (
        f'<div role="alert"><p><strong>{eyes.say("runs.doom", name=row.name)}</strong></p><ul>{items}</ul>{stays}'
        f"<p>{eyes.say('runs.doom_place')}</p></div>"
    )
