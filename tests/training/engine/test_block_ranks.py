"""Ranks of the UNet's parts: each layer has its own, alpha goes along, and the file says so."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from lora_core.config import BLOCKS, CONV_TARGETS, TARGETS, TrainConfig
from lora_core.errors import UserError
from lora_core.lora.adapter import LayerChange
from lora_core.lora.file import read
from lora_core.training.checkpoint import identity
from tests.support.training import config_for, run


def config(**values: object) -> TrainConfig:
    return TrainConfig.of(values)


def strengths(lora: Mapping[str, LayerChange]) -> dict[str, set[tuple[int, float]]]:
    """Of every part of the UNet, its 3x3 convolutions apart, and of the text encoder."""
    found: dict[str, set[tuple[int, float]]] = {}
    for name, value in lora.items():
        part = next((block for block in BLOCKS if name.startswith(f"unet.{block}_block")), "text")
        is_conv = name.rpartition(".")[2] in CONV_TARGETS
        found.setdefault(f"{part} conv" if is_conv else part, set()).add((value.rank, value.alpha))
    return found


@pytest.mark.parametrize("kind", ["lora", "dora", "loha"])
def test_each_layer_has_the_rank_of_its_part(kind: str, tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    values = {
        "adapter": kind, "block_ranks": "2; 3;4", "lora_rank": 6, "lora_alpha": 3.0, "conv_alpha": 1.5,
        "max_train_steps": 1, "save_steps": 1,
        "train_text_encoder": True, "target_modules": TARGETS, "validation_split": 0.0,
    }  # fmt: skip
    job, _ = run(config_for(tiny_sd1, pictures, tmp_path, **values))
    assert job.error is None
    lora, metadata = read(tmp_path / "pytorch_lora_weights.safetensors")
    assert strengths(lora) == {
        "down": {(2, 1.0)}, "mid": {(3, 1.5)}, "up": {(4, 2.0)}, "text": {(6, 3.0)},
        "down conv": {(2, 0.5)}, "mid conv": {(3, 0.75)}, "up conv": {(4, 1.0)},
    }  # fmt: skip
    assert metadata["ss_network_dim"] == metadata["ss_network_alpha"] == "Dynamic"
    assert json.loads(metadata["ss_network_args"])["block_ranks"] == "2; 3;4"


def test_convolutions_keep_a_rank_of_their_own_and_the_largest_is_counted() -> None:
    apart = config(block_ranks="8;32;4", conv_rank=2, lora_rank=64)
    assert [apart.strength(block, True) for block in BLOCKS] == [(2, 2.0)] * 3
    assert [apart.strength(block) for block in BLOCKS] == [(8, 8.0), (32, 32.0), (4, 4.0)]
    assert apart.largest_rank == 32 and apart.replace(train_text_encoder=True).largest_rank == 64
    assert apart.replace(target_blocks=("up",)).largest_rank == 4
    assert config().largest_rank == 16 and config().strength("mid") == (16, 16.0)


@pytest.mark.parametrize("given", ["8", "8;16", "8;16;8;4", "8;x;8", "0;8;8", "8;8;1025", ";;", "8,16,8"])
def test_what_is_not_three_ranks_is_told(given: str) -> None:
    with pytest.raises(UserError, match="three ranks"):
        config(block_ranks=given)


def test_a_checkpoint_goes_on_with_the_ranks_it_was_made_with() -> None:
    assert identity(config(), "") != identity(config(block_ranks="8;16;8"), "")
