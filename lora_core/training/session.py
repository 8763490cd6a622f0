"""What a training holds from its first step to its last."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.lora.metadata import Ancestor
from lora_core.models.device import Compute
from lora_core.models.families.base import BaseModel, Frame, Predict
from lora_core.system.distributed import ProcessGroup
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.data.plan import Plan
from lora_core.training.data.validation import LATENTS_AT_ONCE, Measure
from lora_core.training.engine.stepper import PlainStepper, Stepper
from lora_core.training.optim.ema import EMA
from lora_core.training.progress import ProgressMeter


@dataclass(frozen=True)
class Prior:
    """Latents the base model drew, scaled, and what it was asked for."""

    prompt: str
    latents_CHW: Tensor
    frame: Frame


@dataclass
class Session:
    """Everything a training step touches. `step` counts finished optimizer steps."""

    config: TrainConfig
    plan: Plan
    compute: Compute
    model: BaseModel
    prompts: Prompts
    training: Sequence[Example]
    held_out: Sequence[Example]
    prior: list[Prior]
    parameters: dict[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    meter: ProgressMeter
    predict: Predict
    measure: Measure | None = None  # of a validation; None: as much as ever
    latents_at_once: int = LATENTS_AT_ONCE  # of a validation
    base_is_due: bool = False  # the base model's loss is to be measured yet, at the first save, with the adapters off
    fitted: TrainConfig | None = None  # the settings as they run, with what makes them fit the card; None: as asked
    group: ProcessGroup = field(default_factory=ProcessGroup)
    stepper: Stepper = field(default_factory=PlainStepper)
    ema: EMA = field(default_factory=EMA)
    ancestor: Ancestor | None = None  # the LoRA it began with
    started_at: float = field(default_factory=time.time)  # Unix seconds
    step: int = 0
    saved_step: int = -1
    best_step: int = 0
    best_loss: float = field(default=float("inf"))
    lr_scale: float = 1.0  # what the learning rates are multiplied by since numbers went wrong
