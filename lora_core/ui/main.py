"""From `python gui.py` to an open window: flags, the one running instance, the server, the browser, the end."""

from __future__ import annotations

import argparse
import contextlib
import getpass
import ipaddress
import os
import secrets
import socket
import sys
import threading
import time
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from lora_core.errors import UserError
from lora_core.messages import LANGUAGES
from lora_core.system.signals import stop_signals
from lora_core.ui.server import instance
from lora_core.ui.shared.crash import tell_terminal

if TYPE_CHECKING:
    from lora_core.ui.state.app import App

PORT = 7861  # beside 7860, where a webui usually is
LOOPBACK = "127.0.0.1"
SHORTEST_PASSWORD = 8
_TITLE = "Treino"


@dataclass(frozen=True)
class Flags:
    """What the command line asks for. `port` None: the usual one, or the next free.

    checks: whether a computer that was never checked is checked by itself.
    """

    port: int | None
    window: bool
    listen: str
    language: str
    checks: bool = True

    @property
    def on_network(self) -> bool:
        """Whether other computers could reach it."""
        try:
            return self.listen != "localhost" and not ipaddress.ip_address(self.listen).is_loopback
        except ValueError:
            return True


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UserError("ui.bad_flags", what=message)


def main(argv: Sequence[str]) -> int:
    """Open the window and serve it until it is stopped; returns the exit code."""
    try:
        return _open(parse(argv))
    except UserError as wrong:
        print(f"Treino: {wrong}", file=sys.stderr)
        return 2
    except SystemExit as end:  # --help
        return int(end.code or 0)


def parse(argv: Sequence[str]) -> Flags:
    """The flags; raises UserError for wrong ones."""
    parser = _Parser("gui.py", description="Opens Treino's window.")
    add = parser.add_argument
    add("--port", type=int, help=f"port of the window's server; 0 takes any [default: {PORT}, or the next free one]")
    add("--no-window", "--no_window", action="store_true", help="open nothing; print the address on one line")
    add("--listen", default=LOOPBACK, metavar="ADDRESS", help=(
        f"address to serve at [default: {LOOPBACK}, this computer alone]; another one lets other computers in, with the "
        "password in the variable TREINO_PASSWORD, or asked for"
    ))  # fmt: skip
    add("--language", default="", choices=LANGUAGES, help="language [default: the one chosen last, else the browser's]")
    add("--no-check", "--no_check", action="store_true", help="never check a new card, driver or PyTorch by itself")
    found = parser.parse_args(argv)
    if found.port is not None and not 0 <= found.port <= 65535:
        raise UserError("ui.no_port", port=found.port)
    return Flags(found.port, not found.no_window, found.listen.strip("[]"), found.language, not found.no_check)


def _open(flags: Flags) -> int:
    from lora_core.ui.state.app import App

    password = _password() if flags.on_network else ""
    runs = Path(os.environ["TREINO_RUNS"]).absolute() if os.environ.get("TREINO_RUNS") else None
    app = App(runs_folder=runs, checks_itself=flags.checks)
    if running := instance.running(app.home):
        return _turn_to(running, flags, app.home)
    with _socket(flags.listen, flags.port) as listener:
        port = listener.getsockname()[1]
        me = instance.Running(_address(_reached_here(flags.listen), port), os.getpid(), secrets.token_hex(32))
        instance.note(app.home, me)
        print(f"Treino: {_address(_reached_there(flags.listen), port)}", flush=True)
        try:
            return Server(app, flags, password, me).serve(listener)
        finally:
            instance.forget(app.home)


def _turn_to(running: instance.Running, flags: Flags, home: Path) -> int:
    """The second start: bring up what the first one has opened."""
    if flags.on_network:
        raise UserError("ui.running_already", address=running.address)
    print(f"Treino is running already: {running.address}", flush=True)
    if flags.window and not instance.bring_up(_TITLE):
        show(running.address, home)
    return 0


def _password() -> str:
    """The password that `--listen` asks for; raises UserError where there is none."""
    password = os.environ.get("TREINO_PASSWORD", "")
    if not password and sys.stdin is not None and sys.stdin.isatty():
        password = getpass.getpass("Password for those who reach Treino over the network: ")
    if not password:
        raise UserError("ui.no_password")
    if len(password) < SHORTEST_PASSWORD:
        raise UserError("ui.short_password", least=SHORTEST_PASSWORD)
    return password


class Server:
    """The web server in a thread of its own, while the main thread waits for Ctrl-C."""

    def __init__(self, app: App, flags: Flags, password: str, me: instance.Running) -> None:
        self.app, self.flags, self.password, self.me = app, flags, password, me
        self._server: Any = None  # uvicorn's, once it is imported
        self._failed = False

    def serve(self, listener: socket.socket) -> int:
        """Serve until Ctrl-C or its kin; a training that is going on is stopped in good order first."""
        thread = threading.Thread(target=self._run, args=(listener,), name="server", daemon=True)
        with stop_signals(once=False) as stops:
            thread.start()
            while thread.is_alive():
                thread.join(0.2)  # short waits: on Windows a signal is not seen while the main thread waits for another
                if stops:
                    self._stop_training(stops)
                    break
            if self._server is not None:
                self._server.should_exit = True
            thread.join(10)
        with contextlib.suppress(UserError):  # it would not end
            self.app.check.make_way(2.0)
        _end_others()
        return 1 if self._failed else 0

    def _run(self, listener: socket.socket) -> None:
        try:
            from lora_core.ui.server import gradio_import

            gradio_import.prepare(self.app.uploads)
            import uvicorn

            from lora_core.ui.server.routes import create

            app = create(self.app, self.flags.language, self._hosts(), self.password, self.me.secret)
            config = uvicorn.Config(app, log_level="warning", access_log=False, timeout_graceful_shutdown=1)
            self._server = uvicorn.Server(config)
            if self.flags.window:
                threading.Thread(target=self._show, name="show", daemon=True).start()
            self._server.run(sockets=[listener])
        except BaseException as error:  # noqa: BLE001  a thread's last word; the exit code tells of it
            self._failed = True
            tell_terminal(error)

    def _show(self) -> None:
        while not self._server.started:
            time.sleep(0.05)
        show(self.me.address, self.app.home)

    def _hosts(self) -> tuple[str, ...]:
        """What other computers may call this one."""
        name = socket.gethostname().lower()
        return (name, name.partition(".")[0], f"{name.partition('.')[0]}.local") if self.flags.on_network else ()

    def _stop_training(self, stops: list[float]) -> None:
        """What Stop does, with the window still there to show it; a second Ctrl-C gives up waiting."""
        if not self.app.training.busy():
            return
        print("Stopping: this step is finished, then everything is saved. Ctrl-C again stops at once.", flush=True)
        self.app.training.stop()
        while self.app.training.busy():
            time.sleep(0.2)
            if len(stops) > 1:
                print("Stopped at once.", flush=True)
                instance.forget(self.app.home)
                os._exit(130)  # a join of the training thread would wait for its step
        folder = self.app.training.run.folder if self.app.training.run else ""
        print(f"Saved. The Runs tab of the window goes on with it: {folder}", flush=True)


def _end_others() -> None:
    """End without waiting for what others still compute, a test picture for example: its threads would hold the process."""
    deadline = time.monotonic() + 2
    while _busy_threads() and time.monotonic() < deadline:
        time.sleep(0.1)
    if _busy_threads() and "pytest" not in sys.modules:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


def _busy_threads() -> bool:
    return any(not t.daemon and t is not threading.main_thread() for t in threading.enumerate())


def show(address: str, home: Path) -> None:
    """Open the address as an app window where Edge or Chrome can, else in the default browser."""
    if not instance.open_app_window(address, home):
        webbrowser.open(address)


def _socket(host: str, port: int | None) -> socket.socket:
    """A listening socket: at the port asked for, or at the first free one from the usual one on."""
    host = LOOPBACK if host == "localhost" else host
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    problem = OSError()
    for candidate in [port] if port is not None else [*range(PORT, PORT + 20), 0]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        if sys.platform == "win32":  # there two programs could share the port otherwise
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_EXCLUSIVEADDRUSE, 1)
        else:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
            listener.listen(128)
            return listener
        except OSError as cause:
            listener.close()
            problem = cause
    why = problem.strerror or problem
    if port:
        raise UserError("ui.port_taken", port=port, host=host, why=why)
    raise UserError("ui.no_address", host=host, why=why)


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def _reached_here(host: str) -> str:
    """The address by which this computer reaches a server that listens at `host`."""
    return {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)


def _reached_there(host: str) -> str:
    """The address to tell people: of a server that listens everywhere, the one in the local network."""
    if host not in ("0.0.0.0", "::"):
        return host
    family, far = (socket.AF_INET6, "2001:db8::1") if host == "::" else (socket.AF_INET, "192.0.2.1")
    with socket.socket(family, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect((far, 9))  # sends nothing: it asks which of our addresses would be used
            return str(probe.getsockname()[0])
        except OSError:
            return _reached_here(host)
