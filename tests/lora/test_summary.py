"""What a person is told of a LoRA file: family, dialect, ranks and what may make it useless."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from lora_core.lora.adapter import Adapter, LoraError
from lora_core.lora.file import write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.lora.shapes import UnknownFamilyError
from lora_core.lora.summary import LoraSummary
from tests.support.lora_values import random_lora, small_lora

_LAYER = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"


def test_one_of_ours(tmp_path: Path) -> None:
    path = tmp_path / "zebu.safetensors"
    known = {"output_name": "zebu", "family": "sdxl", "rank": 2, "alpha": 3.0, "resolution": 1024, "base_model": "org/xl"}
    write(path, small_lora("sdxl"), "sdxl", build(TrainingMetadata(**known)), "bf16")  # type: ignore[arg-type]
    summary = LoraSummary.read(path)
    assert (summary.family, summary.dialects, summary.ranks, summary.dtype) == ("sdxl", ("webui",), (2,), "bf16")
    assert (summary.title, summary.base_model, summary.left_out, summary.warnings) == ("zebu", "xl", (), ())
    assert (summary.modules, summary.size, summary.kinds) == (len(small_lora("sdxl")), path.stat().st_size, ())
    assert summary.has_text_encoder


def test_one_of_the_starter_is_a_toy(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    adapter = Adapter(torch.ones(4, 96), torch.ones(112, 4), 2.0, torch.ones(1, 96))
    write(path, {_LAYER: adapter}, "sd1", {}, "fp16")
    summary = LoraSummary.read(path)
    assert [warning.key for warning in summary.warnings] == ["lora.warned_toy", "lora.warned_dora"]
    assert (summary.is_toy, summary.kinds, summary.has_text_encoder) == (True, ("DoRA",), False)


def test_dialects_are_told_even_when_mixed(tmp_path: Path) -> None:
    lora = random_lora({_LAYER: (1280, 768), "unet.conv_in": (320, 4, 3, 3)})
    other = {f"{_LAYER.replace('to_k', 'to_v')}.lora.{part}.weight": lora[_LAYER].__dict__[part] for part in ("down", "up")}
    peft = {
        f"{module}.lora_{letter}.weight": tensor
        for module, adapter in lora.items() for letter, tensor in (("A", adapter.down), ("B", adapter.up))
    }  # fmt: skip
    save_file(peft, tmp_path / "peft.safetensors")
    summary = LoraSummary.read(tmp_path / "peft.safetensors")
    assert (summary.dialects, summary.left_out, summary.family, summary.dtype) == (
        ("peft",),
        ("unet.conv_in",),
        "sd1",
        "fp32",
    )
    webui = {"lora_unet_mid_block_attentions_0_proj_in.lora_down.weight": torch.ones(2, 1280, 1, 1),
             "lora_unet_mid_block_attentions_0_proj_in.lora_up.weight": torch.ones(1280, 2, 1, 1)}  # fmt: skip
    save_file({**other, **webui}, tmp_path / "mixed.safetensors")
    assert LoraSummary.read(tmp_path / "mixed.safetensors").dialects == ("webui", "peft")


def test_a_family_that_nothing_tells_is_left_open(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_k"
    write(path, random_lora({module: (1280, 1280)}), "sd1", {}, "fp16")
    summary = LoraSummary.read(path)
    assert summary.family == ""
    with pytest.raises(UnknownFamilyError):
        summary.known_family()


@pytest.mark.parametrize("damaged", ["= =", "schema = 99", "rank = " + "[" * 5000])
def test_settings_that_this_version_does_not_know_are_left(damaged: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    write(path, random_lora({module: (1280, 768)}), "sd1", {"treino.config": damaged}, "fp16")
    assert LoraSummary.read(path).settings() == {}
    write(path, random_lora({module: (1280, 768)}), "sd1", {"treino.config": "lora_rank = 8"}, "fp16")
    assert LoraSummary.read(path).settings() == {"lora_rank": 8}


def test_one_for_another_kind_of_model_is_refused(tmp_path: Path) -> None:
    save_file({f"{_LAYER}.lora_A.weight": torch.ones(2, 4096), f"{_LAYER}.lora_B.weight": torch.ones(64, 2)},
              tmp_path / "x.safetensors")  # fmt: skip
    with pytest.raises(LoraError, match="no Stable Diffusion 1, 2 or XL"):
        LoraSummary.read(tmp_path / "x.safetensors")
