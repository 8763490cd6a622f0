"""What the tests and the benchmarks share."""

from __future__ import annotations

import signal
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def heed_ctrl_c() -> None:
    """What a shell starts in the background ignores Ctrl-C, and so would the programs that are started and stopped here."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
