"""Exceptions as sentences: what happened and what to do next."""

from __future__ import annotations

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.models.device import is_full_card, is_full_computer
from lora_core.system import windows
from lora_core.system.distributed import ProcessLost
from lora_core.training.progress import Diverged


def explain(error: Exception, config: TrainConfig) -> str:
    """One or two sentences for a person; the traceback is kept beside it."""
    if failure := windows.page_file_failure(error):  # also behind a sentence that says less
        return failure
    if isinstance(error, UserError):
        return str(error)
    if is_full_card(error):
        return f"The graphics card ran out of memory. {_smaller(config)} The last checkpoint is intact."
    if is_full_computer(error):
        return f"The computer ran out of memory. Close other programs. {_smaller(config)}"
    if isinstance(error, Diverged):
        return (
            f"The numbers went wrong before step {error.args[0]}, also with smaller steps. Nothing broken was saved: "
            f"resume from the last checkpoint with a lower learning_rate, e.g. {config.learning_rate / 30:.1g}, or with "
            "--mixed_precision bf16 or no."
        )
    if isinstance(error, ProcessLost):
        return "Another process of this training has ended, so this one cannot go on. The last checkpoint is intact."
    if isinstance(error, OSError):
        what = f"A file could not be used ({error.strerror or error}): {error.filename or ''}".rstrip(": ")
        return f"{what}. Check that its disk and folder are there, then go on from the last checkpoint or start again."
    what = f"Something unforeseen went wrong: {type(error).__name__}: {error}".rstrip(".: ")
    return f"{what}. Go on from the last checkpoint or start again; if it comes again, report it with the details."


def smaller(config: TrainConfig) -> dict[str, bool | int]:
    """The change that saves most memory of those not yet made."""
    if not config.gradient_checkpointing:
        return {"gradient_checkpointing": True}
    if config.train_batch_size > 1:
        twice = config.gradient_accumulation_steps * 2
        return {"train_batch_size": config.train_batch_size // 2, "gradient_accumulation_steps": twice}
    return {"resolution": max(64, config.resolution * 3 // 4 // 64 * 64)}


def _smaller(config: TrainConfig) -> str:
    flags = [f"--{name}" if value is True else f"--{name} {value}" for name, value in smaller(config).items()]
    return f"Start again with {' '.join(flags)}."
