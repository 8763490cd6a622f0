"""What a person asks of a running training, from any thread; the training looks between two steps."""

from __future__ import annotations

import threading


class Stopped(Exception):
    """The user asked to stop while something other than steps was going on."""


class Controls:
    """The buttons of a training.

    `state` is what the training has made of them: idle, running, paused, stopping, finished or failed.
    """

    def __init__(self) -> None:
        self.state = "idle"
        self._paused = self._stop = self._sample = self._save = False
        self._changed = threading.Condition()

    def pause(self) -> None:
        self._press("_paused")

    def unpause(self) -> None:
        with self._changed:
            self._paused = False
            self._changed.notify_all()

    def stop(self) -> None:
        """Finish the step, save, write the LoRA and end."""
        self._press("_stop")

    def sample_now(self) -> None:
        self._press("_sample")

    def save_now(self) -> None:
        self._press("_save")

    @property
    def asked(self) -> str:
        """What was pressed last and holds: "stop", "pause" or ""; the training sees it after its step."""
        return "stop" if self._stop else "pause" if self._paused else ""

    def wait(self, seconds: float) -> None:
        """Until something is pressed, and no longer."""
        with self._changed:
            self._changed.wait(seconds)

    def take_sample(self) -> bool:
        """Whether a sample was asked for since the last call."""
        pressed, self._sample = self._sample, False
        return pressed

    def take_save(self) -> bool:
        """Whether a save was asked for since the last call."""
        pressed, self._save = self._save, False
        return pressed

    def raise_if_stopped(self) -> None:
        """For work that can be given up at any time.

        Raises:
            Stopped: a stop was asked for.
        """
        if self._stop:
            raise Stopped

    def _press(self, button: str) -> None:
        with self._changed:
            setattr(self, button, True)
            self._changed.notify_all()
