"""A run is a folder: config.toml, events.jsonl, checkpoints/, samples/ and the finished LoRA directly in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_core.config import TrainConfig, read_values
from lora_core.errors import UserError
from lora_core.events import Event, Finished, from_line, to_line
from lora_core.files import write_text_whole

PARTS = ("config.toml", "events.jsonl", "checkpoints", "samples")


@dataclass(frozen=True)
class Run:
    """One run folder, opened; makes no claim about what is in it."""

    folder: Path

    @property
    def config_file(self) -> Path:
        return self.folder / "config.toml"

    @property
    def events_file(self) -> Path:
        return self.folder / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def samples(self) -> Path:
        return self.folder / "samples"

    def config(self) -> TrainConfig:
        """The settings the run was started with."""
        return TrainConfig.of(read_values(self.config_file))

    def lora_file(self, config: TrainConfig) -> Path:
        return self.folder / f"{config.output_name}.safetensors"

    def begin(self, config: TrainConfig) -> None:
        """Make the folder ready for a new run; what an older run left here moves to `previous/<time>/` first."""
        make_folder(self.folder)
        self._set_aside()
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        write_text_whole(self.config_file, config.to_toml())

    def _set_aside(self) -> None:
        """Move the files of an older run away. Its config goes last: while it stands, a cut move is done again."""
        old = [*self.folder.glob("*.safetensors"), *self.folder.glob("*.png"), *self.folder.glob("*.json")]
        old += [self.folder / part for part in reversed(PARTS) if (self.folder / part).exists()]
        if not old:
            return
        name = time.strftime("%Y-%m-%d_%H-%M-%S")
        aside, count = self.folder / "previous" / name, 2
        while aside.exists():
            aside, count = aside.with_name(f"{name}_{count}"), count + 1
        aside.mkdir(parents=True)
        for path in old:
            os.replace(path, aside / path.name)

    def append(self, event: Event) -> None:
        """Add an event to events.jsonl; a last line that a crash cut short is ended first, so it spoils no other."""
        with self.events_file.open("ab+") as file:
            if file.tell():
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
            file.write(to_line(event, time.time()).encode() + b"\n")

    def read(self, offset: int = 0) -> tuple[list[tuple[Event, float]], int]:
        """Events from a byte offset on, and the offset to read from next; a line still being written waits."""
        if not self.events_file.exists():
            return [], 0
        with self.events_file.open("rb") as file:
            file.seek(0, os.SEEK_END)
            if file.tell() < offset:  # the run was started anew
                offset = 0
            file.seek(offset)
            data = file.read()
        whole = data.rfind(b"\n") + 1
        return list(_events(data[:whole])), offset + whole

    def finished(self) -> Finished | None:
        """The last end of the run, if it ended well."""
        last = [event for event, _ in self.read()[0] if isinstance(event, Finished)]
        return last[-1] if last else None


def list_runs(folder: Path) -> list[Run]:
    """The runs in a folder and one level below it, newest first; `previous/` holds more."""
    candidates = [folder, *folder.glob("*"), *folder.glob("*/previous/*"), *folder.glob("previous/*")]
    found = {path.resolve(): Run(path) for path in candidates if (path / "config.toml").is_file()}
    return sorted(found.values(), key=lambda run: run.config_file.stat().st_mtime, reverse=True)


def make_folder(folder: Path) -> None:
    """Create a folder and prove that it can be written to.

    Raises:
        UserError: it can't, with the reason.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / ".treino-write-test.tmp"
        probe.write_bytes(b"")
        probe.unlink()
    except OSError as cause:
        reason = cause.strerror or str(cause)
        raise UserError(f"The folder {folder} cannot be written to ({reason}); choose another --output_dir.") from None


def _events(data: bytes) -> Iterator[tuple[Event, float]]:
    for line in data.split(b"\n"):
        if line.strip():
            try:
                yield from_line(line.decode("utf-8"))
            except ValueError:  # cut by a crash: the next start of the run wrote on behind it
                continue
