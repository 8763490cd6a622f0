"""The threaded training core: one training in a thread that can pause, go on, stop and save, sample now, save now.

Terminal and window use this class alone; what happens leaves through events, into the run folder and to listeners.
"""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Emit, Event, Failed, Finished, Sample, Saved, State, Validation, Warned
from lora_core.messages import Message, plain
from lora_core.models import load as base_models
from lora_core.models.weights import free_device_memory
from lora_core.runs import lock
from lora_core.runs.run import Run, make_folder
from lora_core.system import windows
from lora_core.system.distributed import ProcessGroup
from lora_core.system.files import WriteError, remove_stray_temporaries
from lora_core.system.files import explain as explain_write
from lora_core.system.keep_awake import awake
from lora_core.system.redact import redact, traceback_of
from lora_core.training import checkpoint, outputs
from lora_core.training.data import tensor_store
from lora_core.training.data.plan import Plan, digest
from lora_core.training.failures import explain
from lora_core.training.prepare import prepare, read_dataset
from lora_core.training.progress import Diverged
from lora_core.training.session import Session
from lora_core.training.train import train
from lora_core.training.validate import validate

ROLL_BACKS, LR_FACTOR = 3, 0.3  # how often numbers may go wrong, and what remains of the learning rate each time


class Stopped(Exception):
    """The user asked to stop while something other than steps was going on."""


class Job:
    """One training. `state` is idle, running, paused, stopping, finished or failed; `error` is set when failed.

    resume: "" starts anew, "latest" goes on from the newest whole checkpoint in `config.output_dir`, a path from that
    checkpoint folder. `group`: the processes that train together; this is the first of them.
    """

    def __init__(
        self, config: TrainConfig, resume: str = "", listeners: Sequence[Emit] = (), group: ProcessGroup | None = None
    ):
        self.config, self.resume, self.listeners, self.group = config, resume, listeners, group or ProcessGroup()
        self.run = Run(Path(config.output_dir).expanduser())
        self.state = "idle"
        self.error: Exception | None = None
        self.announce: Callable[[TrainConfig, Plan], None] = lambda config, plan: None  # called when the plan is made
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)
        self._wake = threading.Condition()
        self._paused = self._stop = self._sample = self._save = False
        self._identity: dict[str, str] = {}
        self._unwritten: list[Event] = []  # told before the run folder was ready, or while it could not be written
        self._begun = False
        self._warned: set[Message] = set()
        self._lock: lock.Holder | None = None
        self._drawn: set[str] = set()  # sample pictures that were told of before a kill

    # --- what the user presses --------------------------------------------------------------------------------

    def start(self) -> None:
        self.state = "running"
        self._thread.start()

    def pause(self) -> None:
        self._press("_paused")

    def unpause(self) -> None:
        with self._wake:
            self._paused = False
            self._wake.notify_all()

    def stop(self) -> None:
        """Finish the step, save, write the LoRA and end."""
        self._press("_stop")

    def sample_now(self) -> None:
        self._press("_sample")

    def save_now(self) -> None:
        self._press("_save")

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; True when the thread has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    @property
    def asked(self) -> str:
        """What was pressed last and holds: "stop", "pause" or ""; the thread sees it after its step."""
        return "stop" if self._stop else "pause" if self._paused else ""

    def _press(self, button: str) -> None:
        with self._wake:
            setattr(self, button, True)
            self._wake.notify_all()

    # --- the thread -------------------------------------------------------------------------------------------

    def _work(self) -> None:
        try:
            with awake():
                self._train()
            self.state = "finished"
        except Stopped:
            self._emit(Finished(0, "", 0, stopped=True))
            self.state = "finished"
        except Exception as error:  # noqa: BLE001 - the one place where a training's errors end: told, never lost
            self.error = error = _in_words(error)
            self._emit(Failed(explain(error, self.config).mapped(redact), traceback_of(error)))
            _let_go(error)
            self.state = "failed"
        finally:
            if self._lock:
                lock.release(self.run.folder, self._lock)
            gc.collect()
            free_device_memory()

    def _train(self) -> None:
        config = self.config.replace(gradient_accumulation_steps=self.config.gradient_accumulation_steps * self.group.size)
        self._make_folder()
        base_models.check(self.config.pretrained_model_name_or_path, self.config.vae)
        dataset = read_dataset(config)
        plan = Plan.of(config, dataset)
        identity = checkpoint.identity(config, digest(dataset))
        state = self._resumed(identity) if self.resume else None
        self._begin(state)
        self.announce(config, plan)
        session = prepare(config, dataset, plan, self._emit_or_stop, self.group)
        session.meter.emit = self._emit  # from here on a stop is for `wants_stop`, which saves
        outputs.check_space(session, self.run)
        if state:
            outputs.restore(session, state)
        self._identity = identity
        self.group.align(session.parameters.values())
        if state and self.group.is_first:
            self._catch_up(session)
        self._train_on(session)
        if session.step == 0:
            raise Stopped
        self._finish(session)
        self.group.leave()

    def _make_folder(self) -> None:
        """Have the run folder for this process alone, and without what a killed one left half-written."""
        _check_length(self.run, self.config)
        make_folder(self.run.folder)
        self._lock = lock.take(self.run.folder)
        remove_stray_temporaries(self.run.samples)
        checkpoint.clean(self.run.checkpoints)
        tensor_store.remove_abandoned()

    def _resumed(self, identity: dict[str, str]) -> checkpoint.State:
        newest = self.resume == "latest"
        state = checkpoint.latest(self.run.checkpoints) if newest else checkpoint.load(Path(self.resume))
        if notice := checkpoint.compare(state.identity, identity):
            self._emit(Warned(notice))
        return state

    def _begin(self, state: checkpoint.State | None) -> None:
        if state is None:
            self.run.begin(self.config)
        else:
            self.run.go_on(self.config, state.step)
        self._begun = True
        self._emit(State("running"))

    def _train_on(self, session: Session) -> None:
        """Train; when numbers go wrong, go back to the last good save and on with smaller steps, a few times."""
        start = outputs.state_of(session, self._identity) if session.step == 0 else None
        for attempt in range(1, ROLL_BACKS + 1):
            try:
                return train(session, self)
            except Diverged as wrong:
                if self.group.size > 1:  # the others do not know of it
                    raise
                self._roll_back(session, start, wrong, attempt)
        return train(session, self)

    def _roll_back(self, session: Session, start: checkpoint.State | None, wrong: Diverged, attempt: int) -> None:
        lr_scale = session.lr_scale * LR_FACTOR
        has_save = bool(checkpoint.whole(self.run.checkpoints)) or start is None
        state = checkpoint.latest(self.run.checkpoints) if has_save else start
        assert state is not None
        session.meter.waiting.clear()
        outputs.restore(session, state)
        outputs.scale_learning_rates(session, lr_scale / session.lr_scale)
        self.run.go_on(self.config, state.step)
        self._emit(
            Warned(
                plain(f"The numbers went wrong at step {wrong.args[0]}, so nothing of them is kept: going back to step "
                f"{state.step} and on with {lr_scale:.0%} of the learning rate (try {attempt} of {ROLL_BACKS}). If this "
                "comes again, start with a lower learning_rate.")
            )
        )

    def _catch_up(self, session: Session) -> None:
        """Tell and draw what a kill between a save and the step after it left undone."""
        told = [event for event, _ in self.run.read()[0]]
        if not any(isinstance(event, Saved) and event.step == session.step for event in told):
            saved = checkpoint.folder_of(self.run.checkpoints, session.step)
            if saved.is_dir():  # not when it was resumed from elsewhere
                self._emit(Saved(session.step, saved.relative_to(self.run.folder).as_posix()))
        self._drawn = {e.path for e in told if isinstance(e, Sample) and e.step == session.step}
        is_due = session.step % self.config.save_steps == 0 or session.step == self.config.max_train_steps
        if is_due and len(self._drawn) < len(outputs.sample_params(session)):
            self.sample(session)
        self._drawn = set()

    def _finish(self, session: Session) -> None:
        path = outputs.write_final(session, self.run)
        outputs.remember_speed(session)
        stopped = session.step < self.config.max_train_steps
        self._emit(Finished(session.step, path.name, session.best_step, stopped))

    def _emit(self, event: Event) -> None:
        if isinstance(event, Warned):
            if event.message in self._warned:
                return
            self._warned.add(event.message)
        self._unwritten.append(event)
        try:
            self._write_events()
        except (OSError, UserError) as cause:  # a training is worth more than its log, and the disk may have room again
            why = str(cause) if isinstance(cause, UserError) else explain_write(cause, self.run.events_file)
            self._warn_listeners(f"The run's events wait in memory until they can be written. {why}")
        for listener in self.listeners:
            listener(event)

    def _write_events(self) -> None:
        if not self._begun:
            return
        if not self.run.folder.is_dir():
            self._make_folder()
            self.run.begin(self.config)
            gone = f"{self.run.folder} was deleted or renamed during the training. It was made again and goes on from here."
            self._unwritten.insert(0, Warned(plain(gone)))
            self._warn_listeners(gone)
        while self._unwritten:
            self.run.append(self._unwritten[0])
            del self._unwritten[0]

    def _warn_listeners(self, message: str) -> None:
        if plain(message) not in self._warned:
            self._warned.add(plain(message))
            for listener in self.listeners:
                listener(Warned(plain(message)))

    def _emit_or_stop(self, event: Event) -> None:
        """For the work before the first step, which can be given up at any event."""
        self._emit(event)
        self._cancel_if_stopped()

    # --- what the training asks between steps (train.Callbacks) ----------------------------------------------------

    def wants_stop(self, session: Session) -> bool:
        if self._paused and not self._stop:
            self._hold(session)
        agreed = self.group.any(self._stop)  # not what was asked since: the others would take another step
        if agreed:
            self._stop = True
            if self.state != "stopping":
                self._tell_state("stopping")
        return agreed

    def _hold(self, session: Session) -> None:
        session.meter.flush()
        session.stepper.release()
        self._tell_state("paused")
        while self._paused and not self._stop:
            with self._wake:
                self._wake.wait(0.5)
            if self.wants_save():
                self.save(session)
            if self.wants_sample():
                self.sample(session)
        session.meter.resume_after(0.0, counts=False)
        if not self._stop:
            self._tell_state("running")

    def wants_sample(self) -> bool:
        pressed, self._sample = self._sample, False
        return pressed

    def wants_save(self) -> bool:
        pressed, self._save = self._save, False
        return pressed

    def validate(self, session: Session) -> None:
        if self._stop and self.group.size > 1:  # the launcher's patience is 30 seconds, and saving comes first
            return
        if session.step == 0 and session.lr_scale < 1:  # told before it was gone back to
            return
        with self._pause(session), session.ema.applied():
            score = validate(session.model, session.prompts, session.held_out, session.training)
            if best := score.loss < session.best_loss:
                session.best_step, session.best_loss = session.step, score.loss
            self._emit(Validation(session.step, score.loss, score.train_loss, best))

    def sample(self, session: Session) -> None:
        if session.step == 0 and session.lr_scale < 1:
            return
        with self._pause(session, counts=session.step > 0), session.ema.applied():
            try:
                for path, wish in outputs.draw_samples(session, self.run, self._emit, self._cancel_if_stopped):
                    name = path.relative_to(self.run.folder).as_posix()
                    if name not in self._drawn:
                        self._emit(Sample(session.step, name, wish.prompt, wish.seed))
            except WriteError as cause:  # pictures can be drawn again, steps are dear
                self._emit(Warned(plain(f"The sample pictures of step {session.step} are left out. {cause}")))

    def save(self, session: Session) -> None:
        with self._pause(session):
            path = outputs.save_checkpoint(session, self.run, self._identity)
            session.saved_step = session.step
            self._emit(Saved(session.step, path.relative_to(self.run.folder).as_posix()))

    def _cancel_if_stopped(self) -> None:
        if self._stop:
            raise Stopped

    @contextmanager
    def _pause(self, session: Session, counts: bool = True) -> Iterator[None]:
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

    def _tell_state(self, name: str) -> None:
        self.state = name
        self._emit(State(name))


def _check_length(run: Run, config: TrainConfig) -> None:
    """Raises UserError where Windows could not open the longest name in the run folder."""
    longest = max(len(f"checkpoints/step_0000000/{'x' * windows.LONGEST_TEMPORARY}"), len(run.lora_file(config).name)) + 1
    if problem := windows.path_problem(run.folder, longest):
        raise UserError(problem)


def _in_words(error: Exception) -> Exception:
    """The error, or one for people where it comes of something they can mend in Windows."""
    if not (failure := windows.page_file_failure(error)):
        return error
    told = UserError(failure)
    told.__cause__ = error
    return told


def _let_go(error: BaseException) -> None:
    """Forget the frames an error went through: they hold the model, and the error is kept as long as the job is."""
    chain: BaseException | None = error
    while chain is not None:
        chain.__traceback__, chain = None, chain.__cause__ or chain.__context__
