"""lora_core.training.estimate.fit: what is said of a card that is too small, and which steps of the ladder are taken."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lora_core.config import TARGETS, TrainConfig
from lora_core.models import device as precision
from lora_core.models.architecture import of_family, of_model
from lora_core.models.computer import Computer, Identity, keep
from lora_core.models.device import Compute, Device
from lora_core.models.families import sdxl
from lora_core.training.estimate import fit
from lora_core.training.estimate.fit import after_failure, fits
from lora_core.training.estimate.ladder import ladder, together
from lora_core.training.estimate.memory import RESERVE_BYTES, memory
from lora_core.training.failures import explain

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MIB, GIB = 2**20, 2**30


def sdxl_model() -> Any:
    """The settings of a real SDXL; its weights are nowhere."""
    shapes = of_family("sdxl")
    encoders = {
        name: SimpleNamespace(config=SimpleNamespace(to_dict=lambda config=config: dict(config)))
        for name, config in shapes.text_encoders.items()
    }
    parts = {part: SimpleNamespace(config=getattr(shapes, part)) for part in ("unet", "vae")}
    return SimpleNamespace(**parts, text_encoders=encoders, family=sdxl.FAMILY)


def config(**values: object) -> TrainConfig:
    attention = ["to_q", "to_k", "to_v", "to_out.0"]
    return TrainConfig.of({"resolution": 1024, "target_modules": attention, "train_batch_size": 2, **values})


def test_a_card_that_is_too_small_is_told_with_the_smallest_that_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    cards = [Device("cuda:0", "huge", 80 * GIB), Device("cuda:1", "fitting", 24 * GIB), Device("cuda:2", "small", 12 * GIB)]
    monkeypatch.setattr(fit, "devices", lambda: [*cards, *precision.devices()])
    model = sdxl_model()
    assert of_model(model).unet_key() == of_family("sdxl").unet_key()

    def told(device: str, asked: TrainConfig) -> str:
        found = fit.notice(model, asked, Compute(torch.device(device), torch.float16, True))
        return str(found or "")

    found = fits(config(), of_model(model), cards[2])
    assert found and found.needed < 12 * GIB < found.whole < 24 * GIB
    about = f"This training needs about {found.whole / GIB:.1f} GB, more than small, 12 GB (cuda:2) has."
    done = (
        f" So half of the blocks are computed again instead of kept: {found.needed / GIB:.1f} GB, {found.longer:.0%} more "
        "arithmetic, the same LoRA."
    )
    assert told("cuda:2", config()) == f"{about}{done} fitting, 24 GB (cuda:1) can do it as it is: --device cuda:1."
    assert told("cuda:1", config()) == told("cuda:0", config()) == told("cpu", config()) == ""
    assert told("cuda:2", config(gradient_checkpointing=True)) == ""
    many = config(train_batch_size=16, gradient_checkpointing=True)
    assert told("cuda:2", many).endswith("has. fitting, 24 GB (cuda:1) can do it: --device cuda:1.")
    del cards[:2]
    assert told("cuda:2", config()) == about + done
    assert "--gradient_checkpointing --train_batch_size" not in told("cuda:2", many)
    assert "has. --train_batch_size 8 --gradient_accumulation_steps 2 makes it fit, with " in told("cuda:2", many)


def test_at_a_high_rank_the_optimizer_is_told_to_go_before_anything_is_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "devices", lambda: [Device("cuda:0", "small", 8 * GIB)])
    asked = config(lora_rank=128, train_batch_size=1, gradient_checkpointing=True, cuda_graphs="off")
    told = str(fit.notice(sdxl_model(), asked, Compute(torch.device("cuda:0"), torch.float16, True)))
    assert "has. --optimizer_on_host makes it fit, with " in told


def test_what_fits_nowhere_and_what_was_never_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    card = Device("cuda:0", "old", 2 * GIB)
    monkeypatch.setattr(fit, "devices", lambda: [card])
    compute = Compute(torch.device("cuda:0"), torch.float16, True)
    told = str(fit.notice(sdxl_model(), config(), compute))
    assert "comes nearest, with" in told and "--resolution 512" in told and "--lora_rank 4" in told
    assert fit.notice(sdxl_model(), config(adapter="dora", target_modules=TARGETS), compute) is None


# --- after the memory was not enough ----------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["starter", "runwayml/stable-diffusion-v1-5", "never counted"])
def test_each_failure_leads_to_settings_that_can_be_started_with_until_none_is_left(base: str) -> None:
    config = TrainConfig.of({"train_batch_size": 3, "pretrained_model_name_or_path": base, "device": "cpu"})
    seen = []
    while changes := after_failure(config):
        seen.append(changes)
        config = config.replace(**changes)
        assert len(seen) < 30, "it ends"
    assert seen[0] == {"gradient_checkpointing": True}
    assert config.train_batch_size == 1 and config.gradient_accumulation_steps >= 3 and config.eight_bit_base
    assert config.resolution == 256
    assert "take a smaller base model" in str(explain(MemoryError(), config))


def test_after_a_failure_on_a_card_the_ladder_goes_on_where_the_training_stood(monkeypatch: pytest.MonkeyPatch) -> None:
    """The run itself took the first steps unasked, and the plan's advice is the same ladder's."""
    card = Device("cuda:0", "a card", 16 * GIB)
    monkeypatch.setattr(fit, "devices", lambda: [card])
    monkeypatch.setattr(fit, "choose", lambda *asked: Compute(torch.device("cuda:0"), torch.float16, True))
    asked = config(pretrained_model_name_or_path="stabilityai/stable-diffusion-xl-base-1.0", train_batch_size=4)
    planned = fits(asked, of_family("sdxl"), card)
    assert planned and planned.changes and not planned.remedies, "it was to fit, with some blocks computed again"
    first = after_failure(asked)
    assert first["gradient_checkpointing"] is True and "checkpointed_quarters" not in first
    seen = []
    while changes := after_failure(asked):
        seen += changes
        asked = asked.replace(**changes)
    order = [name for name in dict.fromkeys(seen) if name not in ("gradient_accumulation_steps", "sample_count")]
    assert order == ["gradient_checkpointing", "train_batch_size", "optimizer_on_host", "eight_bit_base", "resolution",
                     "lora_rank"]  # fmt: skip


# --- which steps of the ladder are taken ------------------------------------------------------------------------------


def test_what_does_not_fit_gets_remedies_of_least_harm_first() -> None:
    config, shapes = TrainConfig.of({"target_modules": ATTENTION, "train_batch_size": 4}), of_family("sd1")
    card = Device("cuda:0", "small", 4 * GIB)
    found = fits(config, shapes, card)
    assert found and found.fits and found.has == 4 * GIB, "by recomputing, which is not asked"
    config = config.replace(train_batch_size=16)
    found = fits(config, shapes, card)
    assert found and not found.fits and not found.changes
    assert found.remedies[0].changes == {"gradient_checkpointing": True}
    totals = [remedy.memory.total for remedy in found.remedies]
    assert totals == sorted(totals, reverse=True) and totals[-1] + RESERVE_BYTES <= card.bytes
    last = config.replace(**found.remedies[-1].changes)
    assert last.train_batch_size * last.gradient_accumulation_steps >= 16
    enough = fits(config, shapes, Device("cuda:0", "large", 80 * GIB))
    assert enough and enough.fits and not enough.remedies and not enough.changes
    hopeless = fits(config, shapes, Device("cuda:0", "tiny", GIB))
    assert hopeless and not hopeless.fits and hopeless.remedies[-1].memory.total + RESERVE_BYTES > GIB


def test_at_a_high_rank_the_optimizer_goes_to_the_computer_before_the_model_is_held_in_8_bits() -> None:
    values = {"target_modules": ATTENTION, "resolution": 1024, "lora_rank": 128, "gradient_checkpointing": True}
    config, shapes = TrainConfig.of({**values, "cuda_graphs": "off"}), of_family("sdxl")
    found = fits(config, shapes, Device("cuda:0", "a card", 8 * GIB))
    assert found and [remedy.changes for remedy in found.remedies] == [{"optimizer_on_host": True}]
    now = memory(config, shapes)
    assert now and now.total - found.remedies[0].memory.total == now.optimizer
    cpu = Device("cpu", "the CPU")
    computer = fits(config.replace(train_batch_size=512), shapes, cpu)
    assert computer and computer.remedies and all("optimizer_on_host" not in r.changes for r in computer.remedies)
    there, here = (fits(config.replace(optimizer_on_host=on), shapes, cpu) for on in (True, False))
    assert there and here and there.needed - here.needed == 2 * now.adapters, "the copies of adapters and gradients"


@pytest.mark.parametrize("values", [{}, {"lean_activations": False}, {"checkpointed_quarters": 2}], ids=str)
@pytest.mark.parametrize("family", ["sd1", "sd2", "sdxl"])
def test_a_card_gets_the_quickest_level_that_fits_it(family: str, values: dict[str, object]) -> None:
    """From card to card as it is, or so much of it recomputed that the next quarter less would not fit."""
    shapes = of_family(family)
    config = TrainConfig.of({"target_modules": ATTENTION, "resolution": 1024, "train_batch_size": 2, **values})
    chosen, is_fat = [], not config.lean_activations
    for mib in range(2 * 1024, 32 * 1024, 256):
        found = fits(config, shapes, Device("cuda:0", "a card", mib * MIB))
        assert found
        if not found.fits:
            continue
        if found.changes not in chosen:
            chosen.append(found.changes)
        now = memory(config.replace(**found.changes), shapes)
        assert now and found.needed == now.total + RESERVE_BYTES <= mib * MIB
        assert bool(found.changes) == (found.whole > mib * MIB) and (found.longer > 0) == (len(found.changes) > is_fat)
        levels = [{}, *together(config, (step for step in ladder(config) if step.same))]
        for change in levels[: levels.index(dict(found.changes))]:
            more = memory(config.replace(**change), shapes)
            assert more and more.total + RESERVE_BYTES > mib * MIB
    assert len(chosen) > 2 and chosen[-1] == {} and chosen[0].get("gradient_checkpointing")
    computer = fits(config, shapes, Device("cpu", "the CPU"))
    assert not (computer and computer.changes), "its memory is for other programs too, and a disk stands behind it"


def test_what_the_check_found_wrong_is_neither_taken_nor_advised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    asked, shapes, card = config(train_batch_size=4), of_family("sdxl"), Device("cuda:0", "a card", 6 * GIB)

    def named() -> set[str]:
        found = fits(asked, shapes, card)
        assert found
        return {name for changes in (found.changes, *(r.changes for r in found.remedies)) for name in changes}

    assert named() & {"checkpointed_quarters", "gradient_checkpointing"}
    assert keep(Computer(Identity.of(card), recomputed=False))
    assert not named() & {"checkpointed_quarters", "gradient_checkpointing"} and "eight_bit_base" in named()
    assert keep(Computer(Identity.of(card), recomputed=False, eight_bit=False))
    assert "eight_bit_base" not in named()
