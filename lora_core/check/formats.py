"""Whether numbers of fewer bits are finite and right on a device, and how quick: GTX 16xx cards compute NaN in fp16.

A convolution and attention of Stable Diffusion's shapes are compared with fp32 on the processor, the VAE's way from
pixels to latents with fp32 on the device. Bounds are a few times what rounding does (2^-11 in fp16 and TF32, 2^-8 in bf16).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from lora_core.check.bench import Bench
from lora_core.check.probe import Probe
from lora_core.check.trial import encoder_of
from lora_core.errors import first_line
from lora_core.messages import Message
from lora_core.models.architecture import Shapes

DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16, "tf32": torch.float32}
# Of the length of the answer: of a product, and of the VAE, whose thirty layers add up what they miss.
BOUNDS = {"fp32": (1e-4, 1e-3), "fp16": (3e-3, 3e-2), "bf16": (2e-2, 2e-1), "tf32": (3e-3, 3e-2)}
HEADS = 8
LAPS = 3
EMULATED = 2.0  # times as slow; measured on products


@dataclass(frozen=True)
class Size:
    """What is computed. width: channels of the UNet's first resolution. side: in latent pixels; vae_side: in pixels."""

    shapes: Shapes
    side: int
    vae_side: int

    @property
    def width(self) -> int:
        return int(self.shapes.unet["block_out_channels"][0])


@dataclass(frozen=True)
class Format:
    """How a format fared. missed: of the answer's length, the worst; inf where it is not finite. seconds: of products.

    worst: "conv", "attention" or "vae".
    """

    name: str
    missed: float
    worst: str
    seconds: float
    is_right: bool


def measure(bench: Bench) -> None:
    """All formats of the device, each a finding; a format that cannot be tried is not right."""
    sizes, probe, found = bench.sizes, bench.probe, dict[str, Format]()
    probe.set_up()
    side = sizes.small // (2 ** (len(sizes.shapes.vae["block_out_channels"]) - 1))
    size = Size(sizes.shapes, side, sizes.card_vae if probe.is_card else sizes.vae)
    for name in named(probe):
        bench.go_on()
        try:
            found[name] = tried(name, probe, size)
        except (RuntimeError, TypeError) as cause:  # of torch, for what a device cannot do
            bench.slower(Message("check.no_format", format=name, why=first_line(cause)))
        is_right = name in found and found[name].is_right
        bench.decide(formats={**bench.computer.formats, name: is_right})
        if name in found:
            _tell(bench, found[name])
    if "bf16" in found:
        native = is_native(found, probe)
        bench.decide(native_bf16=native)
        bench.good(Message("check.native_bf16" if native else "check.emulated_bf16"))
    elif not probe.is_card:
        bench.decide(native_bf16=False)
        bench.good(Message("check.no_bf16_units"), Message("check.cpu_in_fp32"))


def _tell(bench: Bench, found: Format) -> None:
    what = Message(f"check.in_{found.worst}")
    if found.is_right:
        told = Message("check.format_right", format=found.name, missed=found.missed, what=what, seconds=found.seconds)
        bench.good(told)
    elif found.missed == float("inf"):
        bench.failed(Message("check.format_not_finite", format=found.name, what=what), _instead(found.name))
    else:
        told = Message("check.format_wrong", format=found.name, missed=found.missed, what=what)
        bench.failed(told, _instead(found.name))


def _instead(name: str) -> Message:
    """What follows from a format that is not right."""
    return Message("check.device_wrong") if name == "fp32" else Message("check.other_format", format=name)


def named(probe: Probe) -> list[str]:
    """The formats to try on a device, fp32 first. A processor computes in fp32, or in bf16 where it has units for it."""
    if not probe.is_card:
        return ["fp32", *(["bf16"] if probe.native_bf16() else [])]
    return ["fp32", "fp16", "bf16", *(["tf32"] if probe.has_tf32() else [])]


def tried(name: str, probe: Probe, size: Size) -> Format:
    """Compute in a format and compare."""
    dtype, device = DTYPES[name], probe.device
    missed = {}
    with probe.tf32(name == "tf32"):
        for part, function, inputs in _products(size):
            here = [each.to(device, dtype) for each in inputs]
            missed[part] = _missed(probe.compute(function, *here), function(*(each.to(dtype).float() for each in inputs)))
        seconds = _seconds(probe, [(f, [each.to(device, dtype) for each in inputs]) for _, f, inputs in _products(size)])
        if name != "fp32":
            missed["vae"] = _missed(*_latents(name, probe, size))
    bounds = {part: BOUNDS[name][part == "vae"] for part in missed}
    worst = max(missed, key=lambda part: missed[part] / bounds[part])
    return Format(name, missed[worst], worst, seconds, all(missed[part] <= bounds[part] for part in missed))


def is_native(found: dict[str, Format], probe: Probe) -> bool:
    """Whether bf16 has units of its own: the device says so, and is no slower in it than in fp16 (a CPU: in fp32)."""
    other = found.get("fp16" if probe.is_card else "fp32")
    return probe.native_bf16() and (other is None or found["bf16"].seconds <= EMULATED * other.seconds)


def _products(size: Size) -> Iterator[tuple[str, Callable[..., Tensor], list[Tensor]]]:
    rng = torch.Generator().manual_seed(3)
    width = size.width
    pixels = torch.randn(1, width, size.side, size.side, generator=rng)
    kernel = torch.randn(width, width, 3, 3, generator=rng) * (9 * width) ** -0.5
    yield "conv", lambda x, w: F.conv2d(x, w, padding=1), [pixels, kernel]
    asked = [torch.randn(1, HEADS, size.side**2, width // HEADS, generator=rng) for _ in range(3)]
    yield "attention", F.scaled_dot_product_attention, asked


@torch.no_grad()
def _latents(name: str, probe: Probe, size: Size) -> tuple[Tensor, Tensor]:
    """What the VAE makes of a picture in a format, and in fp32."""
    pixels = torch.rand(1, 3, size.vae_side, size.vae_side, generator=torch.Generator().manual_seed(4)) * 2 - 1
    found = []
    for dtype, is_tf32 in ((DTYPES[name], name == "tf32"), (torch.float32, False)):
        vae: Any = encoder_of(size.shapes, dtype, probe.device)
        with probe.tf32(is_tf32):
            found.append(vae.encode(pixels.to(probe.device, dtype)).latent_dist.mean)
    return found[0], found[1]


def _missed(found: Tensor, wanted: Tensor) -> float:
    """How far off, of the wanted one's length; inf where numbers are not finite."""
    found, wanted = found.detach().float().cpu(), wanted.detach().float().cpu()
    if not bool(torch.isfinite(found).all()):
        return float("inf")
    return float((found - wanted).norm() / wanted.norm())


def _seconds(probe: Probe, work: list[tuple[Callable[..., Tensor], list[Tensor]]]) -> float:
    """Of all of it together, the quickest of a few laps."""
    laps = []
    for _ in range(LAPS + 1):
        probe.wait()
        began = time.perf_counter()
        for function, inputs in work:
            function(*inputs)
        probe.wait()
        laps.append(time.perf_counter() - began)
    return min(laps[1:])
