"""A sentence is a key with parameters: said in English by default, and in every language that has a catalog.

The catalogs are `locale/<language>/<room>.toml`; "training.cpu_format" is the line `cpu_format` of `training.toml`.
All of them hold the same keys with the same parameters, which tests/policy/test_messages.py proves. Code never reads
meaning out of a text: it asks for `key`. The standard library is all this needs, so that an old Python can be told so.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

LANGUAGES = ("en", "pt-BR")
LOCALE = Path(__file__).parent / "locale"
PLAIN = "errors.plain"  # a text that is not ours: of an old run, the system or a library


@dataclass(frozen=True, init=False)
class Message:
    """A key of the catalogs and what its placeholders stand for; `str()` says it in English.

    A parameter is a text, a number, another message, or several of these: texts part at commas, messages at lines.
    Paths become texts, and errors become their own messages.
    """

    key: str
    params: tuple[tuple[str, object], ...]

    def __init__(self, key: str, **params: object) -> None:
        object.__setattr__(self, "key", key)
        object.__setattr__(self, "params", tuple(sorted((name, _kept(value)) for name, value in params.items())))

    def __str__(self) -> str:
        return say(self)

    def mapped(self, change: Callable[[str], str]) -> Message:
        """The same message with every text in it changed."""
        return Message(self.key, **{name: _mapped(value, change) for name, value in self.params})


def plain(text: str) -> Message:
    """A text that has no key, said as it is in every language."""
    return Message(PLAIN, text=text)


def joined(parts: Sequence[str | Message], key: str) -> str | Message:
    """Parts in one line, by a key that joins two: "{first} and {last}"."""
    told, *rest = parts
    for part in rest:
        told = Message(key, first=told, last=part)
    return told


def say(message: Message, language: str = "en") -> str:
    """The sentence of a message.

    Raises:
        KeyError: the catalog has no such key, or its line a placeholder that the message does not fill.
    """
    return catalog(language)[message.key].format(**{name: _said(value, language) for name, value in message.params})


@functools.cache  # read by Python 3.7 too, which has no functools.cache
def catalog(language: str) -> dict[str, str]:
    """Every sentence of the core in a language by its key."""
    import tomllib

    texts = {}
    for path in sorted((LOCALE / language).glob("*.toml")):
        for name, text in tomllib.loads(path.read_text(encoding="utf-8")).items():
            texts[f"{path.stem}.{name}"] = str(text)
    return texts


def localized(figure: str, language: str) -> str:
    """A figure as a language writes it: 1.5 is 1,5 in Portuguese, and 1,000 is 1.000."""
    if language == "en":
        return figure
    return re.sub(r"(?<=\d)[.,](?=\d)", lambda mark: "," if mark[0] == "." else ".", figure)


def to_json(message: Message) -> dict[str, object]:
    """The message as JSON holds it; `from_json` is the way back."""
    return {"key": message.key, "params": {name: _to_json(value) for name, value in message.params}}


def from_json(stored: object) -> Message:
    """The message behind `to_json`.

    Raises:
        ValueError: it is not the JSON of a message, or of one that this version has no words for.
    """
    try:
        if not isinstance(stored, dict):
            raise TypeError("messages are tables")
        message = Message(stored["key"], **{name: _from_json(value) for name, value in stored["params"].items()})
        say(message)
    except (KeyError, TypeError, AttributeError, ValueError, IndexError) as cause:
        raise ValueError(f"not a message: {str(stored)[:80]}") from cause
    return message


class _Figure:
    """A number that its placeholder's format writes the way of a language."""

    def __init__(self, number: float, language: str) -> None:
        self._number, self._language = number, language

    def __format__(self, spec: str) -> str:
        return localized(format(self._number, spec), self._language)


def _kept(value: object) -> object:
    if isinstance(value, BaseException):
        value = getattr(value, "message", None) or str(value)
    if isinstance(value, (list, tuple)):
        return tuple(_kept(part) for part in value)
    if isinstance(value, (str, int, float, Message)):
        return value
    return os.fspath(value) if isinstance(value, os.PathLike) else str(value)


def _mapped(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, tuple):
        return tuple(_mapped(part, change) for part in value)
    if isinstance(value, Message):
        return value.mapped(change)
    return change(value) if isinstance(value, str) else value


def _said(value: object, language: str) -> object:
    if isinstance(value, Message):
        return say(value, language)
    if isinstance(value, tuple):
        between = "\n" if any(isinstance(part, Message) for part in value) else ", "
        return between.join(str(_said(part, language)) for part in value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return _Figure(value, language)
    return value


def _to_json(value: object) -> object:
    if isinstance(value, Message):
        return to_json(value)
    return [_to_json(part) for part in value] if isinstance(value, tuple) else value


def _from_json(value: object) -> object:
    if isinstance(value, dict):
        return from_json(value)
    return [_from_json(part) for part in value] if isinstance(value, list) else value
