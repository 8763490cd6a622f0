"""The door to Treino's window: `python gui.py --help` tells the rest. On Windows, double click gui.bat."""

from __future__ import annotations

import sys

from lora_core.install import bootstrap


def main(argv: list[str]) -> int:
    bootstrap.require_python()
    if not {"-h", "--help"}.intersection(argv):
        bootstrap.ensure()
    from lora_core.ui.main import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
