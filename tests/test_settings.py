"""lora_core.settings: one line per setting, nothing about it silent."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core.errors import UserError
from lora_core.settings import ConfigError, Value, check, setting, settings_of, suggest, typed


@dataclass(frozen=True)
class Toy:
    # fmt: off
    size: int = setting(512, "Shape", "A size.", low=32, high=4096, multiple_of=8, unit="pixels", basic=True)
    rate: float = setting(0.5, "Pace", "A rate.", low=0, high=1)
    name: str = setting("a", "Shape", "A name.")
    mode: str = setting("slow", "Pace", "A mode.", choices=("slow", "fast"))
    flag: bool = setting(False, "Pace", "A flag.")
    layers: tuple[str, ...] = setting(("q",), "Shape", "Layers.", choices=("q", "k", "v"))
    prompts: tuple[str, ...] = setting((), "Shape", "Prompts.")
    # fmt: on


TOY = settings_of(Toy)


def test_everything_is_read_from_the_line() -> None:
    size = TOY["size"]
    assert (size.kind, size.default, size.topic, size.help) == (int, 512, "Shape", "A size.")
    assert (size.low, size.high, size.multiple_of, size.unit, size.basic) == (32, 4096, 8, "pixels", True)
    assert TOY["mode"].choices == ("slow", "fast")
    assert TOY["layers"].kind is tuple
    assert [s.name for s in TOY.values()] == [f.name for f in dataclasses.fields(Toy)]


@pytest.mark.parametrize(
    ("name", "given_value", "value"),
    [
        ("size", "512", 512), ("size", 512.0, 512), ("size", "5.12e2", 512), ("size", " 64 ", 64),
        ("rate", "1e-5", 1e-5), ("rate", 1, 1.0), ("rate", "1", 1.0),
        ("flag", True, True), ("flag", "TRUE", True), ("flag", "yes", True), ("flag", "on", True), ("flag", "1", True),
        ("flag", "False", False), ("flag", "no", False), ("flag", "off", False), ("flag", "0", False),
        ("name", "ação; 画像", "ação; 画像"), ("name", "", ""),
        ("mode", "fast", "fast"),
        ("layers", "q, k,", ("q", "k")), ("layers", ["v"], ("v",)), ("layers", ("v",), ("v",)), ("layers", "", ()),
        ("prompts", "a cat, red; a dog", ("a cat, red", "a dog")), ("prompts", ";", ()),
    ],
)  # fmt: skip
def test_values_are_taken_as_the_settings_type(name: str, given_value: object, value: Value) -> None:
    result = typed(TOY[name], given_value)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", "big", "needs a whole number, not 'big'"),
        ("size", 512.5, "needs a whole number, not 512.5"),
        ("size", "512.5", "needs a whole number, not '512.5'"),
        ("size", True, "needs a whole number, not True"),
        ("size", None, "needs a whole number, not None"),
        ("size", math.nan, "needs a whole number"),
        ("size", math.inf, "needs a whole number"),
        ("size", "inf", "needs a whole number"),
        ("size", 16, "16 is too low; the least is 32 pixels"),
        ("size", 8192, "8192 is too high; the most is 4096 pixels"),
        ("size", 12345678, "12345678 is too high"),
        ("size", 513, "513 is not a multiple of 8; take 512 or 520"),
        pytest.param("size", 10**400, "not a usable number", id="huge"),
        ("rate", "nan", "nan is not a usable number"),
        ("rate", math.inf, "inf is not a usable number"),
        ("rate", -0.1, "too low"),
        ("rate", "fast", "needs a number, not 'fast'"),
        ("rate", [1], "needs a number"),
        ("flag", "maybe", "needs true or false, not 'maybe'"),
        ("flag", 1, "needs true or false, not 1"),
        ("name", 5, "needs text, not 5"),
        ("name", "a\0b", "NUL"),
        ("mode", "fats", "'fats' is not one of slow, fast. Did you mean 'fast'?"),
        ("layers", "q,x", "'x' is not one of q, k, v"),
        ("layers", [1], "needs a list of texts"),
        ("prompts", {"a": 1}, "needs a list of texts"),
        ("prompts", ["a\0b"], "NUL"),
        pytest.param("name", "caf\udce9", "no text", id="undecodable"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_told_in_a_sentence(name: str, value: object, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        typed(TOY[name], value)


def test_all_problems_are_told_at_once_with_their_field() -> None:
    with pytest.raises(ConfigError) as told:
        check(TOY, {"size": 1, "rat": 0.5, "name": "fine", "mode": "x"})
    assert [p.field for p in told.value.problems] == ["size", "rat", "mode"]
    assert "Did you mean 'rate'?" in str(told.value)
    assert isinstance(told.value, UserError)
    assert len(str(told.value).split("\n")) == 3


def test_no_suggestion_where_nothing_is_near() -> None:
    assert suggest("zzz", TOY) == ""
    assert str(suggest("siez", TOY)) == " Did you mean 'size'?"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)


@given(name=st.sampled_from(list(TOY)), value=anything)
def test_any_value_gives_the_right_type_or_a_sentence(name: str, value: object) -> None:
    try:
        result = typed(TOY[name], value)
    except ValueError as wrong:
        assert str(wrong)
    else:
        assert type(result) is TOY[name].kind
