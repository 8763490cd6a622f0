"""The folders of the system where Treino keeps what it remembers of a user, and what can be made again. Needs no torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from lora_core.system import windows

_LONGEST_NAME = 100  # of a file in the cache: two letters, the digest of what it holds, an ending


def cache_folder() -> Path:
    """TREINO_CACHE, or the user's cache folder."""
    return windows.reachable(_cache_folder(), room=_LONGEST_NAME)


def config_folder() -> Path:
    """The folder for what Treino remembers of a user: %APPDATA%\\Treino, or the system's own like it."""
    return config_home(sys.platform, Path.home(), os.environ) / "treino"


def config_home(platform: str, home: Path, environment: Mapping[str, str]) -> Path:
    """Where programs keep the settings of a user."""
    if platform == "win32":
        return Path(environment.get("APPDATA") or home / "AppData" / "Roaming")
    if platform == "darwin":
        return home / "Library" / "Application Support"
    return Path(environment.get("XDG_CONFIG_HOME") or home / ".config")


def _cache_folder() -> Path:
    if given := os.environ.get("TREINO_CACHE"):
        return Path(given)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "Treino" / "cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "treino"
