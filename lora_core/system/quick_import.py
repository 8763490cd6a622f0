"""Importing torch and the libraries around it, which make half a million objects that stay."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def importing() -> Iterator[None]:
    """Within the block nobody looks for garbage among what is imported, nor ever after: that takes a second each time."""
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()
