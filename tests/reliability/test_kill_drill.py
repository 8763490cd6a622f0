"""The kill drill, in short; `python -m tests.benchmarks.kill_drill` is the long one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core.training.data import tensor_store
from tests import ROOT


@pytest.mark.skipif(os.name == "nt", reason="the drill forks and sends SIGKILL")
def test_a_run_that_is_killed_again_and_again_ends_as_if_it_had_not_been() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.kill_drill", "--kills", "6", "--seed", "3"], capture_output=True,
        text=True, check=False, timeout=900, cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "kill drill, seed 3: 6 kills" in done.stdout and " 0 problems" in done.stdout


def test_what_a_killed_process_left_in_the_cache_goes_and_what_a_living_one_writes_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path))
    (tmp_path / "ab").mkdir()
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine, dead, whole = (tmp_path / "ab" / name for name in (
        f".{os.getpid()}-00.treino.tmp", f".{ended.pid}-00.treino.tmp", "ab.safetensors",
    ))  # fmt: skip
    for path in (mine, dead, whole):
        path.write_bytes(b"x")
    tensor_store.remove_abandoned()
    assert mine.exists() and whole.exists() and not dead.exists()
