"""gui.bat cannot run here; what can be checked is what makes such files fail: labels, line ends, letters, quoting."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from lora_core.install import bootstrap
from tests import ROOT

RAW = (ROOT / "gui.bat").read_bytes()
LINES = RAW.decode("ascii").split("\r\n")  # raises for any other letter: cmd reads them in the code page of the console


def jumps() -> set[str]:
    return {found[1].lower() for line in LINES for found in re.finditer(r"(?:goto|call) +:?(\w+)", _code(line))} - {"eof"}


def _code(line: str) -> str:
    return "" if re.match(r"\s*(?:rem|echo)\b", line) else line


def test_the_lines_end_as_cmd_wants_them() -> None:
    assert RAW.count(b"\n") == RAW.count(b"\r\n") == RAW.count(b"\r") > 40
    assert RAW.endswith(b"\r\n") and b"\t" not in RAW
    kept = subprocess.run(["git", "check-attr", "eol", "gui.bat"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert kept.returncode or kept.stdout.rstrip().endswith(": crlf"), "a checkout would change them"


def test_every_jump_has_its_label_and_every_label_a_jump() -> None:
    labels = [line[1:].lower() for line in LINES if re.fullmatch(r":\w+", line)]
    assert len(labels) == len(set(labels))
    assert jumps() == set(labels) and "start" in labels


def test_no_path_runs_into_the_subroutine() -> None:
    before = [line for line in LINES[: LINES.index(":try")] if _code(line).strip()]
    assert before[-1] == "exit /b 0"


def test_quotes_and_brackets_are_closed() -> None:
    for line in LINES:
        assert line.count('"') % 2 == 0, line
        outside = re.sub(r'"[^"]*"', "", _code(line))
        assert "(" not in outside, "a bracket of cmd's own: what stands in it is expanded before it runs"
        assert not re.search(r"[&|<>^]", outside.replace(">nul 2>nul", "")), line
        assert "%" not in re.sub(r"%~dp0|%\*|%[A-Z]+%", "", line), line


def test_it_starts_the_window_and_keeps_the_console_open_on_errors() -> None:
    assert "%PYTHON% gui.py %*" in LINES and 'set "PYTHONUTF8=1"' in LINES and 'cd /d "%~dp0"' in LINES
    assert LINES.index("pause") < LINES.index("exit /b 1")
    assert [line for line in LINES if line.startswith("call :try")] == [
        "call :try py -3",
        "call :try py -3.13",
        "call :try py -3.12",
        "call :try py -3.11",
        "call :try python",
        "call :try python3",
    ]


@pytest.mark.parametrize(
    ("version", "bits", "fits"),
    [
        ((3, 11), 64, True), ((3, 13), 64, True), ((3, 14), 64, True), ((3, 10), 64, False), ((3, 15), 64, False),
        ((3, 12), 32, False),
    ],
)  # fmt: skip
def test_its_question_to_python(version: tuple[int, int], bits: int, fits: bool) -> None:
    question = next(line.split('"')[1] for line in LINES if "version_info" in line)
    assert f"{bootstrap.OLDEST_PYTHON} <= sys.version_info[:2] <= {bootstrap.NEWEST_PYTHON}" in question
    asked = question.replace("import sys;", f"import sys; sys.version_info = {version}; sys.maxsize = 2**{bits - 1} - 1;")
    assert (subprocess.run([sys.executable, "-c", asked], check=False).returncode == 0) is fits
