"""Many pictures in a table: weights, checkpoints or prompts across and down, everything else alike."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image

from lora_core.errors import UserError
from lora_core.sampling.params import GenerationParams
from lora_core.sampling.sheet import Place, sheet

WEIGHT, CHECKPOINT, PROMPT = "weight", "checkpoint", "prompt"
KINDS = ((WEIGHT, CHECKPOINT), (WEIGHT, PROMPT), (CHECKPOINT, PROMPT))  # across, down
MOST_CELLS = 100
_TITLES = {WEIGHT: "Weight", CHECKPOINT: "Checkpoint", PROMPT: "Prompt"}


@dataclass(frozen=True)
class Axis:
    """One direction of a grid: for each label, the parameters that change."""

    kind: str
    labels: tuple[str, ...]
    changes: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class Grid:
    """`base`: what all cells share."""

    base: GenerationParams
    columns: Axis
    rows: Axis

    def __len__(self) -> int:
        return len(self.columns.labels) * len(self.rows.labels)

    def params(self, place: Place) -> GenerationParams:
        """All that makes the picture of a cell."""
        changes = {**self.rows.changes[place[0]], **self.columns.changes[place[1]]}
        return dataclasses.replace(self.base, **changes)  # type: ignore[arg-type]

    def places(self) -> Iterator[Place]:
        """Every place, in the order that loads each LoRA once."""
        rows, columns = range(len(self.rows.labels)), range(len(self.columns.labels))
        if self.columns.kind == CHECKPOINT:
            yield from ((row, column) for column in columns for row in rows)
        else:
            yield from ((row, column) for row in rows for column in columns)

    def parameters(self) -> dict[str, str]:
        """The axes, in the words of A1111's X/Y/Z plot."""
        return {
            "Script": "X/Y/Z plot",
            "X Type": _TITLES[self.columns.kind], "X Values": ", ".join(self.columns.labels),
            "Y Type": _TITLES[self.rows.kind], "Y Values": ", ".join(self.rows.labels),
        }  # fmt: skip

    def sheet(self, pictures: Mapping[Place, Image.Image]) -> Image.Image:
        """The grid as one picture, cells in their own size; what was not drawn stays blank."""
        return sheet(self.columns.labels, self.rows.labels, pictures, (self.base.width, self.base.height))


def check(grid: Grid) -> Grid:
    """Raises UserError when a grid has no picture or too many."""
    if not len(grid):
        raise UserError("sampling.grid_empty")
    if len(grid) > MOST_CELLS:
        raise UserError("sampling.grid_large", count=len(grid), most=MOST_CELLS)
    return grid


def weights(text: str) -> Axis:
    """Weights from a text: numbers apart by spaces, commas or semicolons. Raises UserError, naming the odd one."""
    numbers: dict[float, None] = {}
    for word in re.split(r"[;,\s]+", text.strip()):
        if not word:
            continue
        try:
            number = float(word)
        except ValueError:
            raise UserError("sampling.no_weight", word=word) from None
        if not -5 <= number <= 5:
            raise UserError("sampling.weight_reach", word=word)
        numbers[number] = None
    return Axis(WEIGHT, tuple(f"{n:g}" for n in numbers), tuple({"weight": n} for n in numbers))


def prompts(text: str) -> Axis:
    """Prompts from a text, one a line."""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    return Axis(PROMPT, tuple(lines), tuple({"prompt": line} for line in lines))


def checkpoints(choices: Sequence[tuple[str, Mapping[str, object]]]) -> Axis:
    """LoRAs by label, each with the parameters that call it (`lora`, `name`, `hash`)."""
    return Axis(CHECKPOINT, tuple(label for label, _ in choices), tuple(dict(change) for _, change in choices))
