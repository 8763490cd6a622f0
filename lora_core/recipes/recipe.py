"""The settings for what a person wants: a pure function of the intent, the base model, the pictures and the computer.

What was set by hand stays as it is, and the rest follows it: of a larger batch there are fewer steps, at a higher rate.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lora_core.config import TrainConfig, settings
from lora_core.dataset.tokens import CHUNK
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts
from lora_core.recipes.intents import CONVOLUTIONS, INTENTS, PROJECTIONS, Intent
from lora_core.recipes.room import fits, made_to_fit
from lora_core.settings import suggest

# How often each picture is seen, at least and at most: 100 times by Civitai, 150 by ai-toolkit, 50 by colabs of SDXL.
VIEWS = (50, 150)
# Of the toy model, whose pictures are seen more often and which takes a far higher rate; TOY_SEEN: times the intent's.
# Of fewer than a batch it learns sooner what is best forgotten (docs/log.md, 2026-12-01: six pictures).
TOY_SEEN, TOY_VIEWS, TOY_RATE, TOY_BATCH = 2.2, (200, 375), 30.0, 12
CONV_RANK, CONV_ALPHA = 8, 1.0  # as colabs of SD 1.5 have them
MOST_STEPS = 3000  # with more, several pictures make a step
WARM_UP = 0.05  # of the steps, as colabs have it
OF_TEXT_ENCODER = 0.5  # of the rate


@dataclass(frozen=True)
class Choice:
    """A setting's value, and why."""

    value: object
    reason: Message


@dataclass(frozen=True)
class Recipe:
    """What an intent comes to here. choices: by the setting's name, none of which was set by hand."""

    intent: str
    choices: Mapping[str, Choice]

    @property
    def values(self) -> dict[str, object]:
        """As `TrainConfig.of` takes them."""
        return {name: choice.value for name, choice in self.choices.items()}


def recipe(
    intent: str, base: BaseFacts, dataset: DatasetFacts, machine: MachineFacts,
    given: Mapping[str, object] | None = None, taken: Mapping[str, object] | None = None,
) -> Recipe:
    """The recipe for an intent, one of `INTENTS`. given: settings that were set by hand, each a value the setting takes;
    taken: settings that the LoRA has which the training goes on from.

    Raises:
        UserError: there is no such intent.
    """
    if intent not in INTENTS:
        raise UserError("recipes.no_intent", name=intent, known=list(INTENTS), suggestion=suggest(intent, list(INTENTS)))
    draft, wanted = _Draft(given or {}, taken or {}), INTENTS[intent]
    _adapter(draft, intent, wanted, base)
    _pictures(draft, intent, wanted, base, dataset)
    _objective(draft, intent, wanted, base)
    _format(draft, machine)
    _steps(draft, wanted, base, dataset, machine)
    _rate(draft, wanted, base)
    _outputs(draft, wanted, base)
    changes = made_to_fit(draft.config(), base.shapes, machine, draft.fixed)
    for name, value in changes.items():
        draft.choose(name, value, "recipes.room", device=machine.title)
    if {"train_batch_size", "gradient_accumulation_steps"} & changes.keys():
        _count_steps(draft, wanted, base, dataset)
    return Recipe(intent, draft.choices)


class _Draft:
    """Choices as they are made, each knowing those before it."""

    def __init__(self, given: Mapping[str, object], taken: Mapping[str, object]) -> None:
        self.given, self.fixed = given, {*given, *taken}
        reason = Message("recipes.of_init_lora")
        self.choices = {name: Choice(value, reason) for name, value in taken.items() if name not in given}

    def choose(self, name: str, value: object, key: str, **params: object) -> None:
        """Unless the person has chosen, or the LoRA to go on from."""
        if name not in self.fixed:
            self.choices[name] = Choice(value, Message(key, **params))

    def __getitem__(self, name: str) -> Any:
        chosen = self.choices[name].value if name in self.choices else settings()[name].default
        return self.given.get(name, chosen)

    def config(self) -> TrainConfig:
        """Of what is chosen by now; what clashes with what is given is told when all of it is read."""
        values = {name: choice.value for name, choice in self.choices.items()}
        return TrainConfig(**{**values, **self.given})  # type: ignore[arg-type]  # values that the settings take


def _adapter(draft: _Draft, intent: str, wanted: Intent, base: BaseFacts) -> None:
    is_toy_shape = base.is_toy and intent != "style"
    key = f"recipes.targets_{intent}"
    if base.is_toy:
        key = "recipes.targets_toy" if is_toy_shape else "recipes.targets_toy_style"
    targets = tuple(dict.fromkeys((*wanted.targets, *PROJECTIONS, *CONVOLUTIONS))) if base.is_toy else wanted.targets
    draft.choose("target_modules", targets, key)
    draft.choose(
        "target_blocks", wanted.blocks, "recipes.blocks_up" if "down" not in wanted.blocks else "recipes.blocks_all"
    )
    draft.choose("lora_rank", wanted.rank, "recipes.rank_large" if wanted.rank > 16 else "recipes.rank_usual")
    alpha = min(float(draft["lora_rank"]), wanted.alpha)
    draft.choose("lora_alpha", alpha, "recipes.alpha", alpha=alpha, rank=draft["lora_rank"])
    if wanted.has_convolutions and not base.is_toy:
        draft.choose("conv_rank", CONV_RANK, "recipes.conv_rank")
        draft.choose("conv_alpha", CONV_ALPHA, "recipes.conv_alpha", alpha=CONV_ALPHA, rank=draft["conv_rank"])
    learns = base.spec.text_encoder_learns
    trains = is_toy_shape or (wanted.text_encoder and learns)
    key = "recipes.text_on" if trains else "recipes.text_cached" if wanted.text_encoder else "recipes.text_off"
    draft.choose("train_text_encoder", trains, key, family=base.spec.label)


def _pictures(draft: _Draft, intent: str, wanted: Intent, base: BaseFacts, dataset: DatasetFacts) -> None:
    own, small = base.resolution, dataset.side // 64 * 64
    if small < own:
        lowered = max(small, own // 2)
        draft.choose("resolution", lowered, "recipes.resolution_small", own=own, side=dataset.side)
    else:
        draft.choose("resolution", own, "recipes.resolution_own")
    draft.choose("random_flip", wanted.mirror, "recipes.flip_on" if wanted.mirror else "recipes.flip_off")
    dropout = wanted.caption_dropout
    draft.choose("caption_dropout", dropout, "recipes.dropout_on" if dropout else "recipes.dropout_off", share=dropout)
    is_tags = dataset.captions == "tags"
    if base.spec.takes_clip_skip and not base.is_toy:
        draft.choose("clip_skip", 2 if is_tags else 1, "recipes.clip_skip_tags" if is_tags else "recipes.clip_skip_none")
    if not base.is_toy:
        parts = min(3, max(1, math.ceil(dataset.longest / CHUNK)))
        key = "recipes.tokens_long" if parts > 1 else "recipes.tokens_short"
        draft.choose("max_token_length", CHUNK * parts, key, longest=dataset.longest)
    shuffles = is_tags and bool(draft["train_text_encoder"] or base.spec.text_encoder_learns)
    key = "recipes.tags_shuffled" if shuffles else "recipes.tags_cached" if is_tags else "recipes.tags_none"
    draft.choose("shuffle_tags", shuffles, key)
    if draft["shuffle_tags"]:
        draft.choose("keep_tags", 1, "recipes.tags_kept")


def _objective(draft: _Draft, intent: str, wanted: Intent, base: BaseFacts) -> None:
    if base.is_toy:
        draft.choose("snr_gamma", 1.0, "recipes.snr_toy")
    elif base.is_v and base.zero_snr:
        draft.choose("snr_gamma", 0.0, "recipes.snr_zero")
    elif not draft["debiased_estimation_loss"]:
        draft.choose("snr_gamma", 5.0, "recipes.snr_usual")
    weighs = bool(draft["snr_gamma"]) and (base.is_toy or intent == "first_look")
    draft.choose(
        "timestep_sampling",
        "weighted" if weighs else "uniform",
        "recipes.sampling_weighted" if weighs else "recipes.sampling_even",
    )
    offset = base.spec.noise_offset if wanted.wants_offset and not base.is_v and not base.is_toy else 0.0
    if not draft["multires_noise_discount"]:
        key = "recipes.offset_on" if offset else "recipes.offset_v" if base.is_v else "recipes.offset_off"
        draft.choose("noise_offset", offset, key)


def _format(draft: _Draft, machine: MachineFacts) -> None:
    draft.choose(
        "mixed_precision", machine.mixed_precision, f"recipes.format_{machine.mixed_precision}", device=machine.title
    )


def _steps(draft: _Draft, wanted: Intent, base: BaseFacts, dataset: DatasetFacts, machine: MachineFacts) -> None:
    """As many pictures to a step as need be for a bearable number of steps, and as the device has room for."""
    if base.is_toy:
        draft.choose("train_batch_size", min(dataset.pictures, TOY_BATCH), "recipes.batch_toy")
    else:
        seen, batch = views(wanted, base, dataset.pictures) * dataset.pictures, 1
        while seen / batch > MOST_STEPS and fits(draft.config().replace(train_batch_size=2 * batch), base.shapes, machine):
            batch *= 2
        draft.choose("train_batch_size", batch, "recipes.batch_one" if batch == 1 else "recipes.batch_several", batch=batch)
    _count_steps(draft, wanted, base, dataset)


def _count_steps(draft: _Draft, wanted: Intent, base: BaseFacts, dataset: DatasetFacts) -> None:
    each = views(wanted, base, dataset.pictures)
    at_once = int(draft["train_batch_size"]) * int(draft["gradient_accumulation_steps"])
    steps = max(1, round(each * dataset.pictures / at_once))
    key = "recipes.steps_assumed" if not dataset.is_known else "recipes.steps" if at_once == 1 else "recipes.steps_batch"
    draft.choose("max_train_steps", steps, key, steps=steps, pictures=dataset.pictures, views=each, batch=at_once)
    steps = int(draft["max_train_steps"])
    draft.choose("lr_warmup_steps", WARM_UP, "recipes.warm_up", share=WARM_UP)
    every = max(1, math.ceil(steps / wanted.saves / 10) * 10)
    draft.choose("save_steps", every, "recipes.saves", times=math.ceil(steps / every))


def views(wanted: Intent, base: BaseFacts, pictures: int) -> float:
    """How often each of so many pictures is seen."""
    times, (least, most) = (TOY_SEEN, TOY_VIEWS) if base.is_toy else (1.0, VIEWS)
    each = min(most, max(least, times * wanted.seen / pictures))
    return each * min(1, pictures / TOY_BATCH) if base.is_toy else min(each, wanted.most_seen / pictures)


def _rate(draft: _Draft, wanted: Intent, base: BaseFacts) -> None:
    """AdamW's rate grows with the root of the pictures of a step (Malladi et al. 2022), and falls with that of alpha, for
    what a LoRA adds to the weights grows with both.
    """
    draft.choose("lr_scheduler", "cosine", "recipes.schedule")
    if draft["optimizer"] == "prodigy":
        draft.choose("learning_rate", 1.0, "recipes.rate_prodigy")
        return
    at_once = int(draft["train_batch_size"]) * int(draft["gradient_accumulation_steps"])
    alpha = float(draft["lora_alpha"]) or float(draft["lora_rank"])
    usual = wanted.rate * (TOY_RATE if base.is_toy else math.sqrt(at_once * wanted.alpha / alpha))
    rate = float(f"{usual:.2g}")
    key = (
        "recipes.rate_toy"
        if base.is_toy
        else "recipes.rate_batch"
        if at_once > 1
        else "recipes.rate_alpha"
        if alpha != wanted.alpha
        else "recipes.rate"
    )
    draft.choose("learning_rate", rate, key, batch=at_once, alpha=alpha)
    if draft["train_text_encoder"] and not base.is_toy:
        slower = float(f"{float(draft['learning_rate']) * OF_TEXT_ENCODER:.2g}")
        draft.choose("text_encoder_lr", slower, "recipes.rate_text")


def _outputs(draft: _Draft, wanted: Intent, base: BaseFacts) -> None:
    draft.choose("sample_count", wanted.samples, "recipes.samples", count=wanted.samples)
    if base.is_toy:
        draft.choose("sample_guidance", 4.0, "recipes.guidance_toy")
        draft.choose("enable_bucket", False, "recipes.bucket_toy")
        draft.choose("lean_activations", False, "recipes.lean_toy")
