"""The LoRAs on this computer: finished ones and checkpoints of runs, and those in the webuis' folders."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.events import Finished
from lora_core.runs.run import Run, list_runs
from lora_core.runs.summary import best_step, outcome
from lora_core.system.tensor_headers import metadata_of
from lora_core.webuis import detect

FINISHED, CHECKPOINT, WEBUI = "finished", "checkpoint", "webui"
_MOST_IN_A_WEBUI = 1000  # more than anyone scrolls through; what lies beyond is reached by its path


@dataclass(frozen=True)
class Found:
    """A LoRA file. `home`: the run's folder or the webui it is in; `step`: steps trained, None when unknown."""

    path: Path
    kind: str
    home: str
    name: str
    step: int | None = None
    best: bool = False


def of_runs(folder: Path) -> list[Found]:
    """LoRAs of the runs in a folder and one level below it, newest run first; its finished LoRA leads."""
    runs = [run for run in list_runs(folder) if run.folder.parent.name != "previous"]
    return [found for run in runs for found in of_run(run)]


def of_run(run: Run) -> list[Found]:
    """The finished LoRA and every checkpoint of other steps, latest first; the best by validation loss is marked."""
    told = list(outcome(run))
    best = best_step(told)
    ends = [event.step for event in told if isinstance(event, Finished) and event.path]
    home, found = run.folder.resolve().name, []
    if (finished := _finished(run)) and finished.is_file():
        step = ends[-1] if ends else None
        found.append(Found(finished, FINISHED, home, finished.stem, step, step is not None and step == best))
    for path in reversed(run.checkpoint_loras()):
        step = int(path.parent.name.removeprefix("step_").partition("_")[0])
        if not found or found[0].step != step:
            found.append(Found(path, CHECKPOINT, home, path.parent.name, step, step == best))
    return found


def of_webuis(found: list[detect.WebUI]) -> list[Found]:
    """LoRAs in the folders of these webuis, by name."""
    return [lora for webui in found for lora in _in_folder(webui)]


def hash_of(path: Path) -> str:
    """The sshs_model_hash in a LoRA's header, by which webuis know it again; "" when it has none."""
    try:
        return metadata_of(path).get("sshs_model_hash", "")
    except (OSError, UserError):
        return ""


def _finished(run: Run) -> Path | None:
    try:
        return run.lora_file(run.config())
    except UserError:  # settings of a newer Treino, or damaged: a LoRA there is still a LoRA
        return next(iter(sorted(run.folder.glob("*.safetensors"))), None)


def _in_folder(webui: detect.WebUI) -> Iterator[Found]:
    count = 0
    for folder, folders, names in os.walk(webui.lora_folder):
        folders.sort(key=str.casefold)
        for name in sorted(names, key=str.casefold):
            if name.endswith(".safetensors") and count < _MOST_IN_A_WEBUI:
                path = Path(folder, name)
                inner = path.relative_to(webui.lora_folder).with_suffix("").as_posix()
                count += 1
                yield Found(path, WEBUI, webui.kind, inner)
