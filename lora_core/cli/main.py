"""The command line: `treino.py [settings]` trains, `convert` and `export` treat finished LoRAs, `info` looks at models,
`caption` describes pictures.

Every flag is made from a line of `config.py`. Nothing heavy is imported before the input is known to be sound.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import os
import shlex
import sys
import textwrap
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core import __version__
from lora_core.cli import flags
from lora_core.config import PRESETS, TrainConfig, find_preset, presets, read_values, settings
from lora_core.errors import DONE, FAILED, STOPPED, WRONG_INPUT, UserError
from lora_core.events import Event, Failed, Finished
from lora_core.install.bootstrap import COMMANDS, ROOT
from lora_core.messages import Message
from lora_core.runs.run import Run, resumable
from lora_core.settings import ConfigError, Problem, suggest, typed
from lora_core.system import windows
from lora_core.system.distributed import ProcessGroup
from lora_core.system.quick_import import importing
from lora_core.system.redact import redact, traceback_of
from lora_core.system.signals import stop_signals

if TYPE_CHECKING:
    from lora_core.cli.terminal import Terminal
    from lora_core.training.data.plan import Plan
    from lora_core.training.job import Job

PATHS = ("train_data_dir", "output_dir", "pretrained_model_name_or_path", "vae")


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `notes` are told before the training starts; `reasons`, of each setting of a recipe,
    when they are asked for.
    """

    config: TrainConfig
    resume: str = ""
    notes: tuple[Message, ...] = ()
    reasons: tuple[Message, ...] = ()


@dataclass
class _Layers:
    """Where values come from, weakest first, so that a problem can be told with its place."""

    values: dict[str, object] = field(default_factory=dict)
    places: dict[str, Callable[[Problem], Message]] = field(default_factory=dict)
    notes: list[Message] = field(default_factory=list)

    def add(self, values: dict[str, object], place: Callable[[Problem], Message]) -> None:
        self.values.update(values)
        self.places.update(dict.fromkeys(values, place))

    def add_run(self, folder: Path, asked: dict[str, object]) -> None:
        """The settings a run was started with; what is asked for now and differs is noted."""
        file = Run(folder).config_file
        stored = read_values(file)
        self.add(stored, lambda p: Message("cli.in_file", file=file, field=p.field, what=p.message))
        for name in [n for n in asked if n in stored and n in settings() and n != "output_dir"]:
            with contextlib.suppress(ValueError):  # a wrong value is told with all the others
                now, old = (typed(settings()[name], _absolute_value(name, v)) for v in (asked[name], stored[name]))
                if now != old:
                    self.notes.append(Message("cli.changed", name=name, now=repr(now), old=repr(old)))


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
        _complain(wrong.message)
        code = WRONG_INPUT
    except SystemExit as end:  # argparse, after `convert --help`
        code = int(end.code or 0)
    except KeyboardInterrupt:
        _complain(Message("cli.stopped"))
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
    given, preset = _localized(given), {}
    layers, intent = _Layers(), ""
    problems: list[Message] = list(found.problems)
    resume = found.resume or ""
    try:
        if isinstance(found.preset, str):
            name = _local_path(found.preset)
            preset, intent = _preset_values(name), find_preset(name).intent
        if resume:
            folder, resume = _run_to_resume(resume, given, preset)
            layers.add_run(folder, {**preset, **given})
            preset, given = {**preset, "output_dir": str(folder)}, {**given, "output_dir": str(folder)}
    except UserError as wrong:
        problems.append(wrong.message)
    is_known = problems == found.problems
    layers.add(preset, lambda p: Message("cli.in_preset", name=found.preset, field=p.field, what=p.message))
    layers.add(given, _at_flag)
    try:
        config = TrainConfig.of(layers.values)
    except ConfigError as wrong:
        problems += [layers.places.get(p.field, _at_flag)(p) for p in wrong.problems]
        raise _all_of(problems) from None
    if config.train_data_dir and not Path(config.train_data_dir).is_dir():
        problems.append(_no_folder(Path(config.train_data_dir)))
    elif not config.train_data_dir and is_known:  # else what should give it is wrong, and told
        problems.append(Message("cli.data_required"))
    if problems:
        raise _all_of(problems)
    if intent and not resume:
        return _with_recipe(intent, config, layers.values)
    return Request(config.replace(**_absolute(config)), resume, tuple(layers.notes))


def _with_recipe(intent: str, config: TrainConfig, given: Mapping[str, object]) -> Request:
    """What was given, over what the recipe of an intent makes of model, pictures and computer."""
    with importing():
        from lora_core.cli import plan_summary
        from lora_core.recipes.resolved import for_training

    kept = {name: value for name, value in config.values().items() if name in given}
    found = for_training(intent, config, kept)
    whole = TrainConfig.of({**found.values, **kept})
    reasons, note = plan_summary.reasons(found, kept), plan_summary.of_recipe(found, whole)
    return Request(whole.replace(**_absolute(whole)), notes=(note,), reasons=tuple(reasons))


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
        return _run(request(found), verbose=found.verbose)
    return DONE


def _run(wanted: Request, *, verbose: bool) -> int:
    with importing():
        from lora_core.cli.terminal import Terminal  # brings rich, which an answer to --help can do without
        from lora_core.training.job import Job  # brings torch

    group = ProcessGroup.here()
    if not group.is_first:
        return _follow(wanted, group)
    terminal, events = Terminal(sys.stdout), deque[Event](maxlen=1)
    for line in (*_headlines(wanted.config, group), *wanted.notes):
        terminal.say(line)
    job = Job(wanted.config, wanted.resume, [terminal, events.append], group)
    job.announce = functools.partial(_tell_plan, terminal, group)
    _watch(job, terminal)
    terminal.close()
    if isinstance(job.error, UserError):
        raise job.error
    end = events[-1]
    if isinstance(end, Failed):
        if verbose:
            terminal.say(end.traceback)
        _complain(Message("cli.failed", what=end.message, file=job.run.events_file, go_on=_how_to_go_on(job.run)))
        return FAILED
    assert isinstance(end, Finished), "a job ends by Failed or Finished"
    return _conclude(job.run, end, wanted.config.max_train_steps, terminal)


def _follow(wanted: Request, group: ProcessGroup) -> int:
    """Train as one of the other processes of a group; it speaks only when something goes wrong here."""
    from lora_core.cli.terminal import Terminal
    from lora_core.training.failures import explain
    from lora_core.training.job import Job

    job = Job(wanted.config, wanted.resume, group=group)
    with open(os.devnull, "w", encoding="utf-8") as nowhere:
        _watch(job, Terminal(nowhere))
    if isinstance(job.error, UserError):
        raise job.error
    if job.error:
        _complain(str(explain(job.error, wanted.config)))
        return FAILED
    return STOPPED if job.controls.asked == "stop" else DONE


def _headlines(config: TrainConfig, group: ProcessGroup) -> tuple[Message, Message]:
    """What is about to happen, and where: a training that runs on a CPU by mistake must be seen to."""
    from lora_core.models import device

    compute = device.choose(config.device, config.mixed_precision, group)
    lora = Run(Path(config.output_dir)).lora_file(config)
    processes = Message("cli.headline_processes", count=group.size) if group.size > 1 else ""
    return (
        Message("cli.headline", version=__version__, pictures=config.train_data_dir, lora=lora),
        Message(
            "cli.headline_size", steps=config.max_train_steps, rank=config.lora_rank,
            base=config.pretrained_model_name_or_path, device=compute.title,
            dtype=str(compute.dtype).removeprefix("torch."), processes=processes,
        ),
    )  # fmt: skip


def _tell_plan(terminal: Terminal, group: ProcessGroup, config: TrainConfig, plan: Plan) -> None:
    from lora_core.cli import plan_summary
    from lora_core.models import device

    compute = device.choose(config.device, config.mixed_precision, group)
    for line in plan_summary.lines(config, plan, compute):
        terminal.say(line)


def _watch(job: Job, terminal: Terminal) -> None:
    """Start the job and wait for its end; the first Ctrl-C stops it in good order, the second at once."""
    with stop_signals(once=job.group.size > 1) as asked:
        job.start()
        told = False
        # Short waits: on Windows a signal is not seen while the main thread waits for another.
        while not job.wait(0.2):
            if asked and not told:
                told = True
                terminal.say(Message("cli.stopping"))
                job.controls.stop()
            if len(asked) > 1:
                terminal.say(Message("cli.stopped_at_once", go_on=_how_to_go_on(job.run)))
                terminal.close()
                os._exit(STOPPED)  # a join of the training thread would wait for its step


def _conclude(run: Run, end: Finished, steps: int, terminal: Terminal) -> int:
    if not end.path:
        terminal.say(Message("cli.nothing_to_save"))
        return STOPPED
    terminal.say(Message("cli.lora_is_in", path=run.folder / end.path))
    best = run.checkpoint_lora(end.best_step)
    if 0 < end.best_step == end.step:
        terminal.say(Message("cli.last_is_best"))
    elif best.exists():
        terminal.say(Message("cli.best_is_in", step=end.best_step, path=best))
    if not end.stopped:
        return DONE
    terminal.say(Message("cli.stopped_at", step=end.step, steps=steps, go_on=_how_to_go_on(run)))
    return STOPPED


def _how_to_go_on(run: Run) -> Message | str:
    return Message("cli.go_on", command=resume_command(run.folder)) if resumable(run.checkpoints) else ""


def _run_to_resume(resume: str, given: dict[str, object], preset: dict[str, object]) -> tuple[Path, str]:
    """The run folder, and what the job shall resume from: "latest" or a checkpoint folder.

    `resume` is "latest", a checkpoint folder, or a run folder, which means its latest checkpoint.
    """
    place = Path(_local_path(resume))
    if resume == "latest":
        default = preset.get("output_dir", settings()["output_dir"].default)
        folder = Path(str(given.get("output_dir", default)))
        if not Run(folder).config_file.is_file():
            raise UserError("cli.no_run", folder=folder)
        return folder, resume
    is_run = Run(place).config_file.is_file()
    folder = place if is_run else place.parent.parent
    if not Run(folder).config_file.is_file():
        raise UserError("cli.no_checkpoint", path=place)
    if "output_dir" in given and Path(str(given["output_dir"])).resolve() != folder.resolve():
        raise UserError("cli.other_run", path=place, folder=folder)
    return folder, "latest" if is_run else str(place)


def _preset_values(name: str) -> dict[str, object]:
    """A preset's settings; a shipped one speaks of the folders shipped with it, wherever it is called from."""
    values = dict(find_preset(name).values)
    path = Path(name)
    is_shipped = path.suffix not in (".toml", ".safetensors") or path.resolve().parent == PRESETS.resolve()
    if is_shipped and isinstance(folder := values.get("train_data_dir"), str) and folder:
        values["train_data_dir"] = str(ROOT / folder)
    return _localized(values)


def _localized(values: dict[str, object]) -> dict[str, object]:
    return {n: _local_path(v) if n in PATHS and isinstance(v, str) else v for n, v in values.items()}


def _local_path(text: str) -> str:
    r"""`.\Training` as Windows writes it, also elsewhere, and `~`; a name that really holds a backslash stays."""
    text = os.path.expanduser(text)
    if os.name == "nt" or "\\" not in text or Path(text).exists():
        return text
    forward = text.replace("\\", "/")
    return forward if Path(forward).exists() or text.startswith((".\\", "..\\")) else text


def _absolute(config: TrainConfig) -> dict[str, object]:
    """Input folders as absolute paths, so that the run can be resumed from anywhere."""
    names = ("train_data_dir", "pretrained_model_name_or_path", "vae")
    return {name: _absolute_value(name, getattr(config, name)) for name in names}


def _absolute_value(name: str, value: object) -> object:
    if not isinstance(value, str) or name not in PATHS or name == "output_dir":
        return value
    if name != "train_data_dir" and (value in ("", "starter") or not Path(value).exists()):
        return value
    return os.path.abspath(value)


def _no_folder(path: Path) -> Message:
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    key = "cli.data_is_file" if path.exists() else "cli.data_missing"
    return Message(key, path=path, suggestion=suggest(path.name, beside))


def _at_flag(wrong: Problem) -> Message:
    return Message("cli.at_flag", field=wrong.field, what=wrong.message)


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
        _complain(str(known))
        return
    more = "" if verbose else Message("cli.more_with_verbose")
    _complain(Message("cli.unforeseen", kind=type(failure).__name__, what=str(failure), more=more))


def _all_of(problems: list[Message]) -> UserError:
    if len(problems) == 1:
        return UserError(problems[0])
    return UserError("cli.several", problems=[Message("cli.one_of_several", what=each) for each in problems])


def _complain(told: Message | str) -> None:
    group = ProcessGroup.here()
    who = "treino" if group.size == 1 else f"treino, {group}"
    with contextlib.suppress(OSError, ValueError):
        print(f"{who}: {redact(str(told))}", file=sys.stderr, flush=True)
