"""The threaded training core: one training in a thread, steered by its controls, telling all through events.

Terminal and window use this class alone; what happens goes into the run folder and to listeners.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Emit, Event, Failed, Finished, Warned
from lora_core.messages import Message
from lora_core.models import load as base_models
from lora_core.models.weights import free_device_memory
from lora_core.runs.run import Run, resumable
from lora_core.system import windows
from lora_core.system.distributed import ProcessGroup
from lora_core.system.keep_awake import awake
from lora_core.system.redact import redact, traceback_of
from lora_core.training import checkpoint, outputs
from lora_core.training.callbacks import RunCallbacks
from lora_core.training.controls import Controls, Stopped
from lora_core.training.data.plan import Plan
from lora_core.training.event_log import EventLog, Log, NoLog
from lora_core.training.failures import explain
from lora_core.training.prepare import prepare, read_dataset
from lora_core.training.progress import Diverged
from lora_core.training.session import Session
from lora_core.training.train import train

ROLL_BACKS, LR_FACTOR = 3, 0.3  # how often numbers may go wrong, and what remains of the learning rate each time


class Job:
    """One training; `error` is set when it failed.

    resume: "" starts anew, "latest" goes on from the newest whole checkpoint in `config.output_dir`, a path from that
    checkpoint folder. `group`: the processes that train together, of which the first alone tells and writes anything.
    """

    def __init__(
        self, config: TrainConfig, resume: str = "", listeners: Sequence[Emit] = (), group: ProcessGroup | None = None
    ) -> None:
        self.config, self.resume, self.group = config, resume, group or ProcessGroup()
        self.run = Run(Path(config.output_dir).expanduser())
        self.controls = Controls()
        self.log: Log = EventLog(self.run, config, listeners) if self.group.is_first else NoLog()
        self.callbacks = RunCallbacks(self.run, self.log, self.controls, self.group)
        self.error: Exception | None = None
        self._is_prepared = False
        self.announce: Callable[[TrainConfig, Plan], None] = lambda config, plan: None  # called when the plan is made
        self._thread = threading.Thread(target=self._work, name="training", daemon=True)

    @property
    def state(self) -> str:
        """As `Controls` have it."""
        return self.controls.state

    def start(self) -> None:
        self.controls.state = "running"
        self._thread.start()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for the end; True when the thread has ended."""
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _work(self) -> None:
        try:
            with awake():
                self._train()
            self.controls.state = "finished"
        except Stopped:
            self.log.emit(Finished(0, "", 0, stopped=True))
            self.controls.state = "finished"
        except Exception as error:  # noqa: BLE001 - the one place where a training's errors end: told, never lost
            self.error = error = _in_words(error)
            self.log.emit(Failed(explain(error, self.config).mapped(redact), traceback_of(error)))
            _let_go(error)
            self.controls.state = "failed"
        finally:
            self.log.close()
            gc.collect()
            free_device_memory()

    def _train(self) -> None:
        config = self.config.replace(gradient_accumulation_steps=self.config.gradient_accumulation_steps * self.group.size)
        self.log.open()
        base_models.check(config.pretrained_model_name_or_path, config.vae)
        dataset = read_dataset(config)
        plan = Plan.of(config, dataset)
        state = self._resumed(config, plan) if self.resume else None
        self.log.begin(state.step if state else None)
        self.callbacks.tell_state("running")
        self.announce(config, plan)
        session = prepare(config, dataset, plan, self._emit_or_stop, self.group, bool(state))
        self._is_prepared = True
        outputs.check_space(session, self.run)
        if state:
            outputs.restore(session, state)
        self.group.align(session.parameters.values())
        if state and self.group.is_first:
            self.callbacks.catch_up(session)
        self._train_on(session)
        if session.step == 0:
            raise Stopped
        if self.group.is_first:
            self._finish(session)
        self.group.leave()

    def _resumed(self, config: TrainConfig, plan: Plan) -> checkpoint.State:
        newest = self.resume == "latest"
        state = checkpoint.latest(self.run.checkpoints) if newest else checkpoint.load(Path(self.resume))
        if notice := checkpoint.compare(state.identity, checkpoint.identity(config, plan.digest)):
            self.log.emit(Warned(notice))
        return state

    def _emit_or_stop(self, event: Event) -> None:
        """Work before the first step can be given up at any event; from there on a stop is for `wants_stop`, which saves.

        Who computes the steps holds on to it: a graph or a compiled size that fails in the middle is told too.
        """
        self.log.emit(event)
        if not self._is_prepared:
            self.controls.raise_if_stopped()

    def _train_on(self, session: Session) -> None:
        """Train; when numbers go wrong, go back to the last good save and on with smaller steps, a few times."""
        start = outputs.state_of(session) if session.step == 0 else None
        for attempt in range(1, ROLL_BACKS + 1):
            try:
                return train(session, self.callbacks)
            except Diverged as wrong:
                if self.group.size > 1:  # the others do not know of it
                    raise
                self._roll_back(session, start, wrong, attempt)
        return train(session, self.callbacks)

    def _roll_back(self, session: Session, start: checkpoint.State | None, wrong: Diverged, attempt: int) -> None:
        lr_scale = session.lr_scale * LR_FACTOR
        has_save = bool(resumable(self.run.checkpoints)) or start is None
        state = checkpoint.latest(self.run.checkpoints) if has_save else start
        assert state is not None
        outputs.restore(session, state)
        outputs.scale_learning_rates(session, lr_scale / session.lr_scale)
        session.meter.discard()
        self.log.begin(state.step)
        numbers = {"step": wrong.args[0], "back": state.step, "rate": lr_scale, "attempt": attempt, "most": ROLL_BACKS}
        self.log.emit(Warned(Message("training.rolled_back", **numbers)))

    def _finish(self, session: Session) -> None:
        path = outputs.write_final(session, self.run)
        outputs.remember_speed(session)
        stopped = session.step < self.config.max_train_steps
        self.log.emit(Finished(session.step, path.name, session.best_step, stopped))


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
