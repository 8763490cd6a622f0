"""The one window of a user: where it runs, whether it still does, and how to bring it up."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import shutil
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

from lora_core.system.files import JsonMemo, WriteError, whole_file

_FILE = "running.json"
_STARTING_S = 120  # a window that was started a moment ago listens already, and answers once it is built
_LINUX = ("microsoft-edge", "google-chrome", "google-chrome-stable", "chromium", "chromium-browser")
_WINDOWS = (r"Microsoft\Edge\Application\msedge.exe", r"Google\Chrome\Application\chrome.exe")
_MAC = ("Google Chrome", "Microsoft Edge", "Chromium")


@dataclass(frozen=True)
class Running:
    """A window's server: where it is reached on this computer, and what proves that it is the one."""

    address: str
    pid: int
    secret: str


def running(home: Path) -> Running | None:
    """The window that runs already. A note of one that ended, or of a port that another program has now, is none."""
    import psutil  # a package: --help has to do without

    try:
        noted = Running(**JsonMemo(home / _FILE).read(dict))
        return noted if psutil.pid_exists(noted.pid) and _is_it(noted) else None
    except (OSError, ValueError, TypeError):
        return None


def _is_it(noted: Running) -> bool:
    """Whether who answers at the address knows the secret, which is not sent."""
    challenge = secrets.token_hex(16)
    expected = proof(noted.secret, challenge)
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(f"{noted.address}who?challenge={challenge}", timeout=_STARTING_S) as answer:
        told = str(json.loads(answer.read(4096))["proof"])
    return bool(noted.secret) and hmac.compare_digest(told, expected)


def proof(secret: str, challenge: str) -> str:
    """What only those can answer who know the secret; "" without one."""
    return hmac.new(secret.encode(), challenge.encode(), hashlib.sha256).hexdigest() if secret else ""


def note(home: Path, running: Running) -> None:
    """Write down where the window runs; where that cannot be written, a second start opens a window of its own."""
    with contextlib.suppress(OSError, WriteError):
        home.mkdir(parents=True, exist_ok=True)
        (home / _FILE).unlink(missing_ok=True)  # a file keeps its mode when it is replaced
        with whole_file(home / _FILE) as temporary:
            temporary.touch(0o600)  # before there is anything to read in it
            temporary.write_text(json.dumps(asdict(running)), encoding="utf-8")


def forget(home: Path) -> None:
    """Remove the note, if it is this process's own."""
    if JsonMemo(home / _FILE).read(dict).get("pid") == os.getpid():
        with contextlib.suppress(OSError):
            (home / _FILE).unlink()


def bring_up(title: str) -> bool:
    """Put the app window that is open already before the others; False where that cannot be done."""
    if sys.platform != "win32":
        return False
    import ctypes

    user32 = ctypes.windll.user32
    window = user32.FindWindowW("Chrome_WidgetWin_1", title)  # the class of Edge's and Chrome's windows
    if window:
        user32.ShowWindow(window, 9)  # SW_RESTORE
        user32.SetForegroundWindow(window)
    return bool(window)


def open_app_window(address: str, home: Path) -> bool:
    """Open the address in a window without tabs and address bar; False where no browser can."""
    for browser in browsers():
        profile = _snap_folder(browser) or home / "browser"
        command = [
            browser, f"--app={address}", f"--user-data-dir={profile}", "--no-first-run", "--no-default-browser-check",
            "--window-size=1440,900",
        ]  # fmt: skip
        try:
            started = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                start_new_session=sys.platform != "win32",
            )  # fmt: skip
        except OSError:
            continue
        try:
            if started.wait(timeout=2) == 0:  # handed over to one that runs already
                return True
        except subprocess.TimeoutExpired:
            return True
    return False


def _snap_folder(browser: str) -> Path | None:
    """Where a browser from a snap may write: nothing hidden in the home folder, so not beside our own memory."""
    found = Path(browser)
    is_snap = "snap" in found.resolve().parts or found.resolve().name == "snap"
    return Path.home() / "snap" / found.name / "common" / "treino" if is_snap else None


def browsers() -> Iterator[str]:
    """Programs on this computer that know `--app=`, as far as there is a display to open a window on."""
    if sys.platform == "win32":
        folders = [os.environ.get(name) for name in ("ProgramFiles(x86)", "ProgramFiles", "LOCALAPPDATA")]
        for name in _WINDOWS:
            yield from (path for folder in folders if folder and os.path.isfile(path := os.path.join(folder, name)))
    elif sys.platform == "darwin":
        for name in _MAC:
            if os.path.isfile(path := f"/Applications/{name}.app/Contents/MacOS/{name}"):
                yield path
    elif os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"):
        yield from (path for name in _LINUX if (path := shutil.which(name)))
