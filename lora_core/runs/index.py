"""Every run below a folder, damaged ones too, as rows for a list; what was read once is not read again."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.messages import Message, plain
from lora_core.runs.run import PARTS, Run
from lora_core.runs.summary import Summary, summarise
from lora_core.system.files import JsonMemo, stamp

_STAMP = tuple[int, int]  # size in bytes, time of the last change in nanoseconds


@dataclass(frozen=True)
class Row:
    """A run as the list shows it. `key` is its place below the folder; `wrong` says what is damaged or missing.

    `wrong` holds names of texts: config, events, lines, lora.
    """

    key: str
    run: Run
    summary: Summary
    config: TrainConfig | None
    at: float  # Unix seconds: when it began, or else when its folder last changed
    wrong: tuple[str, ...] = ()
    why: Message | None = None  # what reading the settings said, where they are damaged

    @property
    def name(self) -> str:
        """The folder's name; runs that were set aside carry the name of the folder they were in."""
        folder = self.run.folder
        return f"{folder.parent.parent.name} · {folder.name}" if self.is_previous else folder.name

    @property
    def is_previous(self) -> bool:
        return self.run.folder.parent.name == "previous"

    @property
    def lora(self) -> Path | None:
        """The finished LoRA, where it is there."""
        names = [self.summary.lora, f"{self.config.output_name}.safetensors" if self.config else ""]
        return next((self.run.folder / name for name in names if name and (self.run.folder / name).is_file()), None)

    @property
    def model(self) -> str:
        """The base model without the folders in front of it."""
        named = self.config.pretrained_model_name_or_path if self.config else ""
        return named.rstrip("/\\").replace("\\", "/").rpartition("/")[2]

    @property
    def picture(self) -> Path | None:
        """The newest picture of the first sample prompt; the first ones show the concept, later ones what must stay."""
        named = self.run.folder / self.summary.sample if self.summary.sample else None
        if named and named.is_file() and self.run.folder in named.parents and ".." not in named.parts:
            return named
        found = list(self.run.samples.glob("step_*.png"))
        newest = max((path.stem.rpartition("_")[0] for path in found), default="")
        return min((path for path in found if path.stem.startswith(f"{newest}_")), default=None)


@dataclass
class RunIndex:
    """The runs below `root`. `cache_file` keeps summaries across starts; "" and damaged caches are read anew."""

    root: Path
    cache_file: Path
    _summaries: dict[str, tuple[_STAMP, Summary]] = field(default_factory=dict)
    _configs: dict[str, tuple[_STAMP, TrainConfig | None, Message | None]] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _loaded: bool = False

    def rows(self) -> list[Row]:
        """Every run, newest first."""
        with self._lock:
            self._load()
            known = dict(self._summaries)
            rows = [self._row(folder) for folder in self._folders()]
            if self._summaries != known:
                self._save({str(row.run.folder) for row in rows})
        return sorted(rows, key=lambda row: row.at, reverse=True)

    def row(self, key: str) -> Row:
        """One run, read as it is now.

        Raises:
            UserError: there is no run of that key any more.
        """
        for folder in self._folders():
            if self._key(folder) == key:
                with self._lock:
                    return self._row(folder)
        raise UserError("runs.gone", run=key)

    def key_of(self, folder: Path) -> str | None:
        """The key of a run folder; None when it is no run below the root."""
        wanted = folder.absolute()
        return next((self._key(found) for found in self._folders() if found.absolute() == wanted), None)

    def _folders(self) -> Iterator[Path]:
        """The root, what lies in it, and what was set aside in either: the same places as `run.list_runs`."""
        patterns = ("*", "previous/*", "*/previous/*")
        found = [self.root, *(path for pattern in patterns for path in self.root.glob(pattern))]
        for folder in found:
            try:
                if folder.name not in ("previous", ".trash") and any((folder / part).exists() for part in PARTS):
                    yield folder
            except OSError:  # not ours to read
                continue

    def _key(self, folder: Path) -> str:
        return folder.relative_to(self.root).as_posix()

    def _row(self, folder: Path) -> Row:
        run, wrong = Run(folder), []
        config, why = self._config(run)
        try:
            summary = self._summary(run)
        except OSError as cause:
            summary, why = Summary(), why or plain(str(cause.strerror or cause))
            wrong.append("events")
        row = Row(self._key(folder), run, summary, config, summary.began_at or _changed(folder), why=why)
        wrong += [] if config else ["config"]
        wrong += ["events"] if not run.events_file.is_file() else []
        wrong += ["lines"] if summary.damaged else []
        wrong += ["lora"] if summary.end in ("finished", "stopped") and summary.step and not row.lora else []
        return dataclasses.replace(row, wrong=tuple(dict.fromkeys(wrong)))

    def _summary(self, run: Run) -> Summary:
        name, now = str(run.folder), stamp(run.events_file)
        if name not in self._summaries or self._summaries[name][0] != now:
            self._summaries[name] = (now, summarise(run.events_file))
        return self._summaries[name][1]

    def _config(self, run: Run) -> tuple[TrainConfig | None, Message | None]:
        name, now = str(run.folder), stamp(run.config_file)
        if name not in self._configs or self._configs[name][0] != now:
            try:
                self._configs[name] = (now, run.config(), None)
            except UserError as cause:
                self._configs[name] = (now, None, cause.message)
        return self._configs[name][1:]

    def _load(self) -> None:
        if self._loaded:
            return
        self._loaded = True
        try:
            self._summaries = {
                name: ((int(size), int(changed)), Summary.from_json(values))
                for name, (size, changed, values) in JsonMemo(self.cache_file).read(dict).items()
            }
        except (ValueError, TypeError):  # damaged, or of another Treino
            self._summaries = {}

    def _save(self, current: set[str]) -> None:
        self._summaries = {name: known for name, known in self._summaries.items() if name in current}
        table = {name: [*read_at, summary.to_json()] for name, (read_at, summary) in self._summaries.items()}
        JsonMemo(self.cache_file).write(table)


def _changed(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return time.time()
