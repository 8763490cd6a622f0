"""lora_core.training.prepare: what a dataset and a base model are warned of before training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig, inject_adapter_in_model
from PIL import Image

from lora_core.dataset import scan
from lora_core.events import Saved, Warned
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.models.families.specs import FAMILIES
from lora_core.training.prepare import TOLD_OF_EACH, invokeai_notice, offset_notice, quality_warnings, size_notice
from tests.clients.models import real_unet
from tests.support.tiny import tiny_dataset
from tests.support.training import config_for, run


def test_the_report_is_told_with_token_counts_and_long_lists_are_cut(tiny_sd1: Path, tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "data", pictures=9)
    (folder / "000.txt").write_text("zebu " * 100, encoding="utf-8")
    for number in range(1, 9):
        (folder / f"{number:03}.txt").unlink()
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    config = config_for(tiny_sd1, folder, tmp_path)
    sentences = [str(message) for message in quality_warnings(model, scan(folder, "zebu"), config)]
    assert any(s.startswith("000.txt has ") and "tokens" in s for s in sentences)
    missing = [s for s in sentences if "no caption file" in s]
    assert len(missing) == TOLD_OF_EACH + 1 and missing[-1].startswith("... and 3 more: ")


def test_a_few_bad_pictures_are_told_and_left_out_and_the_rest_is_trained_on(tiny_sd1: Path, tmp_path: Path) -> None:
    folder = tiny_dataset(tmp_path / "data", pictures=4)
    (folder / "bad.png").write_bytes((folder / "000.png").read_bytes()[:60])
    (folder / "empty.jpg").write_bytes(b"")
    Image.new("RGBA", (64, 64), (255, 0, 0, 0)).save(folder / "clear.png")
    job, told = run(config_for(tiny_sd1, folder, tmp_path / "out", max_train_steps=2, trigger_word="zebu"))
    assert job.error is None and any(isinstance(event, Saved) for event in told)
    warned = " ".join(str(event.message) for event in told if isinstance(event, Warned))
    assert "bad.png" in warned and "empty.jpg" in warned and "clear.png" in warned


@dataclass
class RealSized:
    """A model of the real size, without memory."""

    unet: UNet2DConditionModel
    family: SimpleNamespace

    def adapted(self) -> dict[str, torch.nn.Module]:
        return {"unet": self.unet}


@pytest.mark.parametrize(
    ("family", "targets", "told"),
    [
        ("sd1", ["to_k", "conv1"], ""), ("sd1", ["time_emb_proj"], "one of SDXL"), ("sd2", ["conv1"], "cannot tell"),
        ("sdxl", ["to_v", "time_emb_proj"], ""), ("sdxl", ["ff.net.2"], "cannot tell"),
    ],
)  # fmt: skip
def test_layers_by_which_invokeai_does_not_know_the_family_are_told(family: str, targets: list[str], told: str) -> None:
    model = RealSized(real_unet(family), SimpleNamespace(spec=FAMILIES[family]))
    inject_adapter_in_model(LoraConfig(r=2, target_modules=targets), model.unet)
    message = invokeai_notice(cast(BaseModel, model))
    assert told in str(message) if told else message is None


def test_nobody_is_told_of_invokeai_for_a_toy(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["conv1"]), model.unet)
    assert invokeai_notice(model) is None


def test_shifted_noise_is_told_where_the_model_predicts_velocity(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, noise_offset=0.05, max_train_steps=1)
    for prediction, count in (("epsilon", 0), ("v_prediction", 1)):
        _, told = run(config.replace(prediction_type=prediction, output_dir=str(tmp_path / prediction)))
        kinds = [event.message.key for event in told if isinstance(event, Warned)]
        assert kinds.count("training.offset_of_velocity") == count
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None, prediction_type="v_prediction")
    assert offset_notice(model, config.replace(noise_offset=0)) is None
    assert "noise_offset 0.05" in str(offset_notice(model, config))


def test_a_training_size_far_from_the_models_own_is_told(tiny_sd1: Path) -> None:
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)  # of 64 pixels
    assert all(size_notice(model, near) is None for near in (64, 48, 96))
    assert all("--resolution 64" in str(size_notice(model, far)) for far in (32, 512))


def test_a_dora_is_told_to_be_none_for_sd_scripts_and_diffusers(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    """sd-scripts' `networks/lora.py` and diffusers' `lora_conversion_utils.py` know no `dora_scale` in webui files."""
    for kind in ("lora", "dora"):
        config = config_for(tiny_sd1, pictures, tmp_path / kind, adapter=kind, max_train_steps=1)
        kinds = [event.message.key for event in run(config)[1] if isinstance(event, Warned)]
        assert kinds.count("lora.warned_dora") == (kind == "dora")
