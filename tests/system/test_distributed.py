"""Two processes on one CPU, started by the real `accelerate launch`, against one process that adds up two batches."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.events import Event, Failed, Finished, State, Step
from lora_core.runs.run import Run
from lora_core.system.distributed import ProcessGroup, ProcessLost
from lora_core.training import checkpoint, failures
from tests import ROOT
from tests.support.training import adapters_after, config_for, run

LAUNCHED = pytest.mark.skipif(os.name == "nt", reason="PyTorch's launcher and NCCL are for Linux")
VALUES: dict[str, object] = {
    "max_train_steps": 8, "save_steps": 8, "lora_dropout": 0.1, "train_text_encoder": True, "ema_decay": 0.9,
    "optimizer_on_host": True,
}  # fmt: skip


def launch(config: TrainConfig, tmp_path: Path, script: Path = ROOT / "treino.py", *words: str) -> subprocess.Popen[str]:
    """`accelerate launch --num_processes 2 SCRIPT` with all settings of the config."""
    preset = tmp_path / "preset.toml"
    preset.write_text(config.to_toml(), encoding="utf-8")
    command = [
        sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu", "--num_processes", "2",
        "--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0",
        str(script), "--preset", str(preset), *words,
    ]  # fmt: skip
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "PYTHONUTF8": "1"}
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, encoding="utf-8"
    )


def ended(process: subprocess.Popen[str]) -> str:
    """What it printed until its end."""
    try:
        return process.communicate(timeout=240)[0]
    finally:
        process.kill()


def events(folder: Path) -> list[Event]:
    return [event for event, _ in Run(folder).read()[0]]


def wait_for_step(folder: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 200
    while not any(isinstance(event, Step) and event.step >= step for event in events(folder)):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()[0]
        time.sleep(0.05)


@LAUNCHED
def test_two_processes_stop_together_go_on_and_end_where_one_with_twice_the_batches_ends(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path / "two", device="cpu", **{**VALUES, "max_train_steps": 100_000})
    process = launch(config, tmp_path)
    wait_for_step(tmp_path / "two", 3, process)
    process.send_signal(signal.SIGINT)
    told = ended(process)
    stopped = Run(tmp_path / "two").finished()
    assert process.returncode != 0 and stopped is not None and stopped.stopped, told
    assert (tmp_path / "two" / "pytorch_lora_weights.safetensors").is_file()

    steps = stopped.step + 3
    resumed = launch(config.replace(max_train_steps=steps), tmp_path, ROOT / "treino.py", "--resume")
    told = ended(resumed)
    assert resumed.returncode == 0, told
    assert told.count("The LoRA is in ") == 1 and "in 2 processes" in told, "one speaks for both"
    assert [event.step for event in events(tmp_path / "two") if isinstance(event, Step)] == list(range(1, steps + 1))
    assert len([event for event in events(tmp_path / "two") if isinstance(event, State) and event.name == "running"]) == 2

    alone = config_for(
        tiny_sd1, pictures, tmp_path / "one", gradient_accumulation_steps=2, **{**VALUES, "max_train_steps": steps}
    )
    run(alone)
    one, two = (checkpoint.load(checkpoint.folder_of(tmp_path / n / "checkpoints", steps)) for n in ("one", "two"))
    assert one.adapters.keys() == two.adapters.keys() == one.ema.keys() == two.ema.keys()
    for name, tensor in one.adapters.items():
        torch.testing.assert_close(two.adapters[name], tensor, atol=1e-5, rtol=0)
        torch.testing.assert_close(two.ema[name], one.ema[name], atol=1e-5, rtol=0)


@LAUNCHED
def test_when_one_fails_the_other_ends_too_and_both_say_why(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    script = tmp_path / "second_fails.py"
    script.write_text(
        textwrap.dedent(
            """
            import os, sys
            from lora_core.cli import main as cli
            from lora_core.training import train

            honest = train.optimizer_step

            def step(session):
                if session.step == 5 and os.environ["RANK"] == "1":
                    raise MemoryError
                return honest(session)

            train.optimizer_step = step
            sys.exit(cli.main(sys.argv[1:]))
            """
        ),
        encoding="utf-8",
    )
    config = config_for(tiny_sd1, pictures, tmp_path / "out", device="cpu", max_train_steps=100_000, save_steps=4)
    process = launch(config, tmp_path, script)
    told = ended(process)
    assert process.returncode != 0
    assert "treino, process 2 of 2: The computer ran out of memory." in told
    last = events(tmp_path / "out")[-1]
    # The launcher ends the first one too, in good order; which of the two it notices first is open.
    assert (isinstance(last, Failed) and "Another process" in str(last.message)) or isinstance(last, Finished), told
    assert adapters_after(tmp_path / "out", 4)


def test_without_a_launcher_a_process_is_alone() -> None:
    assert ProcessGroup.here({}) == ProcessGroup() == ProcessGroup.here({"WORLD_SIZE": "2"})
    launcher = {"RANK": "1", "LOCAL_RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    assert ProcessGroup.here(launcher) == ProcessGroup(size=2, rank=1, local_rank=1)
    assert str(ProcessGroup.here(launcher)) == "process 2 of 2"
    assert ProcessGroup.here({**launcher, "WORLD_SIZE": "1", "RANK": "0"}) == ProcessGroup()
    loss = torch.ones(())
    assert ProcessGroup().add_up([], loss) is loss and ProcessGroup().any(True) and not ProcessGroup().any(False)


def test_the_batches_of_a_step_are_dealt_out_whole() -> None:
    dealt = [list(ProcessGroup(size=3, rank=rank).share(6)) for rank in range(3)]
    assert sorted(n for share in dealt for n in share) == list(range(6)) and {len(share) for share in dealt} == {2}
    assert list(ProcessGroup().share(2)) == [0, 1]


def test_a_broken_team_is_a_sentence() -> None:
    assert "Another process" in str(failures.explain(ProcessLost("gloo: closed by peer"), TrainConfig()))
