"""A training in the terminal: told as it goes, stopped by Ctrl-C, ended with where the LoRA lies."""

from __future__ import annotations

import contextlib
import functools
import os
import shlex
import sys
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core import __version__
from lora_core.cli.request import Request
from lora_core.config import TrainConfig
from lora_core.errors import DONE, FAILED, STOPPED, UserError
from lora_core.events import Event, Failed, Finished
from lora_core.install.bootstrap import ROOT
from lora_core.messages import Message
from lora_core.runs.run import Run, resumable
from lora_core.system.distributed import ProcessGroup
from lora_core.system.quick_import import importing
from lora_core.system.redact import redact
from lora_core.system.signals import stop_signals

if TYPE_CHECKING:
    from lora_core.cli.terminal import Terminal
    from lora_core.training.data.plan import Plan
    from lora_core.training.job import Job


def run(wanted: Request, *, verbose: bool) -> int:
    """Train, alone or as one of a group of processes; returns the exit code."""
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
        complain(Message("cli.failed", what=end.message, file=job.run.events_file, go_on=_how_to_go_on(job.run)))
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
        complain(str(explain(job.error, wanted.config)))
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


def resume_command(folder: Path) -> str:
    """The line that continues the run in `folder`, as this system's shell takes it."""
    script = ROOT / "treino.py"
    with contextlib.suppress(ValueError):  # the program lies elsewhere: its whole path it is
        script = script.relative_to(Path.cwd())
    words = ["python", str(script), "--resume", "--output_dir", str(folder)]
    if os.name != "nt":
        return shlex.join(words)
    return " ".join(f'"{word}"' if " " in word else word for word in words)


def complain(told: Message | str) -> None:
    """Say to the person at the terminal what went wrong."""
    group = ProcessGroup.here()
    who = "treino" if group.size == 1 else f"treino, {group}"
    with contextlib.suppress(OSError, ValueError):
        print(f"{who}: {redact(str(told))}", file=sys.stderr, flush=True)
