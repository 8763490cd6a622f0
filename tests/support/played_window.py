"""A window of an app that a test has made, in a process of its own. It prints its address as gui.py does."""

from __future__ import annotations

import os

from lora_core.ui.main import LOOPBACK, Flags, Server
from lora_core.ui.main import _socket as listening
from lora_core.ui.server.instance import Running
from lora_core.ui.state.app import App


def serve(app: App) -> int:
    """Until Ctrl-C; the exit code."""
    with listening(LOOPBACK, 0) as listener:
        me = Running(f"http://{LOOPBACK}:{listener.getsockname()[1]}/", os.getpid(), "s" * 64)
        print(f"Treino: {me.address}", flush=True)
        return Server(app, Flags(0, False, LOOPBACK, ""), "", me).serve(listener)

