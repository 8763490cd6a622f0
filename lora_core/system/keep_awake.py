"""A computer that does not fall asleep while it trains."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from lora_core.system import windows


@contextmanager
def awake(platform: str = sys.platform) -> Iterator[None]:
    """Within the block, and in the thread that runs it, Windows and macOS stay awake; Linux rarely sleeps by itself."""
    caffeine = _caffeinate() if platform == "darwin" else None
    try:
        with windows.awake():
            yield
    finally:
        if caffeine:
            caffeine.terminate()
            caffeine.wait()


def _caffeinate() -> subprocess.Popen[bytes] | None:
    """macOS' own program for this; it ends by itself with our process, however that ends."""
    command = ["caffeinate", "-i", "-w", str(os.getpid())]
    try:
        return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    except OSError:
        return None
