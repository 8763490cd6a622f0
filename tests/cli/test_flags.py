"""lora_core.cli.flags: every setting is a flag, every slip is told, and all at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_core.cli import flags
from lora_core.cli.request import request
from lora_core.config import settings
from lora_core.settings import Setting


def given(*words: str) -> dict[str, object]:
    """The settings among the parsed flags; fails when something was not understood."""
    found = flags.parse(list(words))
    assert found.problems == []
    return {name: value for name, value in vars(found).items() if name in settings()}


def problems(*words: str) -> list[str]:
    return [str(each) for each in flags.parse(list(words)).problems]


@pytest.mark.parametrize("name", list(settings()))
def test_every_setting_is_a_flag_in_both_spellings(name: str) -> None:
    assert given(f"--{name}", "x") == {name: "x"}
    assert given(f"--{name}=x") == {name: "x"}
    assert given(f"--{name.replace('_', '-')}=a-b_c") == {name: "a-b_c"}


@pytest.mark.parametrize("s", settings().values(), ids=lambda s: s.name)
def test_help_tells_default_unit_bounds_and_choices(s: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "2000")  # every text on one line, if not always on that of its flag
    text = flags.parser().format_help()
    entry = " ".join(text[text.index(f"  --{s.name} ") :].splitlines()[:2])
    assert s.help in entry
    assert s.name == "train_data_dir" or "default " in entry
    for fact in (s.unit, *s.choices):
        assert fact in entry
    if s.low is not None and s.high is not None:
        assert f"{s.low:g} to {s.high:.10g}" in entry
    if s.multiple_of:
        assert f"a multiple of {s.multiple_of}" in entry


def test_help_groups_by_topic_in_the_order_of_the_settings() -> None:
    text = flags.parser().format_help()
    topics = list(dict.fromkeys(s.topic for s in settings().values()))
    places = [text.index(f"\n{topic}:\n") for topic in topics]
    assert places == sorted(places)
    assert "exit codes: 0 done, 1 failure, 2 wrong input, 130" in text


def test_switches() -> None:
    assert given("--random_flip") == {"random_flip": "true"}
    assert given("--random_flip", "false") == {"random_flip": "false"}
    assert given("--no_random_flip") == {"random_flip": "false"}
    assert given("--no-random-flip", "--random-flip") == {"random_flip": "true"}
    assert given("--random_flip", "--seed", "1") == {"random_flip": "true", "seed": "1"}


def test_what_is_not_given_is_not_there() -> None:
    assert given() == {}
    found = flags.parse([])
    assert (found.preset, found.resume, found.help, found.version, found.verbose) == (None, None, False, False, False)


def test_the_last_of_two_wins_as_everywhere() -> None:
    assert given("--seed", "1", "--seed", "2") == {"seed": "2"}


def test_resume_alone_means_the_latest() -> None:
    assert flags.parse(["--resume"]).resume == "latest"
    assert flags.parse(["--resume", "--seed", "1"]).resume == "latest"
    assert flags.parse(["--resume", "a/b"]).resume == "a/b"
    assert problems("--resume=") == ["--resume needs a value after '='; write --resume alone for the last checkpoint."]


def test_values_may_be_empty_or_begin_with_a_dash() -> None:
    assert given("--trigger_word", "") == {"trigger_word": ""}
    assert given("--trigger_word=-x") == {"trigger_word": "-x"}
    assert given("--sample_prompts", "a cat; -a dog") == {"sample_prompts": "a cat; -a dog"}
    assert given("--noise_offset", "-1") == {"noise_offset": "-1"}


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--lora_rnk", "4"], ["There is no flag --lora_rnk. Did you mean '--lora_rank'?"]),
        (["--lora-rnk=4"], ["There is no flag --lora_rnk. Did you mean '--lora_rank'?"]),
        (["--zzz"], ["There is no flag --zzz."]),
        (["--res", "5"], ["There is no flag --res."]),
        (["-x"], ["There is no flag -x."]),
        (["stray"], ["'stray' belongs to no flag; put text with spaces in quotes."]),
        (["--seed"], ["--seed needs a value; write --seed=VALUE if the value begins with '-'."]),
        (["--seed", "-1e-5"], ["--seed needs a value; write --seed=VALUE if the value begins with '-'."]),
        (["--preset"], ["--preset needs a value; write --preset=VALUE if the value begins with '-'."]),
    ],
)  # fmt: skip
def test_slips_are_told(words: list[str], told: list[str]) -> None:
    assert [p.split(" Did you mean '--res")[0] for p in problems(*words)] == told


def test_all_slips_are_told_at_once() -> None:
    assert len(problems("--seed", "--lora_rnk", "4", "--reslution", "5", "--trigger_word", "a", "stray")) == 4


def test_no_setting_is_shortened_in_silence() -> None:
    for name in settings():
        short = name[:-1]
        if short not in settings():
            assert problems(f"--{short}", "1")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--cuda_graphs", "false"], "off"), (["--no_cuda_graphs"], "off"), (["--cuda_graphs=true"], "auto"),
        (["--cuda_graphs", "on"], "on"), (["--cuda_graphs", "sometimes"], "sometimes"),
    ],
)  # fmt: skip
def test_a_setting_that_was_on_or_off_is_read_as_old_command_lines_have_it(words: list[str], said: str) -> None:
    found = flags.parse(words)
    assert (found.cuda_graphs, found.problems) == (said, [])


@pytest.mark.parametrize(
    ("words", "values"),
    [
        (["--use_dora"], {"adapter": "dora"}), (["--use-dora=true"], {"adapter": "dora"}), (["--no_use_dora"], {}),
        (["--use_rslora", "--lora_rank", "4"], {"lora_rank": 4, "lora_alpha": 8.0}), (["--use_rslora", "false"], {}),
        (["--adapter", "dora", "--use_dora", "false"], {"adapter": "lora"}),
    ],
)  # fmt: skip
def test_switches_of_older_command_lines_are_understood(
    words: list[str], values: dict[str, object], tmp_path: Path
) -> None:
    asked = request(flags.parse(["--train_data_dir", str(tmp_path), *words])).config
    assert asked == request(flags.parse(["--train_data_dir", str(tmp_path)])).config.replace(**values)
    assert "use_dora" not in flags.parser().format_help()
