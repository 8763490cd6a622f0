"""Exceptions as messages: what happened and what to do next."""

from __future__ import annotations

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models.device import is_full_card, is_full_computer, is_lost_card, why_lost, wider_formats
from lora_core.system import windows
from lora_core.system.distributed import ProcessLost
from lora_core.training.estimate.fit import after_failure, flags
from lora_core.training.progress import Diverged


def explain(error: Exception, config: TrainConfig) -> Message:
    """What to say to a person; the traceback is kept beside it. Its key tells the kind of failure."""
    if failure := windows.page_file_failure(error):  # also behind a sentence that says less
        return failure
    if isinstance(error, UserError):
        return error.message
    if is_full_card(error):
        return Message("training.full_card", advice=_start_with(config))
    if is_lost_card(error):
        return Message("training.card_lost", why=why_lost(error))
    if is_full_computer(error):
        return Message("training.full_computer", advice=_start_with(config))
    if isinstance(error, Diverged):
        return Message("training.diverged", step=error.args[0], rate=config.learning_rate / 30, formats=_formats(config))
    if isinstance(error, ProcessLost):
        return Message("training.process_lost")
    if isinstance(error, OSError):
        why = error.strerror or str(error)
        if error.filename:
            return Message("training.file_unusable", why=why, file=error.filename)
        return Message("training.some_file_unusable", why=why)
    return Message("training.unforeseen", error=f"{type(error).__name__}: {error}".rstrip(".: "))


def _formats(config: TrainConfig) -> Message | str:
    """The advice to compute in another format; none where this device has no better one."""
    match wider_formats(config.device, config.mixed_precision):
        case [first, second]:
            return Message("training.diverged_formats", first=first, second=second)
        case [one]:
            return Message("training.diverged_format", format=one)
    return ""


def _start_with(config: TrainConfig) -> Message:
    changes = after_failure(config)
    return Message("training.memory_start_with", flags=flags(changes)) if changes else Message("training.memory_no_setting")
