"""Makes sure that the program runs where its packages are, before anything of them is imported.

An interpreter that has them is used as it is. Otherwise a private `.venv` beside the code gets them once, with the
build of PyTorch that fits the computer, and the program is started again in it. The standard library is all this
needs, and it keeps to what Python 3.7 can read, so that an old Python is told so in a sentence.
"""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lora_core.errors import UserError
from lora_core.install import environment, other_cards, requirements, torch_build
from lora_core.install import pip as installer
from lora_core.install.environment import Environment, SetupError
from lora_core.install.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
COMMANDS = ("caption", "check", "convert", "export", "info")  # of treino.py, beside training
OLDEST_PYTHON = (3, 11)
NEWEST_PYTHON = (3, 14)  # that all packages have ready-made builds for
MAIN_FILE = "requirements.txt"
# Measured: 1.9 for the CPU installed, and the wheels while they are unpacked. The wheel for AMD cards is 6.2 packed.
_NEED_GB = {"cpu": 3, "default": 3, torch_build.ROCM: 25}
_NEED_CUDA_GB = 10
_DONE = "TREINO_SET_UP"  # set for the process that follows a set-up: it must not set up once more
_IMPORTED_AS = {"pillow": "PIL", "opencv-python": "cv2", "pyyaml": "yaml"}
_TRY_IMPORTS = """
import importlib, platform, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(platform.python_version())
"""


def ensure(*more_files: str, root: Path = ROOT) -> None:
    """Return in an interpreter that has all the packages; in another one, set up and start this command line again.

    Wanted is what requirements.txt in `root` lists, and `more_files` beside it. Takes some milliseconds where there is
    nothing to do. Where it can't be had, ends the process with a sentence and code 1.
    """
    require_python()
    try:
        _ensure(Environment(root), (MAIN_FILE, *more_files))
    except UserError as problem:
        print(f"Treino: {problem}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("\nTreino: the set-up was interrupted; the next start goes on with it.", file=sys.stderr)
        sys.exit(130)


def require_python() -> None:
    """End the process with a sentence and code 1 where Python is too old, or a 32-bit one."""
    try:
        check_python(sys.version_info[:2], sys.maxsize > 2**32)
    except UserError as problem:
        print(f"Treino: {problem}", file=sys.stderr)
        sys.exit(1)


def check_python(version: tuple[int, int], is_64_bit: bool) -> None:
    """Raises UserError when this Python cannot run Treino."""
    told = ".".join(str(part) for part in version)
    if version < OLDEST_PYTHON:
        raise UserError(
            f"This is Python {told}, and Treino needs 3.11 or newer. Install Python 3.13 from python.org "
            "(Linux: from your distribution) and start again with it."
        )
    if not is_64_bit:
        raise UserError(f"This Python {told} is a 32-bit one, and PyTorch needs 64. Install the 64-bit Python.")


def new_python_notice(version: tuple[int, int]) -> str:
    """What to say before the packages are installed for a Python that not all of them may know; empty for the others."""
    if version <= NEWEST_PYTHON:
        return ""
    told, newest = (".".join(str(part) for part in parts) for parts in (version, NEWEST_PYTHON))
    return (
        f"Python {told} is newer than what Treino's packages are known to work with (up to {newest}). Should this fail, "
        "install Python 3.13 from python.org and start again with it."
    )


def _ensure(home: Environment, files: Sequence[str]) -> None:
    wanted = [requirement for name in files for requirement in requirements.read(home.root / name)]
    is_half_made = home.is_running() and home.state() == environment.UNFINISHED
    problems = requirements.unmet(wanted)
    if not problems and not is_half_made:
        _tell_wrong_build(wanted)
        return
    if home.is_running() and os.environ.get(_DONE):
        raise SetupError(f"{home.folder} is not as it was made ({problems[0]}). Delete it and start again.")
    if home.is_running() or not home.is_ready(files):
        set_up(home, files, wanted)
        os.environ[_DONE] = "1"
    restart(home)


def set_up(home: Environment, files: Sequence[str], wanted: Sequence[Requirement]) -> None:
    """Make or mend the environment. A second process waits for the first. Raises SetupError."""
    began = time.monotonic()
    notice = new_python_notice(sys.version_info[:2])
    if notice:
        _say(notice)
    with home.locked(_say) as lock:
        if home.is_ready(files) and not requirements.unmet(wanted, home.packages):
            return  # by another process, while this one waited
        build = _choose_build()
        _make_folder(home, lock, build)
        _install(home, files, lock, build, wanted)
        _say("Checking that everything can be imported")
        names = [import_name(requirement) for requirement in requirements.read(home.root / MAIN_FILE)]
        output = installer.run([str(home.python), "-I", "-c", _TRY_IMPORTS, *names], home.log, lock, _say)
        left = requirements.unmet(wanted, home.packages)
        if left:
            raise SetupError(f"pip reports success, but {left[0]}. Delete {home.folder} and start again.")
        torch = requirements.versions(home.packages).get("torch", "")
        home.mark_whole(files, output.split()[-1], torch)
        _say(f"Ready after {time.monotonic() - began:.0f} seconds; the next start skips this.")


def restart(home: Environment) -> None:
    """Run this command line again in the environment, and never return."""
    command = [str(home.python), *sys.orig_argv[1:]]
    variables = installer.clean(os.environ)
    sys.stdout.flush()
    sys.stderr.flush()
    if sys.platform != "win32":
        os.execve(command[0], command, variables)
    # Windows has no exec: the shell would take the prompt back at once. Ctrl-C reaches the child by itself.
    for name in ("SIGINT", "SIGBREAK"):
        signal.signal(getattr(signal, name), lambda *_: None)
    sys.exit(subprocess.Popen(command, env=variables).wait())


def import_name(requirement: Requirement) -> str:
    """What Python calls the package that pip calls otherwise."""
    return _IMPORTED_AS.get(requirement.name, requirement.name.replace("-", "_"))


def _make_folder(home: Environment, lock: int, build: torch_build.TorchBuild) -> None:
    """An environment with pip in it: a new one, or the one that is there where that is sound."""
    state = home.state()
    is_sound = home.can_start() and not (home.is_running() and not home.is_for(sys.version_info[:2]))
    if state == environment.FOREIGN:
        if not home.python.exists():
            raise SetupError(f"{home.folder} is in the way and holds no Python. Delete it and start again.")
        _say(f"Installing into the environment that is there, {home.folder}")
        return
    if state == environment.WHOLE and is_sound:
        _say("Bringing the private environment up to date")
        home.mark_unfinished()
        return
    _check_means(home, _NEED_GB.get(build.label, _NEED_CUDA_GB))
    first = "First start: making" if state == environment.ABSENT else "An earlier set-up did not finish: making"
    _say(f"{first} a private environment in {home.folder}")
    home.log.unlink(missing_ok=True)
    home.empty()
    # The base Python: this one may be the environment that was just emptied.
    python = getattr(sys, "_base_executable", None) or sys.executable
    installer.run([python, "-m", "venv", str(home.folder)], home.log, lock, _say)


def _install(
    home: Environment, files: Sequence[str], lock: int, build: torch_build.TorchBuild, wanted: Sequence[Requirement]
) -> None:
    pip = [str(home.python), *installer.INSTALL]
    torch = next((r for r in wanted if r.name == "torch"), None)
    if torch and requirements.unmet([torch], home.packages):
        _say(f"Installing PyTorch {torch.pin} ({_in_words(build)}); this is the largest part")
        installer.run([*pip, *_torch_arguments(torch, build)], home.log, lock, _say)
    _say("Installing the other packages")
    listed = [part for name in files for part in ("-r", str(home.root / name))]
    installer.run([*pip, *listed], home.log, lock, _say)


def _torch_arguments(torch: Requirement, build: torch_build.TorchBuild) -> list[str]:
    if not build.index_url:
        return [str(torch)]
    problem = installer.unreachable(build.index_url)
    if problem:
        _say(f"PyTorch's own package index does not answer ({problem}); taking the build that pip finds elsewhere.")
        return [str(torch)]
    # The label makes it that build and no other; its dependencies may come from either index.
    return [build.requirement(torch.pin), "--extra-index-url", build.index_url]


def _choose_build() -> torch_build.TorchBuild:
    card = torch_build.find_nvidia(_say)
    other = None if card else other_cards.find_other(platform.system())
    build = torch_build.torch_build(platform.system(), platform.machine(), card, other)
    if build.warning:
        _say(build.warning)
    return build


def _in_words(build: torch_build.TorchBuild) -> str:
    if build.label.startswith("cu"):
        return f"for NVIDIA cards, CUDA {build.label[2:-1]}.{build.label[-1]}"
    if build.label.startswith("rocm"):
        return f"for AMD cards, ROCm {build.label[4:]}"
    if build.label == "xpu":
        return "for Intel Arc cards"
    return "for the CPU" if build.label == "cpu" else "for this computer"


def _check_means(home: Environment, need_gb: int) -> None:
    for module in ("venv", "ensurepip"):
        if importlib.util.find_spec(module) is None:
            raise SetupError(f"{installer.explain(f'No module named {module}')}.")
    free_gb = shutil.disk_usage(home.root).free / 1e9
    if free_gb < need_gb:
        raise SetupError(
            f"The set-up needs about {need_gb} GB in {home.root}, and {free_gb:.1f} GB are free. "
            "Free some space and start again."
        )


def _tell_wrong_build(wanted: Sequence[Requirement]) -> None:
    """Told at every start until it is mended, because a training on the CPU takes a hundred times as long."""
    if not any(requirement.name == "torch" for requirement in wanted):
        return
    version = requirements.versions()["torch"]
    computer = (platform.system(), platform.machine())
    if torch_build.installed_label(version, *computer) != "cpu":
        return  # asking the driver takes a second; a CUDA build is not worth it
    card = torch_build.find_nvidia(lambda line: None) or other_cards.find_other(computer[0])
    message = card and torch_build.wrong_build_message(version, *computer, card, sys.executable)
    if message:
        _say(message)


def _say(line: str) -> None:
    print(line, flush=True)
