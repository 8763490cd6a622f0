"""lora_core.install.bootstrap: real environments, made of packages that these tests make, without a network."""

from __future__ import annotations

import ast
import base64
import hashlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import zipfile
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.install import bootstrap, environment, other_cards, requirements, torch_build
from lora_core.install.environment import Environment
from lora_core.install.other_cards import AMD, INTEL, OtherCard
from lora_core.install.requirements import Requirement
from lora_core.install.torch_build import NvidiaCard
from tests import ROOT

DOOR = """
import sys
sys.path.insert(0, {code!r})
from pathlib import Path
from lora_core.install import bootstrap, torch_build
torch_build.INDEX = "http://127.0.0.1:9/"  # nobody listens there
torch_build.nvidia_smi = lambda: None
bootstrap.ensure(root=Path(__file__).parent)
import alpha
print("ran", alpha.VERSION, sys.argv[1:], sys.flags.utf8_mode, Path(sys.prefix).name)
sys.exit(7)
"""


def make_wheel(folder: Path, name: str, version: str, body: str = "") -> None:
    """A package `name` of one file, as pip installs it."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}/__init__.py": f"VERSION = {version!r}\n{body}",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text.encode())}\n" for path, text in files.items())
    with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
        for path, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            wheel.writestr(path, text)


def _digest(text: str) -> str:
    return base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@dataclass
class Program:
    """A program with a door, requirements and a shelf of wheels, in a folder whose name is not plain ASCII."""

    root: Path
    shelf: Path

    @property
    def home(self) -> Environment:
        return Environment(self.root)

    def require(self, *lines: str) -> None:
        (self.root / "requirements.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")

    def command(self, *arguments: str) -> list[str]:
        return [sys.executable, str(self.root / "door.py"), *arguments]

    def variables(self, **more: str) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PIP_", "TREINO_", "PYTHON"))}
        quiet = {"PIP_CONFIG_FILE": os.devnull, "PYTHONIOENCODING": "utf-8"}
        return {**kept, **quiet, "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.shelf.as_uri(), **more}

    def start(self, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(*arguments), env=self.variables(**variables), capture_output=True, encoding="utf-8", check=False
        )


def make_program(folder: Path) -> Program:
    program = Program(folder / "ação 画" / "treino", folder / "shelf")
    program.root.mkdir(parents=True)
    program.shelf.mkdir()
    (program.root / "door.py").write_text(DOOR.format(code=str(ROOT)), encoding="utf-8")
    program.require("torch==2.13.0", "alpha>=1,<2")
    make_wheel(program.shelf, "torch", "2.13.0+cpu")
    make_wheel(program.shelf, "alpha", "1.4")
    return program


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """One whose packages are not installed."""
    return make_program(tmp_path)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Program, subprocess.CompletedProcess[str]]:
    """One whose first start was made, and what it printed; not to be changed."""
    program = make_program(tmp_path_factory.mktemp("finished"))
    return program, program.start("--say", "olá mundo", "")


@pytest.fixture
def started(finished: tuple[Program, object], tmp_path: Path) -> Program:
    """One that was started once, to be changed."""
    root, shelf = tmp_path / "program", tmp_path / "shelf"
    shutil.copytree(finished[0].root, root, symlinks=True)
    shutil.copytree(finished[0].shelf, shelf)
    return Program(root, shelf)


def assert_ran(done: subprocess.CompletedProcess[str], version: str = "1.4") -> None:
    assert done.stdout.splitlines()[-1].startswith(f"ran {version} "), done.stdout + done.stderr
    assert done.returncode == 7


def test_the_first_start_sets_up_and_goes_on(finished: tuple[Program, subprocess.CompletedProcess[str]]) -> None:
    program, done = finished
    assert_ran(done)
    lines = done.stdout.splitlines()
    assert lines[-1] == "ran 1.4 ['--say', 'olá mundo', ''] 1 .venv"
    assert f"First start: making a private environment in {program.home.folder}" in lines
    assert any(line.startswith("Installing PyTorch 2.13.0") for line in lines)
    if sys.platform == "linux":
        assert sum("package index does not answer" in line for line in lines) == 1
    assert done.stderr == ""
    marker = json.loads(program.home.marker.read_text(encoding="utf-8"))
    digest = hashlib.sha256((program.root / "requirements.txt").read_bytes()).hexdigest()
    assert marker == {
        "state": "whole",
        "python": sys.version.split()[0],
        "torch": "2.13.0+cpu",
        "files": {"requirements.txt": digest},
    }


def test_a_second_start_does_no_set_up(started: Program) -> None:
    started.shelf.rename(started.shelf.with_name("gone"))  # it would not get far
    before = {path: path.stat().st_mtime_ns for path in started.root.rglob("*") if "__pycache__" not in path.parts}
    done = started.start("again")
    assert_ran(done)
    assert done.stdout.splitlines() == ["ran 1.4 ['again'] 1 .venv"]
    after = {path: path.stat().st_mtime_ns for path in started.root.rglob("*") if "__pycache__" not in path.parts}
    assert after == before


def test_new_requirements_are_installed_into_what_is_there(started: Program) -> None:
    make_wheel(started.shelf, "alpha", "2.0")
    make_wheel(started.shelf, "beta", "0.1")
    started.require("torch==2.13.0", "alpha>=2,<3", "beta")
    config = (started.home.folder / "pyvenv.cfg").stat().st_mtime_ns
    done = started.start()
    assert_ran(done, "2.0")
    assert "Bringing the private environment up to date" in done.stdout
    assert "Installing PyTorch" not in done.stdout
    assert (started.home.folder / "pyvenv.cfg").stat().st_mtime_ns == config
    assert started.home.is_ready(["requirements.txt"])


def test_a_package_that_was_removed_by_hand_comes_back(started: Program) -> None:
    (package,) = (Path(folder) / "alpha-1.4.dist-info" for folder in started.home.packages)
    shutil.rmtree(package)
    assert started.home.is_ready(["requirements.txt"]), "the marker alone does not see it"
    assert_ran(started.start())
    assert package.exists()


@pytest.mark.parametrize("damage", ["marker cut off", "interpreter lost"])
def test_a_broken_environment_is_made_anew(started: Program, damage: str) -> None:
    if damage == "marker cut off":
        started.home.marker.write_bytes(started.home.marker.read_bytes()[:20])
    else:
        started.home.python.unlink()
    trace = started.home.folder / "half a package"
    trace.write_bytes(b"")
    done = started.start()
    assert_ran(done)
    assert "An earlier set-up did not finish" in done.stdout
    assert not trace.exists() and started.home.is_ready(["requirements.txt"])


@pytest.fixture
def silent_index() -> Iterator[tuple[str, socket.socket]]:
    """A package index that takes calls and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(120)
        yield f"http://127.0.0.1:{server.getsockname()[1]}/simple", server


def kill_all(process: subprocess.Popen[str]) -> None:
    """The end of a set-up by a power cut: the program and its children, at once."""
    if sys.platform == "win32":
        subprocess.run(["taskkill", "/F", "/T", "/PID", str(process.pid)], capture_output=True, check=False)
    else:
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_set_up_that_was_killed_is_mended(program: Program, silent_index: tuple[str, socket.socket]) -> None:
    url, server = silent_index
    (program.shelf / "alpha-1.4-py3-none-any.whl").unlink()  # pip has to call for it
    variables = program.variables(PIP_INDEX_URL=url)
    del variables["PIP_NO_INDEX"]
    process = subprocess.Popen(
        program.command(), env=variables, stdout=subprocess.PIPE, encoding="utf-8", start_new_session=True
    )
    call, _ = server.accept()
    kill_all(process)
    call.close()
    assert program.home.state() == environment.UNFINISHED
    make_wheel(program.shelf, "alpha", "1.5")
    done = program.start()
    assert_ran(done, "1.5")
    assert "An earlier set-up did not finish" in done.stdout


def test_two_starts_at_once_set_up_once(program: Program) -> None:
    options = {"env": program.variables(), "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "encoding": "utf-8"}
    both = [subprocess.Popen(program.command(str(n)), **options) for n in range(2)]  # type: ignore[call-overload]
    outputs = [process.communicate()[0] for process in both]
    assert [process.returncode for process in both] == [7, 7]
    assert sorted("Ready after" in output for output in outputs) == [False, True]
    assert program.home.log.read_text(encoding="utf-8").count("-m venv") == 1


def test_what_pip_cannot_find_is_told(started: Program) -> None:
    started.require("torch==2.13.0", "alpha>=1,<2", "gamma>=3")
    done = started.start()
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (sentence,) = done.stderr.splitlines()
    assert sentence.startswith("Treino: There is no gamma>=3 for Python")
    assert str(started.home.log) in sentence and "gamma" in started.home.log.read_text(encoding="utf-8")
    assert started.home.state() == environment.UNFINISHED


def test_what_cannot_be_imported_is_told(started: Program) -> None:
    make_wheel(started.shelf, "alpha", "1.9", body="raise ImportError('libGL.so.1: cannot open shared object file')\n")
    started.require("torch==2.13.0", "alpha>=1.9")
    done = started.start()
    assert done.returncode == 1 and "libGL.so.1 is missing" in done.stderr
    assert started.home.state() == environment.UNFINISHED


def test_an_environment_of_a_persons_own_is_used_and_never_emptied(started: Program) -> None:
    started.home.marker.unlink()
    own = started.home.folder / "mine.txt"
    own.write_bytes(b"")
    make_wheel(started.shelf, "alpha", "1.6")
    started.require("torch==2.13.0", "alpha>=1.6,<2")
    done = started.start()
    assert_ran(done, "1.6")
    assert "Installing into the environment that is there" in done.stdout
    assert own.exists()


def test_a_folder_in_the_way_is_told(program: Program) -> None:
    (program.root / ".venv").mkdir()
    (program.root / ".venv" / "mine.txt").write_bytes(b"")
    done = program.start()
    assert done.returncode == 1 and "is in the way" in done.stderr


def test_an_interpreter_that_has_everything_is_used_as_it_is(program: Program) -> None:
    folder = program.root / "elsewhere"
    for name, version in (("alpha", "1.7"), ("torch", "2.13.0+cu126")):
        make_wheel(program.shelf, name, version)
        with zipfile.ZipFile(program.shelf / f"{name}-{version}-py3-none-any.whl") as wheel:
            wheel.extractall(folder)
    done = program.start(PYTHONPATH=str(folder))
    assert_ran(done, "1.7")
    assert len(done.stdout.splitlines()) == 1
    assert program.home.state() == environment.ABSENT and not program.home.workplace.exists()


def in_process(program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> str:
    """What `ensure` says when it gives up before it starts anything."""
    monkeypatch.setattr(torch_build, "nvidia_smi", lambda: None)
    monkeypatch.setattr(torch_build, "INDEX", "http://127.0.0.1:9/")
    with pytest.raises(SystemExit) as ended:
        bootstrap.ensure(root=program.root)
    assert ended.value.code == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1 and told[0].startswith("Treino: ")
    return told[0]


def test_too_little_disk_is_told_before_anything_is_made(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12 - 10**9, 10**9))
    assert "about 3 GB" in (told := in_process(program, monkeypatch, capsys)) and "1.0 GB are free" in told
    assert program.home.state() == environment.ABSENT


def test_a_missing_venv_module_is_told_with_its_package(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    find = bootstrap.importlib.util.find_spec
    monkeypatch.setattr(bootstrap.importlib.util, "find_spec", lambda name: None if name == "ensurepip" else find(name))
    told = in_process(program, monkeypatch, capsys)
    assert f"sudo apt install python{sys.version_info.major}.{sys.version_info.minor}-venv" in told


def test_a_folder_that_cannot_be_written_is_told(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    program.home.workplace.write_bytes(b"")
    assert "cannot write to its folder" in in_process(program, monkeypatch, capsys)


def test_a_set_up_that_does_not_hold_is_not_tried_forever(
    program: Program, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "prefix", str(program.home.folder))
    monkeypatch.setenv("TREINO_SET_UP", "1")
    assert "is not as it was made (alpha>=1,<2 is missing)" in in_process(program, monkeypatch, capsys)


@pytest.mark.parametrize("requirement", requirements.read(ROOT / "requirements.txt"), ids=str)
def test_what_is_required_can_be_imported(requirement: Requirement) -> None:
    assert importlib.util.find_spec(bootstrap.import_name(requirement)) is not None


@pytest.mark.parametrize(
    ("version", "is_64_bit", "told"),
    [
        ((3, 11), True, ""),
        ((3, 14), True, ""),
        ((3, 10), True, "This is Python 3.10, and Treino needs 3.11"),
        ((3, 7), True, "This is Python 3.7, and Treino needs 3.11"),
        ((3, 12), False, "32-bit"),
    ],
)
def test_old_pythons_are_told(version: tuple[int, int], is_64_bit: bool, told: str) -> None:
    if not told:
        bootstrap.check_python(version, is_64_bit)
        return
    with pytest.raises(UserError, match=told):
        bootstrap.check_python(version, is_64_bit)


def test_pythons_that_are_too_new_are_told_and_tried() -> None:
    assert bootstrap.new_python_notice((3, 11)) == bootstrap.new_python_notice((3, 14)) == ""
    told = bootstrap.new_python_notice((3, 15))
    assert "Python 3.15 is newer" in told and "3.14" in told and "install Python 3.13" in told


def test_old_pythons_can_read_far_enough_to_be_told() -> None:
    for name in ("treino.py", *(f"lora_core/{n}.py" for n in READ_BY_OLD_PYTHONS)):
        ast.parse((ROOT / name).read_text(encoding="utf-8"), feature_version=(3, 7))


READ_BY_OLD_PYTHONS = (
    "__init__", "errors", "messages", "install/__init__", "install/bootstrap", "install/environment",
    "install/other_cards", "install/pip", "install/requirements", "install/torch_build", "system/__init__", "system/redact",
)  # fmt: skip


def test_the_set_up_needs_nothing_but_the_standard_library() -> None:
    for name in READ_BY_OLD_PYTHONS:
        for node in ast.walk(ast.parse((ROOT / "lora_core" / f"{name}.py").read_text(encoding="utf-8"))):
            modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            for module in modules:
                top, _, inner = module.partition(".")
                read = {inner.replace(".", "/"), f"{inner.replace('.', '/')}/__init__"} & set(READ_BY_OLD_PYTHONS)
                known = top in sys.stdlib_module_names or read or module == "lora_core"
                assert known, f"{name} imports {module}"


RTX_3060 = NvidiaCard("RTX 3060", "560.1", (8, 6), (12, 6))


@pytest.mark.parametrize(
    ("version", "card", "told"),
    [
        ("2.13.0+cpu", RTX_3060, "torch==2.13.0+cu126"), ("2.13.0+cpu", None, ""), ("2.13.0+cu126", RTX_3060, ""),
        ("2.13.0+cpu", OtherCard(INTEL, "Intel Arc card"), "torch==2.13.0+xpu"),
        ("2.13.0+cpu", OtherCard(AMD, "AMD card (gfx1100)", "gfx1100"), "torch==2.13.0+rocm7.2"),
        ("2.13.0+cpu", OtherCard(AMD, "AMD card (gfx1036)", "gfx1036"), ""),
        ("2.13.0+xpu", OtherCard(INTEL, "Intel Arc card"), ""),
    ],
    ids=str,
)  # fmt: skip
def test_a_wrong_build_is_told_at_every_start(
    program: Program, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    version: str, card: NvidiaCard | OtherCard | None, told: str,
) -> None:  # fmt: skip
    folder = tmp_path / "packages"
    make_wheel(program.shelf, "torch", version)
    with zipfile.ZipFile(program.shelf / f"torch-{version}-py3-none-any.whl") as wheel:
        wheel.extractall(folder)
    program.require("torch==2.13.0")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(bootstrap.platform, "system", lambda: "Linux")
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(torch_build, "nvidia_smi", lambda: "nvidia-smi")
    monkeypatch.setattr(torch_build, "find_nvidia", lambda say: card if isinstance(card, NvidiaCard) else None)
    monkeypatch.setattr(other_cards, "find_other", lambda system: card if isinstance(card, OtherCard) else None)
    bootstrap.ensure(root=program.root)
    printed = capsys.readouterr().out
    assert f"pip install {told}" in printed if told else not printed


@pytest.mark.parametrize(
    ("system", "card", "label", "words", "told", "needs"),
    [
        ("Linux", OtherCard(AMD, "AMD card (gfx1100)", "gfx1100"), "rocm7.2", "for AMD cards, ROCm 7.2", "", 25),
        ("Windows", OtherCard(AMD, "AMD Radeon RX 7900 XTX"), "cpu", "for the CPU", "docs/installing.md", 3),
        ("Linux", OtherCard(INTEL, "Intel Arc card"), "xpu", "for Intel Arc cards", "", 10),
        ("Windows", OtherCard(INTEL, "Intel(R) Arc(TM) A770 Graphics"), "xpu", "for Intel Arc cards", "", 10),
        ("Darwin", None, "default", "for this computer", "", 3),
    ],
    ids=["radeon-linux", "radeon-windows", "arc-linux", "arc-windows", "apple"],
)
def test_the_set_up_chooses_a_build_for_cards_of_every_maker(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path,
    system: str, card: OtherCard | None, label: str, words: str, told: str, needs: int,
) -> None:  # fmt: skip
    machine = {"Windows": "AMD64", "Darwin": "arm64"}.get(system, "x86_64")
    monkeypatch.setattr(bootstrap.platform, "system", lambda: system)
    monkeypatch.setattr(bootstrap.platform, "machine", lambda: machine)
    monkeypatch.setattr(torch_build, "nvidia_smi", lambda: None)
    monkeypatch.setattr(other_cards, "find_other", lambda asked: card if asked == system else None)
    asked: list[str] = []
    monkeypatch.setattr(bootstrap.installer, "unreachable", lambda url: asked.append(url))
    build = bootstrap._choose_build()
    assert build.label == label and bootstrap._in_words(build) == words
    assert told in capsys.readouterr().out if told else not capsys.readouterr().out
    arguments = bootstrap._torch_arguments(Requirement("torch", (("==", "2.13.0"),)), build)
    has_index = bool(build.index_url)
    assert arguments == ([f"torch==2.13.0+{label}", "--extra-index-url", *asked] if has_index else ["torch==2.13.0"])
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**12, 10**12, 10**9))
    with pytest.raises(UserError, match=f"about {needs} GB"):
        bootstrap._check_means(Environment(tmp_path), bootstrap._NEED_GB.get(build.label, bootstrap._NEED_CUDA_GB))
