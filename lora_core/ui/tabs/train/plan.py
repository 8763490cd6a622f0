"""What a training would do with what stands in the form: read as it is typed, shown before anything starts."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.config import PRESETS, TrainConfig
from lora_core.errors import UserError
from lora_core.messages import Message, plain
from lora_core.system.file_names import next_free
from lora_core.system.files import free_bytes, stamps_below
from lora_core.ui.state.background import has_ended, in_background

if TYPE_CHECKING:
    from lora_core.dataset import Dataset
    from lora_core.training.data.plan import Plan

MOST_KNOWN = 8  # folders whose pictures are remembered


@dataclass
class Reading:
    """The pictures of one folder, being read in a thread of its own. `problem` is for the field of the folder."""

    folder: Path
    trigger_word: str
    stamps: dict[str, tuple[int, int]]
    done: int = 0
    total: int = 0
    dataset: Dataset | None = None
    problem: Message | None = None
    work: Future[None] | None = None

    def start(self) -> None:
        self.work = in_background(self._read, "reading pictures")

    def _read(self) -> None:
        from lora_core.dataset import scan

        try:
            self.dataset = scan(self.folder, self.trigger_word, self._count)
        except UserError as wrong:
            self.problem = wrong.message
        except OSError as cause:
            self.problem = plain(f"{self.folder}: {cause.strerror or cause}.")

    def _count(self, done: int, total: int) -> None:
        self.done, self.total = done, total


class Pictures:
    """What was read of folders, by folder; read again only when a file in it changed. Shared by all pages."""

    def __init__(self) -> None:
        self._known: dict[tuple[Path, str], Reading] = {}
        self._lock = threading.Lock()

    def of(self, folder: Path, trigger_word: str, patience_s: float = 0.3) -> Reading:
        """The reading of a folder, begun if need be; small folders are done within `patience_s`."""
        key, stamps = (folder, trigger_word), stamps_below(folder)
        with self._lock:
            known = self._known.get(key)
            if known is None or known.stamps != stamps:
                known = self._known[key] = Reading(folder, trigger_word, stamps)
                known.start()
                while len(self._known) > MOST_KNOWN:
                    del self._known[next(iter(self._known))]
        has_ended(known.work, patience_s)
        return known


@dataclass(frozen=True)
class DryRun:
    """What can be said before Start. `problems` by setting; `reading` while the pictures are still being looked at."""

    problems: dict[str, Message]
    config: TrainConfig | None = None
    plan: Plan | None = None
    left_out: int = 0  # files that cannot be used
    reading: Reading | None = None
    free_bytes: int = 0


def dry_run(values: Mapping[str, object], problems: Mapping[str, Message], pictures: Pictures) -> DryRun:
    """What `values` come to, as read from the form, with the `problems` it has found; of the pictures as they are."""
    from lora_core.training.data.plan import Plan

    found = dict(problems)
    folder_text = str(values.get("train_data_dir", ""))
    reading = None
    if folder_text and "train_data_dir" not in found:
        folder = Path(folder_text).expanduser()
        if not folder.is_dir():
            found["train_data_dir"] = Message("ui.plan_no_folder")
        else:
            reading = pictures.of(folder, str(values.get("trigger_word", "")).strip())
            if reading.problem:
                found["train_data_dir"] = reading.problem
    if found:
        return DryRun(found, reading=reading)
    config = TrainConfig.of(values)
    if reading is None:
        return DryRun({"train_data_dir": Message("ui.plan_no_pictures")}, config)
    if reading.dataset is None:
        return DryRun({}, config, reading=reading)
    left_out = len({problem.path for problem in reading.dataset.problems if problem.excluded})
    plan = Plan.of(config, reading.dataset)
    return DryRun({}, config, plan, left_out, None, free_bytes(Path(config.output_dir).expanduser()))


def preset_values(values: Mapping[str, object]) -> dict[str, object]:
    """A shipped preset's values, with the folder that is shipped beside it where it is."""
    filled = dict(values)
    if (folder := filled.get("train_data_dir")) and not Path(str(folder)).is_absolute():
        filled["train_data_dir"] = str(PRESETS.parent / str(folder))
    return filled


def new_folder(runs: Path, config: TrainConfig) -> Path:
    """A folder below `runs` for a new run, named after its LoRA or trigger word: "zebu", "zebu 2", "zebu 3"...

    A name every system takes; one that is not there yet.
    """
    from lora_core.system.file_names import plain as plain_name

    is_own_name = config.output_name != TrainConfig().output_name
    wanted = config.output_name if is_own_name else config.trigger_word or Path(config.train_data_dir).name
    name = plain_name(wanted)[:60].rstrip(" .") or "lora"
    taken = {path.name.casefold() for path in runs.iterdir()} if runs.is_dir() else set()
    return runs / next_free(name, lambda free: free.casefold() in taken)
