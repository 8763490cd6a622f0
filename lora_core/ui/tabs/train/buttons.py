"""Which buttons a run offers in the state it is in. Nothing is remembered: the state is that of the live thread."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_core.runs.history import History
from lora_core.runs.run import Run, resumable
from lora_core.ui.state.training import LIVE, Training
from lora_core.ui.tabs.train.cost import changes_text
from lora_core.ui.tabs.train.usual_rate import usual_rate

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

ENDED = ("finished", "stopped")


@dataclass(frozen=True)
class Action:
    visible: bool
    enabled: bool = True


def actions(training: Training, run: Run, state: str, history: History) -> dict[str, Action]:
    """Every button of the live view, by name."""
    is_live, is_stopping = state in LIVE, state == "stopping"
    is_free = not training.busy()
    has_steps = history.step > 0
    end = history.facts.finished
    has_lora = state in ("finished", "stopped") and bool(end and end.path)
    can_resume = state in ("stopped", "failed", "cut") and bool(resumable(run.checkpoints))
    return {
        "pause": Action(is_live and state in ("running", "stopping"), not is_stopping),
        "go_on": Action(state in ("pausing", "paused")),
        "sample_now": Action(is_live, has_steps and not is_stopping),
        "save_now": Action(is_live, has_steps and not is_stopping),
        "stop": Action(is_live, not is_stopping),
        "test_it": Action(has_lora),
        "export_it": Action(has_lora),
        "resume": Action(can_resume, is_free),
        "retry": Action(state == "failed" and ran_out_of_memory(training) and bool(retry_changes(run)), is_free),
        "usual_rate": Action(state in ENDED and usual_rate(history) is not None),
        "to_settings": Action(True),
    }


def ran_out_of_memory(training: Training) -> bool:
    """Whether the shown run failed for want of memory, of the device or of the computer."""
    failure = training.failure()
    return failure is not None and failure.message.key in ("training.full_card", "training.full_computer")


def retry_changes(run: Run) -> dict[str, object]:
    """The settings to start again with after the memory was not enough; empty when nothing is left to change."""
    from lora_core.training.estimate.fit import after_failure  # brings torch

    return after_failure(run.config())


def label_of(name: str, history: History, text: Texts) -> str:
    """What stands on a button: with what it changes, where it changes settings."""
    if name == "retry":
        return text("train.retry", changes=changes_text(retry_changes(history.run), text))
    if name == "usual_rate":
        return text("train.usual_rate", rate=text.number(f"{usual_rate(history) or 0:g}"))
    return text(f"train.{name}")
