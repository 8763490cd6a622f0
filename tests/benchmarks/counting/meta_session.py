"""Sessions of one empty picture, as `prepare` makes them: of a model on the meta device to be counted, or of a real one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_core.config import TrainConfig
from lora_core.events import Event
from lora_core.models import int8
from lora_core.models.architecture import Shapes
from lora_core.models.device import Compute
from lora_core.models.families.base import BaseModel, Conditioning, whole_frame
from lora_core.models.families.registry import family_of
from lora_core.system.distributed import ProcessGroup
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.engine import adapters, cuda_graphs
from lora_core.training.engine.stepper import PlainStepper
from lora_core.training.optim.build import build_optimizer
from lora_core.training.progress import ProgressMeter
from lora_core.training.session import Prior, Session
from tests.benchmarks.counting.op_counter import META

TEXT_CLASSES: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
TOKENS = 77
POOLED = 1280


def meta_model(shapes: Shapes, dtype: torch.dtype) -> BaseModel:
    """A base model of these shapes on the meta device."""
    with META:
        unet: Any = UNet2DConditionModel.from_config(dict(shapes.unet))
        vae: Any = AutoencoderKL.from_config(dict(shapes.vae))
        texts: dict[str, Any] = {
            name: TEXT_CLASSES[name](CLIPTextConfig.from_dict(dict(config)))
            for name, config in shapes.text_encoders.items()
        }
    for module in (unet, *texts.values()):
        _cast(module, dtype)
    for module in (unet, vae, *texts.values()):
        module.requires_grad_(False).eval()
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    family = replace(family_of(shapes.unet), tokenize=_tokens)
    tokenizers = {name.replace("text_encoder", "tokenizer"): _Tokenizer() for name in texts}
    return BaseModel("counted", family, unet, vae, texts, dict(tokenizers), scheduler)


class _Tokenizer:
    """What the families ask of a tokenizer beside tokens."""

    eos_token_id = 0


class _OneBatch:
    """A plan of nothing but one batch."""

    def batch(self, config: TrainConfig, number: int) -> list[int]:
        return [0] * config.train_batch_size


def meta_session(
    shapes: Shapes, config: TrainConfig, dtype: torch.dtype, batch: int, side: int, device: torch.device = META
) -> Session:
    """A session ready for `train.optimizer_step` on latents of `side`, as `prepare` makes it, of a model without memory."""
    model = meta_model(shapes, dtype)
    return session_of(model, shapes, config.replace(train_batch_size=batch), dtype, (side, side), device)


def session_of(
    model: BaseModel, shapes: Shapes, config: TrainConfig, dtype: torch.dtype, latent: tuple[int, int],
    device: torch.device,
) -> Session:  # fmt: skip
    """A session of a frozen model that stands on `device`, on one picture of nothing with latents of (width, height)."""
    if config.eight_bit_base:
        int8.quantize(model.unet)
    adapters.attach(model, config)
    adapters.checkpoint(model, config)
    for module in model.adapted().values():
        module.train()
    mean_CHW = torch.zeros(int(shapes.unet["in_channels"]), latent[1], latent[0])
    frame = whole_frame(latent[0] * shapes.pixels_per_latent, latent[1] * shapes.pixels_per_latent)
    prompts = Prompts(model, device, live=config.train_text_encoder)
    prompts.known[""] = {name: rows[0] for name, rows in conditioning_of(model, 1, torch.device("cpu")).items()}
    prior = [Prior("", mean_CHW, frame)] if config.prior_pictures else []
    plan: Any = _OneBatch()
    return Session(
        config=config, plan=plan, compute=Compute(device, dtype, False), model=model, prompts=prompts,
        training=[Example("", ((mean_CHW, torch.ones_like(mean_CHW)),), frame)], held_out=[], prior=prior,
        parameters=adapters.named_parameters(model),
        optimizer=_optimizer(model, config, device),
        scaler=torch.amp.GradScaler("cpu", enabled=False), meter=ProgressMeter(_nobody, 1, 1, torch.device("cpu")),
        predict=model.predict, group=ProcessGroup(),
        stepper=cuda_graphs.CudaGraphStepper(model, _nobody) if cuda_graphs.can_capture(config, device) else PlainStepper(),
    )  # fmt: skip


def _optimizer(model: BaseModel, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """The training's own; on the meta device one that takes a single step per tensor, as a fused one does."""
    groups = adapters.parameter_groups(model, config)
    return torch.optim.SGD(groups, lr=0.0) if device == META else build_optimizer(groups, config)


def latent_shape(shapes: Shapes, batch: int, side: int) -> tuple[int, int, int, int]:
    return batch, int(shapes.unet["in_channels"]), side, side


def conditioning_of(model: BaseModel, batch: int, device: torch.device) -> Conditioning:
    """What a prediction is told of nothing: embeddings of zeros, without the frames of the pictures."""
    dtype, width = model.unet.dtype, model.unet.config.cross_attention_dim
    states = {"encoder_hidden_states": torch.zeros(batch, TOKENS, width, dtype=dtype, device=device)}
    if "text_encoder_2" not in model.text_encoders:
        return states
    return {**states, "pooled": torch.zeros(batch, POOLED, dtype=dtype, device=device)}


def _tokens(model: BaseModel, captions: Any) -> dict[str, Tensor]:
    return {name: torch.zeros(len(captions), TOKENS, dtype=torch.long) for name in model.tokenizers}


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """diffusers' own `to` warns of layers it would keep in fp32, of which there are none."""
    nn.Module.to(module, dtype)


def _nobody(event: Event) -> None:
    """Counting tells nothing."""
