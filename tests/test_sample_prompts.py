"""lora_core.sample_prompts: kohya's flags in a sample prompt, against kohya's own way of reading them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.sample_prompts import read_sample_prompt
from lora_core.settings import ConfigError

FLAGS = {"w": "width", "h": "height", "s": "steps", "l": "guidance", "d": "seed", "n": "negative_prompt"}
KNOWN = "there is no such flag; known are --w, --h, --s, --l, --d, --n."
WORDS = st.lists(st.from_regex(r"[a-z(),.:'é0-9-]{0,5}[a-z0-9]", fullmatch=True), min_size=1, max_size=6).map(" ".join)
VALUES = {
    "w": st.integers(64, 2048), "h": st.integers(64, 2048), "s": st.integers(1, 1000),
    "l": st.integers(0, 500).map(lambda n: n / 10), "d": st.integers(0, 2**31 - 1), "n": WORDS,
}  # fmt: skip


def as_kohya(line: str) -> dict[str, object]:
    """The part of sd-scripts' `line_to_prompt_dict` that these flags take, and its rounding of sizes."""
    prompt, *args = line.split(" --")
    found: dict[str, object] = {"prompt": prompt}
    for arg in args:
        for flag, number in (("w", int), ("h", int), ("d", int), ("s", int), ("l", float)):
            if match := re.match(rf"{flag} ([\d\.]+)", arg, re.IGNORECASE):
                found[FLAGS[flag]] = number(match[1]) // 8 * 8 if flag in "wh" else number(match[1])
        if match := re.match(r"n (.+)", arg, re.IGNORECASE):
            found["negative_prompt"] = match[1]
    return found


@given(WORDS, st.lists(st.sampled_from("whsldnWHSLDN"), max_size=8), st.data())
def test_flags_are_read_as_kohya_reads_them(prompt: str, flags: list[str], data: st.DataObject) -> None:
    parts = [f"--{flag} {data.draw(VALUES[flag.lower()])}" for flag in flags]
    line = " ".join([prompt, *parts])
    read, found = read_sample_prompt(line)
    assert {"prompt": read, **found} == as_kohya(line)


@given(st.text())
def test_a_prompt_without_flags_is_left_alone_and_any_other_is_read_or_told(text: str) -> None:
    if not re.search(r"--[a-z]", text, re.IGNORECASE):
        assert read_sample_prompt(text) == (text, {})
        return
    try:
        prompt, found = read_sample_prompt(text)
    except UserError as told:
        assert told.kind == "settings.prompt_flag"
    else:
        assert prompt in text and found.keys() <= set(FLAGS.values())


def test_dashes_that_are_no_flags_stay_in_the_prompt() -> None:
    for text in ("a zebu -- at dawn", "a well--known zebu", "--", "zebu --5", " two  spaces "):
        assert read_sample_prompt(text) == (text, {})
    assert read_sample_prompt("--d 7") == ("", {"seed": 7})
    assert read_sample_prompt("a zebu\t--n") == ("a zebu", {"negative_prompt": ""}), "this picture without one"


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("a zebu --width 512", f"--width: {KNOWN} Did you mean '--w'?"),
        ("a zebu --Scale 5", f"--Scale: {KNOWN} Did you mean '--l'?"),
        ("a zebu --ss euler_a", f"--ss: {KNOWN}"),
        ("a zebu --w wide", "--w: needs a whole number, not 'wide'"),
        ("a zebu --w", "--w: needs a whole number, not ''"),
        ("a zebu --h 8192", "--h: 8192 is too high; the most is 2048 pixels"),
        ("a zebu --s 0", "--s: 0 is too low; the least is 1 steps"),
        ("a zebu --l nan", "--l: nan is not a usable number"),
        ("a zebu --d -1", "--d: -1 is too low; the least is 0"),
    ],
)  # fmt: skip
def test_a_wrong_flag_is_a_problem_of_the_setting_that_names_prompt_and_flag(line: str, told: str) -> None:
    with pytest.raises(ConfigError) as found:
        TrainConfig.of({"sample_prompts": ["fine --w 64", line]})
    assert [problem.field for problem in found.value.problems] == ["sample_prompts"]
    assert str(found.value) == f"sample_prompts: in the prompt {line!r}, {told}"


def test_flags_survive_the_config_file_and_the_command_line() -> None:
    config = TrainConfig.of({"sample_prompts": "a zebu --w 768 --n blurred; a cow"})
    assert config.sample_prompts == ("a zebu --w 768 --n blurred", "a cow")
    assert '["a zebu --w 768 --n blurred", "a cow"]' in config.to_toml()
