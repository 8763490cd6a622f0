"""Flags made from the lines of `config.py`: what `--help` shows, and what was typed, as text."""

from __future__ import annotations

import argparse
import functools
from typing import NoReturn

from lora_core.config import OLDER, settings
from lora_core.errors import UserError
from lora_core.messages import Message, plain
from lora_core.settings import Setting, suggest

MISSING = object()  # a flag that was given without its value
WAS_ON_OR_OFF = {"cuda_graphs": {"true": "auto", "false": "off"}}  # settings that were, as old command lines have them
_ABOUT = "Trains a LoRA for Stable Diffusion from a folder of pictures and captions (NNN.png|jpg + NNN.txt)."
_EXAMPLES = """\
A true|false setting is switched on by its name alone (--random_flip) and off by --no_NAME (--no_random_flip).
Lists of names are parted by ',', lists of prompts by ';'. Dashes may stand for underscores.

commands:
  caption FOLDER        describe pictures in captions, with a model that is downloaded once (caption --help)
  export RUN            put a finished LoRA into your webui, with picture and words (export --help)
  convert IN OUT        turn any program's LoRA into a file that every webui loads (convert --help)
  info PATH             tell what a model file is, and whether it can be trained on here
  check                 find out in a minute what is fast and right on this computer (check --help)

examples:
  python treino.py --preset quickstart
  python treino.py --train_data_dir Training --output_dir meu_lora --resolution 512
  python treino.py --resume --output_dir meu_lora

exit codes: 0 done, 1 failure, 2 wrong input, 130 stopped by Ctrl-C after saving
"""


def parse(argv: list[str]) -> argparse.Namespace:
    """Flags as text, only those that were given; `problems` lists as messages what could not be understood."""
    found, extra = parser().parse_known_args([_underscored(word) for word in argv])
    known = [option.lstrip("-") for action in parser()._actions for option in action.option_strings]
    problems = [
        Message("cli.needs_value", flag=name)
        for name in (f"--{key}" for key, value in vars(found).items() if value is MISSING)
    ]
    if found.resume == "":
        problems.append(Message("cli.resume_needs_value"))
    for before, word in zip(["", *extra], extra, strict=False):
        if word.startswith("-") and not _is_number(word):
            name = word.partition("=")[0]
            near = suggest(name, [f"--{option}" for option in known])
            problems.append(Message("cli.no_flag", flag=name, suggestion=near))
        elif not before.startswith("-") and not word.startswith("-"):  # else it is the value of an unknown flag
            problems.append(Message("cli.stray", word=repr(word)))
    for name, said in WAS_ON_OR_OFF.items():
        if hasattr(found, name):
            setattr(found, name, said.get(getattr(found, name), getattr(found, name)))
    found.problems = problems
    return found


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(plain(message))  # of argparse


class _Formatter(argparse.RawDescriptionHelpFormatter):
    def _format_args(self, action: argparse.Action, default_metavar: str) -> str:
        """No brackets around a value that is optional only so that its absence can be told with the rest."""
        return str(action.metavar) if action.const is MISSING else super()._format_args(action, default_metavar)


@functools.cache
def parser() -> argparse.ArgumentParser:
    made = _Parser(
        prog="python treino.py",
        description=_ABOUT,
        epilog=_EXAMPLES,
        formatter_class=_Formatter,
        argument_default=argparse.SUPPRESS,
        allow_abbrev=False,
        add_help=False,
        usage="python treino.py [--preset NAME|FILE] [--train_data_dir FOLDER] [--SETTING VALUE ...]",
    )
    _add_general(made)
    topics = {s.topic: made.add_argument_group(s.topic) for s in settings().values()}
    for s in settings().values():
        _add_setting(topics[s.topic], s)
    for name in OLDER:
        made.add_argument(f"--{name}", nargs="?", const="true", help=argparse.SUPPRESS)
        _add_off(made, name)
    return made


def _add_general(made: argparse.ArgumentParser) -> None:
    group = made.add_argument_group("General")
    group.add_argument("-h", "--help", action="store_true", default=False, help="Show this help.")
    group.add_argument("--version", action="store_true", default=False, help="Show the version.")
    group.add_argument(
        "--list_presets", action="store_true", default=False, help="Show the presets and what they are for."
    )
    group.add_argument(
        "--explain", action="store_true", default=False, help="Show what a preset comes to here, and why; do not train."
    )
    group.add_argument("--verbose", action="store_true", default=False, help="Show the traceback of a failure.")
    group.add_argument(
        "--preset", nargs="?", const=MISSING, default=None, metavar="NAME|FILE",
        help="Settings to start from: a name of --list_presets, a .toml, or a LoRA of Treino. Flags go over them.",
    )  # fmt: skip
    group.add_argument(
        "--resume", nargs="?", const="latest", default=None, metavar="latest|PATH",
        help="Go on with the run in --output_dir, with its settings, from its last checkpoint or from PATH.",
    )  # fmt: skip


def _add_setting(group: argparse._ArgumentGroup, s: Setting) -> None:
    metavar = {"int": "N", "float": "X", "bool": "true|false", "tuple": "A,B" if s.choices else "A;B"}
    text = "FOLDER" if s.name.endswith("_dir") else "TEXT"
    is_bool = s.kind is bool
    group.add_argument(
        f"--{s.name}", nargs="?", const="true" if is_bool else MISSING, help=_help(s).replace("%", "%%"),
        metavar="|".join(s.choices) if s.choices and s.kind is str else metavar.get(s.kind.__name__, text),
    )  # fmt: skip
    if is_bool or s.name in WAS_ON_OR_OFF:
        _add_off(group, s.name)


def _add_off(group: argparse._ActionsContainer, name: str) -> None:
    group.add_argument(f"--no_{name}", dest=name, action="store_const", const="false", help=argparse.SUPPRESS)


def _help(s: Setting) -> str:
    facts = []
    if s.kind is tuple and s.choices:
        facts.append("of " + ", ".join(s.choices))
    if s.kind in (int, float) and s.low is not None and s.high is not None:
        facts.append(f"{s.low:g} to {s.high:.10g}")
    if s.multiple_of:
        facts.append(f"a multiple of {s.multiple_of}")
    default = ",".join(s.default) if isinstance(s.default, tuple) else str(s.default)
    unit = f" {s.unit}" if s.unit else ""
    if s.kind is bool:
        default = default.lower()
    required = s.name == "train_data_dir"
    facts.append("required, unless the preset gives it" if required else f"default {default or 'empty'}{unit}")
    return f"{s.help} [{'; '.join(facts)}]"


def _is_number(word: str) -> bool:
    """-1e-5, which argparse takes for a flag; the flag before it is told to lack its value."""
    try:
        float(word)
    except ValueError:
        return False
    return word.startswith("-")


def _underscored(word: str) -> str:
    """`--train-data-dir=a-b` as `--train_data_dir=a-b`."""
    if not word.startswith("--"):
        return word
    name, equals, value = word[2:].partition("=")
    return f"--{name.replace('-', '_')}{equals}{value}"
