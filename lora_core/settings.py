"""How one line in `config.py` becomes a flag, a form field, a preset key and a metadata key.

A setting is a dataclass field made by `setting(...)`. Everything else about it (type, bounds, choices, topic, help)
is read from that field, never written again.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lora_core.errors import UserError
from lora_core.messages import Message

Value = bool | int | float | str | tuple[str, ...]


@dataclass(frozen=True)
class Setting:
    """What is known of one setting. `low` and `high` are inclusive, in `unit`."""

    name: str
    kind: type
    default: Value
    topic: str
    help: str
    low: float | None = None
    high: float | None = None
    multiple_of: int | None = None
    choices: tuple[str, ...] = ()
    unit: str = ""
    basic: bool = False


@dataclass(frozen=True)
class Problem:
    """What is wrong with one setting; `field` is its name, so that a form can show the message beside its box."""

    field: str
    message: Message


class ConfigError(UserError):
    """One or more settings are wrong; `problems` lists all of them at once."""

    def __init__(self, problems: Iterable[Problem]) -> None:
        self.problems = tuple(problems)
        told = [Message("settings.problem", field=p.field, what=p.message) for p in self.problems]
        super().__init__("settings.problems", lines=told)


def setting(default: Value, topic: str, help: str, **facts: Any) -> Any:
    """A dataclass field that carries its own documentation; `facts` are the optional fields of `Setting`."""
    return dataclasses.field(default=default, metadata={"topic": topic, "help": help, **facts})


def settings_of(config: type) -> dict[str, Setting]:
    """All settings of a config class in the order they are written."""
    types = typing.get_type_hints(config)
    return {
        f.name: Setting(
            f.name, typing.get_origin(types[f.name]) or types[f.name], typing.cast(Value, f.default), **f.metadata
        )
        for f in dataclasses.fields(config)
    }


def suggest(word: str, known: Iterable[str]) -> Message | str:
    """' Did you mean ...?' for the nearest known word, or an empty text."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return Message("settings.did_you_mean", word=near[0]) if near else ""


def check(known: Mapping[str, Setting], values: Mapping[str, object]) -> dict[str, Value]:
    """Values in their right types.

    Raises:
        ConfigError: with every unknown name, wrong type and impossible value at once.
    """
    problems, checked = [], {}
    for name, value in values.items():
        if name not in known:
            problems.append(Problem(name, Message("settings.unknown", suggestion=suggest(name, known))))
            continue
        try:
            checked[name] = typed(known[name], value)
        except UserError as wrong:
            problems.append(Problem(name, wrong.message))
    if problems:
        raise ConfigError(problems)
    return checked


def typed(s: Setting, value: object) -> Value:
    """`value` as the setting's type; raises UserError when it does not fit."""
    result = _convert(s, value)
    if s.choices:
        for part in result if isinstance(result, tuple) else (result,):
            if part not in s.choices:
                raise UserError(
                    "settings.no_choice", value=part, choices=s.choices, suggestion=suggest(str(part), s.choices)
                )
    if isinstance(result, int | float) and not isinstance(result, bool):
        _check_bounds(s, result)
    for part in result if isinstance(result, tuple) else (result,):
        if isinstance(part, str) and any(c == "\0" or "\ud800" <= c <= "\udfff" for c in part):
            raise UserError("settings.no_text")
    return result


def _check_bounds(s: Setting, number: float) -> None:
    unit = Message(f"settings.unit_{s.unit}") if s.unit else ""
    if not math.isfinite(number):
        raise UserError("settings.no_number", value=str(number))
    if s.low is not None and number < s.low:
        raise UserError("settings.too_low", value=number, low=s.low, unit=unit)
    if s.high is not None and number > s.high:
        raise UserError("settings.too_high", value=number, high=s.high, unit=unit)
    if (step := s.multiple_of) and number % step:
        below = max(int(number // step) * step, step)
        raise UserError("settings.no_multiple", value=number, step=step, below=below, above=below + step)


def _convert(s: Setting, value: object) -> Value:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if isinstance(value, int) and abs(value) >= 2**63:  # TOML's own bound; a float holds no more than 10**308
        raise UserError("settings.unusable_number")
    match s.kind.__name__:
        case "bool" if isinstance(value, bool):
            return value
        case "bool" if isinstance(value, str) and value.lower() in TRUTH:
            return TRUTH[value.lower()]
        case "int" if is_number and float(typing.cast(float, value)).is_integer():
            return int(typing.cast(float, value))
        case "float" if is_number:
            return float(typing.cast(float, value))
        case "int" | "float" if isinstance(value, str):
            return _number(s, value)
        case "str" if isinstance(value, str):
            return value
        case "tuple" if isinstance(value, str):
            return tuple(part.strip() for part in value.split(_separator(s)) if part.strip())
        case "tuple" if isinstance(value, list | tuple) and all(isinstance(v, str) for v in value):
            return tuple(value)
    raise _needs(s, value)


def _separator(s: Setting) -> str:
    """Lists of names part at commas, lists of prompts (which hold commas) at semicolons."""
    return "," if s.choices else ";"


def _number(s: Setting, text: str) -> int | float:
    try:
        number = float(text)
    except ValueError:
        raise _needs(s, text) from None
    if s.kind is int:
        if not number.is_integer():
            raise _needs(s, text)
        return int(number)
    return number


def _needs(s: Setting, value: object) -> UserError:
    return UserError("settings.needs", wanted=Message(f"settings.needs_{s.kind.__name__}"), value=repr(value))


TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
