"""What a family is, and a base model of one: the types that every family fills and everybody else calls."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lora_core.dataset.tokens import CHUNK
from lora_core.models.families.specs import FamilySpec

Tensors = dict[str, Tensor]

Conditioning = Tensors
"""Named tensors the UNet is conditioned on, batch first: `encoder_hidden_states` [B, 77 n, width] and, in SDXL, `pooled`
[B, 1280]; `frames` [B, 6] says how each picture was cut, which SDXL alone looks at."""

Predict = Callable[[Tensor, Tensor, Conditioning], Tensor]
"""(noisy_latents_BCHW, timesteps_B, conditioning) -> prediction_BCHW."""

Frame = tuple[int, int, int, int, int, int]
"""Height and width of the original picture, top and left of the cut after scaling, height and width of what the model
sees; in pixels (Podell et al. 2023, 2.2)."""


def whole_frame(width: int, height: int) -> Frame:
    """The frame of a picture of that size that nothing was cut from, as pipelines draw."""
    return height, width, 0, 0, height, width


@dataclass
class BaseModel:
    """A loaded base model: frozen, in eval mode. Text encoders and VAE may stand on another device than the UNet."""

    name: str
    family: Family
    unet: Any  # UNet2DConditionModel
    vae: Any  # AutoencoderKL
    text_encoders: dict[str, Any]  # CLIPTextModel by component name ("text_encoder", "text_encoder_2")
    tokenizers: dict[str, Any]  # CLIPTokenizer by component name ("tokenizer", "tokenizer_2")
    scheduler: Any  # the model's own noise schedule, as a DDIMScheduler
    fingerprints: dict[str, str] = field(default_factory=dict)
    prompt_cache: dict[Hashable, dict[str, torch.Tensor]] = field(default_factory=dict)  # encoded
    # How captions are read (`read_captions`): which layer from the end is taken, and most parts of 75 tokens.
    clip_skip: int = 1
    max_chunks: int = 1

    def read_captions(self, clip_skip: int, max_token_length: int) -> None:
        """Read them from here on as the settings of these names have it."""
        self.clip_skip = clip_skip if self.family.spec.takes_clip_skip else 1
        self.max_chunks = max_token_length // CHUNK

    @property
    def device(self) -> torch.device:
        """Where the UNet stands."""
        return next(self.unet.parameters()).device  # type: ignore[no-any-return]

    @property
    def prediction_type(self) -> str:
        """`epsilon` or `v_prediction`, as the model's scheduler says."""
        return str(self.scheduler.config.prediction_type)

    @property
    def pixels_per_latent(self) -> int:
        return int(2 ** (len(self.vae.config.block_out_channels) - 1))

    @property
    def resolution(self) -> int:
        """Side in pixels of the square pictures the model was trained on: 512, 768 or 1024; 64 for the starter."""
        sample_size = self.unet.config.sample_size
        return int(sample_size if isinstance(sample_size, int) else max(sample_size)) * self.pixels_per_latent

    def predict(self, noisy_latents_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        """The UNet's answer, BCHW."""
        return self.family.predict(self.unet, noisy_latents_BCHW, timesteps_B, conditioning)

    def adapted(self) -> dict[str, Any]:
        """The modules that may carry adapters, by component name."""
        return {"unet": self.unet, **self.text_encoders}


@dataclass(frozen=True)
class Family:
    """What differs between families.

    spec: what is known of it without a model.
    matches: whether a UNet with this config belongs here (told by the cross-attention width, never by a name).
    load: components from a diffusers folder, with the dtype of UNet and text encoders.
    tokenize: captions -> token ids by tokenizer name, each [B, 77 n]: n parts, at most the model's `max_chunks` for each.
    encode_text: token ids -> conditioning; gradients flow where the encoders' adapters need them.
    predict: (unet, noisy_latents_BCHW, timesteps_B, conditioning) -> prediction_BCHW.
    pipeline: the diffusers pipeline over the loaded modules, sharing their memory.
    """

    spec: FamilySpec
    matches: Callable[[Mapping[str, Any]], bool]
    load: Callable[[str, Path, str | None, torch.dtype], BaseModel]
    tokenize: Callable[[BaseModel, Sequence[str]], dict[str, Tensor]]
    encode_text: Callable[[BaseModel, dict[str, Tensor]], Conditioning]
    predict: Callable[[Any, Tensor, Tensor, Conditioning], Tensor]
    pipeline: Callable[[BaseModel], Any]
    text_targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2")

    @property
    def name(self) -> str:
        return self.spec.name
