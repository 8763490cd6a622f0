"""`python -m tests`: sets up what the tests need, then ruff, mypy and pytest; fails when one of them does.

With arguments, pytest alone gets them: `python -m tests tests/test_config.py -k resume`. `python -m tests --device cuda`
(or xpu, mps) takes the tests that train on a graphics card, and no others.
"""

from __future__ import annotations

import os
import subprocess
import sys

from lora_core.install import bootstrap
from tests import ROOT

CHECKS = (["ruff", "check", "."], ["mypy"])


def main(arguments: list[str]) -> int:
    bootstrap.ensure("tests/requirements.txt")
    # pytest comes last, because its last line says how it went. A file stays with one worker, which shares what it set up.
    workers = str(max(1, min(os.cpu_count() or 1, 4)))
    everything = ["pytest", "-n", workers, "--dist", "loadfile", "--no-loadscope-reorder"]
    if arguments[:1] == ["--device"]:
        arguments = ["tests/device", *arguments]
    commands = [["pytest", *arguments]] if arguments else [*CHECKS, everything]
    failed = [command[0] for command in commands if run(command)]
    if failed:
        print(f"Failed: {', '.join(failed)}.", file=sys.stderr, flush=True)
    return 1 if failed else 0


def run(command: list[str]) -> int:
    """Run a tool of this interpreter in the folder of the program; returns its exit code."""
    print(f"$ python -m {' '.join(command)}", flush=True)
    return subprocess.run([sys.executable, "-m", *command], cwd=ROOT, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
