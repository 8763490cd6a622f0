"""Pictures in a table with labels: samples before and after a training, and grids of weights, checkpoints and prompts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from PIL import Image, ImageDraw, ImageFont

Place = tuple[int, int]
"""(row, column)"""

_PAPER, _INK, _EMPTY = "#ffffff", "#202428", "#e4e7eb"
_MOST_LINES = 8


def sheet(
    columns: Sequence[str], rows: Sequence[str], pictures: Mapping[Place, Image.Image], cell: tuple[int, int], side: int = 0
) -> Image.Image:
    """The table as one picture; what has no picture stays blank, and one of another size is scaled into its cell.

    cell: (width, height) in pixels. side: the width of the rows' labels in pixels, 0: as the cells ask for.
    """
    width, height = cell
    size = max(16, min(cell) // 18)
    font, gap, line = ImageFont.load_default(size), size // 2, round(size * 1.4)
    side = side or max(width // 2, 8 * size)
    tops = [_wrapped(label, font, width - gap, _MOST_LINES) for label in columns]
    head = max(text.count("\n") + 1 for text in tops) * line + 2 * gap
    page = Image.new("RGB", (side + len(columns) * (width + gap) + gap, head + len(rows) * (height + gap)), _PAPER)
    ink = ImageDraw.Draw(page)
    for column, text in enumerate(tops):
        middle = side + column * (width + gap) + width // 2
        ink.multiline_text((middle, head // 2), text, _INK, font, anchor="mm", align="center")
    for row, label in enumerate(rows):
        top = head + row * (height + gap)
        text = _wrapped(label, font, side - 2 * gap, max(1, min(_MOST_LINES, height // line)))
        ink.multiline_text((gap, top + height // 2), text, _INK, font, anchor="lm")
        for column in range(len(columns)):
            left = side + column * (width + gap)
            if picture := pictures.get((row, column)):
                scaled = _scaled(picture, cell)
                page.paste(scaled, (left + (width - scaled.width) // 2, top + (height - scaled.height) // 2))
            else:
                ink.rectangle((left, top, left + width - 1, top + height - 1), _EMPTY)
    return page


def _scaled(picture: Image.Image, cell: tuple[int, int]) -> Image.Image:
    """As large as the cell allows, in its own shape."""
    scale = min(cell[0] / picture.width, cell[1] / picture.height)
    if scale == 1:
        return picture
    smooth = Image.Resampling.LANCZOS if scale < 1 else Image.Resampling.BICUBIC
    return picture.resize((round(picture.width * scale), round(picture.height * scale)), smooth)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int, most_lines: int) -> str:
    """Broken between words, and within those wider than a line."""
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
    return "\n".join(lines if len(lines) <= most_lines else [*lines[: most_lines - 1], f"{lines[most_lines - 1]}..."])
