"""The live context of a run as HTML: numbers, phase, plot, samples, and what happened, from its history alone."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.events import Phase, Sample
from lora_core.messages import Message
from lora_core.runs.history import History
from lora_core.runs.verdict import verdict
from lora_core.system.units import duration, step_rate
from lora_core.ui.shared.plot import Frame, Mark, Series, loss_plot, number

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

MOST_ROWS = 12  # steps whose samples are shown
THUMBNAIL = 192  # pixels
MOST_WARNINGS = 12
LIVE = ("running", "pausing", "paused", "stopping", "elsewhere")


@dataclass(frozen=True)
class ViewContext:
    """What the live view is made of. `url(path, side)` gives the address of a picture; `state` is Training's."""

    text: Texts
    history: History
    state: str
    url: Callable[[Path, int], str]
    memory: int = 0  # bytes that this process holds

    def say(self, key: str, **values: object) -> str:
        return escape(self.text(f"train.{key}", **values))


def status_html(context: ViewContext) -> str:
    """State, progress and the numbers of now. `data-state` and `data-title` are for the page's own script."""
    history, state = context.history, context.state
    done, total = history.step, history.total
    share = done / total if total else 0.0
    phase = _phase_html(context) if state in LIVE else ""
    title = f"{share:.0%}" if state in LIVE and total else ""
    bar = (
        f'<div class="live-bar" role="progressbar" aria-valuemin="0" aria-valuemax="{total or 1}" aria-valuenow="{done}" '
        f'aria-label="{context.say("progress")}"><span style="width:{share:.2%}"></span></div>'
    )
    return (
        f'<section class="live" id="train-state" data-state="{state}" data-title="{title}" '
        f'data-run="{escape(history.run.folder.name)}">'
        f'<header class="live-head"><h3>{escape(history.run.folder.name)}</h3>'
        f'<span class="chip chip-{state}" role="status">{context.say(f"state_{state}")}</span></header>'
        f'{bar}<dl class="live-numbers">{_numbers(context)}</dl>{phase}</section>'
    )


def _numbers(context: ViewContext) -> str:
    history, last = context.history, context.history.facts.step
    cells = []
    if last:
        cells.append(("step", context.say("of", done=last.step, total=last.total), ""))
        smooth = history.losses[0].last
        cells.append(("loss", context.text.number(number(smooth)) if smooth is not None else "–", ""))
        cells.append(("rate", context.text.number(f"{last.learning_rate:.2e}"), ""))
        cells.append(("speed", context.text.number(step_rate(last.steps_per_second, unknown="–")), ""))
        if context.state in LIVE:
            cells.append(("eta", _eta(context), context.say("eta_help")))
    memory = last.memory_bytes if last and last.memory_bytes else context.memory
    if memory and context.state in LIVE:
        cells.append(("memory", context.text.size(memory), context.say("memory_help")))
    return "".join(
        f"<div{f' title={chr(34)}{hint}{chr(34)}' if hint else ''}><dt>{context.say(f'number_{key}')}</dt>"
        f'<dd id="train-{key}">{value}</dd></div>'
        for key, value, hint in cells
    )


def _eta(context: ViewContext) -> str:
    if context.state in ("paused", "stopping"):
        return context.say("eta_none")
    seconds = context.history.eta_seconds()
    if seconds < 0:
        return context.say("eta_unknown")
    if seconds < 3:
        return context.say("eta_soon")
    # Finer than this nobody can know.
    grain = 1 if seconds < 20 else 5 if seconds < 120 else 30 if seconds < 1200 else 60
    return context.say("eta_about", time=duration(round(seconds / grain) * grain))


def _phase_html(context: ViewContext) -> str:
    phase = context.history.facts.phase
    if phase is None:
        if context.history.step or context.state in ("paused", "pausing"):
            return ""
        phase = Phase("start")
    counted = ""
    if phase.total:
        counted = context.say("of", done=phase.done, total=phase.total)
        if phase.name == "download":
            counted = context.say("megabytes", done=f"{phase.done / 1e6:.0f}", total=f"{phase.total / 1e6:.0f}")
    value = f' value="{phase.done}" max="{phase.total}"' if phase.total else ""
    name = context.say(f"phase_{phase.name}")
    told = context.text.say(phase.detail) if isinstance(phase.detail, Message) else phase.detail
    detail = f'<span class="live-detail">{escape(told)}</span>' if told else ""
    return (
        f'<div class="live-phase" id="train-phase" data-phase="{phase.name}"><span>{name} {counted}</span>'
        f'<progress aria-label="{name}"{value}></progress>{detail}</div>'
    )


def plot_html(context: ViewContext, log: bool) -> str:
    """The loss plot with a sentence on what it means; before the first number, what will be seen here."""
    history = context.history
    smoothed, raw = (curve.points() for curve in history.losses)
    held_out, known = (curve.points() for curve in history.validation)
    if not smoothed and not held_out:
        return f'<div class="live-empty"><p>{context.say("plot_empty")}</p></div>'
    series = [
        Series(context.text("train.line_raw"), raw, "raw"),
        Series(context.text("train.line_smooth"), smoothed, "smoothed"),
    ]
    if history.has_held_out:
        series.append(Series(context.text("train.line_held"), held_out, "held"))
    series.append(Series(context.text("train.line_known"), known, "known"))
    sentence = says(context)
    frame = Frame(
        context.text("train.plot_title"), f"{_summary(context)} {sentence}", context.text("train.axis_step"),
        context.text("train.axis_loss"), log=log, last_step=_shown_steps(history.step, history.total),
        decimal="," if context.text.language.startswith("pt") else ".",
    )  # fmt: skip
    told = f'<p class="live-says" id="train-says">{escape(sentence)}</p>' if sentence else ""
    return f"{told}{loss_plot(series, frame, _marks(context))}"


def _shown_steps(done: int, total: int) -> int:
    """How far the axis goes: to the end of the run, or to a half, a quarter... of it while the rest would be empty."""
    shown = total
    while shown // 2 > max(done * 1.1, 10):
        shown //= 2
    return shown


def says(context: ViewContext) -> str:
    """What the curves mean now; nothing where a run ended before they could mean anything."""
    held_out, known = (curve.points() for curve in context.history.validation)
    found = verdict(held_out, known)
    if found.kind == "early" and context.state not in LIVE:
        return ""  # it will never be told
    return context.text(f"train.says_{found.kind}", step=found.step)


def _summary(context: ViewContext) -> str:
    smoothed = context.history.losses[0].points()
    if not smoothed:
        return ""
    first, last = number(smoothed[0][1]), number(smoothed[-1][1])
    return context.text("train.plot_summary", step=context.history.step, first=first, last=last)


def _marks(context: ViewContext) -> list[Mark]:
    best = context.history.best
    steps = {saved.step for saved in context.history.saved}
    marks = [Mark(step, context.text("train.mark_saved", step=step)) for step in steps if not best or step != best.step]
    if best:
        marks.append(Mark(best.step, context.text("train.mark_best", step=best.step), best=True))
    return sorted(marks, key=lambda mark: mark.step)


def samples_html(context: ViewContext) -> str:
    """Sample pictures by step, the newest first and what the base model drew last; each can be enlarged."""
    taken = context.history.samples
    if not taken:
        return f'<div class="live-empty"><p>{context.say("samples_empty")}</p></div>'
    prompts = list(dict.fromkeys((sample.prompt, sample.seed) for samples in taken.values() for sample in samples))[:16]
    head = "".join(f'<th scope="col" title="{escape(prompt)}">{escape(_short(prompt))}</th>' for prompt, _ in prompts)
    rows = "".join(_row(context, step, taken[step], prompts) for step in reversed(_chosen(sorted(taken))))
    return (
        f'<div class="samples" tabindex="0" role="region" aria-label="{context.say("samples")}">'
        f'<table><thead><tr><th scope="col">{context.say("axis_step")}</th>{head}</tr></thead>'
        f"<tbody>{rows}</tbody></table></div>"
    )


def _chosen(steps: Sequence[int]) -> list[int]:
    """At most MOST_ROWS of the steps: the first, the last and evenly between."""
    if len(steps) <= MOST_ROWS:
        return list(steps)
    return [steps[round(index * (len(steps) - 1) / (MOST_ROWS - 1))] for index in range(MOST_ROWS)]


def _row(context: ViewContext, step: int, samples: Sequence[Sample], prompts: Sequence[tuple[str, int]]) -> str:
    label = context.say("before") if step == 0 else str(step)
    latest = {(sample.prompt, sample.seed): sample for sample in samples}
    cells = "".join(f"<td>{_picture(context, latest.get(prompt))}</td>" for prompt in prompts)
    return f'<tr data-step="{step}"><th scope="row">{label}</th>{cells}</tr>'


def _picture(context: ViewContext, sample: Sample | None) -> str:
    path = context.history.run.folder / sample.path if sample else None
    if sample is None or path is None or not path.is_file():
        return ""
    when = context.text("train.before") if sample.step == 0 else context.text("train.at_step", step=sample.step)
    caption = escape(f"{when}: {sample.prompt}")
    return (
        f'<button type="button" class="zoom" data-full="{escape(context.url(path, 0))}" data-caption="{caption}">'
        f'<img loading="lazy" src="{escape(context.url(path, THUMBNAIL))}" alt="{caption}"/></button>'
    )


def told_html(context: ViewContext, failure: str, end: str) -> str:
    """What went wrong or was passed over, and how the run ended; `end` is HTML, `failure` is text."""
    parts = []
    if failure:
        parts.append(f'<div class="told told-failed" role="alert" id="train-failure"><p>{escape(failure)}</p></div>')
    if end:
        parts.append(f'<div class="told told-end" id="train-end">{end}</div>')
    if warnings := context.history.facts.warnings:
        lines = "".join(f"<li>{escape(context.text.say(line))}</li>" for line in warnings[-MOST_WARNINGS:])
        head = context.say("notices", n=len(warnings))
        is_open = " open" if len(warnings) <= 2 and not end else ""
        fold = f'<details class="told told-notes" id="train-notices"{is_open}>'
        parts.append(f"{fold}<summary>{head}</summary><ul>{lines}</ul></details>")
    return "".join(parts)


def end_html(context: ViewContext, lora: Path, sheet: Path) -> str:
    """How a run ended: the file, the best checkpoint, the picture of before and after."""
    end = context.history.facts.finished
    if end is None:
        return f"<p>{context.say(f'end_{context.state}')}</p>" if context.state in ("cut", "elsewhere") else ""
    if not end.path:
        return f"<p>{context.say('end_nothing')}</p>"
    best = f"<p>{_best(context, end.best_step, end.step)}</p>"
    picture = ""
    if sheet.is_file():
        alt, address = context.say("before_after"), escape(context.url(sheet, 0))
        picture = (
            f'<button type="button" class="zoom end-sheet" data-full="{address}" data-caption="{alt}">'
            f'<img src="{address}" alt="{alt}"/></button>'
        )
    key = "end_stopped" if end.stopped else "end_finished"
    file = f"{context.say('end_file')} <code>{escape(str(lora))}</code>"
    head = f"<p><strong>{context.say(key, step=end.step)}</strong> {file}</p>"
    return f"{head}{best}{picture}"


def _best(context: ViewContext, best: int, last: int) -> str:
    if best == last:
        return context.say("best_is_last")
    return context.say("best_is", step=best) if best else context.say("best_is_none")


def _short(prompt: str, most: int = 60) -> str:
    return prompt if len(prompt) <= most else f"{prompt[: most - 1].rstrip()}…"
