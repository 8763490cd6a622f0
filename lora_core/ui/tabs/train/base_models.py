"""Base models to suggest: what is on this computer, looked for once in a thread of its own."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_core.webuis.base_models import FoundModel


class Models:
    """What `list_models` found, when it has; webuis' folders on slow disks take their time."""

    def __init__(self) -> None:
        self._found: list[FoundModel] | None = None
        self._search: threading.Thread | None = None
        self._lock = threading.Lock()

    def found(self, home: Path) -> list[FoundModel] | None:
        """The models, or None while they are being looked for."""
        with self._lock:
            if self._search is None:
                self._search = threading.Thread(target=self._look, args=(home,), name="base models", daemon=True)
                self._search.start()
        return self._found

    def _look(self, home: Path) -> None:
        from lora_core.webuis.base_models import list_models

        self._found = list_models(home=home)
