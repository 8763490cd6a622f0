"""The live view of a run as HTML: numbers, phase, plot, samples, and what happened, from its history alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.events import Phase, Sample
from lora_core.runs.history import History
from lora_core.runs.verdict import verdict
from lora_core.system.units import duration, step_rate
from lora_core.ui.shared.plot import Frame, Mark, Series, loss_plot, number
from lora_core.ui.shared.translate import translated

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

MOST_ROWS = 12  # steps whose samples are shown
THUMBNAIL = 192  # pixels
MOST_WARNINGS = 12
LIVE = ("running", "pausing", "paused", "stopping", "elsewhere")


@dataclass(frozen=True)
class View:
    """What the live view is made of. `url(path, side)` gives the address of a picture; `state` is Training's."""

    text: Texts
    history: History
    state: str
    url: Callable[[Path, int], str]
    memory: int = 0  # bytes that this process holds

    def say(self, key: str, **values: object) -> str:
        return escape(self.text(f"train.{key}", **values))


def status_html(view: View) -> str:
    """State, progress and the numbers of now. `data-state` and `data-title` are for the page's own script."""
    history, state = view.history, view.state
    done, total = history.step, history.total
    share = done / total if total else 0.0
    phase = _phase_html(view) if state in LIVE else ""
    title = f"{share:.0%}" if state in LIVE and total else ""
    bar = (
        f'<div class="live-bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total or 1}" aria-valuenow="{done}" '
        f'aria-label="{view.say("progress")}"><span style="width:{share:.2%}"></span></div>'
    )
    return (
        f'<section class="live" id="train-state" data-state="{state}" data-title="{title}" '
        f'data-run="{escape(history.run.folder.name)}">'
        f'<header class="live-head"><h3>{escape(history.run.folder.name)}</h3>'
        f'<span class="chip chip-{state}" role="status">{view.say(f"state_{state}")}</span></header>'
        f'{bar}<dl class="live-numbers">{_numbers(view)}</dl>{phase}</section>'
    )


def _numbers(view: View) -> str:
    history, last = view.history, view.history.facts.step
    cells = []
    if last:
        cells.append(("step", view.say("of", done=last.step, total=last.total), ""))
        smooth = history.losses[0].last
        cells.append(("loss", view.text.number(number(smooth)) if smooth is not None else "–", ""))
        cells.append(("rate", view.text.number(f"{last.learning_rate:.2e}"), ""))
        cells.append(("speed", view.text.number(step_rate(last.steps_per_second, unknown="–")), ""))
        if view.state in LIVE:
            cells.append(("eta", _eta(view), view.say("eta_help")))
    memory = last.memory_bytes if last and last.memory_bytes else view.memory
    if memory and view.state in LIVE:
        cells.append(("memory", view.text.size(memory), view.say("memory_help")))
    return "".join(
        f"<div{f' title={chr(34)}{hint}{chr(34)}' if hint else ''}><dt>{view.say(f'number_{key}')}</dt>"
        f'<dd id="train-{key}">{value}</dd></div>'
        for key, value, hint in cells
    )


def _eta(view: View) -> str:
    if view.state in ("paused", "stopping"):
        return view.say("eta_none")
    seconds = view.history.eta_seconds()
    if seconds < 0:
        return view.say("eta_unknown")
    if seconds < 3:
        return view.say("eta_soon")
    # Finer than this nobody can know.
    grain = 1 if seconds < 20 else 5 if seconds < 120 else 30 if seconds < 1200 else 60
    return view.say("eta_about", time=duration(round(seconds / grain) * grain))


def _phase_html(view: View) -> str:
    phase = view.history.facts.phase
    if phase is None:
        if view.history.step or view.state in ("paused", "pausing"):
            return ""
        phase = Phase("start")
    counted = ""
    if phase.total:
        counted = view.say("of", done=phase.done, total=phase.total)
        if phase.name == "download":
            counted = view.say("megabytes", done=f"{phase.done / 1e6:.0f}", total=f"{phase.total / 1e6:.0f}")
    value = f' value="{phase.done}" max="{phase.total}"' if phase.total else ""
    name = view.say(f"phase_{phase.name}")
    detail = f'<span class="live-detail">{escape(phase.detail)}</span>' if phase.detail else ""
    return (
        f'<div class="live-phase" id="train-phase" data-phase="{phase.name}"><span>{name} {counted}</span>'
        f'<progress aria-label="{name}"{value}></progress>{detail}</div>'
    )


def plot_html(view: View, log: bool) -> str:
    """The loss plot with a sentence on what it means; before the first number, what will be seen here."""
    history = view.history
    smoothed, raw = (curve.points() for curve in history.losses)
    held_out, known = (curve.points() for curve in history.validation)
    if not smoothed and not held_out:
        return f'<div class="live-empty"><p>{view.say("plot_empty")}</p></div>'
    series = [Series(view.text("train.line_raw"), raw, "raw"), Series(view.text("train.line_smooth"), smoothed, "smoothed")]
    if history.has_held_out:
        series.append(Series(view.text("train.line_held"), held_out, "held"))
    series.append(Series(view.text("train.line_known"), known, "known"))
    sentence = says(view)
    frame = Frame(
        view.text("train.plot_title"), f"{_summary(view)} {sentence}", view.text("train.axis_step"),
        view.text("train.axis_loss"), log=log, last_step=_shown_steps(history.step, history.total),
        decimal="," if view.text.language.startswith("pt") else ".",
    )  # fmt: skip
    told = f'<p class="live-says" id="train-says">{escape(sentence)}</p>' if sentence else ""
    return f"{told}{loss_plot(series, frame, _marks(view))}"


def _shown_steps(done: int, total: int) -> int:
    """How far the axis goes: to the end of the run, or to a half, a quarter... of it while the rest would be empty."""
    shown = total
    while shown // 2 > max(done * 1.1, 10):
        shown //= 2
    return shown


def says(view: View) -> str:
    """What the curves mean now; nothing where a run ended before they could mean anything."""
    held_out, known = (curve.points() for curve in view.history.validation)
    found = verdict(held_out, known)
    if found.kind == "early" and view.state not in LIVE:
        return ""  # it will never be told
    return view.text(f"train.says_{found.kind}", step=found.step)


def _summary(view: View) -> str:
    smoothed = view.history.losses[0].points()
    if not smoothed:
        return ""
    first, last = number(smoothed[0][1]), number(smoothed[-1][1])
    return view.text("train.plot_summary", step=view.history.step, first=first, last=last)


def _marks(view: View) -> list[Mark]:
    best = view.history.best
    steps = {saved.step for saved in view.history.saved}
    marks = [Mark(step, view.text("train.mark_saved", step=step)) for step in steps if not best or step != best.step]
    if best:
        marks.append(Mark(best.step, view.text("train.mark_best", step=best.step), best=True))
    return sorted(marks, key=lambda mark: mark.step)


def samples_html(view: View) -> str:
    """Sample pictures by step, the newest first and what the base model drew last; each can be enlarged."""
    taken = view.history.samples
    if not taken:
        return f'<div class="live-empty"><p>{view.say("samples_empty")}</p></div>'
    wishes = list(dict.fromkeys((sample.prompt, sample.seed) for samples in taken.values() for sample in samples))[:16]
    head = "".join(f'<th scope="col" title="{escape(prompt)}">{escape(_short(prompt))}</th>' for prompt, _ in wishes)
    rows = "".join(_row(view, step, taken[step], wishes) for step in reversed(_chosen(sorted(taken))))
    return (
        f'<div class="samples" tabindex="0" role="region" aria-label="{view.say("samples")}">'
        f'<table><thead><tr><th scope="col">{view.say("axis_step")}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _chosen(steps: Sequence[int]) -> list[int]:
    """At most MOST_ROWS of the steps: the first, the last and evenly between."""
    if len(steps) <= MOST_ROWS:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (MOST_ROWS - 1))] for index in range(MOST_ROWS)]


def _row(view: View, step: int, samples: Sequence[Sample], wishes: Sequence[tuple[str, int]]) -> str:
    label = view.say("before") if step == 0 else str(step)
    latest = {(sample.prompt, sample.seed): sample for sample in samples}
    cells = "".join(f"<td>{_picture(view, latest.get(wish))}</td>" for wish in wishes)
    return f'<tr data-step="{step}"><th scope="row">{label}</th>{cells}</tr>'


def _picture(view: View, sample: Sample | None) -> str:
    path = view.history.run.folder / sample.path if sample else None
    if sample is None or path is None or not path.is_file():
        return ""
    when = view.text("train.before") if sample.step == 0 else view.text("train.at_step", step=sample.step)
    caption = escape(f"{when}: {sample.prompt}")
    return (
        f'<button type="button" class="zoom" data-full="{escape(view.url(path, 0))}" data-caption="{caption}">'
        f'<img loading="lazy" src="{escape(view.url(path, THUMBNAIL))}" alt="{caption}"/></button>'
    )


def told_html(view: View, failure: str, end: str) -> str:
    """What went wrong or was passed over, and how the run ended; `end` is HTML, `failure` is text."""
    parts = []
    if failure:
        parts.append(f'<div class="told told-failed" role="alert" id="train-failure"><p>{escape(failure)}</p></div>')
    if end:
        parts.append(f'<div class="told told-end" id="train-end">{end}</div>')
    if warnings := view.history.facts.warnings:
        lines = "".join(f"<li>{escape(translated(line, view.text))}</li>" for line in warnings[-MOST_WARNINGS:])
        head = view.say("notices", n=len(warnings))
        is_open = " open" if len(warnings) <= 2 and not end else ""
        fold = f'<details class="told told-notes" id="train-notices"{is_open}>'
        parts.append(f"{fold}<summary>{head}</summary><ul>{lines}</ul></details>")
    return "".join(parts)


def end_html(view: View, lora: Path, sheet: Path) -> str:
    """How a run ended: the file, the best checkpoint, the picture of before and after."""
    end = view.history.facts.finished
    if end is None:
        return f"<p>{view.say(f'end_{view.state}')}</p>" if view.state in ("cut", "elsewhere") else ""
    if not end.path:
        return f"<p>{view.say('end_nothing')}</p>"
    best = f"<p>{_best(view, end.best_step, end.step)}</p>"
    picture = ""
    if sheet.is_file():
        alt = view.say("before_after")
        picture = (
            f'<button type="button" class="zoom end-sheet" data-full="{escape(view.url(sheet, 0))}" data-caption="{alt}">'
            f'<img src="{escape(view.url(sheet, 0))}" alt="{alt}"/></button>'
        )
    key = "end_stopped" if end.stopped else "end_finished"
    head = f"<p><strong>{view.say(key, step=end.step)}</strong> {view.say('end_file')} <code>{escape(str(lora))}</code></p>"
    return f"{head}{best}{picture}"


def _best(view: View, best: int, last: int) -> str:
    if best == last:
        return view.say("best_is_last")
    return view.say("best_is", step=best) if best else view.say("best_is_none")


def _short(prompt: str, most: int = 60) -> str:
    return prompt if len(prompt) <= most else f"{prompt[: most - 1].rstrip()}…"
