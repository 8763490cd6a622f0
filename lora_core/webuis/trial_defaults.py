"""What a LoRA file tells of how to draw with it: base model, prompt, size, seed and weight, all of them editable."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Sample
from lora_core.models.catalog import BASES, STARTER
from lora_core.models.families.specs import FAMILIES
from lora_core.runs.run import run_of
from lora_core.runs.summary import outcome
from lora_core.sample_prompts import read_sample_prompt
from lora_core.settings import Value
from lora_core.webuis.card import card_for

_STEPS, _GUIDANCE = 25, 7.0


@dataclass(frozen=True)
class TrialDefaults:
    """What a form for drawing begins with.

    trained_on: whether `base` is what the LoRA was trained on; else it is the usual one of its family. vae,
    prediction_type, zero_terminal_snr: as the settings of these names had them, and plain where another base stands in.
    clip_skip, max_token_length: likewise, also of files of sd-scripts.
    """

    path: Path
    name: str  # as a prompt calls it
    family: str
    base: str
    trained_on: bool
    is_toy: bool
    trigger: str
    weight: float
    prompt: str
    negative: str
    seed: int
    steps: int
    guidance: float
    width: int  # pixels
    height: int
    hash: str
    vae: str = ""
    prediction_type: str = "auto"
    zero_terminal_snr: str = "auto"
    clip_skip: int = 1
    max_token_length: int = 75


def defaults_for(source: Path) -> TrialDefaults:
    """The defaults for a LoRA file, or for the finished LoRA in a run folder.

    Raises:
        UserError: there is no LoRA there.
    """
    card = card_for(source)
    summary, settings = card.summary, card.summary.settings()
    base = str(settings.get("pretrained_model_name_or_path", ""))
    trained_on = bool(base) and _is_there(base)
    trigger = card.sidecar.activation_text
    prompt, flags = _first_sample(settings)
    side = int(settings.get("resolution", 0)) or _side(summary.metadata.get("modelspec.resolution", ""), summary.family)
    drawn: dict[str, Any] = {
        "negative_prompt": settings.get("sample_negative_prompt", ""), "seed": settings.get("seed", TrainConfig().seed),
        "steps": settings.get("sample_inference_steps", _STEPS), "guidance": settings.get("sample_guidance", _GUIDANCE),
        "width": side, "height": side, **flags,
    }  # fmt: skip
    return TrialDefaults(
        path=summary.path, name=card.name, family=summary.family, is_toy=summary.is_toy, trained_on=trained_on,
        base=base if trained_on else STARTER if summary.is_toy else BASES[summary.family],
        trigger=trigger, weight=card.sidecar.preferred_weight or 1.0,
        prompt=prompt or _shown(summary.path) or trigger, negative=str(drawn["negative_prompt"]),
        seed=int(drawn["seed"]), steps=int(drawn["steps"]), guidance=float(drawn["guidance"]),
        width=int(drawn["width"]), height=int(drawn["height"]),
        hash=summary.hash,
        vae=str(settings.get("vae", "")) if trained_on else "",
        prediction_type=str(settings.get("prediction_type", "auto")) if trained_on else "auto",
        zero_terminal_snr=str(settings.get("zero_terminal_snr", "auto")) if trained_on else "auto",
        clip_skip=_number(settings.get("clip_skip", summary.metadata.get("ss_clip_skip")), 1),
        max_token_length=_number(settings.get("max_token_length", summary.metadata.get("ss_max_token_length")), 75),
    )  # fmt: skip


def _is_there(base: str) -> bool:
    """Not a folder that is gone; whether the hub has a model shows when it is loaded."""
    is_folder = Path(base).is_absolute() or base.startswith((".", "~")) or base.count("/") > 1 or "\\" in base
    return not is_folder or Path(base).expanduser().exists()


def _number(told: object, usual: int) -> int:
    """Of the metadata, where sd-scripts writes "None" for what is as usual; what is no such number is as usual too."""
    return int(str(told)) if str(told) in ("1", "2", "75", "150", "225") else usual


def _first_sample(settings: dict[str, Any]) -> tuple[str, dict[str, Value]]:
    """The first sample prompt and what its flags set; a file of other hands may hold any."""
    first = str((settings.get("sample_prompts") or [""])[0])
    try:
        return read_sample_prompt(first)
    except UserError:
        return first, {}


def _shown(path: Path) -> str:
    """The prompt of the first sample that was drawn."""
    run = run_of(path)
    shown = [event for event in outcome(run) if isinstance(event, Sample)] if run else []
    return shown[0].prompt if shown else ""


def _side(resolution: str, family: str) -> int:
    match = re.match(r"\s*\(?(\d+)", resolution)
    return max(64, int(match[1]) // 8 * 8) if match and 64 <= int(match[1]) <= 4096 else FAMILIES[family].resolution
