"""lora_core.training.job with its controls and callbacks: pause, stop, sample and save now, and what a run leaves."""

from __future__ import annotations

import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from lora_core.errors import UserError
from lora_core.events import Emit, Event, Failed, Finished, Phase, Sample, Saved, State, Step, Validation, Warned
from lora_core.lora import file as lora_file
from lora_core.messages import Message
from lora_core.models.catalog import STARTER_FOLDER
from lora_core.system.distributed import ProcessGroup
from lora_core.training import prepare
from lora_core.training.engine.stepper import PlainStepper
from lora_core.training.job import Job
from tests.support.training import config_for, run


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events if isinstance(event, State)]


def test_pausing_holds_the_steps_and_samples_and_saves_on_demand(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    seen: list[Event] = []

    def press(job: Job, event: Event) -> None:
        seen.append(event)
        match event:
            case Saved() if job.state == "paused":
                job.controls.sample_now()
            case Saved(step=2):
                job.controls.pause()
            case State(name="paused"):
                job.controls.save_now()
            case Sample() if job.state == "paused":
                job.controls.unpause()

    config = config_for(
        tiny_sd1, pictures, tmp_path, max_train_steps=6, save_steps=2, sample_count=1, sample_inference_steps=2
    )
    job, events = run(config, on_event=press)
    assert job.error is None and job.state == "finished"
    assert names(events)[:3] == ["running", "paused", "running"]
    paused, went_on = events.index(State("paused")), events.index(State("running"), events.index(State("paused")))
    between = events[paused:went_on]
    assert any(isinstance(e, Sample) for e in between) and not any(isinstance(e, Step) for e in between)


def test_a_card_lost_in_the_middle_is_told_and_ends_the_job_whole(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lost(*arguments: object) -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    def train(*arguments: object) -> None:
        monkeypatch.setattr(torch.xpu, "is_available", lambda: True)
        monkeypatch.setattr(torch.xpu, "empty_cache", lost)
        lost()

    died: list[threading.ExceptHookArgs] = []
    monkeypatch.setattr(threading, "excepthook", died.append)
    monkeypatch.setattr("lora_core.training.job.train", train)
    job, events = run(config_for(tiny_sd1, pictures, tmp_path))
    assert isinstance(events[-1], Failed) and events[-1].message.key == "training.card_lost"
    assert job.state == "failed" and not died


def test_who_is_told_to_stop_after_a_team_agreed_to_go_on_goes_on(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    """Else this process would end here, and the others would wait for its share of a step that never comes."""

    class Late(ProcessGroup):
        def any(self, flag: bool) -> bool:
            job.controls.stop()
            return flag

    job = Job(config_for(tiny_sd1, pictures, tmp_path), group=Late())
    session: Any = None
    assert not job.callbacks.wants_stop(session)
    assert job.callbacks.wants_stop(session)


def test_stop_during_preparation_ends_without_a_file(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    def press(job: Job, event: Event) -> None:
        if isinstance(event, Phase) and event.name == "cache":
            job.controls.stop()

    job, events = run(config_for(tiny_sd1, pictures, tmp_path), on_event=press)
    assert job.state == "finished" and job.error is None
    assert events[-1] == Finished(0, "", 0, stopped=True)
    assert not list(tmp_path.glob("*.safetensors"))


def test_a_new_run_moves_the_old_one_aside_whole(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=2)
    run(config)
    first = (tmp_path / "pytorch_lora_weights.safetensors").read_bytes()
    run(config.replace(seed=7))
    (previous,) = (tmp_path / "previous").iterdir()
    assert (previous / "pytorch_lora_weights.safetensors").read_bytes() == first
    assert (previous / "config.toml").is_file() and (previous / "checkpoints" / "step_0000002").is_dir()
    assert (tmp_path / "pytorch_lora_weights.safetensors").read_bytes() != first


def test_wrong_input_leaves_the_old_run_alone(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    run(config_for(tiny_sd1, pictures, tmp_path / "out", max_train_steps=2))
    for wrong in ({"train_data_dir": str(tmp_path / "nowhere")}, {"pretrained_model_name_or_path": "no such model"}):
        job, events = run(config_for(tiny_sd1, pictures, tmp_path / "out", **wrong))
        assert isinstance(job.error, UserError) and isinstance(events[-1], Failed) and job.state == "failed"
        assert "\n" not in str(events[-1].message)
    assert not (tmp_path / "out" / "previous").exists()
    assert (tmp_path / "out" / "pytorch_lora_weights.safetensors").is_file()


def test_the_file_loads_into_a_pipeline_and_draws_what_the_preview_showed(pictures: Path, tmp_path: Path) -> None:
    config = config_for(
        "starter", pictures, tmp_path, max_train_steps=20, save_steps=20, sample_count=2, learning_rate=2e-3,
        sample_inference_steps=8, train_text_encoder=True, lora_rank=8, sample_prompts=["a red zebu", "a blue star"],
        target_modules=["to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "proj_in", "conv1"],
    )  # fmt: skip
    job, events = run(config)
    assert job.error is None
    pipeline = StableDiffusionPipeline.from_pretrained(STARTER_FOLDER, dtype=torch.float32, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.load_lora_weights(str(tmp_path), weight_name="pytorch_lora_weights.safetensors")
    last = [event for event in events if isinstance(event, Sample) and event.step == 20]
    for shown in last:
        drawn = pipeline(
            shown.prompt, num_inference_steps=8, guidance_scale=7.5, width=64, height=64,
            generator=torch.Generator().manual_seed(shown.seed),
        ).images[0]  # fmt: skip
        preview, base = (Image.open(tmp_path / path) for path in (shown.path, shown.path.replace("0000020", "0000000")))
        difference = np.abs(np.asarray(drawn, float) - np.asarray(preview, float)).mean()
        changed = np.abs(np.asarray(base, float) - np.asarray(preview, float)).mean()
        assert difference < 1.0 < changed  # fp16 in the file moves a pixel by less than one of 255 levels


def test_a_stop_while_steps_are_told_saves_them(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    def press(job: Job, event: Event) -> None:
        if isinstance(event, Step):
            job.controls.stop()

    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=5000, save_steps=5000)
    job, events = run(config, on_event=press)
    ended = events[-1]
    assert isinstance(ended, Finished) and ended.stopped and 0 < ended.step < 5000
    assert isinstance(events[-2], Saved) and events[-2].step == ended.step
    assert job.run.lora_file(config).is_file()


def test_a_stop_while_the_stepper_speaks_saves_the_steps(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What fails in the middle of a training is told from there, by whoever computes the steps."""
    notice = Message("training.no_graphs", why="tested")

    class Talking(PlainStepper):
        def __init__(self, emit: Emit) -> None:
            self.emit, self.steps = emit, 0

        def backward(self, *asked: Any) -> torch.Tensor:
            self.steps += 1
            if self.steps == 3:
                self.emit(Warned(notice))
            return super().backward(*asked)

    def press(job: Job, event: Event) -> None:
        if isinstance(event, Warned) and event.message == notice:
            job.controls.stop()

    monkeypatch.setattr(prepare, "fastest_stepper", lambda model, config, device, emit: Talking(emit))
    config = config_for(tiny_sd1, pictures, tmp_path, max_train_steps=5000, save_steps=2)
    job, events = run(config, on_event=press)
    assert job.error is None
    ended = events[-1]
    assert isinstance(ended, Finished) and (ended.step, ended.stopped) == (3, True)
    assert isinstance(events[-2], Saved) and events[-2].step == 3


def test_a_run_goes_on_from_a_lora_tells_its_ancestor_and_resumes_without_that_file(
    tiny_sd1: Path, pictures: Path, tmp_path: Path
) -> None:
    about: dict[str, object] = {"max_train_steps": 2, "save_steps": 1, "sample_count": 1, "sample_inference_steps": 2}
    first, told = run(config_for(tiny_sd1, pictures, tmp_path / "first", **about))
    old = shutil.copy(first.run.lora_file(first.config), tmp_path / "old.safetensors")
    config = config_for(tiny_sd1, pictures, tmp_path / "more", **{**about, "init_lora": str(old), "learning_rate": 0.0})
    job, events = run(config)
    assert job.error is None
    of_base, of_more = ([e for e in each if isinstance(e, Validation)] for each in (told, events))
    assert of_more[0] == of_base[0]  # the base model's, without what it begins with
    old_lora, said = lora_file.read(old)
    now, metadata = lora_file.read(job.run.lora_file(config))
    assert all(torch.equal(now[module].up, old_lora[module].up) for module in old_lora)  # at a rate of 0 it stays
    assert (metadata["treino.init_lora"], metadata["treino.init_lora_hash"]) == ("old.safetensors", said["sshs_model_hash"])
    old.unlink()
    job, events = run(config.replace(max_train_steps=3), "latest")
    assert job.error is None
    assert lora_file.read(job.run.lora_file(config))[1]["treino.init_lora_hash"] == said["sshs_model_hash"]
    job, events = run(config.replace(max_train_steps=4, init_lora="other.safetensors"), "latest")
    assert "init_lora was" in str(job.error)
    job, events = run(config)
    assert "There is no" in str(job.error)  # from the beginning it needs the file
