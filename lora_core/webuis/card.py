"""The model card that an export writes beside a LoRA: name, words and picture from its run and its metadata."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.events import Validation
from lora_core.lora.summary import LoraSummary
from lora_core.messages import Message
from lora_core.models.families.specs import FAMILIES
from lora_core.runs.run import Run, run_of
from lora_core.runs.summary import best_step, outcome
from lora_core.system.file_names import plain

# A validation loss this much above the best one shows in pictures as copies of the training set (our judgement).
OVERFIT = 1.02
OVERFIT_WEIGHT = 0.8
_COMMON_NAMES = ("pytorch_lora_weights", "lora", "adapter_model")  # every run's, so they tell nothing
_COMMON_FOLDERS = ("lora_out", "loras", "output", "outputs")
_STEP = re.compile(r"step_(\d+)(?:_\d+)?")


@dataclass(frozen=True)
class Sidecar:
    """What A1111's and Forge's editor of a LoRA shows. sd_version "": taken from the LoRA. A weight of 0: unset.

    Of these, SD.Next reads the description alone, and the words from a list `tags` (its ui_extra_networks_lora.py),
    which that editor leaves as it is.
    """

    description: str = ""
    sd_version: str = ""
    activation_text: str = ""
    preferred_weight: float = 0.0
    negative_text: str = ""
    notes: str = ""

    def to_json(self, older: dict[str, Any]) -> bytes:
        """In the editor's form; keys that others put into the older file stay."""
        values = {
            "description": self.description, "sd version": self.sd_version, "activation text": self.activation_text,
            "preferred weight": self.preferred_weight, "negative text": self.negative_text, "notes": self.notes,
        }  # fmt: skip
        tags = self._tags(older)
        return json.dumps({**older, **values, **({"tags": tags} if tags else {})}, indent=4, ensure_ascii=False).encode(
            "utf-8"
        )

    def _tags(self, older: dict[str, Any]) -> object:
        """The words to activate it, then the tags of others; words of an older export make way."""
        kept = older.get("tags", [])
        if not isinstance(kept, list):
            return kept
        mine, before = _words(self.activation_text), _words(str(older.get("activation text", "")))
        return [*mine, *(tag for tag in kept if tag not in (*mine, *before))]


def _words(text: str) -> list[str]:
    return list(dict.fromkeys(word.strip() for word in text.split(",") if word.strip()))


@dataclass(frozen=True)
class Overfit:
    """The validation loss was lower at an earlier step; `better` is the LoRA of that step, where it was kept."""

    step: int
    loss: float
    best_step: int
    best_loss: float
    better: Path | None

    @property
    def message(self) -> Message:
        return Message(
            "webuis.overfit", best=self.best_step, best_loss=self.best_loss, loss=self.loss, step=self.step,
            weight=OVERFIT_WEIGHT,
        )  # fmt: skip


@dataclass(frozen=True)
class ModelCard:
    """What an export would write beside a LoRA, all of it editable.

    `picture` is None when the run drew none; `overfit` is set when another step looks better.
    """

    summary: LoraSummary
    name: str
    sidecar: Sidecar
    picture: Path | None
    overfit: Overfit | None = None

    @property
    def lora(self) -> Path:
        return self.summary.path

    @property
    def remarks(self) -> tuple[Message, ...]:
        """What is worth a look before exporting."""
        if self.overfit is None:
            return ()
        better = self.overfit.better
        instead = [Message("webuis.overfit_better", step=self.overfit.best_step, file=better)] if better else []
        return (self.overfit.message, *instead)


def card_for(source: Path) -> ModelCard:
    """The card of a run folder, of a checkpoint's LoRA in it, or of any LoRA file.

    Raises:
        UserError: there is no LoRA there, or several and nothing says which.
    """
    summary = LoraSummary.read(lora_of(source))
    metadata, run, step = summary.metadata, run_of(summary.path), _step_of(summary.path)
    trigger = (
        metadata.get("modelspec.trigger_phrase") or str(summary.settings().get("trigger_word", "")) or _common_tag(metadata)
    )
    overfit = _overfit(run, step) if run else None
    sidecar = Sidecar(
        description=metadata.get("modelspec.description", ""),
        sd_version=FAMILIES[summary.known_family()].webui_version,
        activation_text=trigger,
        preferred_weight=OVERFIT_WEIGHT if overfit else 1.0,
        notes=_notes(metadata),
    )
    name = _name(summary.path, metadata, run, trigger)
    return ModelCard(summary, name, sidecar, sample_of(run, step) if run else None, overfit)


def lora_of(source: Path) -> Path:
    """The LoRA file a person means: the file, or the finished one that lies directly in a run folder.

    Raises:
        UserError: none, or several of which none has the run's name.
    """
    if not source.is_dir():
        return source
    found = sorted(source.glob("*.safetensors"))
    if len(found) == 1:
        return found[0]
    if Run(source).config_file.is_file() and (named := Run(source).lora_file(Run(source).config())).is_file():
        return named
    if found:
        raise UserError("webuis.many_loras", folder=source, count=len(found), first=found[0].name)
    raise UserError("webuis.no_lora", folder=source)


def sample_of(run: Run, step: int | None) -> Path | None:
    """The first sample picture of a step, of the last one when None; never of step 0, which has no LoRA in it."""
    pictures: dict[int, list[Path]] = {}
    for path in sorted(run.samples.glob("step_*.png")):
        if (match := _STEP.fullmatch(path.stem)) and int(match[1]):
            pictures.setdefault(int(match[1]), []).append(path)
    wanted = step if step in pictures else max(pictures, default=None)
    return pictures[wanted][0] if wanted is not None else None


def _step_of(path: Path) -> int | None:
    match = _STEP.fullmatch(path.parent.name)
    return int(match[1]) if match else None


def _overfit(run: Run, step: int | None) -> Overfit | None:
    """Set when the held-out pictures say that this step learned the training pictures by heart."""
    told = list(outcome(run))
    trained = {event.step: event.loss for event in told if isinstance(event, Validation) and event.step}
    mine, best = step if step is not None else max(trained, default=0), best_step(told)
    if best is None or mine not in trained or trained[mine] < OVERFIT * trained[best]:
        return None
    better = run.checkpoint_lora(best)
    return Overfit(mine, trained[mine], best, trained[best], better if better.is_file() else None)


def _common_tag(metadata: Mapping[str, str]) -> str:
    """The most frequent tag, where every picture has it: it then is what calls the concept."""
    try:
        tags: dict[str, int] = {}
        for folder in json.loads(metadata.get("ss_tag_frequency", "{}")).values():
            for tag, count in folder.items():
                tags[tag.strip()] = tags.get(tag.strip(), 0) + int(count)
        pictures = sum(int(about["img_count"]) for about in json.loads(metadata.get("ss_dataset_dirs", "{}")).values())
    except (ValueError, TypeError, AttributeError, KeyError):
        return ""
    top = max(tags, key=lambda tag: tags[tag], default="")
    return top if tags and pictures > 1 and tags[top] >= pictures else ""


def _name(path: Path, metadata: Mapping[str, str], run: Run | None, trigger: str) -> str:
    """The name the run gave its LoRA; a name that every run has makes way for the trigger word or the folder."""
    own = metadata.get("ss_output_name", "") or path.stem
    folder = run.folder.resolve().name if run else ""
    better = [trigger, folder if folder.lower() not in _COMMON_FOLDERS else ""]
    candidates = [own, *better] if own.lower() not in _COMMON_NAMES else [*better, own]
    return next(name for name in (*map(plain, candidates), "lora") if name)


def _notes(metadata: Mapping[str, str]) -> str:
    told = {
        "Base model": metadata.get("ss_sd_model_name"), "Steps": metadata.get("ss_steps"),
        "Pictures": metadata.get("ss_num_train_images"), "Rank": metadata.get("ss_network_dim"),
        "Resolution": metadata.get("modelspec.resolution"),
    }  # fmt: skip
    return "\n".join(f"{name}: {value}" for name, value in told.items() if value and value != "None")
