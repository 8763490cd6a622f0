"""What recipes teach the starter by the number of pictures, beside the same recipes with one fixed number of steps.

    python -m tests.benchmarks.recipe_by_pictures [--pictures 6 48 24 12] [--out FOLDER] [--seeds 42]

Two subjects, drawn here and none of it in Training/: `shape`, the hourglass in colours of its own (`--preset object`),
and `style`, the starter's own shapes drawn as outlines (`--preset style`). Of both the first 6, 12, 24 and 48 pictures of
the same 48 are trained on, and the same 32 combinations of colours, none of which was trained, are asked for. The fixed
number of steps is the quick start's, which was found with twelve pictures. One training after the other, on one thread;
what is done is kept in FOLDER/results.json, and a second start does what is left. The goal: steps that follow the pictures
teach more than fixed ones at both ends.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from lora_core.config import TrainConfig, find_preset
from lora_core.recipes.resolved import for_training
from lora_core.starter import score
from lora_core.starter.make_training import TRIGGER_WORD, caption
from lora_core.starter.world import (
    COLOURS,
    NEW_SHAPE,
    Picture,
    Reading,
    Scene,
    draw,
    matches,
    random_scene,
    read,
)
from lora_core.system.files import write_text_whole
from lora_core.training.job import Job

DRAWN, ASKED = 48, 32
SIDE = 256  # of the pictures, in pixels
LINE = 0.09  # width of an outline, as a share of the side; the starter's VAE blurs thinner ones
INTENTS = {"shape": "object", "style": "style"}
OUTLINED = ("circle", "square", "triangle", "heart")  # the others are too narrow to have an inside
HOLLOW = 0.2  # of a figure is inside of its outline, at least
FIXED = int(str(find_preset("quickstart").values["max_train_steps"]))


def scenes(subject: str) -> tuple[list[Scene], list[Scene]]:
    """Those that are drawn to train on, and those that are asked for: no pair of colours in both."""
    rng = np.random.default_rng(2026)
    pairs = [(str(figure), str(ground)) for figure, ground in rng.permutation(list(permutations(COLOURS, 2)))]
    shapes = [NEW_SHAPE] if subject == "shape" else list(OUTLINED)
    made = [
        replace(random_scene(rng, shapes[n % len(shapes)]), colour=figure, background=ground, angle=0.0)
        for n, (figure, ground) in enumerate(pairs)
    ]
    return made[:DRAWN], made[-ASKED:]


def outlined(scene: Scene, side: int, rng: np.random.Generator | None = None) -> Picture:
    """The scene with the inside of its figure in the colour of the background."""
    filled = draw(scene, side, rng=rng)
    shown = draw(replace(scene, colour="white", background="black"), side)[:, :, 1]
    width = max(3, round(LINE * side) * 2 + 1)
    inside = cv2.erode(shown, cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (width, width)))[:, :, None] / 255
    return np.asarray(np.round(filled * (1 - inside) + filled[0, 0] * inside), np.uint8)


def read_outline(picture: Picture) -> tuple[Reading, float]:
    """What is seen when the figure's inside is painted over, and how much of the figure that inside is."""
    pixels = picture.astype(np.float32)
    ground = np.median(np.concatenate([pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1]]), axis=0)
    away = np.linalg.norm(pixels - ground, axis=2)
    line = (away > max(30.0, 0.5 * float(np.percentile(away, 97)))).astype(np.uint8)
    contours, _ = cv2.findContours(line, cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    if not contours:
        return read(picture), 0.0
    whole = np.zeros_like(line)
    cv2.drawContours(whole, [max(contours, key=cv2.contourArea)], -1, 1, cv2.FILLED)
    found = (line & whole) > 0
    strong = found & (away >= np.median(away[found])) if found.any() else ~found  # the edges of a line are blurred
    colour = np.median(pixels[strong], axis=0)
    painted = picture.copy()
    painted[whole > 0] = np.round(colour)
    return read(painted), 1 - float((line & whole).sum()) / max(1, int(whole.sum()))


def is_outline(picture: Picture, scene: Scene) -> bool:
    """Whether the picture shows the scene as `outlined` draws it."""
    seen, inside = read_outline(picture)
    return inside >= HOLLOW and (seen.shape, seen.colour, seen.background) == (
        scene.shape, scene.colour, scene.background,
    )  # fmt: skip


def write_pictures(subject: str, count: int, folder: Path) -> None:
    """The first `count` of a subject's pictures, with captions."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, scene in enumerate(scenes(subject)[0][:count]):
        rng = np.random.default_rng(number)
        picture = outlined(scene, SIDE, rng) if subject == "style" else draw(scene, SIDE, rng=rng)
        Image.fromarray(picture).save(folder / f"{number:03}.png")
        (folder / f"{number:03}.txt").write_text(caption(scene), encoding="utf-8")


def config_of(subject: str, count: int, steps: int | None, seed: int, out: Path) -> TrainConfig:
    """Of the recipe for so many pictures; `steps`: set by hand, which the rest follows."""
    given: dict[str, object] = {
        "pretrained_model_name_or_path": "starter", "train_data_dir": str(out / f"{subject}_{count}"),
        "output_dir": str(out / "run"), "trigger_word": TRIGGER_WORD if subject == "shape" else "", "device": "cpu",
        "validation_split": 0.0, "sample_count": 0, "keep_states": 1, "seed": seed, "mixed_precision": "no",
        **({"max_train_steps": steps} if steps else {}),
    }  # fmt: skip
    given["save_steps"] = steps or 100_000
    found = for_training(INTENTS[subject], TrainConfig.of(given), given)
    config = TrainConfig.of({**found.values, **given})
    return config.replace(save_steps=config.max_train_steps)


def score_lora(subject: str, lora: Path | None) -> dict[str, float]:
    """Shares of the asked pictures that are right, by the LoRA or by the starter alone; and, of the shape's, of pictures
    of other shapes that are still right.
    """
    pipeline, asked = score.load_pipeline(), scenes(subject)[1]
    if lora:
        pipeline.load_lora_weights(str(lora.parent), weight_name=lora.name)
    drawn = score.draw_prompts(pipeline, [caption(scene) for scene in asked], first_seed=5000)
    pairs = list(zip(drawn, asked, strict=True))
    if subject == "style":
        inside = [read_outline(picture) for picture in drawn]
        return {
            "right": float(np.mean([is_outline(picture, scene) for picture, scene in pairs])),
            "taught": float(np.mean([share >= HOLLOW for _, share in inside])),
            "shape_kept": float(
                np.mean([seen.shape == scene.shape for (seen, _), scene in zip(inside, asked, strict=True)])
            ),
        }
    found = {
        "right": float(np.mean([matches(picture, scene) for picture, scene in pairs])),
        "taught": float(np.mean([read(picture).shape == NEW_SHAPE for picture in drawn])),
    }
    others = score.held_out_scenes(ASKED)
    pictures = score.draw_prompts(pipeline, [scene.caption for scene in others], first_seed=7000)
    kept = [matches(picture, scene) for picture, scene in zip(pictures, others, strict=True)]
    return {**found, "others_right": float(np.mean(kept))}


def measure(subject: str, count: int, steps: int | None, seed: int, out: Path) -> dict[str, float]:
    """Train once and score."""
    write_pictures(subject, count, out / f"{subject}_{count}")
    config = config_of(subject, count, steps, seed, out)
    began, before = time.monotonic(), time.process_time()
    job = Job(config)
    job.start()
    job.wait()
    if job.error:
        raise job.error
    seconds, processor = time.monotonic() - began, time.process_time() - before
    at_once = config.train_batch_size * config.gradient_accumulation_steps
    return {
        "steps": config.max_train_steps, "batch": at_once, "views": config.max_train_steps * at_once / count,
        "seconds": round(seconds, 1), "processor_s": round(processor, 1),
        **score_lora(subject, next(job.run.folder.glob("*.safetensors"))),
    }  # fmt: skip


def table(results: dict[str, dict[str, float]]) -> str:
    """All that is known, as Markdown."""
    rows = ["| subject | pictures | steps by | seed | steps | views | taught | all right | others |\n" + "|---" * 9 + "|"]
    for name, found in results.items():
        if "steps" in found:
            kept = found.get("others_right", found.get("shape_kept", 0.0))
            rows.append(
                f"| {' | '.join(name.split('/'))} | {found['steps']:.0f} × {found['batch']:.0f} | {found['views']:.0f}"
                f" | {found['taught']:.0%} | {found['right']:.0%} | {kept:.0%} |"
            )
    return "\n".join(rows)


def todo(pictures: Sequence[int], subjects: Sequence[str], seeds: Sequence[int]) -> list[tuple[str, int, int | None, int]]:
    return [
        (subject, count, steps, seed)
        for seed in seeds for count in pictures for subject in subjects for steps in (None, FIXED)
    ]  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[6, 48, 24, 12])
    parser.add_argument("--subjects", nargs="+", choices=INTENTS, default=list(INTENTS))
    parser.add_argument("--seeds", type=int, nargs="+", default=[42])
    parser.add_argument("--out", type=Path, default=Path("lora_out") / "recipe_by_pictures")
    asked = parser.parse_args()
    out: Path = asked.out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    kept = out / "results.json"
    results: dict[str, Any] = json.loads(kept.read_text(encoding="utf-8")) if kept.exists() else {}
    for subject, count, steps, seed in todo(asked.pictures, asked.subjects, asked.seeds):
        if f"{subject}/alone" not in results:
            results[f"{subject}/alone"] = score_lora(subject, None)
        name = f"{subject}/{count}/{'fixed' if steps else 'recipe'}/{seed}"
        if name not in results:
            folder = out / name.replace("/", "_")
            results[name] = measure(subject, count, steps, seed, folder)
            print(name, json.dumps(results[name]), flush=True)
        write_text_whole(kept, json.dumps(results, indent=1))
    print(table(results))


if __name__ == "__main__":
    main()
