"""Pictures in tests."""

from __future__ import annotations

from pathlib import Path

from PIL import Image


def png_text(path: Path) -> str:
    """The text of a PNG that webuis read, "" when it has none."""
    with Image.open(path) as picture:
        return str(getattr(picture, "text", {}).get("parameters", ""))
