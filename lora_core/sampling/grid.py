"""Many pictures in a table: weights, checkpoints or prompts across and down, everything else alike."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from lora_core.errors import UserError
from lora_core.sampling.gallery import Settings

WEIGHT, CHECKPOINT, PROMPT = "weight", "checkpoint", "prompt"
KINDS = ((WEIGHT, CHECKPOINT), (WEIGHT, PROMPT), (CHECKPOINT, PROMPT))  # across, down
MOST_CELLS = 100
_TITLES = {WEIGHT: "Weight", CHECKPOINT: "Checkpoint", PROMPT: "Prompt"}
_PAPER, _INK, _EMPTY = "#ffffff", "#202428", "#e4e7eb"
_MOST_LINES = 6

Place = tuple[int, int]
"""(row, column)"""


@dataclass(frozen=True)
class Axis:
    """One direction of a grid: for each label, the settings that change."""

    kind: str
    labels: tuple[str, ...]
    changes: tuple[dict[str, object], ...]


@dataclass(frozen=True)
class Grid:
    """`base`: what all cells share."""

    base: Settings
    columns: Axis
    rows: Axis

    def __len__(self) -> int:
        return len(self.columns.labels) * len(self.rows.labels)

    def settings(self, place: Place) -> Settings:
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


def check(grid: Grid) -> Grid:
    """Raises UserError when a grid has no picture or too many."""
    if not len(grid):
        raise UserError("The grid is empty: give at least one value for its columns and one for its rows.")
    if len(grid) > MOST_CELLS:
        raise UserError(f"The grid has {len(grid)} pictures; {MOST_CELLS} are the most. Take some values away.")
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
            raise UserError(f"{word!r} is no weight; write numbers with a point, e.g. 0, 0.5, 1.") from None
        if not -5 <= number <= 5:
            raise UserError(f"The weight {word} is out of reach; take numbers from -5 to 5.")
        numbers[number] = None
    return Axis(WEIGHT, tuple(f"{n:g}" for n in numbers), tuple({"weight": n} for n in numbers))


def prompts(text: str) -> Axis:
    """Prompts from a text, one a line."""
    lines = list(dict.fromkeys(line.strip() for line in text.splitlines() if line.strip()))
    return Axis(PROMPT, tuple(lines), tuple({"prompt": line} for line in lines))


def checkpoints(choices: Sequence[tuple[str, Mapping[str, object]]]) -> Axis:
    """LoRAs by label, each with the settings that call it (`lora`, `name`, `hash`)."""
    return Axis(CHECKPOINT, tuple(label for label, _ in choices), tuple(dict(change) for _, change in choices))


def sheet(grid: Grid, pictures: Mapping[Place, Image.Image]) -> Image.Image:
    """The table as one picture, cells in their own size; what was not drawn stays blank."""
    width, height = grid.base.width, grid.base.height
    size = max(14, min(width, height) // 18)
    font, gap, side = ImageFont.load_default(size), size // 2, max(width // 2, 8 * size)
    tops = [_wrapped(label, font, width - gap) for label in grid.columns.labels]
    head = max(text.count("\n") + 1 for text in tops) * round(size * 1.4) + 2 * gap
    columns, rows = len(grid.columns.labels), len(grid.rows.labels)
    page = Image.new("RGB", (side + columns * (width + gap) + gap, head + rows * (height + gap)), _PAPER)
    ink = ImageDraw.Draw(page)
    for column, text in enumerate(tops):
        left = side + column * (width + gap)
        ink.multiline_text((left + width // 2, head // 2), text, _INK, font, anchor="mm", align="center")
    for row, label in enumerate(grid.rows.labels):
        top = head + row * (height + gap)
        ink.multiline_text((gap, top + height // 2), _wrapped(label, font, side - 2 * gap), _INK, font, anchor="lm")
        for column in range(columns):
            corner = side + column * (width + gap), top
            if picture := pictures.get((row, column)):
                page.paste(picture, corner)
            else:
                ink.rectangle((*corner, corner[0] + width - 1, corner[1] + height - 1), _EMPTY)
    return page


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Broken between words, and within those wider than a line; at most six lines."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if font.getlength(longer) <= width:
            lines[-1] = longer
            continue
        lines += [""] if lines[-1] else []
        for sign in word:
            if lines[-1] and font.getlength(lines[-1] + sign) > width:
                lines.append("")
            lines[-1] += sign
    return "\n".join(lines if len(lines) <= _MOST_LINES else [*lines[: _MOST_LINES - 1], f"{lines[_MOST_LINES - 1]}..."])
