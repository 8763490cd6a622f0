"""The graphs that are counted: the training step, drawing, and what prepares a training, each as the training runs it."""

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
from lora_core.models.families import BaseModel, Conditioning, identify, whole_frame
from lora_core.system.distributed import Team
from lora_core.training import train
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.engine import adapters, cuda_graphs
from lora_core.training.engine.parallel import Lanes
from lora_core.training.estimate.count import BATCH, META, RANK, SIDE, SIDE_UNIT, Ledger, counting, tensors_of
from lora_core.training.estimate.counts import PartsCount, StepCount
from lora_core.training.estimate.polynomial import Poly, Term
from lora_core.training.optim import build as optim
from lora_core.training.prior import Prior
from lora_core.training.progress import Meter

TEXT_CLASSES: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
TOKENS = 77
FORMATS = {2: torch.float16, 4: torch.float32}
POOLED = 1280


def hollow_model(shapes: Shapes, dtype: torch.dtype) -> BaseModel:
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
    family = replace(identify(shapes.unet), tokenize=_tokens)
    tokenizers = {name.replace("text_encoder", "tokenizer"): _Tokenizer() for name in texts}
    return BaseModel("counted", family, unet, vae, texts, dict(tokenizers), scheduler)


def step_count(shapes: Shapes, config: TrainConfig, number_bytes: int) -> StepCount:
    """Count a step with these modules, checkpointing and so on; batch, size and rank of `config` do not matter.

    Raises:
        UserError: the model has none of the layers to train.
    """
    config = counted_config(config)
    session = hollow_session(shapes, config, FORMATS[number_bytes], BATCH, SIDE * SIDE_UNIT)
    ledger = Ledger()
    ledger.ignore(tensors_of(session.model.adapted()))
    with counting(ledger):
        train.optimizer_step(session)
    drawn = Ledger()
    drawn.ignore(tensors_of(session.model.adapted()))
    conditioning = conditioning_of(session.model, BATCH)
    latents = torch.empty(latent_shape(shapes, BATCH, SIDE * SIDE_UNIT), device=META)
    with counting(drawn), torch.no_grad():
        session.predict(latents, torch.empty(BATCH, device=META), conditioning)
    trained = list(session.parameters.values())
    frozen = [p for p in session.model.unet.parameters() if not p.requires_grad]
    return StepCount(
        moments=ledger.peak(), draw=drawn.peak(), adapters=_numbers([p.shape for p in trained]),
        rows=_numbers([shape for p in trained for shape in _adafactor_shapes(p.shape)]),
        frozen=sum(p.numel() for p in frozen if p.is_floating_point()),
        forward=Poly(drawn.flops), step=Poly(ledger.flops), ops=ledger.ops, shrunk=int8.bytes_of(session.model.unet),
    )  # fmt: skip


def parts_count(shapes: Shapes, number_bytes: int) -> PartsCount:
    """Count encoding a picture (one at a time), decoding a batch, and encoding a caption."""
    model = hollow_model(shapes, FORMATS[number_bytes])
    side = SIDE * SIDE_UNIT
    decode, text = Ledger(), Ledger()
    for ledger in (decode, text):
        ledger.ignore(tensors_of({"vae": model.vae, **model.text_encoders}))
    encode, encode_flops = _encode_count(model, shapes.pixels_per_latent)
    with torch.no_grad():
        latents = torch.empty(latent_shape(shapes, BATCH, side), device=META)
        with counting(decode):
            picture = (model.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
            del picture
        with counting(text):
            model.family.encode_text(model, model.family.tokenize(model, [""]))
    return PartsCount(
        vae=sum(p.numel() for p in model.vae.parameters()),
        texts=sum(p.numel() for module in model.text_encoders.values() for p in module.parameters()),
        encode=[encode], decode=decode.peak(), text=text.peak(),
        encode_flops=encode_flops, decode_flops=Poly(decode.flops),
    )  # fmt: skip


def _encode_count(model: BaseModel, scale: int) -> tuple[Poly, Poly]:
    """Memory and arithmetic of encoding one picture. The VAE pads sides by one before it halves them, which no prime
    factor tells: memory is drawn through the counts at two sides, within a percent from 128 pixels up.
    """
    peaks, ledger = [], Ledger()
    for side in (16, SIDE):
        ledger = Ledger(plain=side != SIDE)
        ledger.ignore(tensors_of({"vae": model.vae}))
        pixels = side * SIDE_UNIT * scale
        with torch.no_grad(), counting(ledger):
            posterior = model.vae.encode(torch.empty(1, 3, pixels, pixels, device=META)).latent_dist
            del posterior
        peaks.append(ledger.most())
    growth = (peaks[1] - peaks[0]) / (SIDE**2 - 16**2)
    return Poly({(0, 0, 0): max(0.0, peaks[0] - growth * 16**2), (0, 2, 0): growth}), Poly(ledger.flops)


def counted_config(config: TrainConfig) -> TrainConfig:
    """The settings that shape the graph, the others as they are by default; one batch a step."""
    asked = {name: getattr(config, name) for name in ("target_modules", "target_blocks", "train_text_encoder",
             "gradient_checkpointing", "checkpointed_quarters", "eight_bit_base", "use_dora")}  # fmt: skip
    prior = {"prior_prompts": ("counted",), "prior_pictures": 1} if config.prior_pictures else {}
    dropout = 0.1 if config.lora_dropout else 0.0
    fixed = {"lora_dropout": dropout, "lora_rank": RANK, "train_batch_size": BATCH}
    return TrainConfig.of({**asked, **prior, **fixed, "lean_activations": config.is_lean})


class _Tokenizer:
    """What the families ask of a tokenizer beside tokens."""

    eos_token_id = 0


class _OneBatch:
    """A plan of nothing but one batch."""

    def batch(self, config: TrainConfig, number: int) -> list[int]:
        return [0] * config.train_batch_size


def hollow_session(
    shapes: Shapes, config: TrainConfig, dtype: torch.dtype, batch: int, side: int, device: torch.device = META
) -> train.Session:
    """A session ready for `train.optimizer_step` on latents of `side`, as `prepare` makes it, of a model without memory."""
    model = hollow_model(shapes, dtype)
    return session_of(model, shapes, config.replace(train_batch_size=batch), dtype, (side, side), device)


def session_of(
    model: BaseModel, shapes: Shapes, config: TrainConfig, dtype: torch.dtype, latent: tuple[int, int],
    device: torch.device,
) -> train.Session:  # fmt: skip
    """A session of a frozen model that stands on `device`, on one picture of nothing with latents of (width, height)."""
    if config.eight_bit_base:
        int8.shrink(model.unet)
    adapters.attach(model, config)
    adapters.checkpoint(model, config)
    for module in model.adapted().values():
        module.train()
    mean_CHW = torch.zeros(int(shapes.unet["in_channels"]), latent[1], latent[0])
    frame = whole_frame(latent[0] * shapes.pixels_per_latent, latent[1] * shapes.pixels_per_latent)
    prompts = Prompts(model, device, live=config.train_text_encoder)
    prompts.known[""] = {name: rows[0] for name, rows in _plain_conditioning(model, 1, torch.device("cpu")).items()}
    prior = [Prior("", mean_CHW, frame)] if config.prior_pictures else []
    plan: Any = _OneBatch()
    return train.Session(
        config=config, plan=plan, compute=Compute(device, dtype, False), model=model, prompts=prompts,
        training=[Example("", ((mean_CHW, torch.ones_like(mean_CHW)),), frame)], held_out=[], prior=prior,
        parameters=adapters.named_parameters(model),
        optimizer=_optimizer(model, config, device),
        scaler=torch.amp.GradScaler("cpu", enabled=False), meter=Meter(_nobody, 1, 1, torch.device("cpu")),
        predict=model.predict, team=Team(),
        lanes=cuda_graphs.GraphLanes(model, _nobody) if cuda_graphs.can_capture(config, device) else Lanes(),
    )  # fmt: skip


def _optimizer(model: BaseModel, config: TrainConfig, device: torch.device) -> torch.optim.Optimizer:
    """The training's own; on the meta device one that takes a single step per tensor, as a fused one does."""
    groups = adapters.parameter_groups(model, config)
    return torch.optim.SGD(groups, lr=0.0) if device == META else optim.build(groups, config)


def conditioning_of(model: BaseModel, batch: int) -> Conditioning:
    return {**_plain_conditioning(model, batch, META), "frames": torch.empty(batch, 6, device=META)}


def latent_shape(shapes: Shapes, batch: int, side: int) -> tuple[int, int, int, int]:
    return batch, int(shapes.unet["in_channels"]), side, side


def _plain_conditioning(model: BaseModel, batch: int, device: torch.device) -> Conditioning:
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


def _adafactor_shapes(shape: torch.Size) -> list[tuple[int, ...]]:
    """Second moments of a matrix are a row and a column (Shazeer & Stern 2018); of a vector, itself."""
    return [tuple(shape[:-1]), (*shape[:-2], shape[-1])] if len(shape) >= 2 else [tuple(shape)]


def _numbers(shapes: list[Any]) -> Poly:
    """How many numbers tensors of these shapes hold, by the rank."""
    found: dict[Term, float] = {}
    for shape in shapes:
        count, power = 1, 0
        for size in shape:
            power += size == RANK
            count *= 1 if size == RANK else size
        found[0, 0, power] = found.get((0, 0, power), 0.0) + count
    return Poly(found)


def _nobody(event: Event) -> None:
    """Counting tells nothing."""
