"""The run folder while a training writes to it: taken by one process alone, and every event in its events.jsonl."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Emit, Event, Warned
from lora_core.messages import Message
from lora_core.runs import lock
from lora_core.runs.run import Run, make_folder
from lora_core.system import windows
from lora_core.system.files import explain, remove_stray_temporaries
from lora_core.training import checkpoint
from lora_core.training.data import tensor_store


class Log(Protocol):
    """Where a training tells what happens."""

    def open(self) -> None: ...

    def begin(self, step: int | None) -> None: ...

    def emit(self, event: Event) -> None: ...

    def close(self) -> None: ...


class NoLog:
    """That of a worker rank: the first process of its group tells all there is to tell, and the folder is that one's."""

    def open(self) -> None:
        """Nothing is taken."""

    def begin(self, step: int | None) -> None:
        """Nothing is begun."""

    def emit(self, event: Event) -> None:
        """Nobody listens."""

    def close(self) -> None:
        """Nothing was taken."""


class EventLog:
    """Writes the events of a run and passes them on to `listeners`; warnings once.

    An event that cannot be written waits in memory for the next one. What is told before `begin` is written by it.
    """

    def __init__(self, run: Run, config: TrainConfig, listeners: Sequence[Emit]) -> None:
        self._run, self._config, self._listeners = run, config, listeners
        self._lock: lock.Holder | None = None
        self._has_begun = False
        self._unwritten: list[Event] = []
        self._warned: set[Message] = set()

    def open(self) -> None:
        """Have the run folder for this process alone, and without what a killed one left half-written.

        Raises:
            UserError: another process has it, it cannot be written to, or its path is too long for Windows.
        """
        _check_length(self._run, self._config)
        make_folder(self._run.folder)
        self._lock = lock.take(self._run.folder)
        remove_stray_temporaries(self._run.samples)
        checkpoint.clean(self._run.checkpoints)
        tensor_store.remove_abandoned()

    def begin(self, step: int | None) -> None:
        """Write from here on: anew, with what was there before moved aside, or as the run's own continuation at `step`."""
        if step is None:
            self._run.begin(self._config)
        else:
            self._run.go_on(self._config, step)
        self._has_begun = True

    def emit(self, event: Event) -> None:
        if isinstance(event, Warned):
            if event.message in self._warned:
                return
            self._warned.add(event.message)
        self._unwritten.append(event)
        try:
            self._write()
        except (OSError, UserError) as cause:  # a training is worth more than its log, and the disk may have room again
            why = cause if isinstance(cause, UserError) else explain(cause, self._run.events_file)
            self._warn_listeners(Message("training.events_wait", why=why))
        for listener in self._listeners:
            listener(event)

    def close(self) -> None:
        """Let others have the folder."""
        if self._lock:
            lock.release(self._run.folder, self._lock)

    def _write(self) -> None:
        if not self._has_begun:
            return
        if not self._run.folder.is_dir():
            self.open()
            self._run.begin(self._config)
            gone = Message("training.folder_gone", folder=self._run.folder)
            self._unwritten.insert(0, Warned(gone))
            self._warn_listeners(gone)
        while self._unwritten:
            self._run.append(self._unwritten[0])
            del self._unwritten[0]

    def _warn_listeners(self, message: Message) -> None:
        if message not in self._warned:
            self._warned.add(message)
            for listener in self._listeners:
                listener(Warned(message))


def _check_length(run: Run, config: TrainConfig) -> None:
    """Raises UserError where Windows could not open the longest name in the run folder."""
    longest = max(len(f"checkpoints/step_0000000/{'x' * windows.LONGEST_TEMPORARY}"), len(run.lora_file(config).name)) + 1
    if problem := windows.path_problem(run.folder, longest):
        raise UserError(problem)
