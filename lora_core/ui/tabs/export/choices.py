"""What the export tab offers: LoRAs of runs, pictures for the card, webuis on this computer, names."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.errors import UserError
from lora_core.runs.index import Row, RunIndex
from lora_core.runs.run import run_of
from lora_core.system.file_names import problem_of
from lora_core.webuis import detect, loras, search
from lora_core.webuis.detect import WebUI

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

OTHER = "other"  # the card for a folder that a person names
MOST_PICTURES = 24
_STEP = re.compile(r"step_(\d+)")

NAME_PROBLEMS = {
    "empty": "export.name_empty", "sign": "export.name_sign", "ends": "export.name_ends", "device": "export.name_device",
    "long": "export.name_long",
}  # fmt: skip


@dataclass(frozen=True)
class Version:
    """A LoRA of a run: the finished one or that of a checkpoint."""

    path: Path
    step: int | None
    finished: bool
    best: bool


def exportable(rows: Sequence[Row]) -> list[Row]:
    """The runs that have a LoRA, in the order they are in."""
    return [row for row in rows if row.lora or row.run.checkpoint_loras()]


def versions(row: Row) -> list[Version]:
    """The finished LoRA first, then its checkpoints from the latest on."""
    found = loras.of_run(row.run)
    return [Version(each.path, each.step, each.kind == loras.FINISHED, each.best) for each in found]


def version_label(version: Version, text: Texts) -> str:
    """E.g. "Finished, step 500 (best)"."""
    label = text("export.version_finished") if version.finished else text("export.version_checkpoint")
    if version.step is not None:
        label = text("export.version_step", label=label, step=version.step)
    return text("export.version_best", label=label) if version.best else label


def pictures(lora: Path, extra: Path | None = None) -> list[Path]:
    """Sample pictures for the card: of the LoRA's own step first, then of the latest; none without the LoRA in them."""
    run = run_of(lora)
    found: list[tuple[int, Path]] = []
    for path in run.samples.glob("step_*.png") if run else ():
        if (match := _STEP.match(path.name)) and int(match[1]):
            found.append((int(match[1]), path))
    own = _STEP.fullmatch(lora.parent.name)
    mine = int(own[1]) if own else -1
    found.sort(key=lambda pair: (pair[0] != mine, -pair[0], pair[1].name))
    listed = [path for _, path in found if path != extra]
    return [*([extra] if extra else []), *listed][:MOST_PICTURES]


def place_in_runs(lora: Path, index: RunIndex) -> tuple[str, Path] | None:
    """(key of the run, LoRA file) of a LoRA or run folder that the index lists; None when it lies elsewhere.

    Raises:
        UserError: a run folder without a LoRA.
    """
    from lora_core.webuis.card import lora_of

    path = lora_of(lora)
    run = run_of(path)
    key = index.key_of(run.folder) if run else None
    return (key, path) if key is not None else None


def find_webuis(home: Path) -> list[WebUI]:
    """The webuis on this computer, those chosen before first. Looks through many folders: not for the event loop."""
    here = search.here()
    return detect.find(dataclasses.replace(here, remembered=tuple(search.remembered(home))))


def target_of(folder: str) -> WebUI:
    """The webui in a folder that a person names, or the folder itself as a place for LoRAs.

    Raises:
        UserError: nothing named, or no such folder.
    """
    named = folder.strip().strip('"')
    if not named:
        raise UserError("webuis.name_folder")
    path = Path(named).expanduser()
    if not path.is_dir():
        raise UserError("webuis.no_such_folder", folder=path)
    try:
        return detect.at(path)
    except UserError:  # no webui: then the folder itself is what is meant
        return detect.folder_of_loras(path)


def name_problem(name: str, text: Texts) -> str:
    """What is wrong with a name, in the language of the page; "" when it will do."""
    if (problem := problem_of(name)) is None:
        return ""
    kind, value = problem
    return text(NAME_PROBLEMS[kind], value=value)
