"""Where Treino keeps what can be made again. Needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_folder() -> Path:
    """TREINO_CACHE, or the user's cache folder."""
    if given := os.environ.get("TREINO_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "Treino" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "treino"
