"""One program at a time per run folder: a note in the folder says who trains there, and is believed while they live.

No lock of the operating system: those differ, and say nothing on network drives. Not filelock's SoftFileLock either,
which writes such notes: it tells neither the computer nor, without taking it, whether the holder lives. Its FileLock
guards the moment of noting. A process is known by its number and the time it started, for numbers are used again.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import secrets
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil
from filelock import FileLock, Timeout

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system.files import JsonMemo, remove_stray_temporaries, write_text_whole
from lora_core.system.paths import cache_folder

NAME = ".treino-lock.json"
SAME_START_S = 2.0  # a process's start, asked for twice, differs by rounding; on some systems after the clock was set
_HELD: set[str] = set()  # tokens of this process: a note of its own that could not be removed is not among them
GUARD_S = 10.0  # noting oneself down takes milliseconds


@dataclass(frozen=True)
class Holder:
    """Who trains in a folder: process `pid`, started at `started` (Unix seconds), on the computer `host`."""

    pid: int
    started: float
    host: str
    token: str

    def is_alive(self) -> bool:
        """Whether that process still runs; of another computer's nothing is known, so it is taken to."""
        if self.host != platform.node():
            return True
        if self.pid == os.getpid():
            return self.token in _HELD
        try:
            return bool(abs(psutil.Process(self.pid).create_time() - self.started) <= SAME_START_S)
        except (psutil.NoSuchProcess, psutil.ZombieProcess, ValueError, OverflowError):
            return False
        except psutil.AccessDenied:  # it is there, and another user's
            return True


def holder(folder: Path) -> Holder | None:
    """The living program that trains in a folder; None where nobody does."""
    found = _noted(folder)
    return found if found and found.is_alive() else None


def is_held_elsewhere(folder: Path) -> bool:
    """Whether another process than this one trains in a folder."""
    found = holder(folder)
    return found is not None and (found.pid != os.getpid() or found.host != platform.node())


def take(folder: Path) -> Holder:
    """Note this process as the one that trains in `folder`, which exists; `release` ends it.

    Raises:
        UserError: another living program does, or it cannot be noted down.
    """
    me = Holder(os.getpid(), psutil.Process().create_time(), platform.node(), secrets.token_hex(8))
    with _guard(folder):
        if there := holder(folder):
            raise UserError(_refusal(folder, there))
        write_text_whole(folder / NAME, json.dumps(asdict(me)))
        _HELD.add(me.token)
    remove_stray_temporaries(folder)
    return me


def release(folder: Path, mine: Holder) -> None:
    """Remove the note, if it is still this one; a folder that went away takes it along."""
    _HELD.discard(mine.token)
    with contextlib.suppress(OSError, UserError), _guard(folder):
        if _noted(folder) == mine:
            (folder / NAME).unlink(missing_ok=True)


def _refusal(folder: Path, there: Holder) -> Message:
    if there.host != platform.node():
        return Message("runs.in_use_far", folder=folder, host=there.host, file=folder / NAME)
    is_ours = there.pid == os.getpid()
    who = Message("runs.this_program") if is_ours else Message("runs.another_program", pid=there.pid)
    return Message("runs.in_use", folder=folder, who=who)


def _noted(folder: Path) -> Holder | None:
    """Who is noted, alive or not. A note that cannot be read was written by nobody here: notes are whole or absent."""
    try:
        fields = JsonMemo(folder / NAME).read(dict)
        return Holder(int(fields["pid"]), float(fields["started"]), str(fields["host"]), str(fields["token"]))
    except (ValueError, OverflowError, KeyError, TypeError):
        return None


@contextlib.contextmanager
def _guard(folder: Path) -> Iterator[None]:
    """Only one process of this computer looks and notes at a time; without it two could both find the folder free."""
    name = hashlib.sha256(os.path.realpath(folder).encode("utf-8", "surrogateescape")).hexdigest()[:32]
    with contextlib.ExitStack() as stack:
        # A cache that cannot be written is no reason not to train.
        with contextlib.suppress(OSError, NotImplementedError, Timeout):
            place = cache_folder() / "locks"
            place.mkdir(parents=True, exist_ok=True)
            stack.enter_context(FileLock(place / name, timeout=GUARD_S))
        yield
