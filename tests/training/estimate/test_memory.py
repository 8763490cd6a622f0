"""What is predicted against what a real step really takes, and against what was counted by hand for the real models."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from lora_core.cli import plan_summary
from lora_core.config import PRESETS, TrainConfig, presets, read_preset
from lora_core.errors import UserError
from lora_core.models import device as precision
from lora_core.models import load as base_models
from lora_core.models.architecture import Shapes, of_family, shapes_of
from lora_core.models.device import Device
from lora_core.training import train
from lora_core.training.data.plan import Plan
from lora_core.training.estimate import memory as estimate
from lora_core.training.estimate import speed as estimate_speed
from lora_core.training.estimate.counts import SHIPPED, At, CostCounts, Graph, Polynomial, known, worst
from lora_core.training.estimate.disk import disk, run_bytes
from lora_core.training.estimate.fit import fits
from lora_core.training.estimate.ladder import ladder, together
from lora_core.training.estimate.memory import Memory
from lora_core.training.job import Job
from lora_core.training.session import Session
from tests.benchmarks import memory as memory_benchmark
from tests.benchmarks.counting.count import step_count
from tests.benchmarks.counting.meta_session import meta_session, session_of
from tests.benchmarks.counting.op_counter import top
from tests.benchmarks.counting.shipped import counted, to_rows, to_text
from tests.support.training import config_for

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
MIB, GIB = 2**20, 2**30
CPU = torch.device("cpu")


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


# --- against a real step ----------------------------------------------------------------------------------------------


QUICK = {"target_modules": TrainConfig.of(read_preset(PRESETS / "quickstart.toml").values).target_modules}
LESSONS = {"prior_pictures": 1, "prior_prompts": ("x",), "train_text_encoder": True}


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
            "cuda_graphs": False, "eight_bit_base": held_in_8,
        }), of_family(family))  # fmt: skip
        assert found and found.exact and 0.9 * goal < found.total / 2**30 <= goal


# --- the counts that come with Treino ---------------------------------------------------------------------------------


def test_the_shipped_counts_are_those_of_the_step_as_it_is() -> None:
    """When this fails, the step has changed: python -m tests.benchmarks.memory --write after deleting counts.json."""
    shapes, config = shapes_of("starter"), settings(target_modules=("to_q", "to_v"))
    fresh = step_count(shapes, config, 4)
    kept = CostCounts.read(SHIPPED).steps[Graph.of(shapes, config, 4)]
    for where in (At(1, 1, 16), At(8, 4, 4)):
        for name in ("moments", "draw"):
            assert worst(getattr(kept, name), where) == pytest.approx(worst(getattr(fresh, name), where), rel=0.01)
        assert kept.step.at(where) == pytest.approx(fresh.step.at(where), rel=0.01)
    assert kept.adapters.at(At(1, 1, 16)) == sum(
        p.numel() for p in meta_session(
            shapes, config.replace(lora_rank=16), torch.float32, 1, 8
        ).parameters.values()
    )  # fmt: skip


def test_sd15_computes_what_the_textbook_says_and_less_where_it_recomputes() -> None:
    """0.81 TFLOP forward, 0.98 backward at 512 pixels. Recomputing ends before each block's last convolution, which keeps
    nothing: 1.48 instead of the textbook's 1.57.
    """
    shapes, where = of_family("sd1"), At.of(1, (64, 64), 16)
    for checkpointing, backward in ((False, 0.98), (True, 1.48)):
        config = TrainConfig.of({"target_modules": ATTENTION, "gradient_checkpointing": checkpointing})
        found = CostCounts.read(SHIPPED).steps[Graph.of(shapes, config, 2)]
        assert found.forward.at(where) / 1e12 == pytest.approx(0.81, rel=0.02)
        assert (found.step.at(where) - found.forward.at(where)) / 1e12 == pytest.approx(backward, rel=0.02)


def test_little_memory_is_the_least_of_the_presets_for_real_models() -> None:
    peaks = {}
    for preset in presets():
        if preset.name != "quickstart":
            config = TrainConfig.of(preset.values)
            found = estimate.memory(config, of_family("sd1"))
            assert found, preset.name
            peaks[preset.name] = (found.peak_step, found.total)
    least = peaks.pop("low_memory")
    assert all(least[0] < step and least[1] <= total for step, total in peaks.values()), (least, peaks)


# --- reading ----------------------------------------------------------------------------------------------------------


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
    plain: dict[str, object] = {"resolution": 128, "cuda_graphs": False}
    rest: tuple[dict[str, object], ...] = ({"gradient_accumulation_steps": 2}, {"cuda_graphs": True})
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
    assert estimate.memory(settings(use_dora=True), shapes) is None


def test_counts_are_read_back_as_they_were_written_and_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    assert to_text(known()) == SHIPPED.read_text(encoding="utf-8")
    damaged = tmp_path / "counts.json"
    for text in ("{", '{"version": 0, "steps": [], "parts": []}', '{"version": 4, "steps": [{}], "parts": []}'):
        damaged.write_text(text, encoding="utf-8")
        assert CostCounts.read(damaged) == CostCounts.read(tmp_path / "none") == CostCounts({}, {})


@pytest.mark.parametrize(
    ("name", "family", "certain"),
    [
        ("runwayml/stable-diffusion-v1-5", "sd1", True), ("stabilityai/stable-diffusion-2-1", "sd2", True),
        ("stabilityai/stable-diffusion-xl-base-1.0", "sdxl", True), ("someone/juggernautXL", "sdxl", False),
        ("someone/dreams", "sd1", False),
    ],
)  # fmt: skip
def test_a_model_still_on_the_hub_counts_as_of_its_family(name: str, family: str, certain: bool) -> None:
    shapes = shapes_of(name)
    assert (shapes.family, shapes.certain, shapes.here) == (family, certain, False)


def test_a_folder_is_read_and_nonsense_refused(tiny_sd1: Path) -> None:
    assert shapes_of(str(tiny_sd1)).here and shapes_of(str(tiny_sd1)).unet_key() != shapes_of("starter").unet_key()
    with pytest.raises(UserError, match="no such file"):
        shapes_of("no model")


def test_settings_written_out_in_full_are_the_same_model() -> None:
    """As diffusers saves a config: every default is in it."""
    short = of_family("sd1")
    full = {**short.unet, "mid_block_type": "UNetMidBlock2DCrossAttn", "num_attention_heads": None, "sample_size": 96}
    assert Shapes("sd1", full, short.text_encoders, short.vae).unet_key() == short.unet_key()


# --- what to do when it does not fit ----------------------------------------------------------------------------------


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
    assert totals == sorted(totals, reverse=True) and totals[-1] + estimate.RESERVE_BYTES <= card.bytes
    last = config.replace(**found.remedies[-1].changes)
    assert last.train_batch_size * last.gradient_accumulation_steps >= 16
    enough = fits(config, shapes, Device("cuda:0", "large", 80 * GIB))
    assert enough and enough.fits and not enough.remedies and not enough.changes
    hopeless = fits(config, shapes, Device("cuda:0", "tiny", GIB))
    assert hopeless and not hopeless.fits and hopeless.remedies[-1].memory.total + estimate.RESERVE_BYTES > GIB


def test_at_a_high_rank_the_optimizer_goes_to_the_computer_before_the_model_is_held_in_8_bits() -> None:
    values = {"target_modules": ATTENTION, "resolution": 1024, "lora_rank": 128, "gradient_checkpointing": True}
    config, shapes = TrainConfig.of({**values, "cuda_graphs": False}), of_family("sdxl")
    found = fits(config, shapes, Device("cuda:0", "a card", 8 * GIB))
    assert found and [remedy.changes for remedy in found.remedies] == [{"optimizer_on_host": True}]
    now = estimate.memory(config, shapes)
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
        now = estimate.memory(config.replace(**found.changes), shapes)
        assert now and found.needed == now.total + estimate.RESERVE_BYTES <= mib * MIB
        assert bool(found.changes) == (found.whole > mib * MIB) and (found.longer > 0) == (len(found.changes) > is_fat)
        levels = [{}, *together(config, (step for step in ladder(config) if step.same))]
        for change in levels[: levels.index(dict(found.changes))]:
            more = estimate.memory(config.replace(**change), shapes)
            assert more and more.total + estimate.RESERVE_BYTES > mib * MIB
    assert len(chosen) > 2 and chosen[-1] == {} and chosen[0].get("gradient_checkpointing")
    computer = fits(config, shapes, Device("cpu", "the CPU"))
    assert not (computer and computer.changes), "its memory is for other programs too, and a disk stands behind it"


def test_the_smallest_card_is_one_that_is_sold() -> None:
    def of(total: int) -> int | None:
        return Memory(0, 0, 0, 0, 0, total, 0).smallest_card_gb

    assert (of(GIB), of(5 * GIB), of(5 * GIB + 1), of(500 * GIB)) == (2, 6, 8, None)


def test_polynomials_are_compared_and_read_back() -> None:
    small, large = Polynomial({(0, 0, 0): 1.0, (1, 2, 0): 2.0}), Polynomial({(0, 0, 0): 3.0, (1, 2, 0): 2.0})
    other = Polynomial({(0, 0, 1): 9.0})
    assert top([small, large, other]) == [large, other]
    assert worst([large, other], At(2, 3, 1)) == 39.0
    assert Polynomial.from_json(to_rows(large)) == large


# --- disk and time ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def ran(tiny_sd1: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real run of the starter in a cache of its own: what it announced, its plan, settings and folders."""
    home = tmp_path_factory.mktemp("ran")
    before = os.environ["TREINO_CACHE"]
    os.environ["TREINO_CACHE"] = str(home / "cache")
    try:
        config = config_for(
            "starter", pictures, home / "out", target_modules=["to_q", "to_v"], max_train_steps=14, save_steps=7,
            sample_count=1,
        )  # fmt: skip
        told: list[tuple[TrainConfig, Plan]] = []
        job = Job(config)
        job.announce = lambda config, plan: told.append((config, plan))
        job.start()
        assert job.wait(300) and job.error is None, job.error
        yield config, told[0][1], home
    finally:
        os.environ["TREINO_CACHE"] = before


def test_disk_is_told_and_not_exceeded(ran: Any) -> None:
    config, plan, home = ran
    found = disk(config, plan, shapes_of("starter"))
    assert found
    run = sum(path.stat().st_size for path in (home / "out").rglob("*") if path.is_file())
    cache = sum(p.stat().st_size for p in (home / "cache").rglob("*.safetensors"))
    assert run <= found.run < run * 20 + 30_000_000
    assert cache / 2 < found.cache < cache


def test_a_run_leaves_its_speed_and_others_follow_by_arithmetic(ran: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    config, plan, home = ran
    monkeypatch.setenv("TREINO_CACHE", str(home / "cache"))
    shapes, compute = shapes_of("starter"), precision.choose("cpu", "no")
    same = estimate_speed.step_seconds(config, shapes, compute, plan.buckets)
    twice = estimate_speed.step_seconds(config.replace(train_batch_size=4), shapes, compute, plan.buckets)
    assert same and same.measured and twice and not twice.measured and not twice.rough
    assert twice.seconds == pytest.approx(2 * same.seconds, rel=0.01)
    whole = estimate_speed.run_seconds(config, shapes, compute, plan)
    assert whole and whole.seconds > same.seconds * plan.steps
    card = precision.Compute(torch.device("cuda"), torch.float16, True, (), "a card")
    assert estimate_speed.step_seconds(config, shapes, card, plan.buckets) is None, "another device was never timed"
    estimate_speed.speeds_file().write_text("[]", encoding="utf-8")
    rough = estimate_speed.step_seconds(config, shapes, compute, plan.buckets)
    assert rough and rough.rough and rough.seconds > 0
    assert estimate_speed.cpu() == estimate_speed.cpu()


def test_the_terminal_tells_the_plan_in_two_lines(ran: Any) -> None:
    config, plan, _ = ran
    first, second = map(str, plan_summary.lines(config, plan, precision.choose("cpu", "no")))
    epochs = 14 / plan.batches_per_epoch
    assert first == f"7 pictures and 2 held out in 3 sizes; 14 steps, which are {epochs:.1f} epochs"
    assert second.startswith("needs ") and "MiB of memory" in second and "disk up to" in second
    card = precision.Compute(torch.device("cuda"), torch.float16, True, (), "a card")
    sd15 = config.replace(pretrained_model_name_or_path="runwayml/stable-diffusion-v1-5")
    _, real = map(str, plan_summary.lines(sd15, plan, card))
    assert "(fits cards from " in real and real.endswith("time known after the first steps")
