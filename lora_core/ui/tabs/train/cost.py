"""What a training needs of this machine, in words: memory against what the device has, room on the disk, time.

Only what was counted or measured is told; where it was not, nothing is said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_core.config import TrainConfig
    from lora_core.training.estimate.cost import Estimate
    from lora_core.training.estimate.fit import Fit
    from lora_core.training.estimate.levels import Level
    from lora_core.training.estimate.speed import Pace
    from lora_core.ui.shared.texts import Texts


# Unit, its seconds, below how many seconds it is used, and how finely. More than one of each, so that all are plurals.
_SPANS = (
    ("seconds", 1, 90, 5),
    ("minutes", 60, 5400, 1),
    ("hours", 3600, 172_800, 0.5),
    ("days", 86_400, float("inf"), 0.5),
)


MATTERS = 0.05  # of the memory: what less is gained by is not worth a choice


def memory_line(found: Fit, text: Texts) -> str:
    """Memory against what there is, and who has the rest; where it does not fit, the settings that would make it."""
    told = [_memory_needed(found, text)]
    if found.budget.others is not None:
        told.append(text("train.plan_memory_others", taken=text.size(found.budget.others)))
    if found.budget.ratio != 1:
        told.append(text("train.plan_memory_ratio", share=text.number(round(100 * found.budget.ratio))))
    return "; ".join(told)


def _memory_needed(found: Fit, text: Texts) -> str:
    need, have = text.size(found.needed), text.size(found.has)
    if found.changes:
        whole, longer = text.size(found.whole), text.number(round(100 * found.longer))
        return text("train.plan_memory_recomputed", need=need, have=have, whole=whole, longer=longer)
    if found.fits:
        return text("train.plan_memory_of", need=need, have=have)
    if not found.remedies:
        return text("train.plan_memory_over", need=need, have=have)
    changes = changes_text(found.remedies[-1].changes, text)
    return text("train.plan_memory_remedy", need=need, have=have, changes=changes)


def time_line(found: Pace | None, text: Texts) -> str:
    """How long it will take, and the part of what is beside the steps; where nothing was measured, when it is known."""
    if found is None:
        return text("train.plan_time_unknown")
    told = text("train.plan_time_rough" if found.rough else "train.plan_time_about", time=span(found.seconds, text))
    parts = [text(f"train.plan_part_{name}", share=_percent(share, text)) for name, share in found.shares.items()]
    return f'{told}; {text("train.plan_time_beside", parts=", ".join(parts))}' if parts else told


def _percent(share: float, text: Texts) -> str:
    """In whole percents, "<1" below one."""
    return text.number(round(100 * share)) if share >= 0.01 or not share else f"<{text.number(1)}"


def levels_html(found: Sequence[Level], text: Texts) -> str:
    """A table to choose how much is kept in memory, the page takes a choice; "" where it is not known or hardly differs."""
    needs = [level.needed for level in found]
    if not found or max(needs) - min(needs) < MATTERS * max(needs):
        return ""
    heads = "".join(f'<th scope="col">{escape(text(key))}</th>' for key in ("train.plan_memory", "train.level_work"))
    rows = f"<tr><td></td>{heads}</tr>{''.join(_level_row(level, text) for level in found)}"
    return (
        f'<details class="plan-levels"><summary>{escape(text("train.levels"))}</summary>'
        f'<p>{escape(text("train.levels_help"))}</p><table>{rows}</table></details>'
    )


def _level_row(level: Level, text: Texts) -> str:
    boxes = {name: value if isinstance(value, bool) else str(value) for name, value in level.changes.items()}
    button = (
        f'<button type="button" data-level="{escape(json.dumps(boxes))}" aria-pressed="{str(level.is_now).lower()}">'
        f"{escape(text(f'train.level_{level.name}'))}</button>"
    )
    over = "" if level.fits else f' class="plan-over" title="{escape(text("train.level_over"))}"'
    work = f"+{round(100 * level.longer)} %" if level.longer >= 0.005 else "–"
    needed = f"<td{over}>{escape(text.size(level.needed))}</td>"
    return f'<tr><th scope="row">{button}</th>{needed}<td>{escape(work)}</td></tr>'


def card_line(config: TrainConfig, found: Estimate, text: Texts) -> str:
    """Steps, memory and time of a preset, each in a line, as far as they are known."""
    told = [text("train.card_steps", steps=text.number(f"{config.max_train_steps:,}"), side=config.resolution)]
    if found.fit:
        key = "train.card_fits" if found.fit.fits else "train.card_over"
        told.append(text(key, need=text.size(found.fit.needed)))
    if found.time and not (found.fit and not found.fit.fits):
        told.append(text("train.card_time", time=span(found.time.seconds, text)))
    return "\n".join(told)


def span(seconds: float, text: Texts) -> str:
    """A length of time in words, no finer than it can be known beforehand."""
    unit, length, grain = next((unit, length, grain) for unit, length, until, grain in _SPANS if seconds < until)
    return text(f"train.span_{unit}", n=text.number(f"{max(grain, round(seconds / length / grain) * grain):g}"))


def changes_text(changes: Mapping[str, object], text: Texts) -> str:
    """Settings with their new values, as the form calls them."""
    return ", ".join(
        text(f"settings.{name}") if value is True else f"{text(f'settings.{name}')} {value}"
        for name, value in changes.items()
    )
