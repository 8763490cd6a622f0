"""LoRAs as values for tests: random ones for any modules of the real models, without building the models."""

from __future__ import annotations

import functools
from collections.abc import Mapping

import torch

from lora_core.lora.adapter import Adapter, Lora
from tests.clients import original
from tests.clients.models import REAL, real_unet, text_modules, unet_modules

RANK = 2


@functools.cache
def real_modules(family: str) -> dict[str, tuple[int, ...]]:
    """Every module of a real model that takes an adapter, in our names, with its weight's shape."""
    unet = {f"unet.{path}": shape for path, shape in unet_modules(real_unet(family)).items()}
    return {**unet, **text_modules(family)}


@functools.cache
def original_paths(family: str) -> dict[str, str]:
    """Our name of a UNet module -> its original path; paired by the order in which both codes run them."""
    ours = [module for module in real_modules(family) if module.startswith("unet.")]
    return {module: other.path for module, other in zip(ours, original.unet_modules(REAL[family]), strict=True)}


def text_place(module: str) -> str:
    """Our name of a text module -> "<which>:<layer>:<part>", as the clients in tests/clients answer."""
    which, _, _, _, layer, *part = module.split(".")
    return f"{which}:{layer}:{'_'.join(part)}"


def random_lora(
    shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype = torch.float32, alpha: float = 3.0, dora: bool = False
) -> Lora:
    """Random adapters of rank 2 for modules of these weight shapes; with DoRA, magnitudes over the inputs."""
    generator = torch.Generator().manual_seed(len(shapes))
    lora: Lora = {}
    for module, (out, wide, *kernel) in shapes.items():
        down = torch.randn(RANK, wide, *kernel, generator=generator).to(dtype)
        up = torch.randn(out, RANK, *[1] * len(kernel), generator=generator).to(dtype)
        scale = torch.rand(1, wide, *[1] * len(kernel), generator=generator) + 1 if dora else None
        lora[module] = Adapter(down, up, alpha, scale)
    return lora


def small_lora(family: str = "sd1", dtype: torch.dtype = torch.float32) -> Lora:
    """A LoRA of the real sizes on a handful of modules of every kind."""
    wanted = ("mid_block.attentions.0", "mid_block.resnets.0", "downsamplers", "layers.0.")
    return random_lora({m: s for m, s in real_modules(family).items() if any(part in m for part in wanted)}, dtype)


def equal(one: Lora, other: Lora) -> bool:
    """Same modules, and every number bit for bit."""
    return one.keys() == other.keys() and all(_equal(one[module], other[module]) for module in one)


def _equal(one: Adapter, other: Adapter) -> bool:
    pairs = ((one.down, other.down), (one.up, other.up), (one.dora_scale, other.dora_scale))
    same = all(
        (a is None and b is None) or (a is not None and b is not None and a.dtype == b.dtype and torch.equal(a, b))
        for a, b in pairs
    )
    return same and one.alpha == other.alpha
