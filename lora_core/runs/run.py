"""A run is a folder: config.toml, events.jsonl, checkpoints/, samples/ and the finished LoRA directly in it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_core.config import TrainConfig, read_values
from lora_core.errors import UserError
from lora_core.events import Event, Failed, Finished, from_line, to_line
from lora_core.system.file_names import next_free
from lora_core.system.files import WriteError, writable_folder, write_text_whole

SHEET = "before_after.png"
PARTS = ("config.toml", "events.jsonl", "checkpoints", "samples")
LORA_FILE, STATE_FILE = "lora.safetensors", "state.pt"  # of a checkpoint
UNFINISHED = ".treino.tmp"  # ends the name of a checkpoint that is being written


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

    def checkpoint_lora(self, step: int) -> Path:
        """The LoRA of the checkpoint of a step, which need not be there."""
        return self.checkpoints / f"step_{step:07d}" / LORA_FILE

    def checkpoint_loras(self) -> list[Path]:
        """The LoRAs of the checkpoints, oldest first."""
        return sorted(self.checkpoints.glob(f"step_*/{LORA_FILE}"))

    def begin(self, config: TrainConfig) -> None:
        """Make the folder ready for a new run; what an older run left here moves to `previous/<time>/` first."""
        make_folder(self.folder)
        self._set_aside(config.output_name)
        self.samples.mkdir(exist_ok=True)
        self.checkpoints.mkdir(exist_ok=True)
        write_text_whole(self.config_file, config.to_toml())

    def go_on(self, config: TrainConfig, step: int) -> None:
        """Make the folder ready to go on after `step`: what was told of later steps is told again, so it is dropped."""
        kept = [to_line(event, at) for event, at in self.read()[0] if not _later(event, step)]
        write_text_whole(self.events_file, "".join(f"{line}\n" for line in kept))
        # Someone who goes back to an older checkpoint may still want the newer ones: their steps are trained again.
        self._move_aside([folder for folder in self.checkpoints.glob("step_*") if folder.name > f"step_{step:07d}"])
        write_text_whole(self.config_file, config.to_toml())

    def _set_aside(self, new_name: str) -> None:
        """Move the files of an older run away. Its config goes last: while it stands, a cut move is done again.

        Without a config there was no run: pictures, LoRAs and folders of the user's own stay, but for a file that the
        new run would write over.
        """
        names = {SHEET, f"{new_name}.safetensors"}
        old = [path for path in self.folder.iterdir() if path.name in names]
        if self.config_file.is_file():
            prefix = f"{self._old_name()}."
            old = [path for path in self.folder.iterdir() if path.name in names or path.name.startswith(prefix)]
            old = [path for path in old if path.is_file() and path.name not in PARTS]
            old += [self.folder / part for part in reversed(PARTS) if (self.folder / part).exists()]
        self._move_aside(old)

    def _move_aside(self, old: list[Path]) -> None:
        """Move files and folders to a new `previous/<time>/`."""
        if not old:
            return
        name = time.strftime("%Y-%m-%d_%H-%M-%S")
        previous = self.folder / "previous"
        aside = previous / next_free(name, lambda free: (previous / free).exists(), joint="_")
        aside.mkdir(parents=True)
        for path in old:
            os.replace(path, aside / path.name)

    def _old_name(self) -> str:
        try:
            return str(read_values(self.config_file).get("output_name"))
        except UserError:  # its settings are damaged: then the usual name, and the rest of the run all the same
            return TrainConfig().output_name

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
        if not self.events_file.is_file():
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


def run_of(lora: Path) -> Run | None:
    """The run a LoRA lies in, directly or as the LoRA of a checkpoint."""
    for run in (Run(lora.parent), *map(Run, lora.parent.parents[1:2])):
        if run.config_file.is_file() or run.events_file.is_file():
            return run
    return None


def resumable(checkpoints: Path) -> list[Path]:
    """The checkpoints with a state to go on from, oldest first."""
    found = (path.parent for path in checkpoints.glob(f"step_*/{STATE_FILE}"))
    return sorted(folder for folder in found if not folder.name.endswith(UNFINISHED))


def make_folder(folder: Path) -> None:
    """Create a folder and prove that it can be written to.

    Raises:
        UserError: it can't, with the reason.
    """
    try:
        writable_folder(folder)
    except WriteError as wrong:
        cause = wrong.__cause__
        reason = getattr(cause, "strerror", "") or str(cause)
        raise UserError("runs.folder_unwritable", folder=folder, why=reason) from None


def _later(event: Event, step: int) -> bool:
    """Whether an event belongs after a step; the ends of a run are dropped too, for it has not ended."""
    return isinstance(event, Failed | Finished) or int(getattr(event, "step", 0)) > step


def _events(data: bytes) -> Iterator[tuple[Event, float]]:
    for line in data.split(b"\n"):
        if line.strip():
            try:
                yield from_line(line.decode("utf-8"))
            except ValueError:  # cut by a crash: the next start of the run wrote on behind it
                continue
