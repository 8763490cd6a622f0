"""The training step in its ways: plain, as a graph, with blocks computed again, and with the base model in 8 bits.

Each way has to come to the plain one's loss and gradients; what it takes of time and memory is told beside it.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from lora_core.check import threads
from lora_core.check.bench import FAMILY, Bench
from lora_core.check.formats import DTYPES
from lora_core.check.trial import Arithmetic, Case, Trial, kept_bytes, whole_arithmetic
from lora_core.events import Event, Warned
from lora_core.messages import Message
from lora_core.models.computer import EIGHT_BIT, GRAPH, RECOMPUTED, step_key
from lora_core.models.device import is_full_card
from lora_core.training.engine.cuda_graphs import CudaGraphStepper
from lora_core.training.engine.stepper import PlainStepper
from lora_core.training.estimate.memory import RESERVE_BYTES, memory

# Of the length of the plain way's gradients: 16 bits may add up in another order; rounding weights to 8 bits is felt.
CLOSE = {torch.float32: 1e-3, torch.float16: 2e-2, torch.bfloat16: 2e-2}
CLOSE_IN_8_BITS = 0.2
CLOSE_LOSS = 0.02
WORTH = 0.95  # of the plain step's time, below which a graph is worth its memory
HOST_SHARE = 0.8  # of the step's time that the smallest picture takes: above it the host is the slower one
BACK = 64 * 2**20  # bytes that may stay behind after a graph has gone
ATTENTION = 1.5  # by which a step grows more than its pixels do
MAKING_S = 2.0  # seconds until another model has its weights
LEAST_S = 6.0  # seconds for one more part to be worth its beginning
SCALES = (2.0**10, 1.0)  # of losses in fp16; where none gives finite gradients, fp16 does not work


@dataclass(frozen=True)
class Plain:
    """The plain step, which the others are held against. seconds: of the trial; share: of the whole UNet's step to it,
    0 where that is not known.
    """

    trial: Trial
    format: str
    loss: float
    gradients: Tensor
    seconds: float
    bytes: int
    share: float

    def missed(self, other: tuple[float, Tensor]) -> tuple[float, float]:
        """How far off another way's loss and gradients are, of this one's."""
        loss = abs(other[0] - self.loss) / max(abs(self.loss), 1e-12)
        return loss, float((other[1] - self.gradients).norm() / self.gradients.norm())


CARD_PARTS, PROCESSOR_PARTS = 6, 6  # at most


def on_card(bench: Bench) -> None:
    """The step on a card, in the format that trainings will take, in all its ways; then, plain, in the other format."""
    formats = _formats_of_card(bench)
    bench.decide(memory_ratio=None)
    plain: Plain | None = None
    for name in formats:
        plain = bench.part("step", partial(_plain, bench, name))
        if plain:
            break
    if plain is None:
        return
    bench.part("host", partial(_host_bound, bench, plain))
    if bench.probe.has_graphs() and bench.part("graph", partial(_graph, bench, plain), Message("check.graphs_off")) is None:
        bench.decide(graphs=False)
    bench.part("recomputed", partial(_recomputed, bench, plain))
    bench.part("eight_bit", partial(_eight_bit, bench, plain))
    others = formats[formats.index(plain.format) + 1 :]
    del plain
    bench.free()
    for other in others:
        if other != "fp32" and bench.left() > LEAST_S:
            bench.part("step", partial(_plain, bench, other))


def on_processor(bench: Bench) -> None:
    """The step on a processor: with how many threads, how long, and in its ways. bf16 where that has its own units."""
    sizes = bench.sizes
    plain = bench.part("plain", partial(_compared, bench))
    if plain is None:
        return
    trial = plain.trial
    full_s = plain.seconds * (sizes.side / sizes.small) ** 2 * ATTENTION
    if _has_time(bench, full_s, "step"):
        trial.look_at(sizes.side)
        bench.part("step", partial(_whole_step, bench, trial, "fp32"))
        trial.look_at(sizes.small)
    if bench.computer.native_bf16 and bench.computer.formats.get("bf16") and _has_time(bench, full_s, "step_in_bf16"):
        bench.part("step", partial(_whole_step_in_bf16, bench))
    bench.part("recomputed", partial(_recomputed, bench, plain))
    bench.part("eight_bit", partial(_eight_bit, bench, plain))


def _compared(bench: Bench) -> Plain:
    """The plain step of a small picture with the best number of threads: what other ways are held against."""
    trial = Trial(Case(bench.sizes.small, bench.probe.device, shapes=bench.sizes.shapes))
    with kept_bytes(trial.model) as kept:
        loss, gradients = trial.learn()
    seconds = bench.part("threads", partial(threads.quickest, bench, trial)) or bench.seconds(trial.step, at_most=1.0)
    return Plain(trial, "fp32", loss, gradients, seconds, sum(kept) + _weights(trial), 0.0)


def _whole_step_in_bf16(bench: Bench) -> None:
    case = Case(bench.sizes.side, bench.probe.device, torch.bfloat16, shapes=bench.sizes.shapes)
    _whole_step(bench, Trial(case), "bf16")


def _whole_step(bench: Bench, trial: Trial, name: str) -> None:
    """Seconds of a whole step at the family's size, by the parts of the trial; their arithmetic is counted on the way."""
    with Arithmetic() as counted:
        seconds = bench.seconds(trial.step, at_most=0.0)
    if bench.is_disturbed or 2 * seconds < bench.left() - LEAST_S:
        seconds = min(seconds, bench.seconds(trial.step, at_most=1.0, laps=3))
    _tell_parts(bench, name, seconds, whole_arithmetic(trial.case, bench.sizes.side) / counted.flops)


def _tell_parts(bench: Bench, name: str, seconds: float, share: float) -> None:
    """share: of the whole step to what took the seconds; 0: it is not known."""
    side = bench.sizes.side
    if not share:
        bench.good(Message("check.step_of_parts", side=side, format=name, seconds=seconds))
        return
    told = Message("check.step_by_parts", side=side, format=name, seconds=seconds * share, part=seconds)
    if bench.is_disturbed:
        bench.slower(told, Message("check.step_disturbed"))
        return
    bench.decide(step_seconds={**bench.computer.step_seconds, step_key(name): seconds * share})
    bench.good(told, Message("check.step_known"))


def _formats_of_card(bench: Bench) -> list[str]:
    """In which to step, the one that trainings ask for first; fp32 where no other is right."""
    found = bench.computer.formats
    half = [name for name in ("fp16", "bf16") if found.get(name) and (name != "bf16" or bench.computer.native_bf16)]
    return [*half, "fp32"]


def _plain(bench: Bench, name: str) -> Plain | None:
    """The plain step in a format; None where its numbers are not finite, and another one has to be taken."""
    is_whole = _has_room(bench, name)
    try:
        return _tried(bench, name, is_whole)
    except Exception as error:
        if not is_whole or not is_full_card(error):
            raise
    bench.free()  # only now has the error let go of what it held
    return _tried(bench, name, is_whole=False)


def _tried(bench: Bench, name: str, is_whole: bool) -> Plain | None:
    sizes, probe = bench.sizes, bench.probe
    bench.go_on()
    trial = Trial(Case(sizes.side, probe.device, DTYPES[name], is_whole, shapes=sizes.shapes))
    loss, gradients = _learned(trial)
    if not (torch.isfinite(gradients).all() and gradients.any()):
        bench.failed(Message("check.step_not_finite", format=name), Message("check.other_format", format=name))
        bench.decide(formats={**bench.computer.formats, name: False})
        return None
    share = 1.0
    if not is_whole:
        with Arithmetic() as counted:
            trial.step()
        share = whole_arithmetic(trial.case, sizes.side) / counted.flops
    probe.begin_peak()
    seconds = bench.seconds(trial.step, at_most=min(5.0, bench.left() / 6))
    peak = probe.peak()
    found = Plain(trial, name, loss, gradients, seconds, peak or _kept(trial), share)
    if is_whole:
        _tell_whole(bench, found, peak)
    else:
        _tell_parts(bench, name, seconds, share)
    return found


def _kept(trial: Trial) -> int:
    """Bytes of the weights and of what a step keeps for its way back: for who does not count the peak."""
    with kept_bytes(trial.model) as kept:
        trial.learn()
    return sum(kept) + _weights(trial)


def _tell_whole(bench: Bench, found: Plain, peak: int) -> None:
    """peak: of its memory, as the device counted it; 0: not counted."""
    name, seconds = found.format, found.seconds
    bench.decide(step_seconds={**bench.computer.step_seconds, step_key(name): seconds})
    bench.good(Message("check.step", side=bench.sizes.side, format=name, seconds=seconds), Message("check.step_known"))
    counted = memory(found.trial.case.config, bench.sizes.shapes, number_bytes=DTYPES[name].itemsize)
    if peak and counted:
        ratio = peak / counted.peak_step
        told = Message("check.peak", measured=peak / 2**30, counted=counted.peak_step / 2**30, ratio=ratio)
        bench.decide(memory_ratio=max(ratio, bench.computer.memory_ratio or 0.0))  # of several formats, the worst
        bench.good(told, Message("check.planned_by", ratio=ratio))


def _learned(trial: Trial) -> tuple[float, Tensor]:
    """Loss and gradients; with another scale where they overflow in fp16."""
    for scale in SCALES:
        trial.scale_by(scale)
        loss, gradients = trial.learn()
        if torch.isfinite(gradients).all() or not trial.session.scaler.is_enabled():
            break
    return loss, gradients


def _host_bound(bench: Bench, plain: Plain) -> None:
    """Which is the slower one: a picture that has next to nothing to compute takes as long as the host needs."""
    plain.trial.look_at(bench.sizes.least)
    plain.trial.step()
    host = bench.seconds(plain.trial.step, at_most=2.0)
    plain.trial.look_at(bench.sizes.side)
    is_bound = host > HOST_SHARE * plain.seconds
    bench.decide(host_bound=is_bound)
    key = "check.host_slower" if is_bound else "check.card_slower"
    bench.good(Message(key, host=host, seconds=plain.seconds))


def _graph(bench: Bench, plain: Plain) -> bool:
    """A step as a graph: the plain one's loss and gradients, quicker, and its memory comes back. True: it was tried."""
    trial, heard = plain.trial, list[Event]()
    bench.probe.give_back()
    before = bench.probe.memory()
    stepper = trial.session.stepper = CudaGraphStepper(trial.model, heard.append)
    try:
        bench.go_on()
        trial.learn()  # is captured, and compared with the plain way by the training itself
        found = trial.learn()  # is replayed
        seconds = bench.seconds(trial.step, at_most=min(3.0, bench.left() / 5))
        bench.probe.give_back()
        while_there = bench.probe.memory()
        stepper.release()
        after = bench.probe.memory()
    finally:
        trial.session.stepper = PlainStepper()
    refused = [event.message for event in heard if isinstance(event, Warned)]
    if refused:
        _no_graphs(bench, refused[0])
        return True
    missed_loss, missed = plain.missed(found)
    taken = (before.free - while_there.free) if before and while_there else 0
    left_behind = (before.free - after.free) if before and after else 0
    quicker = Message("check.graph", seconds=seconds, plain=plain.seconds, taken=max(0, taken) / 2**20, missed=missed)
    if missed_loss > CLOSE_LOSS or not missed <= CLOSE[trial.case.dtype]:
        _no_graphs(bench, Message("check.graph_differs", missed=missed))
    elif left_behind > BACK:
        _no_graphs(bench, Message("check.graph_stays", left=left_behind / 2**20))
    elif seconds > WORTH * plain.seconds:
        bench.decide(graphs=False, step_seconds=_with(bench, plain, GRAPH, seconds))
        bench.slower(quicker, Message("check.graphs_not_worth"))
    else:
        bench.decide(graphs=True, step_seconds=_with(bench, plain, GRAPH, seconds))
        bench.good(quicker, Message("check.graphs_on"))
    return True


def _no_graphs(bench: Bench, why: Message) -> None:
    bench.decide(graphs=False)
    bench.slower(why, Message("check.graphs_off"))


def _recomputed(bench: Bench, plain: Plain) -> None:
    """Some blocks computed again: of a whole UNet half of them, of its way down, which has few, all."""
    is_whole = plain.trial.case.is_whole
    many: dict[str, object] = {"checkpointed_quarters": 2} if is_whole else {"gradient_checkpointing": True}
    if not _has_time(bench, 4 * plain.seconds, RECOMPUTED):
        return
    plain.trial.recompute(**many)
    _held_against(bench, plain, plain.trial, RECOMPUTED)


def _eight_bit(bench: Bench, plain: Plain) -> None:
    if not _has_time(bench, 4 * plain.seconds + MAKING_S, EIGHT_BIT):
        return
    case = plain.trial.case
    settings: dict[str, object] = {"eight_bit_base": True}
    _held_against(
        bench, plain, Trial(Case(case.side, case.device, case.dtype, case.is_whole, settings, case.shapes)), EIGHT_BIT
    )


def _held_against(bench: Bench, plain: Plain, trial: Trial, way: str) -> None:
    """Loss, gradients, seconds and memory of a way, beside the plain one's."""
    bench.go_on()
    with kept_bytes(trial.model) as kept:
        found = trial.learn()
    bench.probe.begin_peak()
    seconds = bench.seconds(trial.step, at_most=min(3.0, bench.left() / 4), laps=3)
    missed_loss, missed = plain.missed(found)
    bound = CLOSE_IN_8_BITS if way == EIGHT_BIT else CLOSE[trial.case.dtype]
    is_right = missed_loss <= CLOSE_LOSS and missed <= bound
    bench.decide(**{way: is_right})
    told = Message(
        f"check.way_{way}", seconds=seconds, plain=plain.seconds, before=plain.bytes / 2**20, missed=missed,
        after=(bench.probe.peak() or sum(kept) + _weights(trial)) / 2**20,
    )  # fmt: skip
    if is_right:
        bench.decide(step_seconds=_with(bench, plain, way, seconds))
        bench.good(told)
    else:
        bench.failed(told, Message("check.way_not_right"))


def _has_time(bench: Bench, seconds: float, part: str) -> bool:
    """Whether a part that takes about so many seconds can still be tried."""
    if bench.left() > seconds + 1:
        return True
    bench.slower(Message("check.no_time", what=Message(f"check.name_{part}")))
    return False


def _has_room(bench: Bench, name: str) -> bool:
    """Whether the whole UNet's step will find place on the card."""
    sizes, there = bench.sizes, bench.probe.memory()
    config = Case(sizes.side, bench.probe.device, shapes=sizes.shapes).config
    needed = memory(config, sizes.shapes, number_bytes=DTYPES[name].itemsize)
    free = there.free + there.held if there else bench.probe.about.bytes
    return bool(needed and needed.peak_step + RESERVE_BYTES <= free)


def _with(bench: Bench, plain: Plain, way: str, seconds: float) -> dict[str, float]:
    """The seconds of a whole step in a way too, where the share of what was measured is known, and nothing disturbed it."""
    if not plain.share or bench.is_disturbed:
        return dict(bench.computer.step_seconds)
    return {**bench.computer.step_seconds, step_key(plain.format, way, FAMILY): seconds * plain.share}


def _weights(trial: Trial) -> int:
    unet: nn.Module = trial.model.unet
    return sum(each.nbytes for each in (*unet.parameters(), *unet.buffers()))
