"""lora_core.sampling.params: the pictures that older versions kept are found again; sample prompts and their flags."""

from __future__ import annotations

import dataclasses

import pytest

from lora_core.config import TrainConfig
from lora_core.sampling.params import GenerationParams, cache_key_of, params_of
from lora_core.training.prior import prior_params

# As version 3075548 wrote them: repr() of its lists.
PRIOR = (
    "[Wish(prompt='a cow', seed=42, width=64, height=64, negative_prompt='', steps=2, guidance=7.5, sampler='DDIM'), "
    "Wish(prompt='a goat', seed=43, width=64, height=64, negative_prompt='', steps=2, guidance=7.5, sampler='DDIM')]"
)
SAMPLE = (
    "[Wish(prompt='a \"zebu\"', seed=42, width=64, height=64, negative_prompt='', steps=2, guidance=7.5, sampler='DDIM')]"
)


def test_pictures_are_kept_under_the_text_of_older_versions() -> None:
    config = TrainConfig.of({
        "resolution": 64, "sample_inference_steps": 2, "sample_count": 1, "sample_prompts": ('a "zebu"',),
        "prior_prompts": ["a cow", "a goat"], "prior_pictures": 2,
    })  # fmt: skip
    assert cache_key_of(prior_params(config)) == PRIOR
    assert cache_key_of(params_of(config, [])) == SAMPLE


@pytest.mark.parametrize(
    ("name", "value"),
    [("prompt", "b"), ("seed", 2), ("width", 8), ("height", 8), ("negative_prompt", "c"), ("steps", 3), ("guidance", 1.0),
     ("sampler", "Euler a"), ("clip_skip", 2), ("max_token_length", 150)],
)  # fmt: skip
def test_whatever_changes_the_base_models_picture_changes_the_key(name: str, value: object) -> None:
    params = GenerationParams("a", 1, 64, 64)
    assert dataclasses.replace(params, **{name: value}).cache_key != params.cache_key  # type: ignore[arg-type]


def test_a_prompts_flags_stand_over_the_settings_and_captions_have_none() -> None:
    config = TrainConfig.of({
        "resolution": 64, "sample_count": 3, "seed": 5, "sample_negative_prompt": "dark",
        "sample_prompts": ["a zebu --w 96 --h 100 --s 3 --l 2.5 --d 9 --n blurred, low", "a cow"],
    })  # fmt: skip
    assert params_of(config, ["unused"]) == [
        GenerationParams("a zebu", 9, 96, 96, "blurred, low", 3, 2.5),
        GenerationParams("a cow", 6, 64, 64, "dark", 25, 7.5),
    ]
    captions = params_of(config.replace(sample_prompts=()), ["", "tag --w", "tag --w", "b"])
    assert [params.prompt for params in captions] == ["tag --w", "b"]
