"""Several runs in one plot, and what differs in their settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

from lora_core.runs.history import History
from lora_core.runs.index import Row
from lora_core.ui.shared.plot import Frame, Mark, Series, loss_plot
from lora_core.ui.tabs.runs.views import ViewContext, value_text

MOST = 8  # lines that colours and dashes keep apart
HELD, TRAINING = "held", "training"


def run_plot(row: Row, history: History, context: ViewContext) -> str:
    """The losses of one run, with its checkpoints and the best of them; nothing where no step was trained."""
    smoothed, (held, known) = history.losses[0], history.validation
    lines = [
        Series(context.text("runs.line_smoothed"), smoothed.points(), "smoothed"),
        Series(context.text("runs.line_held"), held.points(), "held"),
    ]
    if history.has_held_out:
        lines.append(Series(context.text("runs.line_known"), known.points(), "known"))
    if not any(line.points for line in lines):
        return ""
    best = history.best.step if history.best else -1
    marks = [
        Mark(saved.step, _mark(saved.step, saved.step == best, context), best=saved.step == best) for saved in history.saved
    ]
    return loss_plot(lines, _frame(context, row.name, context.text("runs.axis_loss")), marks)


def overlay_html(rows: Sequence[Row], histories: Sequence[History], context: ViewContext, kind: str, log: bool) -> str:
    """The same line of every run, over each other, and a table of the settings in which they differ."""
    lines = [
        Series(row.name, (each.validation[0] if kind == HELD else each.losses[0]).points(), str(index))
        for index, (row, each) in enumerate(zip(rows, histories, strict=True), 1)
    ]
    axis = context.text("runs.line_held" if kind == HELD else "runs.line_smoothed")
    plot = (
        loss_plot(lines, _frame(context, context.text("runs.compare"), axis, log))
        if any(line.points for line in lines)
        else f"<p>{context.say('runs.compare_empty')}</p>"
    )
    name = context.say("runs.compare")
    return f'<section class="runs-compare" aria-label="{name}">{plot}{differences_html(rows, context)}</section>'


def differences(rows: Sequence[Row]) -> dict[str, list[object]]:
    """The settings that are not the same in all runs, with the value of each; None where its settings are damaged."""
    values: list[Mapping[str, object]] = [row.config.values() if row.config else {} for row in rows]
    names = [name for known in values for name in known]
    found = {name: [known.get(name) for known in values] for name in dict.fromkeys(names) if name != "output_dir"}
    return {name: told for name, told in found.items() if len({repr(value) for value in told if value is not None}) > 1}


def differences_html(rows: Sequence[Row], context: ViewContext) -> str:
    """A table: a column for each run, in the colour and dash of its line, and a line for each setting that differs."""
    heads = "".join(
        f'<th scope="col"><span class="plot-line plot-{index}"><svg viewBox="0 0 30 10" aria-hidden="true">'
        f'<path d="M1,5H29"/></svg></span>{escape(row.name)}</th>'
        for index, row in enumerate(rows, 1)
    )
    results = {
        "runs.fact_steps": [str(row.summary.step) for row in rows],
        "runs.column_best": [
            context.text.number(f"{row.summary.best_loss:.4f}") if row.summary.best_loss is not None else "–"
            for row in rows
        ],
    }
    lines = [_line(context.say(key), told) for key, told in results.items()]
    lines += [
        _line(context.say(f"settings.{name}"), ["?" if value is None else value_text(value, context) for value in told])
        for name, told in differences(rows).items()
    ]
    note = "" if len(lines) > len(results) else f"<p>{context.say('runs.differ_none')}</p>"
    return (
        f'<div class="runs-differ" tabindex="0" role="region" aria-label="{context.say("runs.differ")}"><table>'
        f"<caption>{context.say('runs.differ')}</caption><thead><tr><td></td>{heads}</tr></thead>"
        f"<tbody>{''.join(lines)}</tbody></table>{note}</div>"
    )


def _line(head: str, values: Sequence[str]) -> str:
    return f'<tr><th scope="row">{head}</th>{"".join(f"<td>{escape(value)}</td>" for value in values)}</tr>'


def _mark(step: int, is_best: bool, context: ViewContext) -> str:
    return context.text("runs.mark_best", step=step) if is_best else context.text("runs.mark", step=step)


def _frame(context: ViewContext, title: str, axis: str, log: bool = False) -> Frame:
    return Frame(
        title=title, description=context.text("runs.plot_help"), x_label=context.text("runs.axis_step"), y_label=axis,
        width=560, height=260, log=log,
    )  # fmt: skip
