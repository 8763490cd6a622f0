"""What all pages of the Test tab share: the preview worker, the LoRAs that were found, and what their files tell."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.errors import UserError
from lora_core.models.catalog import STARTER, STARTER_FOLDER, known
from lora_core.models.families.specs import FAMILIES
from lora_core.models.identify import of_path
from lora_core.runs.run import run_of
from lora_core.sampling.gallery import FOLDER, Gallery
from lora_core.ui.state.drawing import PreviewWorker
from lora_core.webuis import detect, loras, search
from lora_core.webuis.loras import CHECKPOINT, FINISHED, Found

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts
    from lora_core.ui.state.app import App
    from lora_core.webuis.trial_defaults import TrialDefaults

_MOST_KNOWN = 200


class LoraLibrary:
    """One for the whole process; see `library_of`."""

    def __init__(self, app: App) -> None:
        self.worker = PreviewWorker(Gallery(app.runs_folder / FOLDER), app.training, app.files.allow, app.note_crash)
        app.check.makes_way_for(lambda: self.worker.view.is_busy)
        self._app = weakref.proxy(app)
        self._defaults: dict[tuple[Path, int], TrialDefaults] = {}
        self._others: dict[Path, Found] = {}  # chosen by their path
        self._in_webuis: list[Found] = []
        self._looking = threading.Lock()

    def look_into_webuis(self) -> None:
        """Find the LoRAs of the webuis here; takes a while on slow disks. A second call while one looks does nothing."""
        if self._looking.acquire(blocking=False):
            try:
                self._in_webuis = loras.of_webuis(detect.find(search.here()))
            finally:
                self._looking.release()

    def found(self) -> list[Found]:
        """Runs first, then the webuis', then those given by path; each file once."""
        every = [*loras.of_runs(self._app.runs_folder), *self._in_webuis, *self._others.values()]
        return list({found.path: found for found in reversed(every)}.values())[::-1]

    def defaults(self, path: Path) -> TrialDefaults:
        """What a LoRA's file tells, read once until it changes. Raises UserError."""
        from lora_core.webuis.trial_defaults import defaults_for  # brings torch

        known_as = path, path.stat().st_mtime_ns if path.exists() else 0
        if known_as not in self._defaults:
            if len(self._defaults) > _MOST_KNOWN:
                self._defaults.clear()
            self._defaults[known_as] = defaults_for(path)
        return self._defaults[known_as]

    def take(self, path: Path) -> TrialDefaults:
        """A LoRA given by path, or the finished one of a run folder; from now on it is one of the found.

        Raises:
            UserError: there is none.
        """
        taken = self.defaults(path)
        if all(found.path != taken.path for found in self.found()):
            self._others[taken.path] = Found(taken.path, "file", taken.path.parent.name, taken.path.stem)
        return taken


_libraries: weakref.WeakKeyDictionary[App, LoraLibrary] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def library_of(app: App) -> LoraLibrary:
    """The LoRA library of this app, made when it is first asked for."""
    with _making:
        if app not in _libraries:
            _libraries[app] = LoraLibrary(app)
        return _libraries[app]


def label(text: Texts, found: Found) -> str:
    """A LoRA in the list to choose from."""
    values: Mapping[str, object] = {"home": found.home, "name": found.name, "step": found.step}
    if found.kind == FINISHED:
        words = text("test.lora_finished" if found.step is not None else "test.lora_finished_unknown", **values)
    elif found.kind == CHECKPOINT:
        words = text("test.lora_checkpoint", **values)
    else:
        words = text("test.lora_webui", **values)
    return text("test.lora_best", label=words) if found.best else words


def short_label(text: Texts, found: Found, alone: bool) -> str:
    """The same in a grid; alone: all its LoRAs are of one run."""
    if alone and found.step is not None:
        return f"{found.step} ★" if found.best else str(found.step)
    return label(text, found)


def of_same_run(every: list[Found], path: Path) -> list[Found]:
    """The LoRAs of the run that a LoRA is of, from the first step to the last; the LoRA alone when it is of none."""
    run = run_of(path)
    mine = [found for found in every if run and found.kind in (FINISHED, CHECKPOINT) and run_of(found.path) == run]
    return sorted(mine, key=lambda found: found.step or 0) or [found for found in every if found.path == path]


def misfit(text: Texts, defaults: TrialDefaults, base: str) -> str:
    """Why a LoRA does not go with a base model, as far as shows without loading it; "" when nothing speaks against it."""
    if defaults.trained_on and base == defaults.base:
        return ""
    if defaults.family and base == STARTER and not defaults.is_toy:
        return text("test.fit_not_toy", family=FAMILIES[defaults.family].label)
    other = _family_of(base)
    if defaults.is_toy and base != defaults.base and known(base):
        return text("test.fit_toy")
    if not other or other == defaults.family:
        return ""
    return text(
        "test.fit_family", family=FAMILIES[defaults.family].label, base=Path(base).name, other=FAMILIES[other].label
    )


def _family_of(base: str) -> str:
    """ "" when only loading would tell."""
    path = STARTER_FOLDER if base == STARTER else Path(base).expanduser()
    if base and path.exists():
        try:
            return of_path(path).family
        except UserError:  # told when it is loaded
            return ""
    found = known(base)
    return found.family.name if found else ""
