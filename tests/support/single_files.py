"""Tiny checkpoints of each family as one file, named as their makers name them, and settings to match."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from lora_core.models import identify, single_file
from lora_core.models.identify import settings_in
from tests.stripped import make

FAMILIES = ("sd1", "sd2", "sdxl")
WIDTHS = {"sd1": 96, "sd2": 1024, "sdxl": 2048}


def tiny_assets(folder: Path) -> Path:
    """The shipped settings, with the same layers at a fraction of their size and a thousand words."""
    shutil.copytree(single_file.ASSETS, folder)
    for family in FAMILIES:
        levels = 3 if family == "sdxl" else 4
        _change(
            folder / family / "unet", block_out_channels=[32] * levels, cross_attention_dim=WIDTHS[family], sample_size=8
        )
        _change(folder / family / "unet", norm_num_groups=16, attention_head_dim=4 if family == "sd1" else [2] * levels)
        _change(folder / family / "vae", block_out_channels=[8] * 4, norm_num_groups=4)
        _change(folder / family / "text_encoder", intermediate_size=64, num_hidden_layers=1)
    _change(folder / "sd1" / "text_encoder", hidden_size=96, vocab_size=49408, projection_dim=96)
    _change(folder / "sd2" / "text_encoder", vocab_size=1000)
    _change(folder / "sdxl" / "text_encoder", vocab_size=1000)
    _change(folder / "sdxl" / "text_encoder_2", vocab_size=1000, num_hidden_layers=1)
    _change(
        folder / "sdxl" / "unet", transformer_layers_per_block=[1, 1, 1], addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=1280 + 6 * 8,
    )  # fmt: skip
    return folder


def _change(component: Path, **values: Any) -> None:
    file = component / "config.json"
    file.write_text(json.dumps({**settings_in(file), **values}), encoding="utf-8")


def use(monkeypatch: pytest.MonkeyPatch, assets: Path) -> None:
    """Let this test's single files be of the tiny settings."""
    monkeypatch.setattr(single_file, "ASSETS", assets)
    monkeypatch.setattr(identify, "LAYERS", {})


def tiny_checkpoint(family: str, assets: Path, dtype: torch.dtype = torch.float16) -> dict[str, Tensor]:
    """Random weights, the same every time, under the names of the family's published checkpoints."""
    rng = torch.Generator().manual_seed(0)
    found = make.base(family, assets)
    # OpenCLIP's layers are four times as wide inside, so the settings say what the file then has.
    large = assets / family / ("text_encoder_2" if family == "sdxl" else "text_encoder")
    if family != "sd1":
        _change(large, intermediate_size=4 * settings_in(large / "config.json")["hidden_size"])
    tensors = {}
    for name, shape in found.items():
        tensors[name] = (torch.randn(shape, generator=rng) * 0.05).to(dtype)
        if name.endswith("position_ids"):
            tensors[name] = torch.arange(77)[None]
    return tensors


def write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, path, metadata)
    return path
