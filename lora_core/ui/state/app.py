"""What the window knows beyond a page: one per process, without a language, without gradio and without torch."""

from __future__ import annotations

import contextlib
import secrets
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from lora_core.install.bootstrap import ROOT
from lora_core.system import paths
from lora_core.system.files import JsonMemo
from lora_core.system.quick_import import importing
from lora_core.ui.shared.crash import CrashReport
from lora_core.ui.shared.signed_urls import Files
from lora_core.ui.state.background import in_background
from lora_core.ui.state.captioning import Describer
from lora_core.ui.state.computer_check import ComputerCheck, Run
from lora_core.ui.state.open_dataset import OpenDataset
from lora_core.ui.state.training import Training

T = TypeVar("T")
# What the tabs need of the core; importing these brings torch, diffusers, transformers and peft.
_CORE = (
    "lora_core.training.job", "lora_core.webuis.export", "lora_core.lora.convert", "lora_core.webuis.card",
    "lora_core.sampling.pipeline",
)  # fmt: skip


class App:
    """State shared by every page and tab: what is remembered, which files may be shown, the one training.

    checks_itself: whether a computer that was never checked is checked by itself. check: does the check.
    """

    def __init__(
        self,
        home: Path | None = None,
        runs_folder: Path | None = None,
        checks_itself: bool = False,
        check: Run | None = None,
    ) -> None:
        self.home = home or paths.config_folder()
        self.runs_folder = runs_folder or ROOT / "lora_out"
        self.files = Files(self.home / "thumbnails")
        self.files.allow(self.runs_folder)
        self.training = Training(lambda: self.check.make_way())
        self.uploads = self.home / "uploads"  # emptied at each start
        self.shown = threading.Event()  # set once a page was shown in a browser
        self.born = secrets.token_hex(8)  # another one after a restart
        self.crashes: list[CrashReport] = []
        self._memory_file = JsonMemo(self.home / "window.json")
        self._unwritten: dict[str, Any] = {}
        self._lock = threading.Lock()
        self.dataset = OpenDataset(self.files.allow, self.recall, self.remember)
        self.describer = Describer(self.dataset, self.training, self.note_crash)
        self.check = ComputerCheck(self.recall, self.remember, self.note_crash, checks_itself, check)
        self.check.makes_way_for(self.training.busy)
        self.check.makes_way_for(lambda: self.describer.state.is_busy)
        self._core: Future[None] | None = None
        self._once: dict[str, Future[Any]] = {}

    # --- what is remembered from start to start ---------------------------------------------------------------

    def recall(self, name: str, default: Any = None) -> Any:
        """What was remembered under `name`, or the default."""
        with self._lock:
            return self._memory().get(name, default)

    def remember(self, name: str, value: Any) -> None:
        """Keep a JSON value across starts; on a disk that cannot be written it is forgotten at the end."""
        with self._lock:
            memory = {**self._memory(), name: value}
            if not self._memory_file.write(memory):
                self._unwritten = memory

    def _memory(self) -> dict[str, Any]:
        return {**self._memory_file.read(dict), **self._unwritten}

    def newest_crash(self) -> int:
        """The serial number of the last error, 0 without one."""
        return self.crashes[-1].serial if self.crashes else 0

    # --- the heavy part ---------------------------------------------------------------------------------------

    def load_core(self) -> None:
        """Begin to import torch and what stands on it, in the background."""
        with self._lock:
            if self._core is None:
                self._core = in_background(self._load_core, "core")

    def core_ready(self) -> bool:
        """Whether the heavy imports are done."""
        return self._core is not None and self._core.done()

    def wait_for_core(self) -> None:
        """Wait for the heavy imports; raises what they raised."""
        self.load_core()
        assert self._core is not None
        self._core.result()

    def once(self, name: str, work: Callable[[], T]) -> T | None:
        """What `work` returned; the first call begins it in the background, for all pages.

        None until then, and where it raises, which the error panel tells.
        """
        with self._lock:
            if name not in self._once:
                self._once[name] = in_background(partial(self._or_crash, name, work), name)
            future: Future[T | None] = self._once[name]
        return future.result() if future.done() else None

    def _or_crash(self, what: str, work: Callable[[], T]) -> T | None:
        try:
            return work()
        except Exception as error:  # noqa: BLE001  told on the pages
            self.note_crash(what, error)
            return None

    def _load_core(self) -> None:
        import importlib

        with contextlib.suppress(OSError):  # the thumbnails of another window, while it makes or removes some
            self.files.prune()
        with importing():
            for name in _CORE:
                importlib.import_module(name)

    # --- errors nobody foresaw --------------------------------------------------------------------------------

    def note_crash(self, what: str, error: BaseException) -> CrashReport:
        """Keep an error for the error panel of every page."""
        with self._lock:
            serial = self.crashes[-1].serial + 1 if self.crashes else 1
            crash = CrashReport.of(serial, what, error)
            self.crashes = [*self.crashes[-19:], crash]
        return crash
