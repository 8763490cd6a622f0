"""lora_core.training.estimate.beside: what a run does beside its steps, and that validation keeps to its share."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from lora_core.config import TrainConfig, presets
from lora_core.dataset import scan
from lora_core.models.architecture import of_family, shapes_of
from lora_core.models.computer import Computer, Identity, keep, step_key
from lora_core.models.device import choose, devices
from lora_core.training.data.plan import Plan
from lora_core.training.data.validation import LATENTS_AT_ONCE, MOST_SHARE, whole
from lora_core.training.estimate import beside, speed
from lora_core.training.estimate.disk import run_bytes
from lora_core.training.estimate.memory import memory, validated_at_once


@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
@pytest.mark.parametrize("width", [2, 4])
def test_of_every_preset_validation_takes_its_share_at_most(family: str, width: int) -> None:
    shapes = of_family(family)
    for preset in presets():
        config = TrainConfig.of(preset.values).replace(resolution=512, lean_activations=True)
        told = beside.in_steps(config, shapes, width, None)
        if told and config.max_train_steps >= 300:
            assert 0 < told["validation"] <= MOST_SHARE * config.max_train_steps, preset.name


def test_the_starter_is_measured_as_it_always_was() -> None:
    config, shapes = TrainConfig.of({"max_train_steps": 300, "save_steps": 100}), shapes_of("starter")
    of_pass = beside.pass_steps(config.replace(target_modules=["to_q", "to_v"]), shapes, 4)
    assert beside.measure(config, 2, 10, is_small=True, of_pass=of_pass) == (whole(2, 10), False)


def test_a_model_of_full_size_is_not_waited_for_before_the_first_step_where_that_is_long() -> None:
    config = TrainConfig.of({"resolution": 256})
    of_pass = beside.pass_steps(config, of_family("sd1"), 4)
    assert of_pass and 0.2 < of_pass < 0.5
    measured, is_late = beside.measure(config, 2, 6, is_small=False, of_pass=of_pass)
    assert is_late and 3 < measured.passes * of_pass < MOST_SHARE * config.max_train_steps / 4 + 1e-9
    _, is_late = beside.measure(config.replace(max_train_steps=300, save_steps=100), 2, 6, False, of_pass)
    assert not is_late, "few pictures are quick"
    assert beside.measure(config, 2, 6, is_small=False)[1], "never counted: half of a step"


@pytest.mark.parametrize(("family", "side"), [("sd1", 512), ("sdxl", 1024)])
def test_batches_of_a_validation_are_as_large_as_a_steps_memory_allows(family: str, side: int) -> None:
    config, shapes = TrainConfig.of({"resolution": side, "sample_count": 0}), of_family(family)
    assert validated_at_once(config, shapes) > LATENTS_AT_ONCE
    found = memory(config, shapes)
    assert found and found.peak_draw <= found.peak_step
    least = config.replace(gradient_checkpointing=True)
    assert validated_at_once(least, shapes) <= validated_at_once(config, shapes)


def test_the_plan_tells_each_ones_part_of_the_whole(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    config = TrainConfig.of({"mixed_precision": "no", "device": "cpu", "resolution": 256, "sample_count": 1})
    plan, shapes, compute = Plan.of(config, scan(pictures)), of_family("sd1"), choose("cpu", "no")
    cpu = next(device for device in devices() if device.kind == "cpu")
    assert keep(Computer(Identity.of(cpu), step_seconds={step_key("fp32"): 8.0}, disk_bytes_per_second=1e8))
    found = speed.run_seconds(config, shapes, compute, plan)
    assert found and not found.rough and list(found.beside) == ["validation", "samples", "caching", "loading"]
    step = speed.step_seconds(config, shapes, compute, plan.buckets)
    assert step and 1 < step.seconds < 8.0, "smaller pictures than the check's"
    steps = step.seconds * config.max_train_steps
    assert found.seconds == pytest.approx(steps + found.beside["validation"] + found.beside["samples"])
    whole_time = found.seconds + found.beside["caching"] + found.beside["loading"]
    assert found.shares["validation"] == pytest.approx(found.beside["validation"] / whole_time)
    assert found.shares["validation"] < MOST_SHARE
    assert found.beside["loading"] == pytest.approx(21, rel=0.1), "2.1 GB at 100 MB/s"


def test_samples_are_counted_by_the_sizes_steps_and_guidance_of_their_prompts() -> None:
    usual = TrainConfig.of({"resolution": 512, "sample_count": 2, "sample_inference_steps": 20, "device": "cpu"})
    shapes = of_family("sd1")

    def told(*prompts: str) -> tuple[float, int, int]:
        config = usual.replace(sample_prompts=prompts)
        found = memory(config, shapes)
        assert found
        return beside.in_steps(config, shapes, 2, None)["samples"], found.peak_draw, run_bytes(config, 1000)

    plain = told("a", "b")
    assert plain == told(), "captions are as many"
    assert told("a --s 10", "b --s 30") == (pytest.approx(plain[0]), *plain[1:])
    assert told("a --l 1", "b --l 1")[0] == pytest.approx(plain[0] / 2)
    large = told("a --w 2048 --h 2048", "b")
    assert large[0] > 8 * plain[0] and large[1] > plain[1]
    assert large[2] - plain[2] == pytest.approx(
        15 * 3 * 512 * 512 * (math.ceil(usual.max_train_steps / usual.save_steps) + 1)
    )
