"""Run folders as a training leaves them, written in a moment: real LoRAs, pictures and events, no training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from lora_core import events
from lora_core.config import TrainConfig
from lora_core.events import Event, Finished, Phase, Sample, Saved, State, Step, Validation
from lora_core.lora.file import write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.runs.run import SHEET, Run
from tests.support.lora_values import random_lora

LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
REAL, TOY = (1280, 768), (112, 96)  # shapes of that layer in SD1 and in the starter


def write_lora(path: Path, shape: tuple[int, int] = REAL, **facts: Any) -> Path:
    """A small LoRA that webuis load, with the metadata of a training."""
    known = {"output_name": path.stem, "family": "sd1", "rank": 2, "alpha": 3.0, "resolution": 512, **facts}
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, random_lora({LAYER: shape}), "sd1", build(TrainingMetadata(**known)), "fp16")
    return path


def prepare_run(
    folder: Path, losses: tuple[float, ...] = (0.4, 0.3), at: float = 1.7e9, shape: tuple[int, int] = REAL, **settings: Any
) -> Run:
    """A finished run of 100 steps for each of `losses` (validation), with a checkpoint and a picture at each."""
    run = Run(folder)
    total = 100 * len(losses)
    config = TrainConfig.of(
        {"output_dir": str(folder), "output_name": "zebu", "trigger_word": "zebu", "max_train_steps": total, **settings}
    )
    run.begin(config)
    told: list[Event] = [State("running"), Phase("cache", 12, 12), Validation(0, 0.9, 0.9, best=True)]
    for index, loss in enumerate(losses, 1):
        step = 100 * index
        told += [Step(at, total, 0.5 / (1 + at / 50), config.learning_rate) for at in range(step - 99, step + 1, 9)]
        told.append(Validation(step, loss, loss / 2, best=loss == min(losses[:index])))
        picture = f"samples/step_{step:07d}_0.png"
        Image.new("RGB", (64, 64), (40 * index % 255, 120, 200)).save(folder / picture)
        write_lora(folder / f"checkpoints/step_{step:07d}/lora.safetensors", shape, trigger_phrase="zebu")
        told += [Sample(step, picture, "a zebu", 1), Saved(step, f"checkpoints/step_{step:07d}")]
    write_lora(folder / "zebu.safetensors", shape, trigger_phrase="zebu", steps=total)
    Image.new("RGB", (128, 64), (90, 140, 90)).save(folder / SHEET)
    told.append(Finished(total, "zebu.safetensors", 100 * (losses.index(min(losses)) + 1)))
    lines = [events.to_line(event, at + second) for second, event in enumerate(told)]
    run.events_file.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return run
