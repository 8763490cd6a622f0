"""What training steps and their preparation keep in memory and compute, as counted ahead (`counts.json`). Needs no torch.

Sizes are polynomials in batch, picture size and rank, so that one count answers for all of them; it is made anew for
other modules, checkpointing and the like. `python -m tests.benchmarks.memory --write` makes the file.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lora_core.config import BLOCKS, TrainConfig
from lora_core.models.architecture import Shapes
from lora_core.models.catalog import ASSETS

SHIPPED = ASSETS / "counts.json"
VERSION = 4
Term = tuple[int, int, int]  # powers of the batch, of the side (in units of 8 latent pixels) and of the rank


@dataclass(frozen=True)
class At:
    """Where a polynomial is read. `side`: the root of the latent's area, in units of 8 latent pixels."""

    batch: float
    side: float
    rank: float

    @classmethod
    def of(cls, batch: int, latent: tuple[int, int], rank: int) -> At:
        return cls(batch, (latent[0] * latent[1]) ** 0.5 / 8, rank)


@dataclass(frozen=True)
class Polynomial:
    """A sum of `factor * batch^b * side^s * rank^r`."""

    terms: Mapping[Term, float]

    def at(self, where: At) -> float:
        return sum(f * where.batch**b * where.side**s * where.rank**r for (b, s, r), f in self.terms.items())

    @classmethod
    def from_json(cls, rows: Iterable[Sequence[Any]]) -> Polynomial:
        """Of rows of three powers and a factor."""
        return cls({(int(b), int(s), int(r)): float(factor) for b, s, r, factor in rows})


def worst(moments: Iterable[Polynomial], where: At) -> float:
    """The most there is at any of the moments."""
    return max((moment.at(where) for moment in moments), default=0.0)


@dataclass(frozen=True)
class StepCount:
    """What counting a training step found. Memory in bytes beside the weights; arithmetic in FLOPs.

    moments, draw: live tensors at the worst moments of a step, of a prediction without gradients.
    adapters: trained numbers. rows: numbers Adafactor keeps. forward, step: of one prediction, of one batch of a step.
    """

    moments: list[Polynomial]
    draw: list[Polynomial]
    adapters: Polynomial
    rows: Polynomial
    frozen: int  # numbers in the UNet of the format it computes in
    forward: Polynomial
    step: Polynomial
    ops: int
    shrunk: int = 0  # bytes of the weights held in 8 bits


@dataclass(frozen=True)
class PartsCount:
    """The VAE and the text encoders: numbers in them, live tensors at the worst moments, arithmetic."""

    vae: int
    texts: int
    encode: list[Polynomial]
    decode: list[Polynomial]
    text: list[Polynomial]
    encode_flops: Polynomial
    decode_flops: Polynomial


@dataclass(frozen=True)
class Graph:
    """What decides the graph of a step, but for batch, size and rank. `bytes`: of a number in the frozen model."""

    unet: str
    text: str  # empty: the text encoders are not trained
    targets: tuple[str, ...]
    checkpointing: bool
    bytes: int
    lean: bool = True
    eight_bit: bool = False
    dropout: bool = False
    adapter: str = "lora"
    prior: bool = False
    quarters: int = 0  # checkpointed, where not all are
    blocks: tuple[str, ...] = BLOCKS

    @classmethod
    def of(cls, shapes: Shapes, config: TrainConfig, number_bytes: int) -> Graph:
        return cls(
            shapes.unet_key(), shapes.text_key() if config.train_text_encoder else "",
            tuple(sorted(config.target_modules)), config.gradient_checkpointing, number_bytes,
            config.is_lean, config.eight_bit_base, bool(config.lora_dropout), config.adapter,
            bool(config.prior_pictures), 0 if config.gradient_checkpointing else config.checkpointed_quarters,
            tuple(sorted(config.target_blocks)),
        )  # fmt: skip

    def is_within(self, other: Graph) -> bool:
        """Whether the other graph holds all tensors of this one, perhaps more, perhaps wider ones."""
        decisive = ("unet", "checkpointing", "quarters", "lean", "eight_bit", "adapter")
        same = all(getattr(self, name) == getattr(other, name) for name in decisive)
        less = self.text in ("", other.text) and set(self.targets) <= set(other.targets)
        less = less and set(self.blocks) <= set(other.blocks)
        return same and less and self.dropout <= other.dropout and self.prior <= other.prior and self.bytes <= other.bytes


@dataclass(frozen=True)
class Parts:
    """What decides the graphs of VAE and text encoders."""

    vae: str
    text: str
    bytes: int

    @classmethod
    def of(cls, shapes: Shapes, number_bytes: int) -> Parts:
        return cls(shapes.vae_key(), shapes.text_key(), number_bytes)


@dataclass(frozen=True)
class CostCounts:
    """Counts by what they are counts of."""

    steps: dict[Graph, StepCount]
    parts: dict[Parts, PartsCount]

    @classmethod
    def read(cls, path: Path) -> CostCounts:
        """The counts in a file; none where there is no file, or a damaged one, or one of another version."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if table["version"] != VERSION:
                return cls({}, {})
            steps = {_graph(row["of"]): StepCount(**_values(row["count"])) for row in table["steps"]}
            return cls(steps, {Parts(**row["of"]): PartsCount(**_values(row["count"])) for row in table["parts"]})
        except (OSError, ValueError, KeyError, TypeError):
            return cls({}, {})

    def step(self, graph: Graph) -> tuple[StepCount, bool] | None:
        """The count of a graph, or of the least graph known that holds it, and whether it is exactly that graph's."""
        if found := self.steps.get(graph):
            return found, True
        larger = [other for other in self.steps if graph.is_within(other)]
        if not larger:
            return None
        least = min(larger, key=lambda g: (g.bytes, g.text != graph.text, g.prior, g.dropout, len(g.targets)))
        return self.steps[least], False

    def parts_of(self, part: Parts) -> tuple[PartsCount, bool] | None:
        """The count of VAE and text encoders, or of the same ones in another format, and whether it is exactly theirs."""
        if found := self.parts.get(part):
            return found, True
        alike = [count for other, count in self.parts.items() if other.vae == part.vae and other.text == part.text]
        return (alike[0], False) if alike else None


@functools.cache
def known() -> CostCounts:
    """The counts that come with Treino."""
    return CostCounts.read(SHIPPED)


def _graph(row: Mapping[str, Any]) -> Graph:
    return Graph(**{**row, **{name: tuple(row[name]) for name in ("targets", "blocks") if name in row}})


def _values(row: Mapping[str, Any]) -> dict[str, Any]:
    return {name: _value(name, value) for name, value in row.items()}


def _value(name: str, value: Any) -> Any:
    if name in ("moments", "draw", "encode", "decode", "text"):
        return [Polynomial.from_json(rows) for rows in value]
    return value if isinstance(value, int) else Polynomial.from_json(value)
