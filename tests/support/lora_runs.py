"""Finished runs for tests, with real LoRA files of random values and no training."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from lora_core.config import TrainConfig
from lora_core.events import Finished, Sample, Validation
from lora_core.lora.file import write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.runs.run import Run
from tests.support.lora_values import random_lora

TOY_LAYER = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (112, 96)}
SD1_LAYER = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768)}
SDXL_LAYER = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 2048)}


def write_lora(
    path: Path, config: TrainConfig | None = None, shapes: Mapping[str, tuple[int, ...]] = SD1_LAYER, family: str = "sd1"
) -> Path:
    """A LoRA file; `config`: what it says it was trained with."""
    path.parent.mkdir(parents=True, exist_ok=True)
    facts = TrainingMetadata(
        output_name=config.output_name if config else path.stem, family=family, rank=2, alpha=3.0, resolution=512,
        trigger_phrase=config.trigger_word if config else "", config_toml=config.to_toml() if config else "",
    )  # fmt: skip
    write(path, random_lora(shapes), family, build(facts), "fp16")
    return path


def finished_run(folder: Path, losses: dict[int, float], **values: object) -> Run:
    """A run that ended at the last of these steps, with a checkpoint, a validation and a sample for each."""
    run = Run(folder)
    config = TrainConfig.of({"output_name": "zebu", "trigger_word": "zebu", "output_dir": str(folder), **values})
    run.begin(config)
    for step, loss in losses.items():
        run.append(Validation(step, loss, loss, best=loss == min(losses.values())))
        Image.new("RGB", (8, 8)).save(run.samples / f"step_{step:07d}_0.png")
        run.append(Sample(step, f"samples/step_{step:07d}_0.png", "a zebu at dawn", 42))
        if step:
            write_lora(run.checkpoints / f"step_{step:07d}" / "lora.safetensors", config)
    run.append(Finished(max(losses), f"{config.output_name}.safetensors", min(losses, key=lambda step: losses[step])))
    write_lora(run.lora_file(config), config)
    return run
