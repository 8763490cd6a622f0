"""Counts the training step, drawing, and what prepares a training, each as the training runs it."""

from __future__ import annotations

from typing import Any

import torch

from lora_core.config import TrainConfig
from lora_core.models import int8
from lora_core.models.architecture import Shapes
from lora_core.models.families.base import BaseModel
from lora_core.training import train
from lora_core.training.estimate.counts import PartsCount, Polynomial, StepCount, Term
from tests.benchmarks.counting.meta_session import conditioning_of, latent_shape, meta_model, meta_session
from tests.benchmarks.counting.op_counter import BATCH, META, RANK, SIDE, SIDE_UNIT, OpCounter, counting, tensors_of

FORMATS = {2: torch.float16, 4: torch.float32}


def step_count(shapes: Shapes, config: TrainConfig, number_bytes: int) -> StepCount:
    """Count a step with these modules, checkpointing and so on; batch, size and rank of `config` do not matter.

    Raises:
        UserError: the model has none of the layers to train.
    """
    config = _counted_config(config)
    session = meta_session(shapes, config, FORMATS[number_bytes], BATCH, SIDE * SIDE_UNIT)
    stepped = OpCounter()
    stepped.ignore(tensors_of(session.model.adapted()))
    with counting(stepped):
        train.optimizer_step(session)
    drawn = OpCounter()
    drawn.ignore(tensors_of(session.model.adapted()))
    frames = torch.empty(BATCH, 6, device=META)
    conditioning = {**conditioning_of(session.model, BATCH, META), "frames": frames}
    latents = torch.empty(latent_shape(shapes, BATCH, SIDE * SIDE_UNIT), device=META)
    with counting(drawn), torch.no_grad():
        session.predict(latents, torch.empty(BATCH, device=META), conditioning)
    trained = list(session.parameters.values())
    frozen = [p for p in session.model.unet.parameters() if not p.requires_grad]
    return StepCount(
        moments=stepped.peak(), draw=drawn.peak(), adapters=_numbers([p.shape for p in trained]),
        rows=_numbers([shape for p in trained for shape in _adafactor_shapes(p.shape)]),
        frozen=sum(p.numel() for p in frozen if p.is_floating_point()),
        forward=Polynomial(drawn.flops), step=Polynomial(stepped.flops), ops=stepped.ops,
        shrunk=int8.bytes_of(session.model.unet),
    )  # fmt: skip


def parts_count(shapes: Shapes, number_bytes: int) -> PartsCount:
    """Count encoding a picture (one at a time), decoding a batch, and encoding a caption."""
    model = meta_model(shapes, FORMATS[number_bytes])
    side = SIDE * SIDE_UNIT
    decode, text = OpCounter(), OpCounter()
    for counter in (decode, text):
        counter.ignore(tensors_of({"vae": model.vae, **model.text_encoders}))
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
        encode_flops=encode_flops, decode_flops=Polynomial(decode.flops),
    )  # fmt: skip


def _encode_count(model: BaseModel, scale: int) -> tuple[Polynomial, Polynomial]:
    """Memory and arithmetic of encoding one picture. The VAE pads sides by one before it halves them, which no prime
    factor tells: memory is drawn through the counts at two sides, within a percent from 128 pixels up.
    """
    peaks, counter = [], OpCounter()
    for side in (16, SIDE):
        counter = OpCounter(plain=side != SIDE)
        counter.ignore(tensors_of({"vae": model.vae}))
        pixels = side * SIDE_UNIT * scale
        with torch.no_grad(), counting(counter):
            posterior = model.vae.encode(torch.empty(1, 3, pixels, pixels, device=META)).latent_dist
            del posterior
        peaks.append(counter.most())
    growth = (peaks[1] - peaks[0]) / (SIDE**2 - 16**2)
    return Polynomial({(0, 0, 0): max(0.0, peaks[0] - growth * 16**2), (0, 2, 0): growth}), Polynomial(counter.flops)


def _counted_config(config: TrainConfig) -> TrainConfig:
    """The settings that shape the graph, the others as they are by default; one batch a step."""
    asked = {name: getattr(config, name) for name in ("target_modules", "target_blocks", "train_text_encoder",
             "gradient_checkpointing", "checkpointed_quarters", "eight_bit_base", "adapter")}  # fmt: skip
    prior = {"prior_prompts": ("counted",), "prior_pictures": 1} if config.prior_pictures else {}
    dropout = 0.1 if config.lora_dropout else 0.0
    fixed = {"lora_dropout": dropout, "lora_rank": RANK, "train_batch_size": BATCH}
    return TrainConfig.of({**asked, **prior, **fixed, "lean_activations": config.is_lean})


def _adafactor_shapes(shape: torch.Size) -> list[tuple[int, ...]]:
    """Second moments of a matrix are a row and a column (Shazeer & Stern 2018); of a vector, itself."""
    return [tuple(shape[:-1]), (*shape[:-2], shape[-1])] if len(shape) >= 2 else [tuple(shape)]


def _numbers(shapes: list[Any]) -> Polynomial:
    """How many numbers tensors of these shapes hold, by the rank."""
    found: dict[Term, float] = {}
    for shape in shapes:
        count, power = 1, 0
        for size in shape:
            power += size == RANK
            count *= 1 if size == RANK else size
        found[0, 0, power] = found.get((0, 0, power), 0.0) + count
    return Polynomial(found)
