"""What the window knows beyond a page: one per process, without a language, without gradio and without torch."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
from pathlib import Path
from typing import Any

from lora_core.install.bootstrap import ROOT
from lora_core.system import paths
from lora_core.system.files import WriteError, write_text_whole
from lora_core.system.quick_import import importing
from lora_core.ui.shared.crash import Trouble
from lora_core.ui.shared.signed_urls import Files
from lora_core.ui.state.captioning import Describer
from lora_core.ui.state.open_dataset import Desk
from lora_core.ui.state.training import Training

# What the tabs need of the core; importing these brings torch, diffusers, transformers and peft.
_CORE = (
    "lora_core.training.job", "lora_core.webuis.export", "lora_core.lora.convert", "lora_core.webuis.card",
    "lora_core.sampling.pipeline",
)  # fmt: skip


class App:
    """State shared by every page and tab: what is remembered, which files may be shown, the one training."""

    def __init__(self, home: Path | None = None, runs_folder: Path | None = None) -> None:
        self.home = home or paths.config_folder()
        self.runs_folder = runs_folder or ROOT / "lora_out"
        self.files = Files(self.home / "thumbnails")
        self.files.allow(self.runs_folder)
        self.training = Training()
        self.uploads = self.home / "uploads"  # emptied at each start
        self.shown = threading.Event()  # set once a page was shown in a browser
        self.born = secrets.token_hex(8)  # another one after a restart
        self.troubles: list[Trouble] = []
        self._memory_file = self.home / "window.json"
        self._lock = threading.Lock()
        self.dataset = Desk(self.files.allow, self.recall, self.remember)
        self.describer = Describer(self.dataset, self.training, self.note_trouble)
        self._core = threading.Thread(target=self._load_core, name="core", daemon=True)
        self._core_started = False
        self._core_error: BaseException | None = None

    # --- what is remembered from start to start ---------------------------------------------------------------

    def recall(self, name: str, default: Any = None) -> Any:
        """What was remembered under `name`, or the default."""
        with self._lock:
            return self._memory().get(name, default)

    def remember(self, name: str, value: Any) -> None:
        """Keep a JSON value across starts; on a disk that cannot be written it is forgotten at the end."""
        with self._lock:
            memory = {**self._memory(), name: value}
            try:
                self.home.mkdir(parents=True, exist_ok=True)
                write_text_whole(self._memory_file, json.dumps(memory, ensure_ascii=False, indent=1))
            except (OSError, WriteError):
                self._unwritten = memory

    def _memory(self) -> dict[str, Any]:
        try:
            memory = json.loads(self._memory_file.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            memory = {}
        return {**(memory if isinstance(memory, dict) else {}), **getattr(self, "_unwritten", {})}

    def newest_trouble(self) -> int:
        """The serial number of the last error, 0 without one."""
        return self.troubles[-1].serial if self.troubles else 0

    # --- the heavy part ---------------------------------------------------------------------------------------

    def load_core(self) -> None:
        """Begin to import torch and what stands on it, in the background."""
        with self._lock:
            if not self._core_started:
                self._core_started = True
                self._core.start()

    def core_ready(self) -> bool:
        """Whether the heavy imports are done."""
        return self._core_started and not self._core.is_alive()

    def wait_for_core(self) -> None:
        """Wait for the heavy imports; raises what they raised."""
        self.load_core()
        self._core.join()
        if self._core_error:
            raise self._core_error

    def _load_core(self) -> None:
        import importlib

        with contextlib.suppress(OSError):  # the thumbnails of another window, while it makes or removes some
            self.files.prune()
        try:
            with importing():
                for name in _CORE:
                    importlib.import_module(name)
        except BaseException as error:  # noqa: BLE001  told to whoever needs the core
            self._core_error = error

    # --- errors nobody foresaw --------------------------------------------------------------------------------

    def note_trouble(self, what: str, error: BaseException) -> Trouble:
        """Keep an error for the error panel of every page."""
        with self._lock:
            serial = self.troubles[-1].serial + 1 if self.troubles else 1
            trouble = Trouble.of(serial, what, error)
            self.troubles = [*self.troubles[-19:], trouble]
        return trouble
