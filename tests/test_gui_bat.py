"""gui.bat as far as it can be checked without Windows: its form, and that it leads where it says."""

from __future__ import annotations

import re
from pathlib import Path

FILE = Path(__file__).parent.parent / "gui.bat"
TEXT = FILE.read_text(encoding="ascii")


def test_windows_can_read_it() -> None:
    """cmd.exe loses its place at labels in files with bare line feeds."""
    content = FILE.read_bytes()
    assert content.count(b"\n") == content.count(b"\r\n") > 10


def test_every_jump_has_a_place_to_go() -> None:
    labels = set(re.findall(r"^:(\w+)", TEXT, re.MULTILINE))
    jumps = set(re.findall(r"(?:goto|call) :?(\w+)", TEXT))
    assert jumps == labels == {"try", "none", "failed"}


def test_no_way_falls_into_the_next_part() -> None:
    for label in re.findall(r"^:\w+", TEXT, re.MULTILINE):
        before = TEXT[: TEXT.index(label + "\n")].rstrip().splitlines()[-1]
        assert before.startswith("exit /b"), label


def test_an_error_stays_on_the_screen() -> None:
    assert TEXT.count("pause") == 2 and "PYTHONUTF8=1" in TEXT and '"%~dp0"' in TEXT
