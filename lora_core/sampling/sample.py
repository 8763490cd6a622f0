"""Pictures from the model as it stands, with or without its adapters, through the pipeline a user would use."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from lora_core.models.device import free_bytes, free_cores
from lora_core.models.families.base import BaseModel
from lora_core.models.families.text import side_by_side
from lora_core.models.parallel import divided
from lora_core.models.vae_tiling import in_tiles
from lora_core.models.weights import free_device_memory, on_device
from lora_core.sampling import samplers
from lora_core.sampling.batches import batches_of
from lora_core.sampling.params import GenerationParams

DECODED_BYTES = 3072  # of a device, for each pixel of Stable Diffusion's VAE in fp32 (tests/benchmarks/counting)
_ENCODED = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")


def draw(
    model: BaseModel, wanted: Sequence[GenerationParams], on_step: Callable[[], None] | None = None, pipeline: Any = None
) -> list[Image.Image]:
    """Draw pictures of one sampler; `on_step` runs after each denoising step, may raise to
    cancel. `pipeline`: one over the model's modules, made anew when None.
    """
    pictures: list[Image.Image] = []
    device = model.device
    batches = list(draw_latents(model, wanted, on_step, pipeline))
    needed = DECODED_BYTES * max((batch[0].width * batch[0].height * len(batch) for batch in batches_of(wanted)), default=0)
    free_device_memory()  # what the UNet worked in comes in other pieces than the decoder asks for
    with torch.no_grad(), _aside(model, needed), on_device([model.vae], device):
        for latents_BCHW in batches:
            scaled = latents_BCHW.to(model.vae.dtype) / model.vae.config.scaling_factor
            with in_tiles(model.vae, wanted=free_bytes(device) < needed):
                pixels_BCHW = (model.vae.decode(scaled).sample / 2 + 0.5).clamp(0, 1)
            for pixels_HWC in pixels_BCHW.permute(0, 2, 3, 1).float().cpu().numpy():
                pictures.append(Image.fromarray((pixels_HWC * 255).round().astype(np.uint8)))
    return pictures


def draw_latents(
    model: BaseModel, wanted: Sequence[GenerationParams], on_step: Callable[[], None] | None = None, pipeline: Any = None
) -> Iterator[Tensor]:
    """Scaled latents_BCHW, in batches in their order. Of the model, only the UNet is there in between."""
    pipeline = pipeline or model.family.pipeline(model)
    if not wanted:
        return
    pipeline.scheduler = samplers.scheduler(wanted[0].sampler, model.scheduler.config)
    pipeline.set_progress_bar_config(disable=True)
    batches = batches_of(wanted)

    def after_step(_: Any, step: int, timestep: Tensor, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        if on_step:
            on_step()
        return tensors

    with evaluating(model), torch.no_grad():
        encoded = _encoded(model, pipeline, batches)
        with _unet_alone(model, pipeline), divided(model.unet, free_cores(model.unet, model.device)):
            for batch, conditioning in zip(batches, encoded, strict=True):
                yield pipeline(
                    **conditioning, generator=[torch.Generator().manual_seed(p.seed) for p in batch],
                    num_inference_steps=batch[0].steps, guidance_scale=batch[0].guidance,
                    width=batch[0].width, height=batch[0].height, output_type="latent", callback_on_step_end=after_step,
                ).images  # fmt: skip


def encode_prompts(model: BaseModel, wanted: Iterable[GenerationParams], device: torch.device) -> None:
    """Encode the prompts of pictures drawn later with fixed text encoders, now that nothing else fills the device."""
    pipeline = model.family.pipeline(model)
    with torch.no_grad(), on_device(model.text_encoders.values(), device):
        for params in wanted:
            if (key := _key(model, params)) not in model.prompt_cache:
                model.prompt_cache[key] = _encode(model, pipeline, params, device)


def _encoded(model: BaseModel, pipeline: Any, batches: Sequence[Sequence[GenerationParams]]) -> list[dict[str, Tensor]]:
    """For every batch what the pipeline makes of its prompts, by the names it takes it under."""
    wanted = {_key(model, params): params for batch in batches for params in batch}
    found = {key: model.prompt_cache[key] for key in wanted if key in model.prompt_cache}
    if missing := wanted.keys() - found.keys():
        with on_device(model.text_encoders.values(), model.device):
            found |= {key: _encode(model, pipeline, wanted[key], model.device) for key in wanted if key in missing}
    rows = [[found[_key(model, params)] for params in batch] for batch in batches]
    return [{name: tensor.to(model.device) for name, tensor in _together(batch).items()} for batch in rows]


def _together(rows: Sequence[dict[str, Tensor]]) -> dict[str, Tensor]:
    """Prompts in a batch, as long as the negative ones beside them."""
    states = [name for name in rows[0] if "pooled" not in name]
    as_long = side_by_side([row[name][0] for name in states for row in rows]).chunk(len(states))
    pooled = {name: torch.cat([row[name] for row in rows]) for name in rows[0] if name not in states}
    return {**dict(zip(states, as_long, strict=True)), **pooled}


def _key(model: BaseModel, params: GenerationParams) -> Hashable:
    return params.prompt, params.negative_prompt, params.guidance > 1, model.clip_skip, model.max_chunks


def _encode(model: BaseModel, pipeline: Any, params: GenerationParams, device: torch.device) -> dict[str, Tensor]:
    if model.clip_skip != 1 or model.max_chunks > 1:
        return _encoded_as_trained(model, params)
    found = pipeline.encode_prompt(
        # None where nobody asks for one: to SDXL's pipeline, that is not the same as an empty prompt.
        prompt=[params.prompt], negative_prompt=[params.negative_prompt] if params.negative_prompt else None, device=device,
        num_images_per_prompt=1, do_classifier_free_guidance=params.guidance > 1,
    )  # fmt: skip
    return {name: rows.cpu() for name, rows in zip(_ENCODED, found, strict=False) if rows is not None}


def _encoded_as_trained(model: BaseModel, params: GenerationParams) -> dict[str, Tensor]:
    """Prompt and negative prompt, each read as the captions of a training are."""
    names = {"encoder_hidden_states": "prompt_embeds", "pooled": "pooled_prompt_embeds"}
    texts = {"": params.prompt} | ({"negative_": params.negative_prompt} if params.guidance > 1 else {})
    found: dict[str, Tensor] = {}
    for side, prompt in texts.items():
        made = model.family.encode_text(model, model.family.tokenize(model, [prompt]))
        found |= {f"{side}{names[name]}": rows.cpu() for name, rows in made.items()}
    return found


@contextmanager
def _unet_alone(model: BaseModel, pipeline: Any) -> Iterator[None]:
    """A pipeline computes where the first of its modules is, and the others are needed before and after."""
    others = {"vae": model.vae, **model.text_encoders}
    try:
        pipeline.register_modules(**dict.fromkeys(others))
        yield
    finally:
        pipeline.register_modules(**others)


@contextmanager
def _aside(model: BaseModel, needed: int) -> Iterator[None]:
    """Within the block the UNet waits in the computer's memory, if its card has no `needed` bytes left beside it."""
    device = model.device
    if free_bytes(device) >= needed:
        yield
        return
    try:
        model.unet.to("cpu")
        free_device_memory()
        yield
    finally:
        model.unet.to(device)


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
