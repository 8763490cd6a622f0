"""lora_core.events: one line of JSON per thing that happens, there and back."""

from __future__ import annotations

import dataclasses
import typing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core import events
from lora_core.events import Event, Finished, Phase, Step, Warned, from_line, to_line
from lora_core.messages import Message, plain

KINDS = typing.get_args(Event)
# The low surrogates stand for bytes that are no text, as in the file names of some old disks.
text = st.text(st.characters(codec="utf-8") | st.characters(min_codepoint=0xDC80, max_codepoint=0xDCFF))
message = st.builds(lambda text, count: Message("settings.problem", field=text, what=count), text, st.integers())
values = {"Message": message, "int": st.integers(), "float": st.floats(allow_nan=False), "str": text, "bool": st.booleans()}
values["str | Message"] = text | message
any_event = st.one_of(
    *(st.builds(kind, **{f.name: values[str(f.type)] for f in dataclasses.fields(kind)}) for kind in KINDS)
)


@given(event=any_event, at=st.floats(0, 4e9))
def test_an_event_is_one_line_and_comes_back_equal(event: Event, at: float) -> None:
    line = to_line(event, at)
    assert line.encode("utf-8")
    assert "\n" not in line and "\r" not in line
    back, when = from_line(line)
    assert back == event
    assert type(back) is type(event)
    assert when == pytest.approx(at, abs=1e-3)


def test_the_kinds_are_frozen_values() -> None:
    names = ["Phase", "Step", "Validation", "Sample", "Saved", "State", "Warned", "Failed", "Finished"]
    assert [kind.__name__ for kind in KINDS] == names
    with pytest.raises(dataclasses.FrozenInstanceError):
        Warned(plain("a")).message = plain("b")  # type: ignore[misc]


def test_every_kind_says_what_it_is() -> None:
    assert all(kind.__doc__ and not kind.__doc__.startswith(kind.__name__ + "(") for kind in KINDS)


def test_text_stays_readable_in_the_file() -> None:
    assert "ação 画像" in to_line(Warned(plain("ação 画像")), 0)


def test_a_loss_that_is_no_number_still_comes_back() -> None:
    event, _ = from_line(to_line(Step(1, 10, float("nan"), 1e-4), 0))
    assert isinstance(event, Step)
    assert event.loss != event.loss


def test_a_field_with_a_default_may_be_absent() -> None:
    event, at = from_line('{"kind": "Finished", "at": 5, "step": 1, "path": "a", "best_step": 1}')
    assert event == Finished(1, "a", 1)
    assert at == 5.0


@pytest.mark.parametrize(
    "line",
    [
        "",
        "null",
        "[]",
        "5",
        '"Phase"',
        "{",
        '{"kind": "Phase", "at": 1',
        '{"kind": "Phase", "name": "load"}',
        '{"kind": "Phase", "at": null, "name": "load"}',
        '{"kind": "Phase", "at": "x", "name": "load"}',
        '{"kind": "Phase", "at": 1}',
        '{"kind": "Phase", "at": 1, "name": "load", "more": 1}',
        '{"kind": "Party", "at": 1}',
        '{"kind": [], "at": 1}',
        '{"kind": "_KINDS", "at": 1}',
        "[" * 100_000,
    ],
)
def test_a_damaged_line_is_a_value_error(line: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        from_line(line)


@given(
    line=st.text()
    | any_event.map(lambda e: to_line(e, 1.0)).flatmap(lambda s: st.integers(0, len(s) - 1).map(lambda n: s[:n]))
)
def test_a_cut_line_never_passes_for_an_event(line: str) -> None:
    with pytest.raises(ValueError, match=r"\S"):
        from_line(line)


def test_phases_are_the_ones_the_terminal_names() -> None:
    from lora_core.cli.terminal import PHASES

    named = (Phase.__doc__ or "").split("one of ")[1].split(".")[0].split(", ")
    assert sorted(PHASES) == sorted(named)
    assert events.Emit is not None
