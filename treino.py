"""The door to Treino from a terminal: `python treino.py --help` tells the rest."""

from __future__ import annotations

import sys

from lora_core.install import bootstrap

# The answers to these need nothing installed, so nobody waits for an installation to read them.
ANSWERS = {"-h", "--help", "--version", "--list_presets", "--list-presets"}


def main(argv: list[str]) -> int:
    bootstrap.require_python()
    if not ANSWERS.intersection(argv) or (argv[:1] and argv[0] in bootstrap.COMMANDS):
        bootstrap.ensure()
    from lora_core.cli.main import main as run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
