"""LoHa and LoKr in a training: the golden losses of each family, stopped and resumed bit-equal, and drawn as trained."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageChops

from lora_core.config import TARGETS, TrainConfig
from lora_core.errors import UserError
from lora_core.events import Sample, Warned
from lora_core.lora.file import read, tensors_hash
from lora_core.models import load as base_models
from lora_core.sampling.params import GenerationParams
from lora_core.sampling.pipeline import Pipeline
from lora_core.training.engine import adapters
from lora_core.training.job import Job
from lora_core.training.session import Session
from tests import ROOT
from tests.support.training import before_steps, config_for, run
from tests.support.twins import save_twin
from tests.training.test_train import losses

GOLDEN = ROOT / "tests" / "golden" / "kinds.json"
KINDS = ("loha", "lokr")
FAMILIES = ("sd1", "sd2", "sdxl")
VALUES: dict[str, object] = {
    "max_train_steps": 2, "save_steps": 2, "learning_rate": 1e-2,
    "target_modules": ("to_q", "to_k", "ff.net.0.proj", "proj_in", "conv1", "conv_shortcut", "time_emb_proj"),
    "lora_alpha": 3.0, "conv_rank": 2, "validation_split": 0.0, "train_batch_size": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    home = tmp_path_factory.mktemp("twins")
    return {family: save_twin(family, home / family) for family in FAMILIES}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_losses_are_the_golden_ones(
    kind: str, family: str, twins: dict[str, Path], pictures: Path, tmp_path: Path
) -> None:
    """To renew after a change that is meant to move them: python -m tests.golden"""
    job, events = run(config_for(twins[family], pictures, tmp_path, adapter=kind, **VALUES))
    assert job.error is None
    assert losses(events) == pytest.approx(json.loads(GOLDEN.read_text(encoding="utf-8"))[kind][family], rel=1e-4)
    assert "lora.warned_lycoris" in [event.message.key for event in events if isinstance(event, Warned)]
    lora, metadata = read(tmp_path / "pytorch_lora_weights.safetensors")
    assert {value.kind for value in lora.values()} == {kind} and metadata["ss_network_module"] == "lycoris.kohya"
    assert json.loads(metadata["ss_network_args"])["algo"] == kind


@pytest.mark.parametrize("kind", KINDS)
def test_resumed_it_ends_bit_equal_and_the_file_draws_as_the_training_did(
    kind: str, tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    values = {
        **VALUES, "adapter": kind, "train_text_encoder": True, "target_modules": TARGETS, "ema_decay": 0.5,
        "learning_rate": 0.1, "lora_alpha": 8.0, "save_steps": 1, "save_precision": "fp32", "sample_count": 1,
        "sample_prompts": ["a zebu"], "sample_inference_steps": 2,
    }  # fmt: skip
    whole, events = run(config_for(tiny_sd1, pictures, tmp_path / "whole", **values))
    assert whole.error is None
    job = Job(config := config_for(tiny_sd1, pictures, tmp_path / "broken", **values))

    def stop(session: Session) -> None:
        if session.step == 1:
            job.controls.stop()

    before_steps(job, stop)
    job.start()
    assert job.wait(600) and job.error is None
    again, _ = run(config, resume="latest")
    assert again.error is None
    name = "pytorch_lora_weights.safetensors"
    assert tensors_hash(tmp_path / "broken" / name) == tensors_hash(tmp_path / "whole" / name)

    shown = {event.step: event for event in events if isinstance(event, Sample)}
    pipeline = Pipeline("cpu")
    pipeline.open(str(tiny_sd1), lambda event: None)
    for step, weight in ((0, 0.0), (2, 1.0)):
        params = GenerationParams(
            "a zebu", shown[step].seed, 64, 64, "", config.sample_inference_steps, config.sample_guidance,
            lora=str(tmp_path / "whole" / name), weight=weight,
        )  # fmt: skip
        drawn = pipeline.draw(params).convert("RGB")
        assert _difference(drawn, Image.open(tmp_path / "whole" / shown[step].path).convert("RGB")) <= 1
    base, last = (Image.open(tmp_path / "whole" / shown[step].path).convert("RGB") for step in (0, 2))
    assert _difference(base, last) > 2, "the LoRA must show, or this proves nothing"


def _difference(one: Image.Image, other: Image.Image) -> int:
    return max(high for _, high in ImageChops.difference(one, other).getextrema())


@pytest.mark.parametrize("kind", KINDS)
def test_a_fresh_one_is_the_base_model_and_learns_everywhere(kind: str, tiny_sd1: Path) -> None:
    found = []
    for attached in (False, True):
        model = base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
        if attached:
            adapters.attach(model, TrainConfig.of({"adapter": kind, "target_modules": TARGETS}))
        torch.manual_seed(0)
        latents, text = torch.randn(1, 4, 8, 8), torch.randn(1, 77, model.unet.config.cross_attention_dim)
        found.append(model.unet(latents, 1, text).sample)
    assert torch.equal(found[0], found[1])
    found[1].square().mean().backward()
    layers = adapters.layers(model)
    assert all(any(p.grad is not None and p.grad.any() for p in layer.parameters()) for layer in layers)


def test_what_the_kinds_cannot_have_is_told() -> None:
    for values, words in (({"lora_dropout": 0.1}, "dropped"), ({"init_lora": "x.safetensors"}, "go on from")):
        with pytest.raises(UserError, match=words):
            TrainConfig.of({"adapter": "loha", **values})
