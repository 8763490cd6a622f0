"""lora_core.recipes: what is chosen, why, within what the field's trainers do, and on the memory that there is."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from lora_core.config import TrainConfig
from lora_core.dataset import scan
from lora_core.errors import UserError
from lora_core.messages import say
from lora_core.models.architecture import of_family, shapes_of
from lora_core.models.families.specs import FAMILIES
from lora_core.recipes import Recipe, recipe
from lora_core.recipes.facts import BaseFacts, Captions, DatasetFacts, MachineFacts, kind_of
from lora_core.recipes.intents import INTENTS
from lora_core.recipes.room import fits
from lora_core.training.estimate.budget import Budget
from lora_core.training.estimate.memory import memory

GB = 2**30
PICTURES = (5, 12, 20, 60, 300)
CARD = MachineFacts("NVIDIA GeForce RTX 4090", budget=Budget(22 * GB, GB // 2, 2 * GB))
CASES = list(itertools.product(INTENTS, FAMILIES, PICTURES))


def base(family: str, **facts: Any) -> BaseFacts:
    return BaseFacts(of_family(family), **facts)


def made(intent: str, family: str, pictures: int, machine: MachineFacts = CARD, **given: object) -> Recipe:
    return recipe(intent, base(family), DatasetFacts(pictures, "tags"), machine, given)


def config_of(found: Recipe, **given: object) -> TrainConfig:
    return TrainConfig.of({**found.values, **given})


# --- within what the field knows --------------------------------------------------------------------------------------

# alpha (rate x steps x mean of the schedule)^2, of 20 pictures. The least is OneTrainer's preset for SD 1.5 and SDXL
# (alpha 1, 3e-4, constant, 100 epochs of 20 pictures in fours: 0.0225), the most ai-toolkit's (alpha 32, 1e-4, constant,
# 3,000 steps: 2.9). Fewer pictures are seen less in all, so half of the least.
LEAST_DOSE, MOST_DOSE = 0.0225 / 2, 2.9
# Trained parameters over the UNet's (sd-scripts trains 6.78 M of 860 M at rank 16, diffusers' script
# attention alone at rank 4, 0.8 M); Civitai's and sd-scripts' rank 32 on all of SDXL's linear layers comes to 85 M, 3.3 %.
LEAST_SHARE, MOST_SHARE = 0.0009, 0.034
UNET = {"sd1": 860e6, "sd2": 866e6, "sdxl": 2567e6}
COSINE = 0.5  # mean


@pytest.mark.parametrize(("intent", "family", "pictures"), CASES)
def test_the_dose_lies_between_those_of_the_fields_trainers(intent: str, family: str, pictures: int) -> None:
    config = config_of(made(intent, family, pictures))
    at_once = config.train_batch_size * config.gradient_accumulation_steps
    dose = config.alpha * (config.learning_rate * config.max_train_steps * COSINE) ** 2
    assert LEAST_DOSE <= dose <= MOST_DOSE
    assert 5e-5 <= config.learning_rate / at_once**0.5 <= 3e-4, "sd-scripts' documents to OneTrainer"
    if pictures == 20:
        assert dose >= LEAST_DOSE * 2


@pytest.mark.parametrize(("intent", "family"), list(itertools.product(INTENTS, FAMILIES)))
def test_the_trained_share_lies_between_those_of_the_fields_trainers(intent: str, family: str) -> None:
    config = config_of(made(intent, family, 20))
    counted = memory(config.replace(train_text_encoder=False), of_family(family))
    assert counted is not None
    assert LEAST_SHARE <= counted.adapters / 4 / UNET[family] <= MOST_SHARE


@pytest.mark.parametrize(("intent", "family", "pictures"), CASES)
def test_each_picture_is_seen_fifty_to_a_hundred_and_fifty_times(intent: str, family: str, pictures: int) -> None:
    """But of 300, which teach together, each is seen twenty times: 6,000 in all (diffusers' guide: 15,000 of 833); a first
    look shows 1,500 of many.
    """
    config = config_of(made(intent, family, pictures))
    views = config.max_train_steps * config.train_batch_size * config.gradient_accumulation_steps / pictures
    if intent == "first_look" and pictures > 20:
        assert views * pictures == pytest.approx(1500, rel=0.01)
    else:
        assert views == pytest.approx(20, rel=0.01) if pictures == 300 else 49.5 <= views <= 150.5
    assert config.max_train_steps <= 3000 and config.save_steps * 3 <= config.max_train_steps


# --- what it follows --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("intent", INTENTS)
def test_the_same_facts_give_the_same_recipe_and_every_value_has_its_reason(intent: str) -> None:
    for family, captions in itertools.product(FAMILIES, ("tags", "sentences", "none")):
        kind: Captions = captions  # type: ignore[assignment]  # of a product
        facts = (base(family), DatasetFacts(14, kind, side=700), CARD)
        found = recipe(intent, *facts)
        assert found == recipe(intent, *facts)
        config_of(found)
        for choice in found.choices.values():
            english, portuguese = str(choice.reason), say(choice.reason, "pt-BR")
            assert english and portuguese and english != portuguese and "{" not in english + portuguese


@pytest.mark.parametrize("intent", INTENTS)
def test_what_was_set_by_hand_stays_and_the_rest_follows_it(intent: str) -> None:
    usual = config_of(made(intent, "sd1", 20))
    given = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
    found = made(intent, "sd1", 20, **given)
    assert not given.keys() & found.choices.keys()
    config = config_of(found, **given)
    assert config.max_train_steps == round(usual.max_train_steps / 4)
    assert config.learning_rate == pytest.approx(2 * usual.learning_rate, rel=0.06)
    assert config.lr_warmup_steps == 0.05 and config.save_steps < usual.save_steps
    assert config_of(made(intent, "sd1", 20, optimizer="prodigy"), optimizer="prodigy").learning_rate == 1
    fixed = made(intent, "sd1", 20, max_train_steps=77)
    assert "max_train_steps" not in fixed.choices and config_of(fixed, max_train_steps=77).warmup_steps == 4
    small = config_of(made(intent, "sd1", 20, lora_rank=4), lora_rank=4)
    assert small.alpha == 4 and small.learning_rate == pytest.approx(2 * usual.learning_rate, rel=0.06)


def test_every_setting_alone_may_be_given() -> None:
    for name, value in TrainConfig().values().items():
        if name not in ("optimizer", "target_modules"):
            found = made("style", "sd1", 12, **{name: value})
            assert name not in found.choices
            config_of(found, **{name: value})


def test_the_family_decides_size_text_encoder_and_offset() -> None:
    found = {family: config_of(made("character", family, 20)) for family in FAMILIES}
    assert {family: (c.resolution, c.train_text_encoder) for family, c in found.items()} == {
        "sd1": (512, True), "sd2": (768, True), "sdxl": (1024, False),
    }  # fmt: skip
    offsets = {family: config_of(made("style", family, 20)).noise_offset for family in FAMILIES}
    assert offsets == {"sd1": 0.05, "sd2": 0.05, "sdxl": 0.0357}
    velocity = recipe("style", base("sdxl", prediction_type="v_prediction", zero_snr=True), DatasetFacts(20), CARD)
    assert velocity.values["noise_offset"] == 0.0 and velocity.values["snr_gamma"] == 0.0
    assert recipe("style", base("sdxl", prediction_type="v_prediction"), DatasetFacts(20), CARD).values["snr_gamma"] == 5.0


def test_convolutions_stand_at_an_alpha_that_the_field_uses() -> None:
    for intent, family in itertools.product(INTENTS, FAMILIES):
        config = config_of(made(intent, family, 20))
        assert config.conv == (8, 1.0) if {"conv1", "conv2"} & {*config.target_modules} else config.conv_rank == 0


def test_small_pictures_lower_the_size_to_half_at_most_and_it_is_told() -> None:
    for side, resolution in ((2000, 1024), (1024, 1024), (1023, 960), (800, 768), (300, 512)):
        found = recipe("style", base("sdxl"), DatasetFacts(20, side=side), CARD)
        assert found.values["resolution"] == resolution
        assert (f"{side} × {side}" in str(found.choices["resolution"].reason)) == (resolution != 1024)


def test_captions_are_told_apart_by_what_they_are() -> None:
    tags = "1girl, solo, red hair, smile, outdoors"
    sentence = "A girl with red hair, smiling, stands in front of an old house."
    assert kind_of([tags, tags, sentence]) == "tags"
    assert kind_of([tags, sentence, sentence, ""]) == "sentences"
    assert kind_of(["", " "]) == "none" and kind_of([]) == "none"
    assert kind_of(["zebu", "zebu, gras"]) == "sentences"
    assert made("character", "sd1", 20).values["shuffle_tags"] is True
    assert made("character", "sdxl", 20).values["shuffle_tags"] is False, "so that embeddings are computed once"


def test_there_is_no_other_intent() -> None:
    with pytest.raises(UserError, match="no intent 'charakter'.*Did you mean 'character'"):
        recipe("charakter", base("sd1"), DatasetFacts(20), CARD)


# --- what fits --------------------------------------------------------------------------------------------------------

CARDS = {"RTX 4060": 8, "RTX 3060": 12, "RTX 4090": 24}


@pytest.mark.parametrize(("intent", "family", "card"), list(itertools.product(INTENTS, FAMILIES, CARDS)))
def test_a_recipe_fits_the_card(intent: str, family: str, card: str) -> None:
    machine = MachineFacts(card, budget=Budget(CARDS[card] * GB - GB, GB // 2, GB))
    found = made(intent, family, 60, machine)
    assert memory(config_of(found), of_family(family)), "it was counted"
    assert fits(config_of(found), of_family(family), machine)
    forced = [name for name, choice in found.choices.items() if choice.reason.key == "recipes.room"]
    assert not forced or (card, family) == ("RTX 4060", "sdxl")
    assert all(card in str(found.choices[name].reason) for name in forced)


def test_what_the_check_found_wrong_and_what_was_set_by_hand_is_not_taken_for_room() -> None:
    small = MachineFacts("GTX 1650", budget=Budget(int(3.3 * GB), GB // 2, GB))
    usual = made("character", "sdxl", 20, small)
    assert usual.values["eight_bit_base"] is True
    assert "eight_bit_base" not in made("character", "sdxl", 20, replace(small, wrong=frozenset({"eight_bit_base"}))).values
    assert "lora_rank" not in made("character", "sdxl", 20, small, lora_rank=16).choices
    lent = replace(small, has_own_memory=False)
    assert "eight_bit_base" not in made("character", "sdxl", 20, lent).values


def test_where_computing_again_was_found_wrong_its_room_is_not_counted_on() -> None:
    card = MachineFacts("RTX 4060", budget=Budget(7 * GB, GB // 2, GB))
    recomputed = replace(card, wrong=frozenset({"gradient_checkpointing", "checkpointed_quarters"}))
    config = TrainConfig(lora_rank=16, resolution=1024)
    assert fits(config, of_family("sdxl"), card) and not fits(config, of_family("sdxl"), recomputed)
    forced = made("character", "sdxl", 20, recomputed)
    assert {"gradient_checkpointing", "checkpointed_quarters"}.isdisjoint(forced.values)
    assert "recipes.room" in {choice.reason.key for choice in forced.choices.values()}


# --- facts ------------------------------------------------------------------------------------------------------------


def test_facts_of_the_starter_and_of_pictures(pictures: Path) -> None:
    starter = BaseFacts.of("starter")
    assert starter.is_toy and starter.resolution == 64 and not starter.is_v
    assert not BaseFacts(shapes_of("runwayml/stable-diffusion-v1-5")).is_toy
    about = DatasetFacts.of(scan(pictures), 0.1, 42)
    assert (about.pictures, about.captions, about.is_known) == (8, "sentences", True)
    found = recipe("character", starter, about, CARD)
    assert (found.values["learning_rate"], found.values["train_batch_size"], found.values["resolution"]) == (3e-3, 8, 64)


def test_on_the_starter_few_pictures_take_few_steps_and_many_take_more() -> None:
    """As measured with 6, 12 and 48 pictures (docs/log.md, 2026-12-01)."""
    starter = BaseFacts.of("starter")
    for intent in INTENTS:
        found = {count: recipe(intent, starter, DatasetFacts(count), CARD).values for count in (1, 3, 6, 12, 24, 48)}
        steps = [values["max_train_steps"] for values in found.values()]
        assert all(isinstance(fewer, int) and fewer < int(str(more)) for fewer, more in itertools.pairwise(steps)), steps
        assert all(values["train_batch_size"] == min(count, 12) for count, values in found.items())


def test_a_hub_name_of_a_velocity_model_is_read_as_one() -> None:
    found = BaseFacts.of("Laxhar/noobai-XL-Vpred-1.0")
    assert found.is_v and found.zero_snr and found.spec.name == "sdxl"
    assert not BaseFacts.of("Laxhar/noobai-XL-Vpred-1.0", "epsilon").is_v
    assert not BaseFacts.of("Laxhar/noobai-XL-Vpred-1.0", zero_terminal_snr="off").zero_snr
    merge = BaseFacts.of("someone/illustrious-merge", "v_prediction", "on")
    assert merge.is_v and merge.zero_snr and merge.spec.name == "sdxl"
