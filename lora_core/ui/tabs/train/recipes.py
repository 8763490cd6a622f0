"""The recipe of a card for what stands in the form: what follows it, what was set by hand, and the reason of each value."""

from __future__ import annotations

import functools
from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.config import Preset, TrainConfig, settings
from lora_core.errors import UserError
from lora_core.system.files import stamp
from lora_core.ui.tabs.train import form
from lora_core.ui.tabs.train.preset_cards import FREE

if TYPE_CHECKING:
    from lora_core.dataset import Dataset
    from lora_core.recipes import Choice, Recipe
    from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts
    from lora_core.ui.shared.texts import Texts


@dataclass(frozen=True)
class Facts:
    """What recipes are made for: the base model, the pictures and the device that stand in the form."""

    base: BaseFacts
    pictures: DatasetFacts
    machine: MachineFacts

    @classmethod
    def of(cls, values: Mapping[str, object], dataset: Dataset | None) -> Facts | None:
        """None where the base model or the device cannot be had, which is told at its field. Needs torch.

        values: those of the form that are right. dataset: the pictures; None: not known yet, so as for a usual number.
        """
        from lora_core.recipes.facts import MachineFacts

        config = TrainConfig(**{name: value for name, value in values.items() if name in settings()})  # type: ignore[arg-type]
        try:
            base = base_of(config.pretrained_model_name_or_path, config.prediction_type, config.zero_terminal_snr)
            machine = MachineFacts.of(config.device)
        except UserError:
            return None
        return cls(base, _seen(dataset, config.validation_split, config.seed), machine)


@dataclass(frozen=True)
class FormRecipe:
    """followed: with what was set by hand, which it follows. usual: with nothing set by hand, to go back to. own: names of
    the settings that were. is_known: made for the pictures, not for a usual number of some.
    """

    followed: Recipe
    usual: Recipe
    preset: Preset
    own: frozenset[str]
    is_known: bool

    def values(self) -> dict[str, object]:
        """Of all settings that a card may change, but those set by hand."""
        return {name: value for name, value in self._all(self.followed).items() if name not in self.own}

    def order(self, text: Texts) -> dict[str, object]:
        """For the page: what to put into the boxes, what each would be without the person, and why."""
        reasons = {name: form.sentence(text.say(choice.reason)) for name, choice in self._choices()}
        return {"values": form.boxes_of(self.values()), "back": form.boxes_of(self._all(self.usual)), "reasons": reasons}

    def why_html(self, text: Texts) -> str:
        """All reasons, in the order of the form."""
        rows = "".join(
            f"<dt>{escape(text(f'settings.{name}'))} <strong>{escape(_said(choice.value, text))}</strong></dt>"
            f"<dd>{escape(form.sentence(text.say(choice.reason)))}</dd>"
            for name, choice in self._choices()
        )
        kept = [text(f"settings.{name}") for name in settings() if name in self.own]
        by_hand = f'<p>{escape(text("train.why_own", fields=", ".join(kept)))}</p>' if kept else ""
        head = escape(text("train.why"))
        return (
            f'<details class="plan-why"><summary>{head}</summary>{by_hand}'
            f'<dl tabindex="0" role="group" aria-label="{head}">{rows}</dl></details>'
        )

    def _all(self, made: Recipe) -> dict[str, object]:
        """Of all settings that a card may change: the recipe's, over the usual ones."""
        usual = {name: s.default for name, s in settings().items() if name not in form.LEFT_OUT}
        return {n: value for n, value in {**usual, **made.values, **self.preset.values}.items() if n not in FREE}

    def _choices(self) -> list[tuple[str, Choice]]:
        return [(name, self.followed.choices[name]) for name in settings() if name in self.followed.choices]


def recipe_of(
    preset: Preset, values: Mapping[str, object], dataset: Dataset | None, own: Collection[str] = (),
    taken: Mapping[str, object] | None = None,
) -> FormRecipe | None:
    """The recipe of a card; None where it names no intent, or where base model or device cannot be had. Needs torch.

    values: those of the form that are right. dataset: the pictures, as far as they are known. own: names of the settings
    that were set by hand, right or wrong. taken: settings of the LoRA to go on from, which go over the card's.
    """
    facts = Facts.of(values, dataset) if preset.intent else None
    if facts is None:
        return None
    from lora_core.recipes import recipe

    taken = taken or {}
    preset = replace(preset, values={name: value for name, value in preset.values.items() if name not in taken})
    by_hand = {name: values[name] for name in own if name in values}
    try:
        usual = recipe(preset.intent, facts.base, facts.pictures, facts.machine, preset.values, taken)
        given = {**preset.values, **by_hand}
        followed = recipe(preset.intent, facts.base, facts.pictures, facts.machine, given, taken) if by_hand else usual
    except UserError:  # settings that clash, which is told at their fields
        return None
    return FormRecipe(followed, usual, preset, frozenset(own), facts.pictures.is_known)


def base_of(name: str, *says: str) -> BaseFacts:
    """says: prediction_type and zero_terminal_snr."""
    from lora_core.recipes.facts import BaseFacts

    path = Path(name).expanduser()
    return _of_file(stamp(path), name, *says) if path.is_file() else BaseFacts.of(name, *says)


@functools.lru_cache(maxsize=8)  # the header of a checkpoint is as long as a book; with its stamp a changed one is another
def _of_file(stamp: tuple[int, int], name: str, *says: str) -> BaseFacts:
    from lora_core.recipes.facts import BaseFacts

    return BaseFacts.of(name, *says)


@functools.lru_cache(maxsize=8)  # counting the tokens of a thousand captions takes a second
def _seen(dataset: Dataset | None, validation_split: float, seed: int) -> DatasetFacts:
    from lora_core.recipes.facts import DatasetFacts

    return DatasetFacts.of(dataset, validation_split, seed) if dataset else DatasetFacts.usual()


def _said(value: object, text: Texts) -> str:
    if isinstance(value, bool):
        return text("train.why_on" if value else "train.why_off")
    if isinstance(value, tuple):
        return ", ".join(value)
    return text.number(f"{value:.10g}") if isinstance(value, int | float) else str(value)
