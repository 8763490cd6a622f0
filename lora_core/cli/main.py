"""The command line: `treino.py [settings]` trains, `convert` and `export` treat finished LoRAs, `info` looks at models,
`caption` describes pictures.

Every flag is made from a line of `config.py`. Nothing heavy is imported before the input is known to be sound.
"""

from __future__ import annotations

import io
import os
import sys
import textwrap
from typing import TYPE_CHECKING

from lora_core import __version__
from lora_core.cli import flags, training
from lora_core.cli.request import request
from lora_core.cli.training import complain
from lora_core.config import presets
from lora_core.errors import DONE, FAILED, STOPPED, WRONG_INPUT, UserError
from lora_core.install.bootstrap import COMMANDS
from lora_core.messages import Message
from lora_core.system import windows
from lora_core.system.redact import traceback_of

if TYPE_CHECKING:
    pass

def main(argv: list[str]) -> int:
    """Run the command line; returns the exit code and raises nothing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a caption that the console can't show is no reason to stop
    code = DONE
    try:
        code = _dispatch(argv)
        sys.stdout.flush()
    except UserError as wrong:
        complain(wrong.message)
        code = WRONG_INPUT
    except SystemExit as end:  # argparse, after `convert --help`
        code = int(end.code or 0)
    except KeyboardInterrupt:
        complain(Message("cli.stopped"))
        code = STOPPED
    except BrokenPipeError:  # `treino.py --help | head`; Python would complain once more when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as failure:  # noqa: BLE001  the last door: whatever it is, a sentence and an exit code
        _report(failure, "--verbose" in argv)
        code = FAILED
    return code


def _dispatch(argv: list[str]) -> int:
    if argv[:1] and argv[0] in COMMANDS:
        from lora_core.cli import commands

        return commands.RUN[argv[0]](argv[1:])
    found = flags.parse(argv)
    if found.help:
        flags.parser().print_help()
    elif found.version:
        print(f"Treino {__version__}")
    elif found.list_presets:
        print(_preset_list())
    elif found.explain:
        for line in request(found).reasons or (Message("cli.no_reasons"),):
            print(line)
    else:
        return training.run(request(found), verbose=found.verbose)
    return DONE


def _preset_list() -> str:
    lines = []
    for preset in presets():
        text = textwrap.fill(preset.description, 100, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"{preset.name}: {preset.title}\n{text}")
    return "\n".join(lines)


def _report(failure: BaseException, verbose: bool) -> None:
    if verbose:
        print(traceback_of(failure), end="", file=sys.stderr)
    if known := windows.page_file_failure(failure):
        complain(str(known))
        return
    more = "" if verbose else Message("cli.more_with_verbose")
    complain(Message("cli.unforeseen", kind=type(failure).__name__, what=str(failure), more=more))
