"""Pictures drawn on trial: each with what made it, as a PNG that webuis understand and a line in the gallery's list."""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from lora_core.runs.run import run_of
from lora_core.sampling.infotext import parameters_text, save_picture
from lora_core.sampling.params import GenerationParams
from lora_core.system.file_names import next_free, plain
from lora_core.system.files import WriteError, explain

FOLDER = "tests"
_MOST_LISTED = 60
_NAME_LENGTH = 60  # characters of a LoRA's name in a file's

_YOUNGER = ("zero_terminal_snr", "clip_skip", "max_token_length")  # than the list


@dataclass(frozen=True)
class Drawn:
    """A picture on disk. `at`: Unix time. `is_grid`: a sheet of many, whose params are those of its first."""

    path: Path
    params: GenerationParams
    at: float
    is_grid: bool = False


class Gallery:
    """Where trial pictures go: the `tests` folder of the LoRA's run, or the gallery's own. For one thread at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.list_file = folder / "history.jsonl"

    def keep(
        self, picture: Image.Image, params: GenerationParams, beside: Path | None = None, more: dict[str, str] | None = None
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
        path = _free(folder, _stem(params, at, more is not None))
        save_picture(path, picture, parameters_text(params, more))
        drawn = Drawn(path, params, at, more is not None)
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
        settings = dataclasses.asdict(drawn.params)
        for name in _YOUNGER:  # as usual they are left out, and an older version reads the line
            if settings[name] == getattr(GenerationParams, name):
                del settings[name]
        settings["negative"] = settings.pop("negative_prompt")
        table = {"path": str(drawn.path), "settings": settings, "at": drawn.at, "is_grid": drawn.is_grid}
        try:
            with self.list_file.open("a", encoding="utf-8", errors="backslashreplace") as file:
                file.write(json.dumps(table, ensure_ascii=False) + "\n")
        except OSError as cause:
            raise WriteError(explain(cause, self.list_file)) from cause


def _read(line: str) -> Drawn | None:
    try:
        table = json.loads(line)
        settings = table["settings"]
        settings["negative_prompt"] = settings.pop("negative", "")
        params = GenerationParams(**settings)
        return Drawn(Path(table["path"]), params, float(table["at"]), bool(table["is_grid"]))
    except (ValueError, KeyError, TypeError):  # cut by a crash, or of another version
        return None


def _stem(params: GenerationParams, at: float, is_grid: bool) -> str:
    time_text = time.strftime("%Y%m%d-%H%M%S", time.localtime(at))
    if is_grid:
        return f"{time_text}_grid"
    lora = f"{plain(params.name)[:_NAME_LENGTH]}_w{params.weight:g}" if params.has_lora else "base"
    return f"{time_text}_{lora}_s{params.seed}"


def _free(folder: Path, stem: str) -> Path:
    return folder / next_free(stem, lambda name: (folder / name).exists(), ".png", "_")
