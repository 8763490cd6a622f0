"""lora_core.check.trial: a training on random weights is a training: same shapes, same step, same arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_core.check.trial import Arithmetic, Case, Trial, encoder_of, kept_bytes, whole_arithmetic
from lora_core.models.architecture import of_family, shapes_of
from lora_core.training.estimate import memory as estimate

CPU = torch.device("cpu")


def case(tiny: Path, **changes: object) -> Case:
    given: dict[str, object] = {"side": 64, "device": CPU, "shapes": shapes_of(str(tiny)), **changes}
    return Case(**given)  # type: ignore[arg-type]


@pytest.mark.parametrize("is_whole", [True, False])
def test_a_step_is_the_same_every_time_and_changes_nothing(is_whole: bool, tiny_sd1: Path) -> None:
    trial = Trial(case(tiny_sd1, is_whole=is_whole))
    loss, gradients = trial.learn()
    assert 0.1 < loss < 10 and torch.isfinite(gradients).all() and (gradients != 0).all(), "all of them are trained"
    trial.step()
    again = trial.learn()
    assert again[0] == loss and torch.equal(again[1], gradients)
    other = Trial(case(tiny_sd1, is_whole=is_whole)).learn()
    assert other[0] == loss and torch.equal(other[1], gradients)


def test_another_picture_is_another_size(tiny_sd1: Path) -> None:
    trial = Trial(case(tiny_sd1))
    small = trial.learn()
    trial.look_at(128)
    with Arithmetic() as large:
        trial.learn()
    trial.look_at(64)
    with Arithmetic() as less:
        back = trial.learn()
    assert back[0] == small[0] and large.flops > 3 * less.flops


def test_recomputed_blocks_keep_less_and_teach_the_same(tiny_sd1: Path) -> None:
    trial = Trial(case(tiny_sd1, is_whole=True))
    with kept_bytes(trial.model) as kept:
        plain = trial.learn()
    trial.recompute(gradient_checkpointing=True)
    with kept_bytes(trial.model) as less:
        found = trial.learn()
    assert found[0] == plain[0] and torch.allclose(found[1], plain[1])
    assert 0 < sum(less) < sum(kept)


def test_eight_bits_teach_nearly_the_same(tiny_sd1: Path) -> None:
    plain, found = (Trial(case(tiny_sd1, settings=each)).learn() for each in ({}, {"eight_bit_base": True}))
    missed = float((found[1] - plain[1]).norm() / plain[1].norm())
    assert found[0] == pytest.approx(plain[0], rel=0.02) and 0 < missed < 0.2


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_sixteen_bits_teach_nearly_the_same(dtype: torch.dtype, tiny_sd1: Path) -> None:
    plain, found = (Trial(case(tiny_sd1, dtype=each)).learn() for each in (torch.float32, dtype))
    assert found[0] == pytest.approx(plain[0], rel=0.02)
    assert float((found[1] - plain[1]).norm() / plain[1].norm()) < 0.05


def test_the_arithmetic_of_the_whole_is_what_was_counted(monkeypatch: pytest.MonkeyPatch, tiny_sd1: Path) -> None:
    starter = shapes_of("starter")
    config = Case(64, CPU, shapes=starter).config
    if estimate.memory(config, starter, number_bytes=4) is None:
        pytest.skip("the starter was not counted")
    asked = Case(64, CPU, is_whole=True, shapes=starter)
    trial = Trial(asked)
    with Arithmetic() as counted:
        trial.learn()
    assert counted.flops == pytest.approx(whole_arithmetic(asked, 64), rel=0.02)


def test_what_was_never_counted_has_no_arithmetic(tiny_sd1: Path) -> None:
    assert whole_arithmetic(case(tiny_sd1), 64) == 0.0
    assert whole_arithmetic(Case(256, CPU, shapes=of_family("sd1")), 512) > 1e12


def test_the_vae_makes_latents(tiny_sd1: Path) -> None:
    vae = encoder_of(shapes_of(str(tiny_sd1)), torch.float32, CPU)
    latents = vae.encode(torch.rand(1, 3, 64, 64) * 2 - 1).latent_dist.mean
    assert latents.shape == (1, 4, 8, 8) and torch.isfinite(latents).all() and latents.std() > 0
