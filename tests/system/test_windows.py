"""What only Windows has, with a Windows that is played: the calls, the registry and the marks of files are the test's."""

from __future__ import annotations

import ctypes
import dataclasses
import os
import shutil
import stat
import subprocess
import sys
import threading
from collections import namedtuple
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from lora_core.cli import main as cli
from lora_core.dataset import scan
from lora_core.dataset.captions import caption_bytes
from lora_core.dataset.inspection import inspect
from lora_core.dataset.pictures import PictureError, load_picture
from lora_core.errors import UserError
from lora_core.install import pip
from lora_core.messages import say
from lora_core.models import identify
from lora_core.models.device import choose
from lora_core.models.load import check, open_on_meta
from lora_core.runs.run import Run
from lora_core.system import files, paths, tensor_headers, windows
from lora_core.training.estimate import fit
from lora_core.training.failures import explain
from lora_core.training.job import Job
from lora_core.webuis.base_models import list_models
from lora_core.webuis.detect import Places
from tests import ROOT, stripped
from tests.support import webui_trees
from tests.support.training import config_for

GB = 2**30
no_windows = pytest.mark.skipif(sys.platform == "win32", reason="the real one refuses what is played here")
Disk = namedtuple("Disk", "total used free")
CONTINUOUS, AWAKE = 0x80000000, 0x80000001  # of winbase.h


@dataclasses.dataclass
class Windows:
    """A Windows of the test's own. calls: what threads asked of it; registry: by name; marks: file attributes by path."""

    calls: list[tuple[int, int]] = dataclasses.field(default_factory=list)
    left: int = 100 * GB  # that programs may still ask for
    limit: int = 32 * GB
    ram: int = 16 * GB
    registry: dict[str, object] = dataclasses.field(default_factory=dict)
    marks: dict[str, int] = dataclasses.field(default_factory=dict)

    def api(self) -> windows.Api:
        return windows.Api(self.set_state, self.memory_status, lambda key, name: self.registry.get(name), self.attributes)

    def set_state(self, flags: int) -> int:
        self.calls.append((flags, threading.get_ident()))
        return CONTINUOUS

    def memory_status(self, pointer: Any) -> int:
        status = ctypes.cast(pointer, ctypes.POINTER(windows.MemoryStatus)).contents
        assert status.dwLength == 64, "Windows refuses any other"
        status.ullAvailPageFile, status.ullTotalPageFile, status.ullTotalPhys = self.left, self.limit, self.ram
        return 1

    def attributes(self, path: str) -> int:
        return self.marks.get(path, 0)


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> Windows:
    made = Windows()
    monkeypatch.setattr(windows, "api", made.api)
    return made


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    r"""What is asked for behind \\?\; here it stands without."""
    asked: list[str] = []

    def noted(absolute: str) -> str:
        asked.append(absolute)
        return absolute

    monkeypatch.setattr(windows, "prefixed", noted)
    return asked


@no_windows
def test_elsewhere_there_is_nothing_of_it(tmp_path: Path) -> None:
    windows.api.cache_clear()
    assert windows.api() is None
    long = tmp_path / ("a" * 200) / ("b" * 200)
    assert windows.reachable(long) is long and windows.path_problem(long) is None
    assert windows.page_file_notice(2**60) is None and not windows.is_in_cloud(tmp_path)
    with windows.awake():
        pass
    loaded = "import sys; import lora_core.system.windows; print({'winreg', 'torch'} & set(sys.modules))"
    command = [sys.executable, "-c", loaded]
    told = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert told.strip() == "set()"


@pytest.mark.skipif(sys.platform != "win32", reason="asks the real Windows")
def test_the_real_windows_answers(tmp_path: Path) -> None:
    system = windows.api()
    assert system and windows.page_file_notice(1) is None and windows.page_file_notice(2**60)
    assert system.registry(r"SOFTWARE\Microsoft\Windows NT\CurrentVersion", "ProductName")
    assert system.registry("no such key", "x") is None and not windows.is_in_cloud(tmp_path)
    assert system.set_execution_state(AWAKE) and system.set_execution_state(CONTINUOUS) == AWAKE
    deep = windows.reachable(tmp_path / ("a" * 120) / ("b" * 120))
    deep.mkdir(parents=True)
    files.write_text_whole(tmp_path / ("a" * 120) / ("b" * 120) / "é.txt", "x")
    assert [path.name for path in deep.iterdir()] == ["é.txt"]


# --- sleep ------------------------------------------------------------------------------------------------------------


def test_windows_stays_awake_within_the_block_however_it_ends(system: Windows) -> None:
    with pytest.raises(ZeroDivisionError), windows.awake():
        assert [flags for flags, _ in system.calls] == [AWAKE]
        raise ZeroDivisionError
    assert system.calls == [(AWAKE, threading.get_ident()), (CONTINUOUS, threading.get_ident())]


def test_a_job_keeps_windows_awake_in_its_own_thread(system: Windows, tmp_path: Path) -> None:
    job = Job(config_for(tmp_path / "no model", tmp_path / "no pictures", tmp_path / "out"))
    job.start()
    assert job.wait(60) and job.state == "failed"
    (on, thread), (off, same) = system.calls
    assert (on, off) == (AWAKE, CONTINUOUS) and thread == same != threading.get_ident()


# --- page file --------------------------------------------------------------------------------------------------------


def test_a_page_file_that_is_too_small_is_told_before(system: Windows) -> None:
    system.left = 3 * GB
    system.registry["PagingFiles"] = [r"c:\pagefile.sys 1024 2048"]
    assert windows.page_file_notice(3 * GB) is None
    told = str(windows.page_file_notice(int(6.5 * GB)))
    assert "3.0 GB" in told and "6.5 GB" in told and "1455" in told and "SystemPropertiesPerformance" in told


@pytest.mark.parametrize(
    ("lines", "free", "is_told"),
    [
        ([r"?:\pagefile.sys"], 50, False),  # Windows enlarges it
        ([r"c:\pagefile.sys 0 0"], 50, False),
        ([r"?:\pagefile.sys"], 2, True),  # there is no room for it
        ([r"c:\pagefile.sys 1024 2048"], 50, True),
        ([], 50, True),  # there is none
        (None, 50, True),
    ],
)
def test_a_page_file_that_grows_is_not_told(
    lines: list[str] | None, free: int, is_told: bool, system: Windows, monkeypatch: pytest.MonkeyPatch
) -> None:
    system.left = 3 * GB
    system.registry["PagingFiles"] = lines
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(100 * GB, 0, free * GB))
    assert bool(windows.page_file_notice(10 * GB)) is is_told


def test_it_grows_to_three_times_the_ram_and_no_further(system: Windows, monkeypatch: pytest.MonkeyPatch) -> None:
    system.left, system.ram, system.limit = 3 * GB, 4 * GB, 14 * GB
    system.registry["PagingFiles"] = [r"?:\pagefile.sys"]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Disk(900 * GB, 0, 800 * GB))
    assert not windows.page_file_notice(5 * GB) and windows.page_file_notice(6 * GB)


def test_a_training_on_a_small_page_file_says_so(system: Windows, pictures: Path, tmp_path: Path) -> None:
    system.left = GB
    config = config_for("starter", pictures, tmp_path / "out", resolution=64, bucket_step=64)
    model = open_on_meta("starter", torch.float32, lambda event: None)
    told = str(fit.page_file_notice(model, config, choose("cpu", "no")))
    assert "1.0 GB" in told and "1455" in told
    system.left = 20 * GB
    assert fit.page_file_notice(model, config, choose("cpu", "no")) is None


class PageFileError(OSError):
    """As Windows raises it; elsewhere OSError has no such number."""

    winerror: int = 1455


def full() -> OSError:
    return PageFileError(22, "The paging file is too small for this operation to complete")


def behind(error: Exception) -> Exception:
    try:
        try:
            raise error
        except Exception as cause:
            raise UserError("The base model x cannot be loaded: something.") from cause
    except UserError as told:
        return told


@pytest.mark.parametrize(
    "error",
    [
        full(), behind(full()), OSError("[WinError 1455] Le fichier de pagination est insuffisant"),
        RuntimeError("unable to mmap (os error 1455)"),
    ],
)  # fmt: skip
def test_the_page_file_is_told_after_it_happened(error: Exception) -> None:
    told = str(windows.page_file_failure(error))
    assert "1455" in told and "Virtual memory" in told
    assert str(explain(error, config_for(Path("m"), Path("d"), Path("o")))) == told


def test_other_errors_are_not_the_page_file(tmp_path: Path) -> None:
    for error in (OSError(28, "No space left"), ValueError("14550"), behind(KeyError("x")), RuntimeError("step 1455 of 3")):
        assert windows.page_file_failure(error) is None


def test_a_job_that_meets_it_ends_in_the_sentence(
    tmp_path: Path, pictures: Path, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise full()

    monkeypatch.setattr("lora_core.models.weights._fill", fail)
    job = Job(config_for(tiny_sd1, pictures, tmp_path / "out"))
    job.start()
    assert job.wait(120) and isinstance(job.error, UserError) and "1455" in str(job.error)
    assert job.error.__cause__ is not None


def test_it_is_told_where_torch_itself_cannot_be_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(argv: list[str]) -> int:
        raise OSError("[WinError 1455] The paging file is too small. Error loading torch\\lib\\cudnn_cnn.dll")

    monkeypatch.setattr(cli, "_dispatch", fail)
    assert cli.main(["--max_train_steps", "3"]) == 1
    told = capsys.readouterr().err
    assert "Virtual memory" in told and "unforeseen" not in told
    assert "page file is too small" in pip.explain("OSError: [WinError 1455] The paging file is too small")


# --- paths ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("absolute", "prefixed"),
    [
        (r"C:\a\b", r"\\?\C:\a\b"),
        (r"\\nas\share\b", r"\\?\UNC\nas\share\b"),
        (r"\\?\C:\a", r"\\?\C:\a"),
    ],
)
def test_the_prefix_of_long_paths(absolute: str, prefixed: str) -> None:
    assert windows.prefixed(absolute) == prefixed


def long_folder(tmp_path: Path) -> Path:
    folder = tmp_path / ("long " * 20 + "x") / ("name " * 20 + "x")
    while len(str(folder)) < 255:
        folder = folder / "deeper"
    folder.mkdir(parents=True)
    return folder


def test_only_what_is_too_long_is_prefixed(system: Windows, opened: list[str], tmp_path: Path) -> None:
    short, long = tmp_path / "a.txt", tmp_path / ("b" * 250)
    assert windows.reachable(short) is short and not opened
    windows.reachable(long)
    windows.reachable(short, room=250)
    assert opened == [str(long), str(short)]
    system.registry["LongPathsEnabled"] = 0
    assert windows.reachable(long) == long and len(opened) == 3
    system.registry["LongPathsEnabled"] = 1
    assert windows.reachable(long) is long and windows.path_problem(long) is None and len(opened) == 3


@no_windows
def test_our_own_files_are_written_behind_the_prefix(system: Windows, opened: list[str], tmp_path: Path) -> None:
    folder = long_folder(tmp_path)
    files.write_text_whole(folder / "a.txt", "x")
    assert str(folder / "a.txt") in opened and any(files.TEMPORARY_SUFFIX in path for path in opened)
    opened.clear()
    files.write_together({folder / "b.txt": b"x"}, lambda temporary, final: None)
    assert any(files.TEMPORARY_SUFFIX in path for path in opened)
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt"]


@no_windows
def test_pictures_and_captions_are_read_behind_the_prefix(system: Windows, opened: list[str], tmp_path: Path) -> None:
    folder = long_folder(tmp_path)
    Image.new("RGB", (64, 64)).save(folder / "a.png")
    (folder / "a.txt").write_text("a cow", encoding="utf-8")
    assert [(item.path, item.caption) for item in scan(folder).items] == [(folder / "a.png", "a cow")]
    assert {str(folder / "a.png"), str(folder / "a.txt")} <= set(opened)
    assert str(tmp_path) not in opened
    assert [item.path for item in scan(tmp_path).items] == [folder / "a.png"]
    assert str(tmp_path) in opened, "what is deeper was not listed behind the prefix"


def test_the_cache_lies_behind_the_prefix(
    system: Windows, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path))
    paths.cache_folder()
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / ("c" * 160)))
    paths.cache_folder()
    assert opened == [str(tmp_path / ("c" * 160))]


def test_a_run_folder_that_is_too_long_is_told_before_anything(system: Windows, tmp_path: Path) -> None:
    config = config_for(tmp_path / "model", tmp_path / "data", tmp_path / ("r" * 180))
    job = Job(config)
    job.start()
    assert job.wait(60) and "LongPathsEnabled" in str(job.error) and "too long for Windows" in str(job.error)
    assert not Run(Path(config.output_dir)).folder.exists()
    named = Job(config_for(tmp_path / "model", tmp_path / "data", tmp_path / "r", output_name="n" * 195))
    named.start()
    assert named.wait(60) and "too long for Windows" in str(named.error)


def test_what_is_too_long_to_be_seen_is_not_said_to_be_missing(system: Windows, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="too long for Windows"):
        check(str(tmp_path / ("d" * 120) / ("e" * 140)))


# --- the cloud --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mark", [0x1000, 0x40000, 0x400000])
def test_what_is_only_in_the_cloud_is_told_and_not_read(
    mark: int, system: Windows, opened: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("a", "b", "c"):
        Image.new("RGB", (64, 64)).save(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text("a cow", encoding="utf-8")
    inspect(tmp_path / "b.png")  # also what was seen before it went
    system.marks = {str(tmp_path / "b.png"): mark | 0x20, str(tmp_path / "c.txt"): mark}
    real = Path.open

    def refuse(path: Path, *args: Any, **options: Any) -> Any:
        assert str(path) not in system.marks, "the read would hang"
        return real(path, *args, **options)

    monkeypatch.setattr(Path, "open", refuse)
    found = scan(tmp_path, "zebu")
    assert [(item.path.name, item.caption) for item in found.items] == [("a.png", "a cow"), ("c.png", "zebu")]
    told = {problem.path.name: problem for problem in found.problems}
    assert told["b.png"].kind == "in_cloud" and "Always keep on this device" in str(told["b.png"].message)
    assert told["c.png"].kind == "caption_no_access" and "only in the cloud" in str(told["c.png"].message)
    with pytest.raises(PictureError, match="only in the cloud"):
        load_picture(tmp_path / "b.png")
    with pytest.raises(OSError, match="only in the cloud"):
        caption_bytes(tmp_path / "c.txt")


def test_a_model_that_is_only_in_the_cloud_is_told(system: Windows, tiny_sd1: Path) -> None:
    weights = tiny_sd1 / "unet" / "diffusion_pytorch_model.safetensors"
    system.marks[str(weights)] = 0x400020
    for look_at in (lambda: tensor_headers.read(weights), lambda: identify.of_path(tiny_sd1)):
        with pytest.raises(UserError, match=r"only in the cloud.*Always keep on this device"):
            look_at()


def test_a_model_is_looked_at_again_when_it_came_down(system: Windows, tmp_path: Path) -> None:
    folder = webui_trees.a1111(tmp_path / "disk" / "a1111") / "models" / "Stable-diffusion"
    folder.mkdir(parents=True, exist_ok=True)
    found = stripped.header("sd1")
    path = stripped.hollow_file(folder / "a.safetensors", found.tensors)

    def problem() -> str:
        (model,) = list_models(Places((tmp_path / "disk",)), tmp_path / "hub", tmp_path / "home")
        return str(model.identity.problem or "")

    system.marks[str(path)] = 0x400000
    assert "only in the cloud" in problem()
    system.marks.clear()
    assert problem() == ""


# --- read-only files --------------------------------------------------------------------------------------------------


@pytest.fixture
def strict_replace(monkeypatch: pytest.MonkeyPatch) -> None:
    """os.replace as it is under Windows."""
    real: Callable[[Any, Any], None] = os.replace

    def replace(source: Any, target: Any) -> None:
        if os.path.exists(target) and not os.stat(target).st_mode & stat.S_IWRITE:
            raise PermissionError(13, "Access is denied")
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)


def test_a_read_only_file_is_replaced(system: Windows, strict_replace: None, tmp_path: Path) -> None:
    target = tmp_path / "a.txt"
    target.write_text("old", encoding="utf-8")
    target.chmod(stat.S_IREAD)
    files.write_text_whole(target, "new")
    assert target.read_text(encoding="utf-8") == "new" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


@no_windows
def test_elsewhere_no_mark_is_taken_off(strict_replace: None, tmp_path: Path) -> None:
    (tmp_path / "new").write_bytes(b"x")
    (tmp_path / "a").write_bytes(b"")
    (tmp_path / "a").chmod(stat.S_IREAD)
    with pytest.raises(PermissionError):
        files.replace_with_retry(tmp_path / "new", tmp_path / "a", patience_s=0.05)
    assert not (tmp_path / "a").stat().st_mode & stat.S_IWRITE


# --- words ------------------------------------------------------------------------------------------------------------


def test_what_is_told_is_told_in_portuguese_too(system: Windows, tmp_path: Path) -> None:
    system.left = 1
    system.marks[str(tmp_path / "m.safetensors")] = 0x1000
    with pytest.raises(UserError) as cloud:
        tensor_headers.read(tmp_path / "m.safetensors")
    for told in (
        windows.page_file_notice(9 * GB), windows.page_file_failure(full()), windows.path_problem(tmp_path, 300),
        cloud.value.message,
    ):  # fmt: skip
        assert told is not None
        said = say(told, "pt-BR")
        assert said != str(told) and " the " not in said and "{" not in said, said
