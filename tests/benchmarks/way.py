"""What `tests.benchmarks.gpu` measures of one way to train, alone in a process: speed, memory, losses, stops.

    python -m tests.benchmarks.way JOBS RESULTS    two files of JSON: a list of ways, and what was found of each

Treino's ways go through `train.train` with the settings that a training would be fitted to on this device; the textbook
loop is that of tests.benchmarks.step. Weights are random and made on the device, of the families' real shapes.
"""

from __future__ import annotations

import gc
import json
import statistics
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Protocol

import torch

from lora_core.check.probe import Probe
from lora_core.check.trial import fill
from lora_core.config import TrainConfig
from lora_core.events import Event, Step, Warned
from lora_core.models import device as precision
from lora_core.models.architecture import Shapes, of_family, shapes_of
from lora_core.models.catalog import STARTER
from lora_core.models.device import Compute, DeviceMemory
from lora_core.training import prepare, train
from lora_core.training.engine import compile
from lora_core.training.estimate import fit
from lora_core.training.estimate import memory as estimate
from lora_core.training.progress import ProgressMeter
from lora_core.training.session import Session
from tests.benchmarks import step as textbook
from tests.benchmarks.counting.meta_session import meta_model, session_of

LOSSES = 12  # steps whose losses are written down; among them are those that graphs are captured at
ROUNDS, LEAST = 3, 2  # timed, and steps in each
ENDLESS = 1_000_000
GIB = 2**30


@dataclass(frozen=True)
class Way:
    """settings: beside the defaults. seconds: of all timed rounds together. device: as the setting has it."""

    name: str
    family: str
    resolution: int
    batch: int
    device: str
    seconds: float = 6.0
    settings: dict[str, Any] = field(default_factory=dict)
    is_textbook: bool = False

    @property
    def shapes(self) -> Shapes:
        return shapes_of(STARTER) if self.family == STARTER else of_family(self.family)

    @property
    def side(self) -> int:
        return self.resolution // self.shapes.pixels_per_latent

    @property
    def config(self) -> TrainConfig:
        return TrainConfig.of({
            "target_modules": textbook.ATTENTION, "lora_rank": textbook.RANK, "train_batch_size": self.batch,
            "resolution": self.resolution, "learning_rate": 1e-3, "max_train_steps": ENDLESS, "save_steps": ENDLESS,
            "device": self.device, **self.settings,
        })  # fmt: skip


@dataclass
class Found:
    """Of a way. Bytes are the device's, 0 where nobody counts them.

    weights, rest: what torch holds before the first step and after `release`. peak: the most that tensors have taken, to
    which a replayed graph adds nothing. card, rest_card: what the driver has less than before, while stepping and at rest.
    rates: steps/s of each round. stop_s: seconds from a wish to stop until the device has computed all it was given.
    counted: the peak of a step by training.estimate. fitted: settings that were changed so that it fits. told: warnings.
    """

    name: str
    mixed_precision: str
    stepper: str
    rates: list[float]
    stop_s: float
    losses: list[float]
    weights: int
    peak: int
    card: int
    rest: int
    rest_card: int
    counted: int
    fitted: dict[str, Any]
    told: list[str]

    def lines(self) -> list[str]:
        low, middle, high = min(self.rates), statistics.median(self.rates), max(self.rates)
        counted = f" (counted {self.counted / GIB:.2f})" if self.counted else ""
        memory = f"{self.peak / GIB:.2f} GiB peak{counted}, card {self.card / GIB:.2f}, at rest {self.rest_card / GIB:.2f}"
        how = f"{self.mixed_precision}, {self.stepper}"
        first = (
            f"{self.name:44} {how:26} {middle:8.2f} steps/s ({low:.2f} to {high:.2f})   {memory}   stop {self.stop_s:.2f} s"
        )
        rest = [f"{'':44} losses {' '.join(f'{loss:.4f}' for loss in self.losses)}"] if self.losses else []
        rest += [f"{'':44} fitted: {self.fitted}"] if self.fitted else []
        return [first, *rest, *(f"{'':44} {sentence}" for sentence in self.told)]


class Loop(Protocol):
    """Something that steps."""

    stepper: str
    losses: list[float]
    told: list[str]

    @property
    def steps(self) -> int: ...

    def go(self, least: int, until: float) -> float:
        """Step until that moment of `time.monotonic`, at least so often; returns when the wish to stop was there."""
        ...

    def rest(self) -> None:
        """Give back what is kept from step to step."""
        ...


class Treino:
    """`train.train` on a session of one picture; its own callbacks, of which only the stop does anything."""

    def __init__(self, way: Way, compute: Compute, config: TrainConfig):
        self.losses: list[float] = []
        self.told: list[str] = []
        model = meta_model(way.shapes, compute.dtype)
        fill(model.unet, compute.device)
        session = session_of(model, way.shapes, config, compute.dtype, (way.side, way.side), compute.device)
        session.compute = compute
        session.scaler = torch.amp.GradScaler(compute.device.type, enabled=compute.scale_loss)
        session.meter = ProgressMeter(self._hear, config.max_train_steps, config.save_steps, compute.device)
        session.stepper = prepare.fastest_stepper(model, config, compute.device, self._hear)
        session.predict = compile.predict(model, config, self._hear) if config.is_compiled else model.predict
        words = session.prompts.known[""]  # zeros would leave half of the adapters without gradients
        rng = torch.Generator().manual_seed(1)
        session.prompts.known[""] = {n: torch.randn(w.shape, generator=rng).to(w.dtype) for n, w in words.items()}
        precision.use_cores(model.unet)
        self.session, self.stepper = session, type(session.stepper).__name__.removesuffix("Stepper")
        self._least, self._until, self._asked = 0, 0.0, 0.0

    @property
    def steps(self) -> int:
        return self.session.step

    def go(self, least: int, until: float) -> float:
        self._least, self._until, self._asked = self.steps + least, until, 0.0
        train.train(self.session, self)
        self.session.meter.flush()
        return self._asked

    def rest(self) -> None:
        self.session.stepper.release()

    def _hear(self, event: Event) -> None:
        if isinstance(event, Step) and event.step <= LOSSES:
            self.losses.append(event.loss)
        elif isinstance(event, Warned):
            self.told.append(str(event.message))

    def wants_stop(self, session: Session) -> bool:
        now = time.monotonic()
        if session.step >= self._least - 1:  # the wish may come while the last step that has to be is computed
            self._asked = self._asked or max(now, self._until)
        return session.step >= self._least and now >= self._until

    def wants_sample(self) -> bool:
        return False

    wants_save = wants_sample

    def validate(self, session: Session) -> None:
        """Of what is measured nothing is validated, nor sampled."""

    sample = validate

    def save(self, session: Session) -> None:
        session.saved_step = session.step


class Textbook:
    """The loop of the tutorials, whose losses are of noise of its own and are not written down."""

    stepper = "loop"

    def __init__(self, way: Way, compute: Compute):
        self.losses: list[float] = []
        self.told: list[str] = []
        self.steps = 0
        self._step, _ = textbook.textbook(textbook.Case(way.shapes, way.side, way.batch, compute.device, compute.dtype))

    def go(self, least: int, until: float) -> float:
        end = self.steps + least
        while self.steps < end or time.monotonic() < until:
            asked = max(time.monotonic(), until)
            self._step()
            self.steps += 1
        return asked

    def rest(self) -> None:
        """It keeps nothing."""


def measure(way: Way) -> Found:
    compute = precision.choose(way.device, way.config.mixed_precision)
    device, shapes, sizes = compute.device, way.shapes, [(way.resolution,) * 2]
    config = way.config if way.is_textbook else fit.fitted(way.config, shapes, compute, sizes)
    probe = Probe(next(found for found in precision.devices() if found.name == str(device)))
    if device.index is not None:
        getattr(torch, device.type).set_device(device)
    torch.zeros(1, device=device)  # the driver's context is no training's
    before = _memory(probe)
    loop: Loop = Textbook(way, compute) if way.is_textbook else Treino(way, compute, config)
    gc.collect()
    probe.give_back()
    probe.begin_peak()
    weights = _memory(probe).held
    loop.go(LOSSES, 0.0)
    rates, stops = [], []
    for _ in range(ROUNDS):
        probe.wait()
        began, first = time.monotonic(), loop.steps
        asked = loop.go(LEAST, began + way.seconds / ROUNDS)
        probe.wait()
        ended = time.monotonic()
        rates.append((loop.steps - first) / (ended - began))
        stops.append(ended - asked)
    peak, card = probe.peak(), before.free - _memory(probe).free
    loop.rest()
    gc.collect()
    rest = _memory(probe)
    counted = None if way.is_textbook else estimate.memory(config, shapes, sizes, compute.dtype.itemsize)
    asked_for = way.config.values()
    return Found(
        way.name, precision_name(compute), loop.stepper, rates, max(stops), loop.losses, weights, peak, card, rest.held,
        before.free - rest.free, counted.peak_step if counted else 0,
        {name: value for name, value in config.values().items() if value != asked_for[name]},
        [*map(str, compute.notices), *loop.told],
    )  # fmt: skip


def _memory(probe: Probe) -> DeviceMemory:
    """Nothing where the device has no memory of its own."""
    return probe.memory() or DeviceMemory(0, 0, 0)


def precision_name(compute: Compute) -> str:
    return next(name for name, dtype in precision.DTYPES.items() if dtype == compute.dtype).replace("no", "fp32")


def main(arguments: list[str]) -> None:
    jobs, results = map(Path, arguments)
    found: list[dict[str, Any]] = []
    for job in json.loads(jobs.read_text(encoding="utf-8")):
        measured = measure(Way(**job))
        print(*measured.lines(), sep="\n", flush=True)
        found.append(asdict(measured))
        results.write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
