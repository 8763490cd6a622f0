"""Runs pip and its kin: the whole output to a log, the news of it in plain lines, a failure as one sentence."""

from __future__ import annotations

import http
import os
import queue
import re
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

from lora_core.install.environment import SetupError
from lora_core.system.redact import redact

INSTALL = ("-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--progress-bar", "off")
_HEARTBEAT_S = 30.0
_PROBE_S = 5.0
_PAUSES_S = (0.0, 1.0, 3.0)  # before each try
_HEAD_REFUSED = (403, 405, 501)  # by servers and proxies that know GET alone
_STATUSES = frozenset(int(status) for status in http.HTTPStatus)

# What a person's own settings may hold that would send packages, or imports, to another place than the environment.
_ELSEWHERE = ("PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "__PYVENV_LAUNCHER__")

_NO_BUILD = (
    "There is no {what} for Python {python} on this computer. "
    "Install Python 3.11, 3.12 or 3.13 (64-bit) and start again with it"
)

# The first that is found wins: the most exact cause comes first.
_CAUSES = (
    (
        r"No space left on device|Errno 28\b|WinError 112|not enough space|Disk quota exceeded",
        "The disk is full. Free some gigabytes and start again",
    ),
    (
        r"ensurepip is not available|No module named (?:ensurepip|venv)",
        "This Python lacks its venv module. On Debian or Ubuntu install it with "
        "`sudo apt install python{python}-venv`, then start again",
    ),
    (
        r"Long Path support",
        r"A path got too long for Windows. Move Treino to a short one such as C:\treino and start again",
    ),
    (
        r"from versions: (?!none).*\n.*No matching distribution found for (?P<what>\S+)",
        _NO_BUILD,
    ),
    (
        r"DO NOT MATCH THE HASHES|BadZipFile|IncompleteRead|Connection broken: |Read timed out|ReadTimeoutError",
        "A download was cut short. Check the network connection and start again; what is complete is kept",
    ),
    (
        r"CERTIFICATE_VERIFY_FAILED|SSLError|SSLCertVerificationError",
        "The server's certificate was not accepted. Behind a proxy, name its certificate in PIP_CERT and start again",
    ),
    (
        r"ProxyError|Tunnel connection failed",
        "The proxy did not let the download through. Check HTTPS_PROXY and start again",
    ),
    (
        r"NewConnectionError|NameResolutionError|Failed to establish a new connection|ConnectTimeoutError|"
        r"Temporary failure in name resolution|getaddrinfo failed|Network is unreachable|Connection refused",
        "The network could not be reached. Check the connection and start again",
    ),
    (r"No matching distribution found for (?P<what>\S+)", _NO_BUILD),
    (
        r"subprocess-exited-with-error|Failed (?:to build|building wheel)|Visual C\+\+ 14",
        "A package has no ready-made build for Python {python}. "
        "Install Python 3.11, 3.12 or 3.13 and start again with it",
    ),
    (
        r"(?:WinError|os error) 1455\b",
        "Windows has no memory left to give, for its page file is too small. Close other programs, let Windows manage the "
        "size of the page file (Win+R, SystemPropertiesPerformance, Advanced, Change), restart, and start again",
    ),
    (
        r"(?:DLL load failed|WinError 126|WinError 1114)",
        "PyTorch needs the Microsoft Visual C++ Redistributable (x64). Install it and start again",
    ),
    (
        r"(?P<what>lib(?:GL|gthread|glib)[-\w.]*\.so[.\d]*): cannot open shared object",
        "The system library {what} is missing. On Debian or Ubuntu install it with "
        "`sudo apt install libgl1 libglib2.0-0`, then start again",
    ),
    (
        r"Errno 13\b|Permission denied|WinError 5\b|WinError 32\b|Access is denied",
        "A file could not be written: no permission, or another program has it open. Close other windows of Treino, "
        "look at your virus scanner, and start again",
    ),
)


def run(command: Sequence[str], log: Path, lock: int, say: Callable[[str], object]) -> str:
    """Run `command` to its end; returns what it printed. `lock`: file number it holds as long as it lives.

    Raises:
        SetupError: it failed; the sentence has the cause, the fix and the place of the log.
    """
    printed, began = [], time.monotonic()
    with open(log, "a", encoding="utf-8", newline="\n") as record, subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        encoding="utf-8", errors="replace", env=clean(os.environ),
        pass_fds=() if sys.platform == "win32" else (lock,),
    ) as process:  # fmt: skip
        assert process.stdout is not None
        record.write(f"$ {subprocess.list2cmdline(command)}\n")
        try:
            for line in _lines(process.stdout, lambda: say(f"    still busy after {time.monotonic() - began:.0f} s")):
                line = redact(line)  # pip hides the passwords of addresses, but not in those it cannot read
                printed.append(line)
                record.write(line)
                record.flush()
                told = news(line)
                if told:
                    say(f"    {told}")
        except BaseException:
            process.terminate()
            raise
    if process.returncode:
        raise SetupError(f"{explain(''.join(printed))}. The log is in {log}.")
    return "".join(printed)


def clean(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables for a process that shall see the private environment and nothing else."""
    kept = {name: value for name, value in environment.items() if name.upper() not in _ELSEWHERE}
    return {**kept, "PYTHONUTF8": "1", "PIP_USER": "0"}


def explain(output: str) -> str:
    """Why a command that printed `output` failed and what to do: a sentence without its full stop."""
    python = f"{sys.version_info.major}.{sys.version_info.minor}"
    for pattern, sentence in _CAUSES:
        found = re.search(pattern, output, re.IGNORECASE)
        if found:
            return sentence.format(python=python, what=found.groupdict().get("what", ""))
    last = next((line.strip() for line in reversed(output.splitlines()) if line.strip()), "no message")
    return f"The set-up failed ({last.rstrip('.')}). Start again, or look into the log"


def news(line: str) -> str:
    """What of a line of pip is worth telling a person; "" for most."""
    found = re.match(r"\s*(?:Downloading|Using cached) (\S+) \(([\d.]+ [MG]B)\)", line)
    if found:
        file = urllib.parse.unquote(found[1].rpartition("/")[2])
        return f"{' '.join(file.split('-')[:2])} ({found[2]})"
    if line.startswith("Installing collected packages:"):
        return f"unpacking {line.count(',') + 1} packages"
    if line.startswith("WARNING: Retrying"):
        return "no answer from the network; trying again"
    return ""


def unreachable(index_url: str) -> str:
    """Why the package index does not answer; "" when it does. Asked first because pip would try for minutes.

    Raises:
        SetupError: it answers and refuses; another build would be the wrong one, not the second best.
    """
    page, problem = f"{index_url}/torch/", ""
    for pause in _PAUSES_S:
        time.sleep(pause)
        try:
            code = _answer(page, "HEAD")
            if code in _HEAD_REFUSED:
                code = _answer(page, "GET")
        except urllib.error.URLError as error:
            return str(error.reason)
        except OSError as error:
            return str(error)
        if code < 400:
            return ""
        problem = f"{code} {http.HTTPStatus(code).phrase}" if code in _STATUSES else str(code)
        if code != http.HTTPStatus.TOO_MANY_REQUESTS and code < 500:
            raise SetupError(
                f"{page} answers {problem}, so the PyTorch for this computer cannot be had. A proxy, firewall or mirror "
                "between may refuse it: let this address through, then start again."
            )
    return problem


def _answer(page: str, method: str) -> int:
    """The HTTP status that a page answers with. Raises OSError where nothing answers."""
    context = ssl.create_default_context()
    if os.environ.get("PIP_CERT"):
        context.load_verify_locations(os.environ["PIP_CERT"])
    request = urllib.request.Request(page, method=method)
    try:
        with urllib.request.urlopen(request, timeout=_PROBE_S, context=context) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code


def _lines(stream: IO[str], while_silent: Callable[[], object]) -> Iterator[str]:
    """The lines of `stream` as they come; calls `while_silent` every half minute without one."""
    arrived: queue.Queue[str | None] = queue.Queue()

    def read() -> None:
        for line in stream:
            arrived.put(line)
        arrived.put(None)

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = arrived.get(timeout=_HEARTBEAT_S)
        except queue.Empty:
            while_silent()
            continue
        if line is None:
            return
        yield line
