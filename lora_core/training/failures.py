"""Exceptions as sentences: what happened and what to do next."""

from __future__ import annotations

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models.device import is_full_card, is_full_computer
from lora_core.system import windows
from lora_core.system.distributed import ProcessLost
from lora_core.training.estimate.fit import after_failure, flags
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


def _smaller(config: TrainConfig) -> Message:
    changes = after_failure(config)
    return Message("training.memory_start_with", flags=flags(changes)) if changes else Message("training.memory_no_setting")
