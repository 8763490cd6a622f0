"""Pictures drawn on trial: each with its settings, as a PNG that webuis understand and a line in the album's list."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from PIL import Image

from lora_core.runs.run import run_of
from lora_core.sampling.infotext import LoraCall, parameters_text, save_picture
from lora_core.system.file_names import next_free, plain
from lora_core.system.files import WriteError, explain

if TYPE_CHECKING:
    from lora_core.sampling.pipeline import Shot
    from lora_core.sampling.sample import Wish

FOLDER = "tests"
_MOST_LISTED = 60
_NAME_LENGTH = 60  # characters of a LoRA's name in a file's


@dataclass(frozen=True)
class Settings:
    """All that makes one picture. lora "": the base model alone. Sizes in pixels."""

    base: str
    prompt: str
    seed: int
    width: int
    height: int
    negative: str = ""
    steps: int = 25
    guidance: float = 7.5
    sampler: str = "DDIM"
    lora: str = ""  # path
    name: str = ""  # as prompts call the LoRA
    hash: str = ""
    trigger: str = ""
    weight: float = 1.0
    vae: str = ""  # path, instead of the base model's own
    prediction_type: str = "auto"

    @property
    def has_lora(self) -> bool:
        return bool(self.lora) and self.weight != 0

    def without_lora(self) -> Settings:
        return dataclasses.replace(self, lora="", name="", hash="", trigger="", weight=1.0)

    def wish(self) -> Wish:
        from lora_core.sampling.sample import Wish

        return Wish(self.prompt, self.seed, self.width, self.height, self.negative, self.steps, self.guidance, self.sampler)

    def shot(self) -> Shot:
        from lora_core.sampling.pipeline import Shot

        return Shot(self.wish(), Path(self.lora), self.weight) if self.has_lora else Shot(self.wish())

    def call(self) -> LoraCall | None:
        return LoraCall(self.name, self.weight, self.hash) if self.has_lora else None


@dataclass(frozen=True)
class Drawn:
    """A picture on disk. `at`: Unix time. `is_grid`: a sheet of many, whose settings are those of its first."""

    path: Path
    settings: Settings
    at: float
    is_grid: bool = False


class Album:
    """Where trial pictures go: the `tests` folder of the LoRA's run, or the album's own. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list_file = folder / "history.jsonl"

    def keep(
        self, picture: Image.Image, settings: Settings, beside: Path | None = None, more: dict[str, str] | None = None
    ) -> Drawn:
        """Save a picture under a name of its own. beside: the LoRA whose run it belongs to; more: a grid's axes.

        Raises:
            WriteError: it could not be written.
        """
        folder, at = self.folder_for(beside), time.time()
        try:
            for needed in (folder, self.folder):
                needed.mkdir(parents=True, exist_ok=True)
        except OSError as cause:
            raise WriteError(explain(cause, folder)) from cause
        path = _free(folder, _stem(settings, at, more is not None))
        save_picture(path, picture, parameters_text(settings.wish(), settings.base, settings.call(), more))
        drawn = Drawn(path, settings, at, more is not None)
        self._list(drawn)
        return drawn

    def folder_for(self, lora: Path | None) -> Path:
        """Where pictures drawn for a LoRA go."""
        run = run_of(lora) if lora else None
        return run.folder / FOLDER if run else self.folder

    def recent(self) -> list[Drawn]:
        """The last pictures that are still there, newest first."""
        try:
            lines = self.list_file.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError):  # none drawn yet; or damaged, and the pictures themselves remain
            return []
        found = [drawn for line in lines[-2 * _MOST_LISTED :] if (drawn := _read(line)) and drawn.path.is_file()]
        return found[::-1][:_MOST_LISTED]

    def _list(self, drawn: Drawn) -> None:
        table = {**dataclasses.asdict(drawn), "path": str(drawn.path)}
        try:
            with self.list_file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(table, ensure_ascii=False) + "\n")
        except OSError as cause:
            raise WriteError(explain(cause, self.list_file)) from cause


def _read(line: str) -> Drawn | None:
    try:
        table = json.loads(line)
        settings = Settings(**table["settings"])
        return Drawn(Path(table["path"]), settings, float(table["at"]), bool(table["is_grid"]))
    except (ValueError, KeyError, TypeError):  # cut by a crash, or of another version
        return None


def _stem(settings: Settings, at: float, is_grid: bool) -> str:
    time_text = time.strftime("%Y%m%d-%H%M%S", time.localtime(at))
    if is_grid:
        return f"{time_text}_grid"
    lora = f"{plain(settings.name)[:_NAME_LENGTH]}_w{settings.weight:g}" if settings.has_lora else "base"
    return f"{time_text}_{lora}_s{settings.seed}"


def _free(folder: Path, stem: str) -> Path:
    return folder / next_free(stem, lambda name: (folder / name).exists(), ".png", "_")
