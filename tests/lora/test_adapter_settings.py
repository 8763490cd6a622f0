"""lora_core.lora.adapter_settings: the settings of a LoRA's adapters, and which files no training goes on from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_core.errors import UserError
from lora_core.lora.adapter_settings import adapter_settings, read_to_go_on
from lora_core.lora.file import write
from tests.support.lora_values import random_lora

Q, CONV, TEXT = (
    "unet.up_blocks.1.attentions.0.transformer_blocks.0.attn2.to_q", "unet.mid_block.resnets.0.conv1",
    "text_encoder.text_model.encoder.layers.0.self_attn.q_proj",
)  # fmt: skip
SHAPES: dict[str, tuple[int, ...]] = {Q: (8, 8), CONV: (8, 8, 3, 3), TEXT: (768, 768)}


def test_kind_ranks_and_layers_are_the_files() -> None:
    lora = random_lora(SHAPES)
    found = {"adapter": "lora", "lora_rank": 2, "lora_alpha": 3.0, "conv_rank": 0, "conv_alpha": 0.0,
             "target_modules": ("to_q", "conv1"), "target_blocks": ("mid", "up"), "train_text_encoder": True}  # fmt: skip
    assert adapter_settings(lora) == found
    del lora[TEXT]
    lora[CONV] = replace(lora[CONV], alpha=1.0)
    assert adapter_settings(lora) == {**found, "conv_rank": 2, "conv_alpha": 1.0, "train_text_encoder": False}
    assert adapter_settings(random_lora({TEXT: (768, 768)}, dora=True)) == {
        **{name: value for name, value in found.items() if name != "target_blocks"}, "adapter": "dora", "target_modules": ()
    }  # fmt: skip


def test_of_ranks_that_differ_the_largest_is_taken() -> None:
    lora = random_lora(SHAPES)
    value = lora[Q]
    lora[Q] = replace(value, down=value.down.repeat(3, 1), up=value.up.repeat(1, 3), alpha=9.0)
    assert (adapter_settings(lora)["lora_rank"], adapter_settings(lora)["lora_alpha"]) == (6, 9.0)


def test_what_no_training_can_begin_with_is_told_in_a_sentence(tmp_path: Path) -> None:
    file = tmp_path / "old.safetensors"

    def refused(match: str) -> None:
        with pytest.raises(UserError, match=match):
            read_to_go_on(file)

    refused("There is no")
    halves = {"w1_a": (8, 2), "w1_b": (2, 8), "w2_a": (8, 2), "w2_b": (2, 8)}
    stem = "lora_unet_mid_block_attentions_0_proj_in.hada"
    save_file({f"{stem}_{part}": torch.ones(*shape) for part, shape in halves.items()}, file)
    refused("^old.safetensors holds LoHa, .* lora plain")
    base = "unet.time_embedding.linear_1.lora_"
    save_file({f"{base}A.weight": torch.ones(2, 8), f"{base}B.weight": torch.ones(8, 2)}, file)
    refused("^old.safetensors changes time_embedding.linear_1, .*--drop")
    base = f"{Q}.lora_"
    tensors = {f"{base}A.weight": torch.ones(2, 768), f"{base}B.weight": torch.zeros(8, 2)}
    save_file(tensors, file)
    refused("^old.safetensors has no effect")
    save_file({**tensors, f"{base}magnitude_vector": torch.ones(8)}, file)
    refused("^old.safetensors is a DoRA normalised over outputs")
    write(file, random_lora(SHAPES), "sd1", {}, "fp16")
    file.write_bytes(file.read_bytes()[:-40])
    refused("cut short")
