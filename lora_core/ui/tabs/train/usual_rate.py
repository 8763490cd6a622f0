"""When a training has hardly changed the pictures: the learning rate that is usual, to try instead."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.runs.change import HARDLY, change

if TYPE_CHECKING:
    from lora_core.runs.history import History

FAR_BELOW = 0.5  # of the usual rate: nearer to it, another reason is likelier
INTENT = "character"  # whose rate is the usual one


def usual_rate(history: History) -> float | None:
    """What to try instead; None where the samples have changed, or were not drawn, or the rate was not low."""
    moved = change(history.run.folder, history.samples)
    if moved is None or moved >= HARDLY:
        return None
    try:
        config = history.run.config()
        usual = _usual(config)
    except UserError:  # its settings are damaged, or the base model is not there any more
        return None
    return usual if config.learning_rate < FAR_BELOW * usual else None


@functools.lru_cache(maxsize=8)  # pages ask each second
def _usual(config: TrainConfig) -> float:
    """By the recipe, for the batch, rank and optimizer of these settings. Needs torch."""
    from lora_core.recipes import recipe
    from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts

    base = BaseFacts.of(config.pretrained_model_name_or_path, config.prediction_type)
    given = {name: value for name, value in config.values().items() if name != "learning_rate"}
    return float(str(recipe(INTENT, base, DatasetFacts.usual(), MachineFacts(""), given).values["learning_rate"]))
