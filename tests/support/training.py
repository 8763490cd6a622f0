"""Run the real core in tests: a tiny random model, a tiny dataset, every event kept."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from lora_core.config import TrainConfig
from lora_core.events import Event
from lora_core.training import checkpoint
from lora_core.training.job import Job
from lora_core.training.session import Session

QUICK: dict[str, object] = {
    "resolution": 64, "bucket_step": 16, "max_train_steps": 10, "save_steps": 4, "train_batch_size": 2,
    "learning_rate": 1e-3, "lora_rank": 4, "sample_count": 0, "mixed_precision": "no", "validation_split": 0.2,
    "sample_inference_steps": 3,
    "device": "cpu",  # where numbers are the same to the last bit; tests/device trains on others
}  # fmt: skip


def config_for(model: Path | str, data: Path, out: Path, **values: object) -> TrainConfig:
    places = {"pretrained_model_name_or_path": str(model), "train_data_dir": str(data), "output_dir": str(out)}
    return TrainConfig.of({**QUICK, **places, **values})


def run(
    config: TrainConfig, resume: str = "", on_event: Callable[[Job, Event], None] | None = None
) -> tuple[Job, list[Event]]:
    """Start a job, wait for its end (at most ten minutes) and return it with all that it told."""
    events: list[Event] = []

    def listen(event: Event) -> None:
        events.append(event)
        if on_event:
            on_event(job, event)

    job = Job(config, resume, [listen])
    job.start()
    assert job.wait(600), "the training did not end"
    return job, events


def before_steps(job: Job, act: Callable[[Session], None]) -> None:
    """Let `act` come first wherever the training of the job looks up between two steps."""
    asks = job.callbacks.wants_stop

    def wants_stop(session: Session) -> bool:
        act(session)
        return asks(session)

    job.callbacks.wants_stop = wants_stop  # type: ignore[method-assign]


def adapters_after(folder: Path, step: int) -> dict[str, torch.Tensor]:
    return checkpoint.load(checkpoint.folder_of(folder / "checkpoints", step)).adapters


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
