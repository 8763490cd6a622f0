"""From `python gui.py` to an open window: flags, the one running instance, the server, the browser."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import os
import socket
import sys
import threading
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from lora_core.errors import UserError
from lora_core.ui import instance
from lora_core.ui.texts import LANGUAGES

PORT = 7861  # beside 7860, where a webui usually is
LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class Asked:
    port: int | None
    window: bool
    listen: str
    language: str


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError(f"{message}; --help tells the rest.")


def main(argv: Sequence[str]) -> int:
    """Open the window and serve it until it is stopped; returns the exit code."""
    try:
        asked = parse(argv)
        return _open(asked)
    except UserError as wrong:
        print(f"gui: {wrong}", file=sys.stderr)
        return 2
    except SystemExit as end:  # --help
        return int(end.code or 0)


def parse(argv: Sequence[str]) -> Asked:
    """The flags; raises UserError for wrong ones."""
    parser = _Parser("gui.py", description="Opens Treino's window.")
    parser.add_argument("--port", type=int, help=f"port of the window's server; 0 takes any [default: {PORT}, or the next free one]")
    parser.add_argument("--no-window", "--no_window", action="store_true", help="open nothing; print the address")
    parser.add_argument("--listen", default=LOOPBACK, metavar="ADDRESS", help=f"address to serve at; another than {LOOPBACK} needs a password in TREINO_PASSWORD")
    parser.add_argument("--language", default="", choices=("", *LANGUAGES), help="language [default: the browser's]")
    found = parser.parse_args(argv)
    if found.port is not None and not 0 <= found.port <= 65535:
        raise UserError(f"--port {found.port} is no port; give one from 1024 to 65535, or 0 for any.")
    return Asked(found.port, not found.no_window, found.listen, found.language)


def _open(asked: Asked) -> int:
    from lora_core.ui.app import App

    app = App(runs_folder=Path(os.environ["TREINO_RUNS"]).absolute() if os.environ.get("TREINO_RUNS") else None)
    if running := instance.running(app.home):
        print(f"Treino is running already: {running}", flush=True)
        if asked.window:
            show(running, app.home)
        return 0
    is_open = asked.listen != "localhost" and not _is_loopback(asked.listen)
    if is_open and not os.environ.get("TREINO_PASSWORD"):
        raise UserError(
            f"--listen {asked.listen} opens Treino to the network, so it needs a password: set TREINO_PASSWORD first."
        )
    with _socket(asked.listen, asked.port) as listener:
        address = f"http://{asked.listen}:{listener.getsockname()[1]}/"
        print(f"Treino: {address}", flush=True)
        _serve(app, asked, listener, address)
    return 0


def _serve(app: Any, asked: Asked, listener: socket.socket, address: str) -> None:
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    import uvicorn

    from lora_core.ui.server import create

    config = uvicorn.Config(create(app, asked.language), log_level="warning", access_log=False, timeout_graceful_shutdown=2)
    server = uvicorn.Server(config)
    ready = threading.Thread(target=_once_up, args=(server, app, asked, address), daemon=True)
    ready.start()
    try:
        with contextlib.suppress(KeyboardInterrupt):  # uvicorn passes it on once everything is closed
            server.run(sockets=[listener])
    finally:
        instance.forget(app.home)
        _save_training(app)


def _once_up(server: Any, app: Any, asked: Asked, address: str) -> None:
    """When the server answers: tell other starts, open the window, begin to load the core."""
    while not server.started:
        if server.should_exit:
            return
        threading.Event().wait(0.05)
    instance.note(app.home, address)
    if asked.window:
        show(address, app.home)
    app.load_core()


def _save_training(app: Any) -> None:
    """A training that goes on when the app ends is stopped as by its button: it saves, and can be resumed."""
    if app.training.busy():
        print("Stopping the training; it saves first. Press Ctrl-C once more to give that up.", flush=True)
        app.training.stop()
        app.training.job.wait()
        print(f"Saved. It can be resumed from {app.training.job.run.folder}", flush=True)


def show(address: str, home: Path) -> None:
    """Open the address as an app window where Edge or Chrome can, else in the default browser."""
    if not instance.open_app_window(address, home):
        webbrowser.open(address)


def _socket(host: str, port: int | None) -> socket.socket:
    """A listening socket: at the port asked for, or at the first free one from the usual one on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    candidates = [port] if port is not None else [*range(PORT, PORT + 20), 0]
    for candidate in candidates:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform != "win32":  # there it would let two programs share the port
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
            return listener
        except OSError as cause:
            listener.close()
            problem = cause
    raise UserError(f"Port {port} at {host} cannot be used ({problem.strerror or problem}); give another --port, or none.")


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
