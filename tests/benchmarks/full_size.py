"""Two real steps on models of full size, through the door, on whatever this computer has: seconds and memory.

    python -m tests.benchmarks.full_size [sd1 sd2 sdxl] [--resolution 128]

The weights are random, with the shapes of the families' own settings, written as a diffusers folder in fp16 to a
temporary folder (2 to 7 GB) that is removed at the end. A CPU without bf16 units computes in fp32: SDXL's UNet alone
is then 10.3 GB in memory.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from PIL import Image
from safetensors.torch import save_file
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from lora_core.events import Step
from lora_core.lora.file import read
from lora_core.models.single_file import ASSETS, tokenizer
from lora_core.runs.run import Run
from tests import ROOT

STEPS = 2
CLASSES: dict[str, Any] = {"text_encoder": CLIPTextModel, "text_encoder_2": CLIPTextModelWithProjection}
PIPELINES = {"sd1": "StableDiffusionPipeline", "sd2": "StableDiffusionPipeline", "sdxl": "StableDiffusionXLPipeline"}


def build(family: str, folder: Path) -> int:
    """Write a random model of that family, part by part; returns its number of weights."""
    shutil.copytree(ASSETS / family, folder)
    (folder / "model_index.json").write_text(json.dumps({"_class_name": PIPELINES[family]}), encoding="utf-8")
    weights = 0
    for part in sorted(path for path in folder.iterdir() if path.is_dir()):
        if part.name.startswith("tokenizer"):
            tokenizer(ASSETS / family / part.name).save_pretrained(part)
        elif part.name.startswith("text_encoder"):
            with torch.device("meta"):
                module = CLASSES[part.name](CLIPTextConfig.from_json_file(part / "config.json"))
            weights += _fill(module, part / "model.safetensors")
        elif part.name in ("unet", "vae"):
            kind = {"unet": UNet2DConditionModel, "vae": AutoencoderKL}[part.name]
            with torch.device("meta"):
                module = kind.from_config(json.loads((part / "config.json").read_text(encoding="utf-8")))
            weights += _fill(module, part / "diffusion_pytorch_model.safetensors")
    return weights


def _fill(module: torch.nn.Module, file: Path) -> int:
    """Write random weights of the module's shapes in fp16, small enough that nothing overflows.

    All are cut from one row of random numbers: to draw billions takes minutes, and no two layers begin at one place.
    """
    row = torch.randn(2**24 + 1, generator=torch.Generator().manual_seed(0)).half()
    tensors, begin = {}, 0
    for name, parameter in module.named_parameters():
        count = parameter.numel()
        if parameter.dim() < 2:  # biases and scales of normalisations
            value = torch.zeros(count) if name.endswith("bias") else torch.ones(count)
        else:
            value = row.roll(begin % len(row)).repeat(-(-count // len(row)))[:count] / math.sqrt(parameter[0].numel())
        tensors[name] = value.half().view(parameter.shape)
        begin += 104_729
    save_file(tensors, file, {"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


def train(model: Path, home: Path, resolution: int) -> dict[str, Any]:
    """Train through the door; returns seconds, peak MiB, and what the training told of its steps."""
    (home / "data").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (resolution // 8, resolution // 8, 3), np.uint8)
    picture = Image.fromarray(pixels).resize((resolution, resolution), Image.Resampling.BICUBIC)
    picture.save(home / "data" / "001.png")
    (home / "data" / "001.txt").write_text("a zebu in a field", encoding="utf-8")
    command = [
        sys.executable, str(ROOT / "treino.py"), "--train_data_dir", str(home / "data"), "--output_dir", str(home / "out"),
        "--pretrained_model_name_or_path", str(model), "--resolution", str(resolution), "--max_train_steps", str(STEPS),
        "--save_steps", str(STEPS), "--learning_rate", "1e-4", "--mixed_precision", "bf16", "--sample_count", "0",
        "--gradient_checkpointing", "--target_modules", "to_q,to_k,to_v,to_out.0,ff.net.0.proj,ff.net.2",
    ]  # fmt: skip
    environment = {**os.environ, "TREINO_CACHE": str(home / "cache"), "PYTHONUTF8": "1", "PYTHONPATH": str(ROOT)}
    began, peak = time.monotonic(), [0]
    process = subprocess.Popen(command, env=environment)
    watcher = threading.Thread(target=_watch, args=(process, peak))
    watcher.start()
    if process.wait() != 0:
        raise SystemExit(f"the training failed with exit code {process.returncode}")
    watcher.join()
    lora, metadata = read(home / "out" / "pytorch_lora_weights.safetensors")
    steps = [event for event, _ in Run(home / "out").read()[0] if isinstance(event, Step)]
    return {
        "seconds": round(time.monotonic() - began),
        "peak_gib": round(peak[0] / 2**30, 1),
        "losses": [round(step.loss, 4) for step in steps],
        "layers": len(lora),
        "moved": sum(bool(adapter.up.any()) for adapter in lora.values()),
        "version": metadata["ss_base_model_version"],
    }


def _watch(process: subprocess.Popen[bytes], peak: list[int]) -> None:
    """Keep the largest resident size of the process while it lives; files it has mapped are counted by the system."""
    while process.poll() is None:
        try:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            peak[0] = max(peak[0], int(re.findall(r"RssAnon:\s+(\d+)", status)[0]) * 1024)
        except (OSError, IndexError):  # no such file on this system, or the process has just ended
            try:
                peak[0] = max(peak[0], psutil.Process(process.pid).memory_info().rss)
            except psutil.NoSuchProcess:
                continue
        time.sleep(0.1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("families", nargs="*", default=list(PIPELINES), metavar="sd1|sd2|sdxl")
    parser.add_argument("--resolution", type=int, default=128)
    asked = parser.parse_args()
    for family in asked.families:
        with tempfile.TemporaryDirectory() as home:
            weights = build(family, Path(home) / family)
            done = train(Path(home) / family, Path(home), asked.resolution)
        told = {"family": family, "weights": weights, "resolution": asked.resolution, "steps": STEPS, **done}
        print(json.dumps(told), flush=True)


if __name__ == "__main__":
    main()
