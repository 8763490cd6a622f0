"""What was counted, kept: the counts that come with Treino and those made on this computer. Needs no torch.

A count holds for every batch, picture size and rank; it is made anew for other modules, checkpointing and the like.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from lora_core.config import BLOCKS, TrainConfig
from lora_core.models.architecture import ASSETS, Shapes
from lora_core.system.files import WriteError, write_text_whole
from lora_core.system.paths import cache_folder
from lora_core.training.estimate.polynomial import Poly

SHIPPED = ASSETS / "counts.json"
VERSION = 4


@dataclass(frozen=True)
class StepCount:
    """What counting a training step found. Memory in bytes beside the weights; arithmetic in FLOPs.

    moments, draw: live tensors at the worst moments of a step, of a prediction without gradients.
    adapters: trained numbers. rows: numbers Adafactor keeps. forward, step: of one prediction, of one batch of a step.
    """

    moments: list[Poly]
    draw: list[Poly]
    adapters: Poly
    rows: Poly
    frozen: int  # numbers in the UNet of the format it computes in
    forward: Poly
    step: Poly
    ops: int
    shrunk: int = 0  # bytes of the weights held in 8 bits


@dataclass(frozen=True)
class PartsCount:
    """The VAE and the text encoders: numbers in them, live tensors at the worst moments, arithmetic."""

    vae: int
    texts: int
    encode: list[Poly]
    decode: list[Poly]
    text: list[Poly]
    encode_flops: Poly
    decode_flops: Poly


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
    dora: bool = False
    prior: bool = False
    quarters: int = 0  # checkpointed, where not all are
    blocks: tuple[str, ...] = BLOCKS

    @classmethod
    def of(cls, shapes: Shapes, config: TrainConfig, number_bytes: int) -> Graph:
        return cls(
            shapes.unet_key(), shapes.text_key() if config.train_text_encoder else "",
            tuple(sorted(config.target_modules)), config.gradient_checkpointing, number_bytes,
            config.is_lean, config.eight_bit_base, bool(config.lora_dropout), config.use_dora,
            bool(config.prior_pictures), 0 if config.gradient_checkpointing else config.checkpointed_quarters,
            tuple(sorted(config.target_blocks)),
        )  # fmt: skip

    def is_within(self, other: Graph) -> bool:
        """Whether the other graph holds all tensors of this one, perhaps more, perhaps wider ones."""
        mine, theirs = asdict(self), asdict(other)
        decisive = ("unet", "checkpointing", "quarters", "lean", "eight_bit", "dora")
        same = all(mine[name] == theirs[name] for name in decisive)
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


class Book:
    """Counts by what they are counts of. Reading is quick; `learn_step` and `learn_parts` run the graphs."""

    def __init__(self, steps: dict[Graph, StepCount], parts: dict[Parts, PartsCount]):
        self.steps, self.parts = steps, parts

    @classmethod
    def read(cls, path: Path) -> Book:
        """The book in a file; an empty one where there is none, or one of another version."""
        try:
            table = json.loads(path.read_text(encoding="utf-8"))
            if table["version"] != VERSION:
                return cls({}, {})
            steps = {_graph(row["of"]): _step_count(row["count"]) for row in table["steps"]}
            return cls(steps, {Parts(**row["of"]): _parts_count(row["count"]) for row in table["parts"]})
        except (OSError, ValueError, KeyError, TypeError):  # a damaged book is written anew
            return cls({}, {})

    def text(self) -> str:
        """The book as JSON, a count a line."""
        steps = [_line({"of": asdict(graph), "count": _plain(count)}) for graph, count in self.steps.items()]
        parts = [_line({"of": asdict(part), "count": _plain(found)}) for part, found in self.parts.items()]
        return f'{{"version": {VERSION}, "steps": [\n{_rows(steps)}\n], "parts": [\n{_rows(parts)}\n]}}\n'

    def nearest(self, graph: Graph) -> tuple[StepCount, bool] | None:
        """The count of a graph, or of the least graph known that holds it, and whether it is exactly that graph's."""
        if found := self.steps.get(graph):
            return found, True
        larger = [other for other in self.steps if graph.is_within(other)]
        if not larger:
            return None
        least = min(larger, key=lambda g: (g.bytes, g.text != graph.text, g.prior, g.dropout, len(g.targets)))
        return self.steps[least], False


def own_file() -> Path:
    return cache_folder() / "estimates" / "counts.json"


def known() -> Book:
    """All counts there are, shipped and own."""
    path = own_file()
    own = _own(path, path.stat().st_mtime_ns if path.is_file() else 0)
    shipped = _shipped()
    return Book({**shipped.steps, **own.steps}, {**shipped.parts, **own.parts})


def learn(shapes: Shapes, config: TrainConfig, number_bytes: int) -> None:
    """Count what is not known yet, seconds to a minute of one core, and keep it. A disk that is full keeps nothing.

    Raises:
        UserError: the model has none of the layers to train.
    """
    from lora_core.training.estimate import graph as estimate_graph

    book = known()
    graph, part = Graph.of(shapes, config, number_bytes), Parts.of(shapes, number_bytes)
    path = own_file()
    own = Book.read(path)
    if graph not in book.steps:
        own.steps[graph] = estimate_graph.step_count(shapes, config, number_bytes)
    if part not in book.parts:
        own.parts[part] = estimate_graph.parts_count(shapes, number_bytes)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text_whole(path, own.text())
    except (OSError, WriteError):
        return


@functools.cache
def _shipped() -> Book:
    return Book.read(SHIPPED)


@functools.lru_cache(maxsize=1)
def _own(path: Path, changed: int) -> Book:
    return Book.read(path)


def _plain(count: StepCount | PartsCount) -> dict[str, Any]:
    return {name: _plain_value(getattr(count, name)) for name in count.__dataclass_fields__}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Poly):
        return value.to_json()
    return [poly.to_json() for poly in value] if isinstance(value, list) else value


def _graph(row: Mapping[str, Any]) -> Graph:
    return Graph(**{**row, **{name: tuple(row[name]) for name in ("targets", "blocks") if name in row}})


def _step_count(row: Mapping[str, Any]) -> StepCount:
    return StepCount(**{name: _value(name, value) for name, value in row.items()})


def _parts_count(row: Mapping[str, Any]) -> PartsCount:
    return PartsCount(**{name: _value(name, value) for name, value in row.items()})


def _value(name: str, value: Any) -> Any:
    if name in ("moments", "draw", "encode", "decode", "text"):
        return [Poly.from_json(rows) for rows in value]
    return value if isinstance(value, int) else Poly.from_json(value)


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _rows(lines: list[str]) -> str:
    return ",\n".join(lines)
