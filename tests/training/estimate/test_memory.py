"""What is predicted against what a real step really takes, and against what was counted by hand for the real models."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lora_core.config import PRESETS, TrainConfig, read_preset
from lora_core.models import load as base_models
from lora_core.models.architecture import of_family, shapes_of
from lora_core.training import train
from lora_core.training.estimate import memory as estimate
from lora_core.training.estimate.disk import run_bytes
from lora_core.training.estimate.memory import Memory
from lora_core.training.session import Session
from tests.benchmarks import memory as memory_benchmark
from tests.benchmarks.counting import meta_session
from tests.benchmarks.counting.meta_session import session_of
from tests.benchmarks.counting.shipped import counted

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")
QUICK = {"target_modules": TrainConfig.of(read_preset(PRESETS / "quickstart.toml").values).target_modules}
LESSONS = {"prior_pictures": 1, "prior_prompts": ("x",), "train_text_encoder": True}


def settings(**values: object) -> TrainConfig:
    return TrainConfig.of({"target_modules": ATTENTION, "mixed_precision": "no", **values})


def measured_peak(work: Any) -> int:
    """The most bytes above what was there before that the CPU's allocator had given out while `work` ran."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        work()
    events = [event for event in seen.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak


@pytest.mark.parametrize(
    ("batch", "width", "height", "values"),
    [
        (3, 16, 16, {"lora_rank": 4}),
        (2, 24, 16, {"lora_rank": 8, "gradient_checkpointing": True, **QUICK, **LESSONS}),
        (2, 24, 16, {"lora_rank": 4, "checkpointed_quarters": 2}),
    ],
)
def test_a_real_step_takes_what_was_counted(batch: int, width: int, height: int, values: dict[str, object]) -> None:
    shapes = shapes_of("starter")
    config = settings(**{"train_batch_size": batch, **values})
    model = base_models.load("starter", torch.float32, lambda event: None)
    session = session_of(model, shapes, config, torch.float32, (width, height), CPU)
    train.optimizer_step(session)  # Adam's moments are there from now on
    standing = measured_bytes(session)
    real = measured_peak(lambda: train.optimizer_step(session))
    scale = shapes.pixels_per_latent
    with counted(shapes, config, 4):
        found = estimate.memory(config, shapes, [(width * scale, height * scale)])
    assert found and found.exact
    assert found.activations == pytest.approx(real, rel=0.1)
    assert found.weights + found.adapters + found.optimizer == pytest.approx(standing, rel=0.001)


@pytest.mark.parametrize("values", [{}, {"train_text_encoder": True}])
def test_longer_captions_are_counted_in(values: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    """Their part alone, for it is small beside the rest."""
    shapes, real = shapes_of("starter"), {}
    config = settings(train_batch_size=2, **values)
    for length, tokens in ((75, 77), (150, 154)):
        monkeypatch.setattr(meta_session, "TOKENS", tokens)
        model = base_models.load("starter", torch.float32, lambda event: None)
        session = session_of(model, shapes, config, torch.float32, (8, 8), CPU)
        model.max_chunks = length // 75
        session.training[0] = replace(session.training[0], caption="zebu " * 80 if session.prompts.live else "")
        train.optimizer_step(session)
        real[length] = measured_peak(partial(train.optimizer_step, session))
    with counted(shapes, config, 4):
        short, long = (estimate.memory(config.replace(max_token_length=n), shapes, [(64, 64)]) for n in real)
    assert short and long
    assert long.activations - short.activations == pytest.approx(real[150] - real[75], rel=0.3)


def measured_bytes(session: Session) -> int:
    """Of weights, adapters and the optimizer's state."""
    modules = session.model.adapted() if session.config.train_text_encoder else {"unet": session.model.unet}
    state = [t for values in session.optimizer.state.values() for t in values.values() if isinstance(t, torch.Tensor)]
    return sum(t.numel() * t.element_size() for t in [*(p for m in modules.values() for p in m.parameters()), *state])


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "prodigy"])
def test_what_the_optimizer_keeps_is_what_it_keeps(optimizer: str, on_host: bool) -> None:
    shapes = shapes_of("starter")
    asked: dict[str, object] = {"optimizer": optimizer, "learning_rate": 1, "optimizer_on_host": on_host}
    config = settings(lora_rank=8, **asked, **QUICK, **LESSONS)
    model = base_models.load("starter", torch.float32, lambda event: None)
    session = session_of(model, shapes, config, torch.float32, (8, 8), CPU)
    train.optimizer_step(session)
    states = session.optimizer.state.values()
    kept = sum(t.numel() * 4 for s in states for t in s.values() if isinstance(t, torch.Tensor) and t.dim())
    found = estimate.memory(config, shapes)
    assert found
    if on_host:  # with copies of the adapters and their gradients
        assert found.optimizer == 0 and found.host - 2 * found.adapters == pytest.approx(kept, rel=0.01)
    else:
        assert found.host == 0 and found.optimizer == pytest.approx(kept, rel=0.01)


def test_an_average_takes_nothing_of_a_card_and_its_share_of_the_disk() -> None:
    shapes, plain = of_family("sdxl"), TrainConfig.of({"target_modules": ATTENTION, "max_train_steps": 100})
    one, other = (estimate.memory(asked, shapes) for asked in (plain, plain.replace(ema_decay=0.99)))
    assert one and other and one.total == other.total and other.host == 2 * other.adapters and one.host == 0
    plain_disk = run_bytes(plain, 1000)
    assert run_bytes(plain.replace(ema_decay=0.99), 1000) - plain_disk == 4 * 1000
    assert run_bytes(plain.replace(optimizer="prodigy", learning_rate=1), 1000) - plain_disk == 2 * 4 * 1000


@pytest.mark.parametrize(("lean", "checkpointing", "mib"), [(False, False, 790), (False, True, 221), (True, False, 540)])
def test_the_real_sd15_takes_what_was_counted_by_hand(lean: bool, checkpointing: bool, mib: int) -> None:
    """Attention at 512 pixels, with adapters in 16 bit as they are in that table."""
    asked = {"lean_activations": lean, "gradient_checkpointing": checkpointing}
    config = TrainConfig.of({"target_modules": ATTENTION, **asked})
    assert memory_benchmark.half_bytes(of_family("sd1"), config) / MIB == pytest.approx(mib, rel=0.1)


@pytest.mark.parametrize(("family", "full", "eight_bit"), [("sd1", 1.9, 1.1), ("sdxl", 5.6, 3.2)])
def test_a_whole_run_of_real_models_stays_below_the_goals(family: str, full: float, eight_bit: float) -> None:
    """GiB at the leanest level, at batch 1: encoding, stepping, validating and drawing samples."""
    for held_in_8, goal in ((False, full), (True, eight_bit)):
        found = estimate.memory(TrainConfig.of({
            "target_modules": ATTENTION, "resolution": 512 if family == "sd1" else 1024, "gradient_checkpointing": True,
            "cuda_graphs": "off", "eight_bit_base": held_in_8,
        }), of_family(family))  # fmt: skip
        assert found and found.exact and 0.9 * goal < found.total / 2**30 <= goal


def test_an_estimate_needs_no_torch() -> None:
    code = (
        "import sys; from lora_core.training.estimate import memory as estimate; from lora_core.config import TrainConfig\n"
        "from lora_core.models.architecture import shapes_of\n"
        "config = TrainConfig.of({'target_modules': ['to_q', 'to_v'], 'mixed_precision': 'no'})\n"
        "found = estimate.memory(config, shapes_of('starter'))\n"
        "print(found.total > 0, 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PRESETS.parent)
    assert done.stdout.split() == ["True", "False"]


def test_more_of_anything_takes_more() -> None:
    shapes = shapes_of("starter")
    plain: dict[str, object] = {"resolution": 128, "cuda_graphs": "off"}
    rest: tuple[dict[str, object], ...] = ({"gradient_accumulation_steps": 2}, {"cuda_graphs": "on"})
    base = estimate.memory(settings(**plain), shapes)
    for more in ({"resolution": 256}, {"train_batch_size": 2}, {"lora_rank": 32}, *rest):
        larger = estimate.memory(settings(**{**plain, **more}), shapes)
        assert base and larger and larger.peak_step > base.peak_step, more


def test_an_uncounted_graph_is_bounded_by_one_that_holds_it() -> None:
    config, shapes = settings(target_modules=("to_q",)), shapes_of("starter")
    bound = estimate.memory(config, shapes)
    with counted(shapes, config, 4):
        exact = estimate.memory(config, shapes)
    assert bound and exact and not bound.exact and exact.exact and exact.peak_step <= bound.peak_step
    assert estimate.memory(config, shapes) == bound, "what was counted is known in its block alone"
    assert estimate.memory(settings(adapter="dora"), shapes) is None


def test_the_smallest_card_is_one_that_is_sold() -> None:
    def of(total: int) -> int | None:
        return Memory(0, 0, 0, 0, 0, total, 0).smallest_card_gb

    assert (of(GIB), of(5 * GIB), of(5 * GIB + 1), of(500 * GIB)) == (2, 6, 8, None)
