"""What all captioners begin with: settings from a JSON file, weights into a model, a picture as numbers."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models.checkpoint_keys import Place
from lora_core.models.device import choose, set_up, use_cores
from lora_core.models.weights import Source, load_to, on_meta, open_weights, reason

# An RGB picture and the confidence, 0 to 1, that a tag needs (sentences pass over it) to a caption; "" is none.
Describe = Callable[[Image.Image, float], str]


def settings(file: Path) -> dict[str, Any]:
    """The object in a JSON file. Raises UserError when it is missing or damaged."""
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as cause:
        raise unusable(file, Message("captioners.unreadable")) from cause
    if not isinstance(table, dict):
        raise unusable(file, Message("captioners.no_settings"))
    return table


def loaded(
    make: Callable[[], nn.Module], file: Path, device: torch.device, places: Callable[[str], Sequence[Place]]
) -> Any:
    """The frozen module that `make` makes, its weights from `file`, on `device`: in fp16 on a CUDA card, else in fp32.

    Raises:
        UserError: the weights are damaged, or those of another model.
    """
    compute = choose(str(device), "fp16" if device.type == "cuda" else "no")
    set_up(compute)
    try:
        module = load_to(on_meta(make, Source(str(file), lambda: open_weights(file), places, compute.dtype)), device)
    except UserError:
        raise
    except (ValueError, TypeError, KeyError, ArithmeticError) as cause:
        raise unusable(file, reason(cause)) from cause
    use_cores(module)
    return module


def unusable(file: Path, why: Message | str) -> UserError:
    """The sentence for a file that is not what its captioner needs."""
    return UserError("captioners.unusable", file=file, why=why)


def numbers(image: Image.Image, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """An RGB picture as 1 x 3 x height x width, each channel brought from 0...1 to the mean and deviation of training."""
    values_HWC = np.asarray(image, np.float32) / 255
    scaled_HWC = (values_HWC - np.asarray(mean, np.float32)) / np.asarray(std, np.float32)
    return torch.from_numpy(scaled_HWC).permute(2, 0, 1)[None].contiguous()
