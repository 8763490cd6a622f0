"""What a run does between the steps of its training: stops and holds, measures, draws, saves, and tells of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from lora_core.events import Sample, Saved, State, Validation, Warned
from lora_core.messages import Message
from lora_core.runs.run import Run
from lora_core.system.distributed import ProcessGroup
from lora_core.system.files import WriteError
from lora_core.training import checkpoint, outputs
from lora_core.training.controls import Controls, Stopped
from lora_core.training.engine.adapters import disabled
from lora_core.training.event_log import Log
from lora_core.training.session import Session
from lora_core.training.validate import validate


class RunCallbacks:
    """`train.Callbacks` of a run; of the processes of a group, the first alone measures, draws and saves."""

    def __init__(self, run: Run, log: Log, controls: Controls, group: ProcessGroup) -> None:
        self.run, self.log, self.controls, self.group = run, log, controls, group
        self._drawn: set[str] = set()  # sample pictures that were told of before a kill

    def tell_state(self, name: str) -> None:
        self.controls.state = name
        self.log.emit(State(name))

    def wants_stop(self, session: Session) -> bool:
        asked = self.controls.asked
        if asked == "pause":
            self._hold(session)
            asked = self.controls.asked
        agreed = self.group.any(asked == "stop")  # not what was asked since: the others would take another step
        if agreed:
            self.controls.stop()
            if self.controls.state != "stopping":
                self.tell_state("stopping")
        return agreed

    def _hold(self, session: Session) -> None:
        """Until the training is to go on or to stop."""
        session.meter.flush()
        session.stepper.release()
        self.tell_state("paused")
        while self.controls.asked == "pause":
            self.controls.wait(0.5)
            if self.wants_save():
                self.save(session)
            if self.wants_sample():
                self.sample(session)
        session.meter.resume_after(0.0, counts=False)
        if self.controls.asked != "stop":
            self.tell_state("running")

    def wants_sample(self) -> bool:
        return self.controls.take_sample()

    def wants_save(self) -> bool:
        return self.controls.take_save()

    def validate(self, session: Session) -> None:
        if not self.group.is_first or self._is_begun_again(session):
            return
        if self.controls.asked == "stop" and self.group.size > 1:  # the launcher waits 30 seconds, and saving comes first
            return
        if session.step == 0 and session.base_is_due:
            return  # nobody waits for it before the first step
        if session.base_is_due:
            with self._outside_steps(session, counts=False), disabled(session.model):
                self._validated(session, 0)
            session.base_is_due = False
        if session.step == 0:
            with self._outside_steps(session), disabled(session.model):  # which may have learned already, of another LoRA
                return self._validated(session, 0)
        with self._outside_steps(session), session.ema.applied():
            self._validated(session, session.step)

    def _validated(self, session: Session, step: int) -> None:
        """Measure, and tell it as that of a step."""
        score = validate(
            session.model, session.prompts, session.held_out, session.training, session.measure, session.latents_at_once
        )
        if best := score.loss < session.best_loss:
            session.best_step, session.best_loss = step, score.loss
        self.log.emit(Validation(step, score.loss, score.train_loss, best))

    def sample(self, session: Session) -> None:
        if not self.group.is_first or self._is_begun_again(session):
            return
        with self._outside_steps(session, counts=session.step > 0), session.ema.applied():
            try:
                drawn = outputs.draw_samples(session, self.run, self.log.emit, self.controls.raise_if_stopped)
                for path, params in drawn:
                    name = path.relative_to(self.run.folder).as_posix()
                    if name not in self._drawn:
                        self.log.emit(Sample(session.step, name, params.prompt, params.seed))
            except WriteError as cause:  # pictures can be drawn again, steps are dear
                self.log.emit(Warned(Message("training.samples_left_out", step=session.step, cause=cause)))

    def save(self, session: Session) -> None:
        if self.group.is_first:
            with self._outside_steps(session):
                path = outputs.save_checkpoint(session, self.run)
                self.log.emit(Saved(session.step, path.relative_to(self.run.folder).as_posix()))
        session.saved_step = session.step

    def catch_up(self, session: Session) -> None:
        """Tell and draw what a kill between a save and the step after it left undone."""
        told = [event for event, _ in self.run.read()[0]]
        if not any(isinstance(event, Saved) and event.step == session.step for event in told):
            saved = checkpoint.folder_of(self.run.checkpoints, session.step)
            if saved.is_dir():  # not when it was resumed from elsewhere
                self.log.emit(Saved(session.step, saved.relative_to(self.run.folder).as_posix()))
        self._drawn = {e.path for e in told if isinstance(e, Sample) and e.step == session.step}
        is_due = session.step % session.config.save_steps == 0 or session.step == session.config.max_train_steps
        if is_due and len(self._drawn) < len(outputs.sample_params(session)):
            self.sample(session)
        self._drawn = set()

    def _is_begun_again(self, session: Session) -> bool:
        """Whether numbers went wrong before the first save: of step 0 all was told before."""
        return session.step == 0 and session.lr_scale < 1

    @contextmanager
    def _outside_steps(self, session: Session, counts: bool = True) -> Iterator[None]:
        """Time outside training steps: read what waits, and keep it out of the speed."""
        session.meter.flush()
        session.stepper.release()
        began = time.monotonic()
        try:
            yield
        except Stopped:  # sampling was cut short; the training itself ends at the next call of `wants_stop`
            pass
        finally:
            session.meter.resume_after(time.monotonic() - began, counts)
