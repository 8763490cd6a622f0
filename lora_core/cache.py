"""Pictures to latents and captions to embeddings, computed once and kept on disk by content.

A file is named by the hash of everything it depends on, so a changed picture, caption, size or model is a new file
and an old one is never wrong. Everything is encoded one by one: what is in a file must not depend on its neighbours.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import psutil
import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from safetensors.torch import save as save_tensors
from torch import Tensor

from lora_core.base_models import fingerprint
from lora_core.config import TrainConfig
from lora_core.dataset import Item, fit, load_picture
from lora_core.dataset.buckets import crop_box
from lora_core.errors import UserError
from lora_core.events import Emit, Phase, Warned
from lora_core.families import BaseModel, Conditioning, Frame
from lora_core.files import TEMPORARY_SUFFIX, WriteError, write_bytes_whole
from lora_core.places import cache_folder
from lora_core.plan import Plan, Size
from lora_core.weights import at_hand


@dataclass(frozen=True)
class Example:
    """A picture as the training step sees it: the VAE's posterior, unscaled, for each mirroring; caption and frame."""

    caption: str
    views: tuple[tuple[Tensor, Tensor], ...]  # (mean_CHW, std_CHW), plain and, with random_flip, mirrored
    frame: Frame


def encode_pictures(
    model: BaseModel, plan: Plan, items: Sequence[Item], config: TrainConfig, device: torch.device, emit: Emit
) -> list[Example]:
    """Latents of `items` at their bucket's size, from the cache where they are; the VAE is on `device` meanwhile."""
    examples = []
    with at_hand([model.vae], device):
        key = f"{fingerprint(model, 'vae')} {config.transparent_color}"
        for done, item in enumerate(items):
            emit(Phase("cache", done, len(items), item.path.name))
            width, height = plan.size_of[item.path]
            content = hashlib.sha256(_bytes_of(item)).hexdigest()
            views = []
            for mirrored in (False, True) if config.random_flip else (False,):

                def encode(item: Item = item, mirrored: bool = mirrored) -> dict[str, Tensor]:
                    pixels_HW3 = fit(load_picture(item.path, config.transparent_color), plan.size_of[item.path])
                    return _posterior(model, pixels_HW3[:, ::-1] if mirrored else pixels_HW3, emit)

                tensors = stored(f"{key} {content} {width}x{height} {mirrored}", encode, emit)
                views.append((tensors["mean"], tensors["std"]))
            examples.append(Example(item.caption, tuple(views), frame_of(item, (width, height))))
    emit(Phase("cache", len(items), len(items)))
    return examples


def _bytes_of(item: Item) -> bytes:
    try:
        return item.path.read_bytes()
    except OSError as cause:
        why = cause.strerror or cause
        raise UserError(f"{item.path} went away since the pictures were counted ({why}). Start again.") from cause


def frame_of(item: Item, size: Size) -> Frame:
    """How a picture is cut for a bucket of `size` (width, height)."""
    left, top, right, bottom = crop_box(item.width, item.height, size)
    across, down = size[0] / (right - left), size[1] / (bottom - top)
    return item.height, item.width, round(top * down), round(left * across), size[1], size[0]


@torch.no_grad()
def _posterior(model: BaseModel, pixels_HW3: np.ndarray, emit: Emit) -> dict[str, Tensor]:
    pixels_BCHW = torch.from_numpy(np.ascontiguousarray(pixels_HW3)).permute(2, 0, 1)[None].float() / 127.5 - 1
    posterior = model.vae.encode(pixels_BCHW.to(model.vae.device, model.vae.dtype)).latent_dist
    tensors = {"mean": posterior.mean[0].float().cpu(), "std": posterior.std[0].float().cpu()}
    if all(torch.isfinite(tensor).all() for tensor in tensors.values()):
        return tensors
    if model.vae.dtype == torch.float32:
        raise UserError(f"The VAE of {model.name} gives no numbers; it is damaged. Take another one with --vae.")
    emit(Warned(f"The VAE of {model.name} overflows in 16 bit, so it computes in fp32 from here on."))
    in_fp32(model.vae)
    return _posterior(model, pixels_HW3, emit)


def in_fp32(vae: Any) -> None:
    """Let a VAE compute in fp32 from here on, also when it is read from its files again."""
    if source := getattr(vae, "source", None):
        vae.source = replace(source, dtype=torch.float32)
    vae.float()


class Prompts:
    """Captions to conditioning: from memory where text encoders are fixed and captions known, else encoded anew.

    `live`: the text encoders are being trained, so nothing may be remembered.
    """

    def __init__(self, model: BaseModel, device: torch.device, live: bool):
        self.model, self.device, self.live = model, device, live
        self.known: dict[str, Conditioning] = {}

    def prepare(self, captions: Iterable[str], emit: Emit) -> None:
        """Encode captions ahead, with the base model's own encoders, from the cache where they are there."""
        wanted = [caption for caption in dict.fromkeys(captions) if caption not in self.known]
        with at_hand(self.model.text_encoders.values(), self.device):
            key = " ".join(fingerprint(self.model, name) for name in self.model.text_encoders)
            for done, caption in enumerate(wanted):
                emit(Phase("cache", done, len(wanted), "captions"))
                self.known[caption] = stored(f"{key} {caption}", partial(self._encode_one, caption), emit)

    def __call__(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning:
        """Conditioning for a batch, on the device; gradients flow into trained text encoders."""
        return self._framed(self.encode(captions), frames) if self.live else self.base(captions, frames)

    def encode(self, captions: Sequence[str]) -> Conditioning:
        """Conditioning from the text encoders as they stand."""
        return self.model.family.encode_text(self.model, self.model.family.tokenize(self.model, captions))

    def base(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning:
        """Conditioning from the base model's own text encoders; unknown captions are encoded and remembered."""
        for caption in captions:
            if caption not in self.known:
                assert not self.live, "an adapted encoder cannot answer for the base model"
                self.known[caption] = self._encode_one(caption)
        rows = [self.known[caption] for caption in captions]
        stacked = {name: torch.stack([row[name] for row in rows]).to(self.device) for name in rows[0]}
        return self._framed(stacked, frames)

    def _framed(self, conditioning: Conditioning, frames: Sequence[Frame]) -> Conditioning:
        return {**conditioning, "frames": torch.tensor(list(frames), device=self.device)}

    @torch.no_grad()
    def _encode_one(self, caption: str) -> Conditioning:
        with at_hand(self.model.text_encoders.values(), self.device):
            return {name: rows[0].cpu() for name, rows in self.encode([caption]).items()}


def remove_abandoned() -> None:
    """Delete what killed processes left half-written in the cache; those that live may be writing right now."""
    for path in cache_folder().glob(f"??/.*{TEMPORARY_SUFFIX}"):
        pid = path.name[1:].partition("-")[0]
        if not pid.isdigit() or not psutil.pid_exists(int(pid)):
            with contextlib.suppress(OSError):
                path.unlink()


def stored(description: str, make: Callable[[], dict[str, Tensor]], emit: Emit) -> dict[str, Tensor]:
    """Tensors from the cache file of this description, made and written when it is missing or damaged."""
    name = hashlib.sha256(description.encode()).hexdigest()
    path = cache_folder() / name[:2] / f"{name}.safetensors"
    try:
        return load_tensors(path.read_bytes())
    except (OSError, SafetensorError):
        tensors = {key: tensor.contiguous() for key, tensor in make().items()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_bytes_whole(path, save_tensors(tensors))
    except (OSError, WriteError) as cause:  # a full or read-only disk makes the next start slower, no more
        emit(Warned(f"The cache cannot be written, so the next start prepares everything again: {cause}"))
    return tensors
