"""The error for people, and the exit codes of the doors."""

from __future__ import annotations

from typing import Union

from lora_core.messages import Message, plain

DONE, FAILED, WRONG_INPUT, STOPPED = 0, 1, 2, 130


class UserError(ValueError):
    """Wrong input, told in a sentence that names the thing and the fix. The doors print it and exit with 2.

    `UserError("models.no_vae", vae=path)`: the key of a sentence and its parameters; or a ready Message.
    `str()` says it in English.
    """

    def __init__(self, key: Union[str, Message], **params: object) -> None:  # noqa: UP007  for Python 3.7
        if isinstance(key, str):
            key = plain(key) if " " in key else Message(key, **params)
        self.message = key
        super().__init__(key)

    @property
    def kind(self) -> str:
        """The key of its message: what code asks for, which wants to know what went wrong."""
        return self.message.key

    def __str__(self) -> str:
        return str(self.message)


def first_line(error: BaseException) -> str:
    """What a library or the system says of an error, without what comes after it; of one without words, its kind."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]
