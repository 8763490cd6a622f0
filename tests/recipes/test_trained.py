"""lora_core.recipes for real: what a recipe sets is trained, on twins of every family and on the starter's kind."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from lora_core.cli import flags
from lora_core.cli.request import request
from lora_core.config import TrainConfig, read_values
from lora_core.events import Failed, Sample, Step
from lora_core.lora.metadata import CONFIG
from lora_core.models.architecture import of_family
from lora_core.recipes import recipe
from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts
from lora_core.recipes.intents import INTENTS
from lora_core.training.estimate.budget import Budget
from tests.support.training import adapters_after, equal, run
from tests.support.twins import save_twin

STEPS = 4
VELOCITY = {"prediction_type": "v_prediction", "rescale_betas_zero_snr": True, "timestep_spacing": "trailing"}
# A twin's, and the settings that only make the test short.
SHORT = {
    "max_train_steps": str(STEPS), "save_steps": str(STEPS), "sample_count": "1", "sample_inference_steps": "2",
    "device": "cpu", "mixed_precision": "no", "bucket_step": "16",
}  # fmt: skip


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, tiny_sd1: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("twins")
    return {
        "toy": tiny_sd1, "sd1": save_twin("sd1", folder / "sd1"), "sd2": save_twin("sd2", folder / "sd2"),
        "sdxl": save_twin("sdxl", folder / "sdxl"), "velocity": save_twin("sdxl", folder / "velocity", **VELOCITY),
    }  # fmt: skip


@pytest.fixture(scope="module")
def tagged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Ten pictures with tags."""
    folder, rng = tmp_path_factory.mktemp("tagged"), np.random.default_rng(1)
    for number in range(10):
        pixels = rng.integers(0, 256, (8, 8 + number % 2 * 4, 3), np.uint8)
        Image.fromarray(pixels).resize((pixels.shape[1] * 8, 64)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(f"zebu, solo, grass, sky, tag {number}", encoding="utf-8")
    return folder


def asked(intent: str, model: Path, data: Path, out: Path) -> TrainConfig:
    """What the command line makes of a preset."""
    told = {
        "preset": intent, "pretrained_model_name_or_path": str(model), "train_data_dir": str(data), "output_dir": str(out),
        **SHORT,
    }  # fmt: skip
    return request(flags.parse([word for name, value in told.items() for word in (f"--{name}", value)])).config


CASES = [("character", "toy"), *((intent, "sd1") for intent in INTENTS), ("character", "sd2"), ("style", "sd2")]
CASES += [("character", "sdxl"), ("style", "velocity")]


@pytest.mark.parametrize(("intent", "model"), CASES)
def test_a_recipe_trains_and_the_run_and_its_file_hold_what_it_came_to(
    intent: str, model: str, models: dict[str, Path], tagged: Path, tmp_path: Path
) -> None:
    config = asked(intent, models[model], tagged, tmp_path / "out")
    job, events = run(config)
    assert not job.error, [str(event.message) for event in events if isinstance(event, Failed)]
    losses = [event.loss for event in events if isinstance(event, Step)]
    assert len(losses) == STEPS and all(map(math.isfinite, losses))
    assert any(isinstance(event, Sample) and event.step == STEPS for event in events)
    lora = next(job.run.folder.glob("*.safetensors"))
    with safe_open(lora, "pt") as file:
        metadata = file.metadata()
    kept = read_values(job.run.config_file)
    assert TrainConfig.of(kept) == config
    assert "preset" not in kept and f"lora_rank = {config.lora_rank}" in metadata[CONFIG]


def test_a_run_is_repeated_to_the_bit_by_its_settings_alone(models: dict[str, Path], tagged: Path, tmp_path: Path) -> None:
    first, _ = run(asked("character", models["sd1"], tagged, tmp_path / "first"))
    words = ["--preset", str(first.run.config_file), "--output_dir", str(tmp_path / "second")]
    again = request(flags.parse(words))
    assert not again.reasons, "no recipe takes part"
    second, _ = run(again.config)
    assert equal(adapters_after(first.run.folder, STEPS), adapters_after(second.run.folder, STEPS))


@pytest.mark.parametrize(("model", "gigabytes"), [("sd1", 2), ("sdxl", 4)])
def test_what_a_small_card_forces_trains_as_well(
    model: str, gigabytes: int, models: dict[str, Path], tagged: Path, tmp_path: Path
) -> None:
    small = MachineFacts("GTX 1650", budget=Budget(gigabytes * 2**30, 2**29, 2**29))
    found = recipe("character", BaseFacts(of_family(model)), DatasetFacts(10, "tags"), small)
    forced = {name: choice.value for name, choice in found.choices.items() if choice.reason.key == "recipes.room"}
    assert forced["optimizer_on_host"] is True
    usual = asked("character", models[model], tagged, tmp_path / "out")
    config = usual.replace(**{**forced, "resolution": usual.resolution, "sample_count": 1})
    job, events = run(config)
    assert not job.error and sum(isinstance(event, Step) for event in events) == STEPS


def test_the_twins_are_what_their_families_are(models: dict[str, Path]) -> None:
    found = {name: BaseFacts.of(str(path)) for name, path in models.items()}
    assert {name: (base.spec.name, base.is_toy, base.is_v, base.zero_snr) for name, base in found.items()} == {
        "toy": ("sd1", True, False, False), "sd1": ("sd1", False, False, False), "sd2": ("sd2", False, True, True),
        "sdxl": ("sdxl", False, False, False), "velocity": ("sdxl", False, True, True),
    }  # fmt: skip
    assert {base.resolution for base in found.values()} == {64}
    assert replace(found["sd1"], shapes=found["toy"].shapes).is_toy
