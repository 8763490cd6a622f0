"""Noticing that a training diverges: its loss stays far above where it began, though it is still a number."""

from __future__ import annotations

START, PATIENCE = 30, 60  # steps: what the start is the mean of, and how long is long
FAR = 3.0  # times the start; single batches of an even training differ by as much, their smoothed course does not
SMOOTHING = 0.95


class Drift:
    """Takes every loss; says so once when the training diverges."""

    def __init__(self) -> None:
        self.first: list[float] = []
        self.smoothed = 0.0
        self.above = 0
        self.is_told = False

    def add(self, step: int, loss: float) -> str:
        """A sentence for a person, or an empty string."""
        if len(self.first) < START:
            self.first.append(loss)
            self.smoothed = sum(self.first) / len(self.first)
            return ""
        start = sum(self.first) / START
        self.smoothed = SMOOTHING * self.smoothed + (1 - SMOOTHING) * loss
        self.above = self.above + 1 if self.smoothed > FAR * start else 0
        if self.is_told or self.above < PATIENCE:
            return ""
        self.is_told = True
        return (
            f"The training is diverging: at step {step} the loss has been around {self.smoothed:.3g} for {self.above} "
            f"steps, {self.smoothed / start:.0f} times where it began. Stop it, and start with a lower learning_rate or "
            "resume from an earlier checkpoint."
        )
