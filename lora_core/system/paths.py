"""Where Treino keeps what can be made again. Needs no torch."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from lora_core.system import windows

_LONGEST_NAME = 100  # of a file in the cache: two letters, the digest of what it holds, an ending


def cache_folder() -> Path:
    """TREINO_CACHE, or the user's cache folder."""
    return windows.reachable(_cache_folder(), room=_LONGEST_NAME)


def _cache_folder() -> Path:
    if given := os.environ.get("TREINO_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "Treino" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "treino"
