"""Convolutions with a rank and an alpha of their own: in the model, the file and its metadata, and in the test tab."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from lora_core.config import CONV_TARGETS, TrainConfig
from lora_core.errors import UserError
from lora_core.lora.file import load_tensors, read
from lora_core.models import load as base_models
from lora_core.sampling import pipeline as pipelines
from lora_core.training.engine import adapters
from tests.support.training import config_for, equal, run

TARGETS = ["to_q", "to_v", "conv1", "conv2", "conv_shortcut", "conv"]
VALUES: dict[str, object] = {
    "target_modules": TARGETS, "lora_rank": 4, "conv_rank": 2, "conv_alpha": 1.0, "max_train_steps": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "conv"),
    [
        ({}, (16, 16.0)), ({"lora_alpha": 4}, (16, 4.0)), ({"conv_rank": 8}, (8, 8.0)), ({"conv_alpha": 1}, (16, 1.0)),
        ({"lora_alpha": 4, "conv_rank": 8}, (8, 8.0)), ({"conv_rank": 32, "conv_alpha": 2}, (32, 2.0)),
    ],
    ids=str,
)  # fmt: skip
def test_what_zero_means(values: dict[str, object], conv: tuple[int, float]) -> None:
    config = TrainConfig.of(values)
    assert config.conv == conv and config.largest_rank == max(16, conv[0])


@pytest.mark.parametrize("more", [{}, {"lean_activations": False}], ids=str)
def test_the_file_holds_both_ranks_and_alphas_and_reads_back_as_trained(
    more: dict[str, object], tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, **{**VALUES, **more})
    job, _ = run(config)
    assert job.error is None
    path = job.run.lora_file(config)
    lora, metadata = read(path)
    assert len({name.rpartition(".")[2] for name in lora} & set(CONV_TARGETS)) == 3
    for name, adapter in lora.items():
        is_conv = name.rpartition(".")[2] in CONV_TARGETS
        assert (adapter.rank, adapter.alpha) == ((2, 1.0) if is_conv else (4, 4.0))
        assert adapter.down.dim() == (4 if "conv" in name.rpartition(".")[2] else 2)
    args = json.loads(metadata["ss_network_args"])
    assert (args["conv_dim"], args["conv_alpha"]) == ("2", "1")
    model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    adapters.attach(model, config)
    shapes = {name: tuple(p.shape) for name, p in adapters.named_parameters(model).items()}
    assert {shape[0] for name, shape in shapes.items() if "lora_A" in name} == {2, 4}
    assert not pipelines._is_for_diffusers(path, lora, "sd1"), "which gives one scale to layers that have two"


def test_without_own_rank_nothing_changes(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    found = []
    for name, values in (("as the others", {}), ("said", {"conv_rank": 4, "conv_alpha": 4.0})):
        asked = {**VALUES, "conv_rank": 0, "conv_alpha": 0.0, **values}
        job, _ = run(config_for(tiny_sd1, pictures, tmp_path / name, **asked))
        found.append(load_tensors(job.run.lora_file(config_for(tiny_sd1, pictures, tmp_path / name, **asked)))[0])
    assert equal(*found)


def test_a_checkpoint_goes_on_with_its_own_rank_alone(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, **VALUES)
    assert run(config)[0].error is None
    job, _ = run(config.replace(conv_alpha=2.0, max_train_steps=4), resume="latest")
    assert isinstance(job.error, UserError) and "conv_alpha" in str(job.error)
    job, _ = run(config.replace(max_train_steps=4), resume="latest")
    assert job.error is None
