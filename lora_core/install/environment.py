"""The private `.venv` beside the code: where its parts are, what state it is in, and who may change it.

Inside lies `treino.json`, the marker: "unfinished" from before the first file until all is verified, then "whole"
with what the environment was made from. A `.venv` without a marker was made by a person and is never emptied.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from lora_core.errors import UserError

ABSENT, FOREIGN, UNFINISHED, WHOLE = "absent", "foreign", "unfinished", "whole"
_LOCK_BYTE = 4096  # beyond the text, because Windows lets nobody read a locked byte
_LOOK_AGAIN_S = 0.2


class SetupError(UserError):
    """The set-up can't go on; the sentence names the cause and the fix."""


class Environment:
    """The environment of the program in the folder `root`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / ".venv"
        self.marker = self.folder / "treino.json"
        # Outside of the environment, because they are in use while it is emptied.
        self.workplace = root / ".venv.setup"
        self.log = self.workplace / "pip.log"
        self.lock_file = self.workplace / "lock"

    @property
    def python(self) -> Path:
        """Its interpreter, there or not."""
        return self.folder / ("Scripts/python.exe" if sys.platform == "win32" else "bin/python")

    @property
    def packages(self) -> list[str]:
        """The folders its packages are in; none before it is made."""
        pattern = "Lib/site-packages" if sys.platform == "win32" else "lib/python3*/site-packages"
        return [str(folder) for folder in self.folder.glob(pattern)]

    def is_running(self) -> bool:
        """Whether this process runs in it."""
        return Path(sys.prefix).resolve() == self.folder.resolve()

    def can_start(self) -> bool:
        """Whether its interpreter is there, and so is the Python it was made from."""
        if not self.python.exists():  # also False for a link to a Python that was uninstalled
            return False
        try:
            lines = (self.folder / "pyvenv.cfg").read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):
            return False
        pairs = [line.partition("=") for line in lines]
        return any(key.strip() == "home" and Path(home.strip()).is_dir() for key, _, home in pairs)

    def state(self) -> str:
        """ABSENT, FOREIGN (made by a person), UNFINISHED or WHOLE, by its marker alone."""
        if not self.folder.exists():
            return ABSENT
        if not self.marker.exists():
            is_bare = {path.name for path in self.folder.iterdir()} <= {self.marker.with_suffix(".tmp").name}
            return ABSENT if is_bare else FOREIGN
        return WHOLE if self._read_marker().get("state") == WHOLE else UNFINISHED

    def is_ready(self, files: Sequence[str]) -> bool:
        """Whether a finished set-up made it from the requirement `files` as they are now. Starts nothing."""
        if self.state() != WHOLE or not self.can_start():
            return False
        made_from = self._read_marker().get("files")
        return isinstance(made_from, dict) and all(made_from.get(name) == self._hash(name) for name in files)

    def is_for(self, python: Sequence[int]) -> bool:
        """Whether it was made with this version of Python, (major, minor); an update of the system can change it."""
        made_with = str(self._read_marker().get("python", ""))
        return made_with.split(".")[:2] == [str(part) for part in python[:2]]

    def empty(self) -> None:
        """Delete all of it and leave a folder marked unfinished. Raises SetupError."""
        old = self.workplace / "old"
        try:
            if old.exists():
                shutil.rmtree(old)
            if self.folder.exists():
                # Moved first: a deletion cut short must not leave an environment that has lost its marker.
                os.replace(self.folder, old)
                shutil.rmtree(old)
            self.folder.mkdir()
            self.mark_unfinished()
        except OSError as error:
            raise SetupError(
                f"{self.folder} cannot be made anew ({error.strerror or error}): close every program that uses it, "
                "also a terminal it is activated in, then delete it and start again."
            ) from error

    def mark_unfinished(self) -> None:
        """From here on only `mark_whole` makes it usable."""
        self._write_marker({"state": UNFINISHED})

    def mark_whole(self, files: Sequence[str], python: str, torch: str) -> None:
        """Set-up is done and verified; `torch` is the installed version with the label of its build."""
        hashes = {name: self._hash(name) for name in files}
        self._write_marker({"state": WHOLE, "python": python, "torch": torch, "files": hashes})

    @contextlib.contextmanager
    def locked(self, say: Callable[[str], object]) -> Iterator[int]:
        """Hold the right to change it, waiting while another process has it; gives the file number of the lock.

        The system lets go of the lock when its holders are gone, however they ended. Children that get the file
        number hold it too: a pip that outlives the set-up that started it is waited for. Raises SetupError.
        """
        try:
            self.workplace.mkdir(exist_ok=True)
            handle = open(self.lock_file, "a+", encoding="utf-8")  # noqa: SIM115  closed below
        except OSError as error:
            raise SetupError(
                f"Treino cannot write to its folder {self.root} ({error.strerror or error}): "
                "move it to a place that is yours, such as your home folder."
            ) from error
        with handle:
            if not _try_lock(handle):
                holder = self.lock_file.read_text(encoding="utf-8").strip()
                say(f"Another start of Treino (process {holder}) is setting up; waiting until it is done.")
                while not _try_lock(handle):
                    time.sleep(_LOOK_AGAIN_S)
            handle.truncate(0)
            handle.write(f"{os.getpid()}\n")
            handle.flush()
            yield handle.fileno()

    def _hash(self, name: str) -> str:
        # Line ends are not meant: git may turn them when it checks out on Windows.
        return hashlib.sha256((self.root / name).read_bytes().replace(b"\r\n", b"\n")).hexdigest()

    def _read_marker(self) -> dict[str, object]:
        """Empty when it is not there or was cut off."""
        try:
            content = json.loads(self.marker.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return content if isinstance(content, dict) else {}

    def _write_marker(self, content: dict[str, object]) -> None:
        temporary = self.marker.with_suffix(".tmp")
        with open(temporary, "w", encoding="utf-8", newline="\n") as file:
            json.dump(content, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self.marker)


if sys.platform == "win32":
    import msvcrt

    def _try_lock(handle: IO[str]) -> bool:
        handle.seek(_LOCK_BYTE)
        try:
            msvcrt.locking(handle.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _try_lock(handle: IO[str]) -> bool:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
