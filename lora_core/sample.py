"""Pictures from the model as it stands, with or without its adapters, through the pipeline a user would use."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from lora_core import samplers
from lora_core.families import BaseModel
from lora_core.weights import at_hand

PIXELS_AT_ONCE = 512 * 512  # several small pictures share a batch; large ones are drawn one by one


@dataclass(frozen=True)
class Wish:
    """One picture to draw; `width` and `height` in pixels, a seed gives the same picture on any device."""

    prompt: str
    seed: int
    width: int
    height: int
    negative_prompt: str = ""
    steps: int = 25
    guidance: float = 7.5
    sampler: str = "DDIM"  # one of samplers.NAMES


def draw(
    model: BaseModel, wishes: Sequence[Wish], on_step: Callable[[], None] | None = None, pipeline: Any = None
) -> list[Image.Image]:
    """Draw pictures of one size, sampler, steps and guidance; `on_step` runs after each denoising step, may raise to
    cancel. `pipeline`: one over the model's modules, made anew when None.
    """
    pictures: list[Image.Image] = []
    for latents_BCHW in draw_latents(model, wishes, on_step, pipeline):
        with torch.no_grad(), at_hand([model.vae], model.device):
            scaled = latents_BCHW.to(model.vae.dtype) / model.vae.config.scaling_factor
            pixels_BCHW = (model.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)
        for pixels_HWC in pixels_BCHW.permute(0, 2, 3, 1).float().cpu().numpy():
            pictures.append(Image.fromarray((pixels_HWC * 255).round().astype(np.uint8)))
    return pictures


def draw_latents(
    model: BaseModel, wishes: Sequence[Wish], on_step: Callable[[], None] | None = None, pipeline: Any = None
) -> Iterator[Tensor]:
    """Scaled latents_BCHW, in batches in the order of the wishes."""
    pipeline = pipeline or model.family.pipeline(model)
    if wishes:
        pipeline.scheduler = samplers.scheduler(wishes[0].sampler, model.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    at_once = max(1, min(16, PIXELS_AT_ONCE // (wishes[0].width * wishes[0].height))) if wishes else 1

    def after_step(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step:
            on_step()
        return tensors

    for start in range(0, len(wishes), at_once):
        batch = wishes[start : start + at_once]
        # The VAE too: pipelines compute where their first module is.
        needed = (model.vae, *model.text_encoders.values())
        with evaluating(model), torch.no_grad(), at_hand(needed, model.device):
            yield pipeline(
                prompt=[w.prompt for w in batch], negative_prompt=_negative(batch),
                generator=[torch.Generator().manual_seed(w.seed) for w in batch],
                num_inference_steps=batch[0].steps, guidance_scale=batch[0].guidance,
                width=batch[0].width, height=batch[0].height, output_type="latent", callback_on_step_end=after_step,
            ).images  # fmt: skip


def _negative(batch: Sequence[Wish]) -> list[str] | None:
    """None where nobody asks for one: to SDXL's pipeline, that is not the same as an empty prompt."""
    return [wish.negative_prompt for wish in batch] if any(wish.negative_prompt for wish in batch) else None


@contextmanager
def evaluating(model: BaseModel) -> Iterator[None]:
    """Dropout off within the block; the modes before it are restored."""
    modes = [(module, module.training) for module in model.adapted().values()]
    try:
        for module, _ in modes:
            module.eval()
        yield
    finally:
        for module, training in modes:
            module.train(training)


def sheet(rows: Sequence[tuple[str, Sequence[Image.Image]]], columns: Sequence[str], cell: int = 192) -> Image.Image:
    """A labelled grid: a row per prompt, a column per state (say, without and with the LoRA). `cell` in pixels."""
    gap, head, text_width = 10, 34, 230
    width = text_width + len(columns) * (cell + gap) + gap
    page = Image.new("RGB", (width, head + len(rows) * (cell + gap) + gap), "#ffffff")
    ink, font = ImageDraw.Draw(page), ImageFont.load_default(size=16)
    for column, label in enumerate(columns):
        ink.text((text_width + column * (cell + gap) + cell // 2, head // 2 + 4), label, "#202428", font, anchor="mm")
    for row, (prompt, pictures) in enumerate(rows):
        top = head + row * (cell + gap)
        ink.multiline_text(
            (gap, top + cell // 2), _wrapped(prompt, font, text_width - 2 * gap), "#202428", font, anchor="lm"
        )
        for column, picture in enumerate(pictures):
            scale = cell / max(picture.size)
            size = round(picture.width * scale), round(picture.height * scale)
            smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
            left = text_width + column * (cell + gap) + (cell - size[0]) // 2
            page.paste(picture.resize(size, smooth), (left, top + (cell - size[1]) // 2))
    return page


def _wrapped(text: str, font: Any, width: int) -> str:
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        else:
            lines.append(word)
    return "\n".join(lines[:8])
