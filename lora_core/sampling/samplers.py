"""Samplers by the names A1111 and Forge know them by, so that a picture's text means the same there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_MULTISTEP = "DPMSolverMultistepScheduler"
# Name -> diffusers' class and what sets it apart from the class's defaults.
_SCHEDULERS: dict[str, tuple[str, dict[str, Any]]] = {
    "DDIM": ("DDIMScheduler", {}),
    "Euler": ("EulerDiscreteScheduler", {}),
    "Euler a": ("EulerAncestralDiscreteScheduler", {}),
    "DPM++ 2M": (_MULTISTEP, {}),
    "DPM++ 2M Karras": (_MULTISTEP, {"use_karras_sigmas": True}),
    "DPM++ 2M SDE Karras": (_MULTISTEP, {"use_karras_sigmas": True, "algorithm_type": "sde-dpmsolver++"}),
    "Heun": ("HeunDiscreteScheduler", {}),
    "UniPC": ("UniPCMultistepScheduler", {}),
    "PLMS": ("PNDMScheduler", {"skip_prk_steps": True}),
    "LCM": ("LCMScheduler", {}),
}
NAMES = tuple(_SCHEDULERS)


def scheduler(name: str, config: Mapping[str, Any]) -> Any:
    """A sampler with the noise schedule of `config`, the model's own scheduler's settings. Raises KeyError."""
    import diffusers  # seconds to import, and the names alone are wanted more often

    kind, options = _SCHEDULERS[name]
    return getattr(diffusers, kind).from_config(dict(config), **options)
