"""The command line: `treino.py [settings]` trains, `convert` and `export` treat finished LoRAs.

Every flag is made from a line of `config.py`. Nothing heavy is imported before the input is known to be sound.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import shlex
import signal
import sys
import textwrap
import traceback
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core import __version__, flags
from lora_core.config import PRESETS, TrainConfig, find_preset, presets, read_values, settings
from lora_core.errors import UserError
from lora_core.events import Event, Finished
from lora_core.run import Run
from lora_core.settings import ConfigError, suggest, typed
from lora_core.terminal import Terminal

if TYPE_CHECKING:
    from lora_core.job import Job

DONE, FAILED, WRONG_INPUT, STOPPED = 0, 1, 2, 130
ROOT = Path(__file__).resolve().parent.parent
COMMANDS = ("convert", "export")


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `notes` are told before the training starts."""

    config: TrainConfig
    resume: str = ""
    notes: tuple[str, ...] = ()


@dataclass
class _Layers:
    """Where values come from, weakest first, so that a problem can be told with its place."""

    values: dict[str, object] = field(default_factory=dict)
    places: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def add(self, values: dict[str, object], place: str) -> None:
        self.values.update(values)
        self.places.update(dict.fromkeys(values, place))


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
        _complain(*str(wrong).split("\n"))
        code = WRONG_INPUT
    except KeyboardInterrupt:
        _complain("Stopped.")
        code = STOPPED
    except BrokenPipeError:  # `treino.py --help | head`; Python would complain once more when it closes the stream
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except Exception as failure:  # noqa: BLE001  the last door: whatever it is, a sentence and an exit code
        _report(failure, "--verbose" in argv)
        code = FAILED
    return code


def request(found: argparse.Namespace) -> Request:
    """The checked request behind parsed flags.

    Raises:
        UserError: lists every problem at once.
    """
    given = {name: value for name, value in vars(found).items() if name in settings() and value is not flags.MISSING}
    for name in ("train_data_dir", "output_dir", "pretrained_model_name_or_path"):
        if name in given:
            given[name] = _local_path(given[name])
    layers, problems = _Layers(), list(found.problems)
    preset, resume = {}, found.resume or ""
    try:
        if isinstance(found.preset, str):
            preset = _preset_values(_local_path(found.preset))
        if resume:
            resume = _add_run(layers, resume, {**preset, **given})
    except UserError as wrong:
        problems.append(str(wrong))
    knows_all = problems == found.problems
    layers.add(preset, f"preset {found.preset}: ")
    layers.add(given, "--")
    try:
        config = TrainConfig.of(layers.values)
    except ConfigError as wrong:
        problems += [f"{layers.places.get(p.field, '--')}{p.field}: {p.message}" for p in wrong.problems]
        raise UserError("\n".join(problems)) from None
    if config.train_data_dir and not Path(config.train_data_dir).is_dir():
        problems.append(_no_folder(Path(config.train_data_dir)))
    elif not config.train_data_dir and knows_all:
        problems.append("--train_data_dir is required: name the folder with the pictures and captions.")
    if problems:
        raise UserError("\n".join(problems))
    return Request(config.replace(**_absolute(config)), resume, tuple(layers.notes))


def resume_command(folder: Path) -> str:
    """The line that continues the run in `folder`, as this system's shell takes it."""
    script = ROOT / "treino.py"
    with contextlib.suppress(ValueError):  # the program lies elsewhere: its whole path it is
        script = script.relative_to(Path.cwd())
    words = ["python", str(script), "--resume", "--output_dir", str(folder)]
    if os.name != "nt":
        return shlex.join(words)
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def _dispatch(argv: list[str]) -> int:
    if argv[:1] and argv[0] in COMMANDS:
        from lora_core import commands

        return {"convert": commands.convert, "export": commands.export}[argv[0]](argv[1:])
    found = flags.parse(argv)
    if found.help:
        flags.parser().print_help()
    elif found.version:
        print(f"Treino {__version__}")
    elif found.list_presets:
        print(_preset_list())
    else:
        return _run(request(found), verbose=found.verbose)
    return DONE


def _run(wanted: Request, *, verbose: bool) -> int:
    from lora_core.job import Job  # brings torch

    terminal, events = Terminal(sys.stdout), deque[Event](maxlen=1)
    for note in wanted.notes:
        terminal.say(note)
    job = Job(wanted.config, resume=wanted.resume, listeners=[terminal, events.append])
    _watch(job, terminal)
    terminal.close()
    if isinstance(job.error, UserError):
        raise job.error
    if job.error is not None:
        _report(job.error, verbose, job.run)
        return FAILED
    end = events[-1] if events else None
    if isinstance(end, Finished):
        return _conclude(job.run, end, wanted.config.max_train_steps, terminal)
    terminal.say("Stopped before the first step; there was nothing to save.")
    return STOPPED


def _watch(job: Job, terminal: Terminal) -> None:
    """Start the job and wait for its end; the first Ctrl-C stops it in good order, the second at once."""
    with _stop_signals() as asked:
        job.start()
        told = False
        # Short waits: on Windows a signal is not seen while the main thread waits for another.
        while not job.wait(0.2):
            if asked and not told:
                told = True
                terminal.say("Stopping: this step is finished, then everything is saved. Ctrl-C again stops at once.")
                job.stop()
            if len(asked) > 1:
                terminal.say("Stopped at once. The last checkpoint is whole; go on from it with")
                terminal.say(f"  {resume_command(job.run.folder)}")
                os._exit(STOPPED)  # a join of the training thread would wait for its step


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C and its kin instead of raising KeyboardInterrupt at any line; restores the old handlers."""
    asked: list[int] = []
    names = [name for name in ("SIGINT", "SIGTERM", "SIGBREAK", "SIGHUP") if hasattr(signal, name)]
    numbers = [getattr(signal, name) for name in names]
    # nohup has SIGHUP ignored, and means it.
    old = {n: signal.getsignal(n) for n in numbers if signal.getsignal(n) is not signal.SIG_IGN}
    for number in old:
        signal.signal(number, lambda got, frame: asked.append(got))
    try:
        yield asked
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)


def _conclude(run: Run, end: Finished, steps: int, terminal: Terminal) -> int:
    terminal.say(f"The LoRA is in {run.folder / end.path}")
    best = run.checkpoints / f"step_{end.best_step:06d}" / "lora.safetensors"
    if 0 < end.best_step == end.step:
        terminal.say("Its last step has the lowest validation loss.")
    elif best.exists():
        terminal.say(f"The lowest validation loss was at step {end.best_step}: {best}")
    if not end.stopped:
        return DONE
    terminal.say(f"Stopped at step {end.step} of {steps}; go on with")
    terminal.say(f"  {resume_command(run.folder)}")
    return STOPPED


def _add_run(layers: _Layers, resume: str, asked: dict[str, object]) -> str:
    """Put the settings of the run to resume at the bottom of `layers`; returns what the job shall resume from.

    `resume` is "latest", a checkpoint folder, or a run folder, which means its latest checkpoint.
    """
    place = Path(_local_path(resume))
    if resume == "latest":
        folder = Path(str(asked.get("output_dir", settings()["output_dir"].default)))
    elif (place / "config.toml").is_file():
        folder, resume = place, "latest"
    elif (place.parent.parent / "config.toml").is_file():
        folder, resume = place.parent.parent, str(place)
    elif "output_dir" in asked:
        folder, resume = Path(str(asked["output_dir"])), str(place)
    else:
        raise UserError(
            f"--resume: {place} is no checkpoint of a run; give its folder, such as RUN/checkpoints/step_000100."
        )
    run = Run(folder)
    if not run.config_file.is_file():
        raise UserError(
            f"--resume: there is no run in {folder}; check --output_dir, or leave --resume out to start anew."
        )
    stored = read_values(run.config_file)
    for name, value in asked.items():
        if name != "output_dir" and name in stored:
            with contextlib.suppress(ValueError):  # a wrong value is told with all the others
                now = typed(settings()[name], _absolute_value(name, value))
                if now != typed(settings()[name], _absolute_value(name, stored[name])):
                    layers.notes.append(f"Changed for the rest of this run: {name} = {now!r}, was {stored[name]!r}.")
    layers.add(stored, f"{run.config_file}: ")
    layers.add({"output_dir": str(folder)}, "--")
    return resume


def _preset_values(name: str) -> dict[str, object]:
    """A preset's settings; a shipped one speaks of the folders shipped with it, wherever it is called from."""
    values = dict(find_preset(name).values)
    path = Path(name)
    is_shipped = path.suffix not in (".toml", ".safetensors") or path.resolve().parent == PRESETS.resolve()
    if is_shipped and isinstance(folder := values.get("train_data_dir"), str) and folder:
        values["train_data_dir"] = str(ROOT / folder)
    return values


def _local_path(text: str) -> str:
    r"""`.\Training` as Windows writes it, also elsewhere; a name that really holds a backslash stays."""
    if os.name == "nt" or "\\" not in text or Path(text).exists():
        return text
    forward = text.replace("\\", "/")
    return forward if Path(forward).exists() or text.startswith((".\\", "..\\")) else text


def _absolute(config: TrainConfig) -> dict[str, object]:
    """Input folders as absolute paths, so that the run can be resumed from anywhere."""
    names = ("train_data_dir", "pretrained_model_name_or_path")
    return {name: _absolute_value(name, getattr(config, name)) for name in names}


def _absolute_value(name: str, value: object) -> object:
    is_base = name == "pretrained_model_name_or_path"
    if not isinstance(value, str) or not (is_base or name == "train_data_dir"):
        return value
    if is_base and (value == "starter" or not Path(value).exists()):
        return value
    return os.path.abspath(value)


def _no_folder(path: Path) -> str:
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    what = "is a file, not a folder" if path.exists() else "does not exist"
    return f"--train_data_dir: {path} {what}; name the folder with the pictures.{suggest(path.name, beside)}"


def _preset_list() -> str:
    lines = []
    for preset in presets():
        text = textwrap.fill(preset.description, 100, initial_indent="    ", subsequent_indent="    ")
        lines.append(f"{preset.name}: {preset.title}\n{text}")
    return "\n".join(lines)


def _report(failure: BaseException, verbose: bool, run: Run | None = None) -> None:
    where = f" The details are in {run.events_file}." if run and run.events_file.exists() else " See it with --verbose."
    if verbose:
        traceback.print_exception(failure)
        where = ""
    _complain(f"The training failed: {type(failure).__name__}: {failure}.{where}")


def _complain(*lines: str) -> None:
    text = lines[0] if len(lines) == 1 else "\n  ".join(["several things are wrong:", *lines])
    with contextlib.suppress(OSError, ValueError):
        print(f"treino: {text}", file=sys.stderr)
