"""The Test tab's pictures and progress as HTML; pure functions of what the preview worker shows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.sampling.gallery import Drawn
from lora_core.sampling.grid import CHECKPOINT, WEIGHT, Axis
from lora_core.sampling.params import GenerationParams
from lora_core.ui.state import drawing
from lora_core.ui.state.drawing import View

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

Url = Callable[[Path, int], str]
"""A file's address; the number is the longest side wanted, in pixels, 0 for the file itself."""

SMALL, MIDDLE = 192, 512  # pixels of history and grid pictures
_TINY = 128  # smaller pictures are enlarged with hard edges, as they are
_LONG_PROMPT = 160  # characters


def key(drawn: Drawn) -> str:
    """What a page calls a picture of the history by."""
    return f"{drawn.at:.6f}"


def label(text: Texts, params: GenerationParams) -> str:
    """What a picture was drawn with."""
    if not params.has_lora:
        return text("test.stage_base")
    return text("test.stage_with", name=params.name, weight=f"{params.weight:g}")


# --- progress ---------------------------------------------------------------------------------------------------


def progress(text: Texts, view: View) -> str:
    """One line of words, and a bar while there is something to wait for."""
    if view.phase == drawing.FAILED:
        return _failure(text, view)
    words = f'<p class="test-phase" role="status">{escape(_words(text, view))}</p>'
    if not view.is_busy:
        return f'<div class="test-progress">{words}</div>'
    about = ", ".join(_details(text, view))
    unknown = view.phase in (drawing.WAITING, drawing.LOADING) or (
        view.phase == drawing.DOWNLOADING and not view.total_bytes
    )
    value = "" if unknown else f' value="{view.fraction * 100:.1f}"'
    bar = f'<progress max="100"{value} aria-label="{escape(text("test.progress"))}"></progress>'
    return f'<div class="test-progress">{words}{bar}<p class="test-about">{escape(about)}</p></div>'


def _words(text: Texts, view: View) -> str:
    base = view.cells[0].params.base if view.cells else ""
    base = Path(base).name or base
    if view.phase == drawing.WAITING:
        return text("test.phase_waiting")
    if view.phase == drawing.LOADING:
        return text("test.phase_loading", base=base)
    if view.phase == drawing.DOWNLOADING:
        done, total = (f"{number / 1e6:.0f}" for number in (view.done_bytes, view.total_bytes))
        return text("test.phase_downloading", base=base, done=done, total=total)
    if view.phase == drawing.DRAWING:
        return text("test.phase_drawing", n=min(view.done + 1, len(view.cells)), total=len(view.cells))
    if view.phase == drawing.CANCELLED:
        return text("test.phase_cancelled", n=view.done, total=len(view.cells))
    if view.phase == drawing.DONE:
        return _done(text, view)
    return text("test.phase_idle_loaded", base=Path(view.loaded).name) if view.loaded else text("test.phase_idle")


def _done(text: Texts, view: View) -> str:
    last = view.sheet or view.cells[-1].drawn
    assert last is not None, "what is done has pictures"
    if view.sheet:
        return text("test.phase_done_grid", n=len(view.cells), name=last.path.name)
    if len(view.cells) == 1:
        return text("test.phase_done_one", name=last.path.name)
    return text("test.phase_done", n=len(view.cells), folder=f"{last.path.parent.parent.name}/{last.path.parent.name}")


def _details(text: Texts, view: View) -> list[str]:
    about = []
    if view.phase == drawing.DRAWING and view.steps:
        about.append(text("test.phase_step", step=view.step, steps=view.steps))
        if view.seconds_left >= 90:
            about.append(text("test.phase_left_min", min=math.ceil(view.seconds_left / 60)))
        elif view.seconds_left >= 0:
            about.append(text("test.phase_left_s", s=math.ceil(view.seconds_left)))
    if view.holds_training and view.phase != drawing.WAITING:
        about.append(text("test.phase_held"))
    return about


def _failure(text: Texts, view: View) -> str:
    sentence, lead = escape(text.say(view.error) if view.error else ""), escape(text("test.phase_failed"))
    words = f'<p class="test-phase"><strong>{lead}</strong> {sentence}</p>'
    return f'<div class="test-progress test-failed" role="alert">{words}</div>'


# --- the stage --------------------------------------------------------------------------------------------------


def stage(text: Texts, view: View, url: Url, chosen: Sequence[Drawn] = ()) -> str:
    """What was chosen from the history, else what is drawn now or was drawn last."""
    if chosen:
        return _pictures(text, url, chosen)
    if view.grid is not None and view.cells:
        return _grid(text, view, url)
    drawn = [cell.drawn for cell in view.cells if cell.drawn]
    if not view.cells or (not drawn and not view.is_busy):
        lead, words = escape(text("test.stage_empty_lead")), escape(text("test.stage_empty"))
        return f'<div class="test-empty"><p class="test-lead">{lead}</p><p>{words}</p></div>'
    if not drawn:
        first = view.cells[0].params
        words = escape(text("test.stage_waiting"))
        return f'<div class="test-frame test-waiting" style="{_shape(first)}"><span>{words}</span></div>'
    return _pictures(text, url, drawn)


def _pictures(text: Texts, url: Url, drawn: Sequence[Drawn]) -> str:
    if len(drawn) == 1:
        return _single(text, url, drawn[0])
    left, right = drawn[:2]
    names = [label(text, one.params) for one in (left, right)]
    if names[0] == names[1]:  # then the seed or the prompt tells them apart
        names = [_history_label(text, one) for one in (left, right)]
    images = "".join(
        f'<img class="test-{side}" src="{escape(url(one.path, 0))}" alt="{_alt(text, one)}" draggable="false">'
        for side, one in (("right", right), ("left", left))
    )
    told = escape(text("test.compare", left=names[0], right=names[1]))
    return (
        f'<div class="test-frame test-compare{_hard(left.params)}" style="{_shape(left.params)}">{images}'
        f'<span class="test-border" aria-hidden="true"></span>'
        f'<span class="test-tag test-tag-left" title="{escape(names[0])}">{escape(names[0])}</span>'
        f'<span class="test-tag test-tag-right" title="{escape(names[1])}">{escape(names[1])}</span>'
        f'<input type="range" min="0" max="100" step="1" value="50" aria-label="{told}"></div>'
    )


def _single(text: Texts, url: Url, drawn: Drawn) -> str:
    with_what = _history_label(text, drawn) if drawn.is_grid else label(text, drawn.params)
    shape = "" if drawn.is_grid else _shape(drawn.params)
    kind = "test-sheet" if drawn.is_grid else f"test-frame{_hard(drawn.params)}"
    return (
        f'<div class="{kind}" style="{shape}"><img src="{escape(url(drawn.path, 0))}" alt="{_alt(text, drawn)}">'
        f'<span class="test-tag test-tag-left" title="{escape(with_what)}">{escape(with_what)}</span></div>'
    )


def _grid(text: Texts, view: View, url: Url) -> str:
    assert view.grid is not None
    grid = view.grid
    drawn = dict(zip(grid.places(), view.cells, strict=True))
    head = "".join(f'<th scope="col">{_axis_label(text, grid.columns, n)}</th>' for n in range(len(grid.columns.labels)))
    rows = []
    waiting = escape(text("test.stage_waiting"))
    at_work = next((place for place, cell in drawn.items() if cell.drawn is None), None) if view.is_busy else None
    for row in range(len(grid.rows.labels)):
        cells = []
        for column in range(len(grid.columns.labels)):
            cell = drawn[row, column]
            if cell.drawn:
                side = MIDDLE if max(cell.params.width, cell.params.height) > MIDDLE else 0
                small, whole = escape(url(cell.drawn.path, side)), escape(url(cell.drawn.path, 0))
                image = f'<img loading="lazy" src="{small}" alt="{_alt(text, cell.drawn)}">'
                cells.append(f'<td><a href="{whole}" target="_blank" rel="noopener">{image}</a></td>')
            else:
                words = f"<span>{waiting}</span>" if (row, column) == at_work else ""
                cells.append(f'<td><div class="test-blank" style="{_ratio(cell.params)}">{words}</div></td>')
        rows.append(f'<tr><th scope="row">{_axis_label(text, grid.rows, row)}</th>{"".join(cells)}</tr>')
    caption = escape(text("test.grid_caption", columns=len(grid.columns.labels), rows=len(grid.rows.labels)))
    sheet = ""
    if view.sheet:
        link, words = escape(url(view.sheet.path, 0)), escape(text("test.sheet_open"))
        sheet = f'<p class="test-sheet-link"><a href="{link}" target="_blank" rel="noopener">{words}</a></p>'
    table = f"<table><caption>{caption}</caption><thead><tr><td></td>{head}</tr></thead><tbody>{''.join(rows)}</tbody>"
    frame = f'<div class="test-grid{_hard(grid.base)}" tabindex="0" role="group" aria-label="{caption}">'
    return f"{frame}{table}</table></div>{sheet}"


def _axis_label(text: Texts, axis: Axis, number: int) -> str:
    kinds = {WEIGHT: "test.axis_weight", CHECKPOINT: "test.axis_checkpoint"}
    kind = text(kinds.get(axis.kind, "test.axis_prompt"))
    return f'<span class="test-axis">{escape(kind)}</span> {escape(axis.labels[number])}'


# --- the history ------------------------------------------------------------------------------------------------


def history(text: Texts, recent: Sequence[Drawn], chosen: Sequence[str], url: Url) -> str:
    """A strip of buttons; those chosen say on which side they are."""
    title = escape(text("test.history"))
    if not recent:
        return f'<div class="test-history"><h3>{title}</h3><p>{escape(text("test.history_empty"))}</p></div>'
    sides = dict(zip(chosen, (text("test.history_left"), text("test.history_right")), strict=False))
    items = []
    for drawn in recent:
        name, told = key(drawn), escape(_history_label(text, drawn))
        side = sides.get(name, "")
        mark = f'<span class="test-mark">{escape(side)}</span>' if len(chosen) > 1 and side else ""
        items.append(
            f'<li><button type="button" data-picture="{name}" aria-pressed="{"true" if side else "false"}" title="{told}">'
            f'<img loading="lazy" src="{escape(url(drawn.path, SMALL))}" alt="{told}">{mark}</button></li>'
        )
    words = escape(text("test.history_help"))
    return f'<div class="test-history"><h3>{title}</h3><p>{words}</p><ul role="list">{"".join(items)}</ul></div>'


def _history_label(text: Texts, drawn: Drawn) -> str:
    params = drawn.params
    if drawn.is_grid:
        return text("test.history_grid", prompt=_short(params.prompt))
    return text("test.history_item", label=label(text, params), seed=params.seed, prompt=_short(params.prompt))


def _alt(text: Texts, drawn: Drawn) -> str:
    prompt = _short(drawn.params.prompt)
    return escape(text("test.picture_alt", label=label(text, drawn.params), prompt=prompt))


def _short(prompt: str) -> str:
    return prompt if len(prompt) <= _LONG_PROMPT else f"{prompt[:_LONG_PROMPT].rstrip()} ..."


def _ratio(params: GenerationParams) -> str:
    return f"aspect-ratio: {params.width} / {params.height}"


def _shape(params: GenerationParams) -> str:
    return f"--ratio: {params.width / params.height:.4f}; {_ratio(params)}"


def _hard(params: GenerationParams) -> str:
    return " test-hard" if max(params.width, params.height) <= _TINY else ""
