from __future__ import annotations

import gc
import weakref

import pytest

from lora_core.system.quick_import import importing


class Ring:
    """Garbage that only the collector finds."""

    def __init__(self) -> None:
        self.itself = self


def test_nobody_collects_within_and_everybody_does_after(monkeypatch: pytest.MonkeyPatch) -> None:
    frozen: list[int] = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(1))  # or all that the tests hold now would stay for good
    with pytest.raises(ImportError), importing():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and frozen == [1]
    left = weakref.ref(Ring())
    gc.collect()
    assert left() is None
