"""lora_core.install.pip: the log, the news of it, and what is said when it fails."""

from __future__ import annotations

import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from lora_core.install import pip
from lora_core.install.environment import SetupError
from tests import ROOT

VERSION = f"{sys.version_info.major}.{sys.version_info.minor}"


def run(script: str, tmp_path: Path, said: list[str]) -> str:
    with open(tmp_path / "lock", "wb") as lock:
        return pip.run([sys.executable, "-c", script], tmp_path / "pip.log", lock.fileno(), said.append)


def test_the_output_comes_back_and_is_kept(tmp_path: Path) -> None:
    said: list[str] = []
    assert run("print('one'); print('ação 画')", tmp_path, said) == "one\nação 画\n"
    log = (tmp_path / "pip.log").read_text(encoding="utf-8")
    assert log.startswith("$ ") and log.endswith("one\nação 画\n")
    run("print('two')", tmp_path, said)
    assert "one\n" in (tmp_path / "pip.log").read_text(encoding="utf-8"), "a log is added to"
    assert said == []


def test_news_are_told_while_it_runs(tmp_path: Path) -> None:
    said: list[str] = []
    run("print('Downloading torch-2.13.0%2Bcu130-cp311-none-any.whl (2411.5 MB)')", tmp_path, said)
    assert said == ["    torch 2.13.0+cu130 (2411.5 MB)"]


def test_silence_is_broken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip, "_HEARTBEAT_S", 0.05)
    told = tmp_path / "told"
    script = f"import os, time\nwhile not os.path.exists({str(told)!r}): time.sleep(0.01)"
    with open(tmp_path / "lock", "wb") as lock:
        pip.run([sys.executable, "-c", script], tmp_path / "pip.log", lock.fileno(), told.write_text)
    assert "still busy after" in told.read_text(encoding="utf-8")


def test_a_failure_is_one_sentence_that_names_the_log(tmp_path: Path) -> None:
    with pytest.raises(SetupError) as told:
        run("print('OSError: [Errno 28] No space left on device'); raise SystemExit(3)", tmp_path, [])
    assert str(told.value).startswith("The disk is full.")
    assert str(told.value).endswith(f"The log is in {tmp_path / 'pip.log'}.")


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no signal for another process alone")
def test_an_interruption_ends_the_child_too(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from lora_core.install import pip as installer
folder = Path(sys.argv[1])
child = "import os, time; print('Downloading x-' + str(os.getpid()) + '-y (1 MB)', flush=True); time.sleep(60)"
with open(folder / "lock", "wb") as lock:
    command = [sys.executable, "-c", child]
    installer.run(command, folder / "log", lock.fileno(), lambda line: print(line, flush=True))
"""
    command = [sys.executable, "-c", script, str(tmp_path)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    child = int(process.stdout.readline().split()[1])
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate()
    assert b"KeyboardInterrupt" in complaint
    with pytest.raises(ProcessLookupError):
        os.kill(child, 0)


def test_a_persons_settings_send_nothing_elsewhere() -> None:
    theirs = {"PIP_TARGET": "/x", "PythonPath": "/y", "PYTHONHOME": "/z", "PIP_USER": "1", "HTTPS_PROXY": "p", "A": "b"}
    assert pip.clean(theirs) == {"PIP_USER": "0", "PYTHONUTF8": "1", "HTTPS_PROXY": "p", "A": "b"}


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("  Downloading torch-2.13.0-cp311-cp311-win_amd64.whl (241.6 MB)\n", "torch 2.13.0 (241.6 MB)"),
        ("Downloading https://x.invalid/a/gradio-6.31.0-py3-none-any.whl (59.1 MB)\n", "gradio 6.31.0 (59.1 MB)"),
        ("  Using cached numpy-2.4.6-cp311.whl (16.6 MB)\n", "numpy 2.4.6 (16.6 MB)"),
        ("  Downloading six-1.16-py2.whl (11 kB)\n", ""),
        ("Installing collected packages: a, b, c\n", "unpacking 3 packages"),
        ("WARNING: Retrying (Retry(total=4)) after connection broken\n", "no answer from the network; trying again"),
        ("Collecting torch==2.13.0\n", ""),
    ],
)
def test_what_is_news(line: str, told: str) -> None:
    assert pip.news(line) == told


NO_ANSWER = (
    "WARNING: Retrying (Retry(total=0)) after connection broken by 'NewConnectionError(\"Failed to establish a new "
    "connection: [Errno -2] Name or service not known\")': /simple/torch/\n"
)


@pytest.mark.parametrize(
    ("output", "told"),
    [
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device\n", "disk is full"),
        ("OSError: [WinError 112] There is not enough space on the disk\n", "disk is full"),
        (f"{NO_ANSWER}ERROR: No matching distribution found for torch==2.13.0\n", "network could not be reached"),
        (
            f"{NO_ANSWER}ERROR: Could not find a version that satisfies torch==2.13.0 (from versions: 2.9.0, 2.9.1)\n"
            "ERROR: No matching distribution found for torch==2.13.0\n",
            f"There is no torch==2.13.0 for Python {VERSION}",
        ),
        (
            "ERROR: Could not find a version that satisfies the requirement torch (from versions: none)\n"
            "ERROR: No matching distribution found for torch\n",
            f"There is no torch for Python {VERSION}",
        ),
        ("pip._vendor.urllib3.exceptions.ReadTimeoutError: HTTPSConnectionPool: Read timed out.\n", "cut short"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES FROM THE REQUIREMENTS FILE.\n", "cut short"),
        ("SSLError(SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED]'))\n", "PIP_CERT"),
        ("ProxyError('Unable to connect to proxy', OSError('Tunnel connection failed: 407'))\n", "HTTPS_PROXY"),
        ("ERROR: [Errno 13] Permission denied: '/x/.venv/lib/y.so'\n", "no permission"),
        ("ERROR: [WinError 5] Access is denied: 'C:\\x\\torch\\lib\\c10.dll'\n", "no permission"),
        ("HINT: This error might have occurred since this system does not have Long Path support\n", r"C:\treino"),
        ("error: Microsoft Visual C++ 14.0 or greater is required.\n", f"no ready-made build for Python {VERSION}"),
        ("ensurepip is not available.  On Debian/Ubuntu systems, install python3-venv\n", f"python{VERSION}-venv"),
        ("No module named venv\n", f"python{VERSION}-venv"),
        ("OSError: [WinError 126] The specified module could not be found. Error loading c10.dll\n", "Visual C++"),
        ("ImportError: libGL.so.1: cannot open shared object file: No such file\n", "libGL.so.1 is missing"),
        ("Traceback (most recent call last):\n  x\nValueError: strange.\n\n", "failed (ValueError: strange)"),
        ("", "failed (no message)"),
    ],
)
def test_causes(output: str, told: str) -> None:
    sentence = pip.explain(output)
    assert told in sentence
    assert "\n" not in sentence and "{" not in sentence and not sentence.endswith(".")


class Index(http.server.BaseHTTPRequestHandler):
    """A package index that knows torch: below /whl/ a folder names the statuses it answers with, one after the other."""

    asked: ClassVar[list[str]] = []

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def answer(self) -> None:
        folder = self.path.split("/")[2]
        statuses = [200] if folder == "cpu" else [int(status) for status in folder.split("-")]
        self.asked.append(self.command)
        self.send_response(statuses[min(len(self.asked), len(statuses)) - 1])
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing: the tests' own output matters."""


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(pip, "_PAUSES_S", (0.0, 0.0, 0.0))
    Index.asked.clear()
    with http.server.HTTPServer(("127.0.0.1", 0), Index) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/whl"
        server.shutdown()
        thread.join()


def test_an_index_that_answers(index: str) -> None:
    assert pip.unreachable(f"{index}/cpu") == ""


@pytest.mark.parametrize(
    ("answers", "said"), [("403", "403 Forbidden"), ("404", "404 Not Found"), ("429-404", "404"), ("499", "499,")]
)
def test_an_index_that_refuses_is_not_one_that_is_away(index: str, answers: str, said: str) -> None:
    """Else whoever has a card gets the build for the CPU without a word of why."""
    with pytest.raises(SetupError, match=f"/whl/{answers}/torch/ answers {said}"):
        pip.unreachable(f"{index}/{answers}")


def test_an_index_that_knows_get_alone_is_there(index: str) -> None:
    assert pip.unreachable(f"{index}/403-200") == "" and Index.asked == ["HEAD", "GET"]


@pytest.mark.parametrize(
    ("answers", "problem"), [("503-200", ""), ("429-500-200", ""), ("502", "502 Bad Gateway"), ("429", "429")]
)
def test_an_index_in_trouble_is_asked_again(index: str, answers: str, problem: str) -> None:
    assert pip.unreachable(f"{index}/{answers}").startswith(problem)
    assert len(Index.asked) == (3 if problem else len(answers.split("-")))


def test_an_index_that_is_not_there() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    assert "refused" in pip.unreachable(f"http://127.0.0.1:{port}").lower()


def test_an_index_that_speaks_something_else(index: str) -> None:
    assert pip.unreachable(index.replace("http:", "https:"))


def test_a_certificate_that_is_not_there(index: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PIP_CERT", str(tmp_path / "gone.pem"))
    assert "No such file" in pip.unreachable(f"{index}/cpu")
