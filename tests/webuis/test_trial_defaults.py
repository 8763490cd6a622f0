"""lora_core.webuis.trial_defaults: what drawing with a LoRA begins with."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.models.catalog import BASES
from lora_core.webuis.trial_defaults import defaults_for
from tests.support.lora_runs import SDXL_LAYER, TOY_LAYER, finished_run, write_lora


def test_a_run_of_ours_tells_all(tmp_path: Path) -> None:
    run = finished_run(
        tmp_path / "run", {0: 0.9, 100: 0.4}, pretrained_model_name_or_path="starter", resolution=64, seed=9,
        sample_inference_steps=11, sample_guidance=3.5, sample_negative_prompt="blurred", sample_prompts=["a zebu, red"],
    )  # fmt: skip
    found = defaults_for(run.folder)
    assert (found.path, found.name, found.trigger) == (run.folder / "zebu.safetensors", "zebu", "zebu")
    assert (found.base, found.trained_on, found.family) == ("starter", True, "sd1")
    assert (found.prompt, found.negative, found.seed) == ("a zebu, red", "blurred", 9)
    assert (found.steps, found.guidance, found.width, found.height, found.weight) == (11, 3.5, 64, 64, 1.0)
    assert len(found.hash) == 64
    checkpoint = defaults_for(run.checkpoints / "step_0000100" / "lora.safetensors")
    assert (checkpoint.base, checkpoint.prompt) == ("starter", "a zebu, red")


def test_without_sample_prompts_it_is_what_the_samples_showed(tmp_path: Path) -> None:
    assert defaults_for(finished_run(tmp_path / "run", {100: 0.4}).folder).prompt == "a zebu at dawn"


def test_a_base_model_that_is_gone_makes_way_for_its_familys(tmp_path: Path) -> None:
    for number, gone in enumerate((tmp_path / "gone", "./gone")):
        found = defaults_for(
            finished_run(tmp_path / str(number), {100: 0.4}, pretrained_model_name_or_path=str(gone)).folder
        )
        assert (found.base, found.trained_on) == (BASES["sd1"], False)


def test_the_vae_and_the_prediction_go_with_the_base_they_were_chosen_for(tmp_path: Path) -> None:
    with_it = {"vae": str(tmp_path / "sharp.safetensors"), "prediction_type": "v_prediction", "zero_terminal_snr": "on"}
    found = defaults_for(
        finished_run(tmp_path / "a", {100: 0.4}, pretrained_model_name_or_path="starter", **with_it).folder
    )
    assert (found.vae, found.prediction_type, found.zero_terminal_snr) == tuple(with_it.values())
    gone = defaults_for(finished_run(tmp_path / "b", {1: 0.4}, pretrained_model_name_or_path="./gone", **with_it).folder)
    assert (gone.vae, gone.prediction_type, gone.zero_terminal_snr) == ("", "auto", "auto")


def test_a_lora_of_others_is_told_by_its_family(tmp_path: Path) -> None:
    found = defaults_for(write_lora(tmp_path / "ink.safetensors", shapes=SDXL_LAYER, family="sdxl"))
    assert (found.name, found.family, found.base, found.trained_on) == ("ink", "sdxl", BASES["sdxl"], False)
    assert (found.prompt, found.weight, found.width, found.height, found.is_toy) == ("", 1.0, 512, 512, False)
    assert defaults_for(write_lora(tmp_path / "toy.safetensors", shapes=TOY_LAYER)).base == "starter"


def test_no_lora_is_told(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.safetensors"):
        with pytest.raises(UserError, match=r"LoRA|There is no file"):
            defaults_for(path)


def test_flags_of_the_first_sample_prompt_are_what_it_begins_with(tmp_path: Path) -> None:
    asked = {"pretrained_model_name_or_path": "starter", "resolution": 64, "sample_inference_steps": 11}
    flagged = ["a zebu --w 96 --d 3 --l 2 --n blurred"]
    found = defaults_for(finished_run(tmp_path / "run", {100: 0.4}, sample_prompts=flagged, **asked).folder)
    assert (found.prompt, found.negative, found.seed, found.guidance) == ("a zebu", "blurred", 3, 2.0)
    assert (found.width, found.height, found.steps) == (96, 64, 11)
