"""lora_core.system.signals: Ctrl-C is collected instead of raised, and pressing once counts once."""

from __future__ import annotations

import signal

from lora_core.system.signals import ONE_PRESS_S, stop_signals


def test_one_press_passed_on_twice_counts_once() -> None:
    before = signal.getsignal(signal.SIGINT)
    with stop_signals() as presses:
        for _ in range(3):
            signal.raise_signal(signal.SIGINT)
        assert len(presses) == 1
        presses[0] -= ONE_PRESS_S * 2
        signal.raise_signal(signal.SIGINT)
        assert len(presses) == 2
    assert signal.getsignal(signal.SIGINT) is before
