"""The recipe of a card for what stands in the form: what follows it, what was set by hand, and the reason of each value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from typing import TYPE_CHECKING

from lora_core.config import Preset, TrainConfig, settings
from lora_core.errors import UserError
from lora_core.ui.tabs.train import form

if TYPE_CHECKING:
    from lora_core.dataset import Dataset
    from lora_core.recipes import Choice, Recipe
    from lora_core.ui.shared.texts import Texts

# What a recipe is made for, and what belongs to the pictures: no card changes it.
OF_THE_PICTURES = ("train_data_dir", "trigger_word", "output_name", "pretrained_model_name_or_path")


@dataclass(frozen=True)
class FormRecipe:
    """followed: with what was set by hand, which it follows. usual: with nothing set by hand, to go back to. own: names of
    the settings that were.
    """

    followed: Recipe
    usual: Recipe
    preset: Preset
    own: frozenset[str]

    def values(self) -> dict[str, object]:
        """Of all settings that a card may change, but those set by hand."""
        given = {**_defaults(), **self.followed.values, **self.preset.values}
        return {name: value for name, value in given.items() if name not in (*self.own, *OF_THE_PICTURES)}

    def order(self, text: Texts) -> dict[str, object]:
        """For the page: what to put into the boxes, what each would be without the person, and why."""
        usual = {**_defaults(), **self.usual.values, **self.preset.values}
        back = {name: value for name, value in usual.items() if name not in OF_THE_PICTURES}
        reasons = {name: text.say(choice.reason) for name, choice in self._choices()}
        return {"values": form.boxes_of(self.values()), "back": form.boxes_of(back), "reasons": reasons}

    def why_html(self, text: Texts) -> str:
        """All reasons, in the order of the form."""
        rows = "".join(
            f"<dt>{escape(text(f'settings.{name}'))}</dt>"
            f"<dd><strong>{escape(_said(choice.value, text))}</strong> {escape(text.say(choice.reason))}</dd>"
            for name, choice in self._choices()
        )
        kept = [text(f"settings.{name}") for name in settings() if name in self.own and name in self.usual.choices]
        by_hand = f'<p>{escape(text("train.why_own", fields=", ".join(kept)))}</p>' if kept else ""
        return f'<details class="plan-why"><summary>{escape(text("train.why"))}</summary>{by_hand}<dl>{rows}</dl></details>'

    def _choices(self) -> list[tuple[str, Choice]]:
        return [(name, self.followed.choices[name]) for name in settings() if name in self.followed.choices]


def recipe_of(
    preset: Preset, values: Mapping[str, object], own: Collection[str], dataset: Dataset | None
) -> FormRecipe | None:
    """For the base model, device and pictures that stand in the form; None where the card names no intent, or where what
    stands there cannot be had, which is told at its field. Needs torch.

    values: those of the form that are right. dataset: the pictures; None: not known yet, so as for a usual number.
    """
    if not preset.intent:
        return None
    from lora_core.recipes import recipe
    from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts

    config = TrainConfig(**{name: value for name, value in values.items() if name in settings()})  # type: ignore[arg-type]
    try:
        base = BaseFacts.of(config.pretrained_model_name_or_path, config.prediction_type)
        machine = MachineFacts.of(config.device)
    except UserError:
        return None
    pictures = DatasetFacts.of(dataset, config.validation_split, config.seed) if dataset else DatasetFacts.usual()
    by_hand = {name: values[name] for name in own if name in values}
    followed = recipe(preset.intent, base, pictures, machine, {**preset.values, **by_hand})
    usual = recipe(preset.intent, base, pictures, machine, preset.values) if by_hand else followed
    return FormRecipe(followed, usual, preset, frozenset(by_hand))


def _defaults() -> dict[str, object]:
    return {name: s.default for name, s in settings().items() if name not in form.LEFT_OUT}


def _said(value: object, text: Texts) -> str:
    if isinstance(value, bool):
        return text("train.why_on" if value else "train.why_off")
    if isinstance(value, tuple):
        return ", ".join(value)
    return text.number(f"{value:.10g}") if isinstance(value, int | float) else str(value)
