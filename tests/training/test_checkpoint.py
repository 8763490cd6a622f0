"""lora_core.training.checkpoint: a save is whole or absent, and every version reads the states of the others."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.runs.run import LORA_FILE, resumable
from lora_core.training import checkpoint


def state(step: int) -> checkpoint.State:
    return checkpoint.State(step, {"seed": "1"}, {"w": torch.full((3,), float(step))}, {"state": {}}, {}, 0, 1.0)


def write_lora(path: Path) -> None:
    path.write_bytes(b"lora")


def test_a_checkpoint_reads_back_and_old_states_are_trimmed(tmp_path: Path) -> None:
    for step in (5, 10, 15):
        checkpoint.save(tmp_path, state(step), write_lora, keep_states=2)
    assert checkpoint.latest(tmp_path).step == 15
    assert torch.equal(checkpoint.load(tmp_path / "step_0000010").adapters["w"], torch.full((3,), 10.0))
    assert [path.name for path in resumable(tmp_path)] == ["step_0000010", "step_0000015"]
    assert (tmp_path / "step_0000005" / LORA_FILE).read_bytes() == b"lora"


def test_the_file_has_the_names_it_had_in_every_version(tmp_path: Path) -> None:
    """An older Treino reads a newer checkpoint, and this one reads those of before lr_scale and ema had these names."""
    kept = dataclasses.replace(state(5), lr_scale=0.3, ema={"w": torch.ones(3)})
    folder = checkpoint.save(tmp_path, kept, write_lora, keep_states=2)
    held = torch.load(folder / checkpoint.STATE_FILE, weights_only=True)
    names = {"step", "identity", "adapters", "optimizer", "scaler", "best_step", "best_loss", "calm", "averages"}
    assert set(held) == names and held["calm"] == 0.3
    again = checkpoint.load(folder)
    assert again.lr_scale == 0.3 and torch.equal(again.ema["w"], torch.ones(3))
    torch.save({name: held[name] for name in names - {"calm", "averages"}}, folder / checkpoint.STATE_FILE)
    assert checkpoint.load(folder).lr_scale == 1.0 and checkpoint.load(folder).ema == {}


def test_a_save_that_fails_leaves_nothing_of_itself_and_the_older_ones_whole(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5), write_lora, keep_states=2)

    def fail(path: Path) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        checkpoint.save(tmp_path, state(10), fail, keep_states=2)
    assert [path.name for path in tmp_path.iterdir()] == ["step_0000005"]
    assert checkpoint.latest(tmp_path).step == 5


def test_what_a_killed_save_left_is_ignored_and_removed(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5), write_lora, keep_states=2)
    killed = tmp_path / "step_0000010.treino.tmp"
    killed.mkdir()
    (killed / checkpoint.STATE_FILE).write_bytes(b"half")
    assert checkpoint.latest(tmp_path).step == 5
    checkpoint.clean(tmp_path)
    assert not killed.exists()


def test_damage_at_any_place_falls_back_to_the_older_one(tmp_path: Path) -> None:
    checkpoint.save(tmp_path, state(5), write_lora, keep_states=9)
    newest = checkpoint.save(tmp_path, state(10), write_lora, keep_states=9) / checkpoint.STATE_FILE
    data = newest.read_bytes()
    for length in range(0, len(data) - 1, max(1, len(data) // 40)):
        newest.write_bytes(data[:length])
        assert checkpoint.latest(tmp_path).step == 5


def test_nothing_to_resume_from_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="start without --resume"):
        checkpoint.latest(tmp_path)
    with pytest.raises(UserError, match="no checkpoint"):
        checkpoint.load(tmp_path)


def test_a_pickle_with_code_in_it_is_not_run(tmp_path: Path) -> None:
    import pickle

    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "ran",))

    (tmp_path / checkpoint.STATE_FILE).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(UserError, match="damaged"):
        checkpoint.load(tmp_path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_an_older_version_is_gone_on_with_under_the_names_of_now() -> None:
    before = {"use_rslora": "True", "use_dora": "True", "lora_rank": "16", "lora_alpha": "4.0", "dataset": ""}
    now = checkpoint.identity(TrainConfig.of({"adapter": "dora", "lora_alpha": 16.0}), "")
    younger = {name: value for name, value in now.items() if name not in ("adapter", "lora_rank", "lora_alpha")}
    assert checkpoint.compare(younger | before, now) is None
    with pytest.raises(UserError, match=r"adapter was 'lora', now 'dora'"):
        checkpoint.compare(younger | before | {"use_dora": "False"}, now)
