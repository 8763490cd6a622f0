"""The other processes of a group: they compute their share of every step, and leave the rest to the first."""

from __future__ import annotations

from lora_core.events import Event
from lora_core.training import checkpoint
from lora_core.training.job import Job
from lora_core.training.session import Session


class Follower(Job):
    """A training that tells nothing and writes nothing; `error` is set when it failed."""

    def _make_folder(self) -> None:
        pass

    def _begin(self, state: checkpoint.State | None) -> None:
        pass

    def _emit(self, event: Event) -> None:
        pass

    def validate(self, session: Session) -> None:
        pass

    def sample(self, session: Session) -> None:
        pass

    def save(self, session: Session) -> None:
        session.saved_step = session.step

    def _finish(self, session: Session) -> None:
        pass
