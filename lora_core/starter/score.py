"""How good the starter model is, and how well a LoRA on it learned its concept; all measured by `world.read`.

python -m lora_core.starter.score            the bundled model: drawings, reconstructions, held-out prompts
python -m lora_core.starter.score LORA       a LoRA: concept with and without, and what it leaks
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from lora_core.models import device as precision
from lora_core.models.parallel import divided
from lora_core.starter.make_training import caption
from lora_core.starter.world import COLOURS, NEW_SHAPE, SHAPES, Picture, Scene, draw, matches, random_scene, read

MODEL = Path(__file__).parent / "model"
GUIDANCE, STEPS, SIZE = 4.0, 25, 64


def held_out(scene: Scene) -> bool:
    """One combination of shape, colour and background in five is kept from training and used to measure."""
    names = list(COLOURS)
    return (SHAPES.index(scene.shape) * 7 + names.index(scene.colour) * 3 + names.index(scene.background)) % 5 == 0


def held_out_scenes(count: int, seed: int = 1234) -> list[Scene]:
    """Scenes whose combination the starter never saw, no two of the same combination until all are used."""
    every = [
        Scene(shape, colour, background)
        for shape in SHAPES for colour in COLOURS for background in COLOURS
        if colour != background and held_out(Scene(shape, colour, background))
    ]  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[order[n % len(every)]] for n in range(count)]


def concept_scenes(count: int, trained: Sequence[str], seed: int = 4321) -> list[Scene]:
    """Scenes of the new shape in colours and on backgrounds that no training caption in `trained` combines."""
    every = [
        Scene(NEW_SHAPE, colour, background)
        for colour in COLOURS for background in COLOURS
        if colour != background and not any(f" {colour} " in c and f"{background} background" in c for c in trained)
    ]  # fmt: skip
    order = np.random.default_rng(seed).permutation(len(every))
    return [every[order[n % len(every)]] for n in range(count)]


def draw_prompts(pipeline: Any, prompts: Sequence[str], first_seed: int, at_once: int = 20) -> list[Picture]:
    """One 64 px picture per prompt by 25 DDIM steps; seeds count up from `first_seed`."""
    pipeline.set_progress_bar_config(disable=True)
    pictures: list[Picture] = []
    precision.use_cores(pipeline.unet)
    with divided(pipeline.unet, precision.free_cores(pipeline.unet, pipeline.unet.device)):
        for start in range(0, len(prompts), at_once):
            batch = list(prompts[start : start + at_once])
            drawn = pipeline(
                batch, num_inference_steps=STEPS, guidance_scale=GUIDANCE, width=SIZE, height=SIZE, output_type="pil",
                generator=[torch.Generator().manual_seed(first_seed + start + n) for n in range(len(batch))],
            ).images  # fmt: skip
            pictures += [np.asarray(picture.convert("RGB"), np.uint8) for picture in drawn]
    return pictures


def load_pipeline(model: Path = MODEL) -> Any:
    from diffusers import StableDiffusionPipeline

    return StableDiffusionPipeline.from_pretrained(model, dtype=torch.float32, local_files_only=True)


def reconstructed(vae: Any, pictures: Sequence[Picture]) -> list[Picture]:
    """Pictures through encoder (posterior mean) and decoder."""
    pixels = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 127.5 - 1
    with torch.no_grad():
        decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample
    back = ((decoded.clamp(-1, 1) + 1) * 127.5).round().permute(0, 2, 3, 1).numpy().astype(np.uint8)
    return list(back)


def score_model(model: Path = MODEL, prompts: int = 200) -> dict[str, float]:
    """Shares of right drawings, right reconstructions and right pictures of held-out prompts; PSNR in dB."""
    pipeline, rng = load_pipeline(model), np.random.default_rng(99)
    scenes = [random_scene(rng) for _ in range(300)]
    drawings = [draw(scene, SIZE, rng=rng) for scene in scenes]
    back = reconstructed(pipeline.vae, drawings)
    error = np.mean((np.stack(drawings).astype(float) - np.stack(back)) ** 2)
    asked = held_out_scenes(prompts)
    pictures = draw_prompts(pipeline, [scene.caption for scene in asked], first_seed=1000)
    seen = [read(picture) for picture in pictures]
    return {
        "drawings_right": _share(drawings, scenes),
        "reconstructions_right": _share(back, scenes),
        "reconstruction_psnr_db": round(float(10 * np.log10(255**2 / error)), 2),
        "prompts_right": _share(pictures, asked),
        "shape_right": float(np.mean([r.shape == s.shape for r, s in zip(seen, asked, strict=True)])),
        "colour_right": float(np.mean([r.colour == s.colour for r, s in zip(seen, asked, strict=True)])),
        "background_right": float(np.mean([r.background == s.background for r, s in zip(seen, asked, strict=True)])),
    }


def score_lora(lora: Path, trained: Sequence[str], prompts: int = 64, model: Path = MODEL) -> dict[str, float]:
    """The concept score: shares of new prompts with the trigger that show the new shape, with the LoRA and without;
    of prompts without the trigger that show it (leak); and of those whose own shape, colours are right (kept)."""
    pipeline = load_pipeline(model)
    concept, plain = concept_scenes(prompts, trained), held_out_scenes(prompts)
    calling = [caption(scene) for scene in concept]
    without = draw_prompts(pipeline, calling, first_seed=5000)
    pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    with_lora = draw_prompts(pipeline, calling, first_seed=5000)
    others = draw_prompts(pipeline, [scene.caption for scene in plain], first_seed=7000)
    return {
        "concept_with": _share_of(with_lora),
        "concept_without": _share_of(without),
        "leak": _share_of(others),
        "all_right_with": _share(with_lora, concept),
        "others_right": _share(others, plain),
    }


def _share(pictures: Sequence[Picture], scenes: Sequence[Scene]) -> float:
    return float(np.mean([matches(picture, scene) for picture, scene in zip(pictures, scenes, strict=True)]))


def _share_of(pictures: Sequence[Picture]) -> float:
    return float(np.mean([read(picture).shape == NEW_SHAPE for picture in pictures]))


def contact_sheet(pictures: Sequence[Picture], columns: int, path: Path) -> None:
    """Pictures side by side, to look at."""
    rows = [np.concatenate(pictures[i : i + columns], 1) for i in range(0, len(pictures) // columns * columns, columns)]
    Image.fromarray(np.concatenate(rows, 0)).save(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("lora", nargs="?", type=Path)
    parser.add_argument("--model", type=Path, default=MODEL)
    parser.add_argument("--prompts", type=int)
    parser.add_argument("--captions", type=Path, default=Path("Training"), help="folder of the captions trained on")
    args = parser.parse_args()
    if args.lora:
        trained = [path.read_text(encoding="utf-8") for path in args.captions.glob("*.txt")]
        print(json.dumps(score_lora(args.lora, trained, args.prompts or 64, args.model), indent=1))
    else:
        print(json.dumps(score_model(args.model, args.prompts or 200), indent=1))


if __name__ == "__main__":
    main()
