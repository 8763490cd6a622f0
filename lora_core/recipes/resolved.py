"""A preset that names an intent, resolved: the recipe for this model, these pictures and this device."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from lora_core.config import TrainConfig
from lora_core.dataset import scan
from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts
from lora_core.recipes.recipe import Recipe, recipe


def for_training(
    intent: str, config: TrainConfig, given: Mapping[str, object], taken: Mapping[str, object] | None = None
) -> Recipe:
    """The recipe for the pictures, base model and device that `config` names; its other values do not matter.

    given: settings that were set by hand, by a flag or in the preset's file. taken: those of the LoRA it goes on from.

    Raises:
        UserError: no such intent, or pictures, base model or device cannot be had.
    """
    dataset = scan(Path(config.train_data_dir).expanduser(), config.trigger_word)
    base = BaseFacts.of(config.pretrained_model_name_or_path, config.prediction_type, config.zero_terminal_snr)
    about = DatasetFacts.of(dataset, config.validation_split, config.seed)
    return recipe(intent, base, about, MachineFacts.of(config.device), given, taken)
