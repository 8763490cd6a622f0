"""What the benchmarks compute from events; that they run at all, their authors see."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from lora_core.config import PRESETS
from lora_core.events import Phase, Sample, Saved, State, Step, Validation
from tests import ROOT
from tests.benchmarks import startup, time_to_concept, window_training
from tests.benchmarks.time_to_concept import Result, clock, config_of, read_results, row


def step(number: int) -> Step:
    return Step(number, 100, 0.1, 1e-4)


def test_the_clock_leaves_saves_out_and_goes_on_from_the_save_a_process_began_with() -> None:
    told = [
        (step(1), 108.0), (step(2), 110.0), (Validation(2, 1, 1, True), 113.0), (Saved(2, ""), 115.0),
        (step(3), 117.0), (step(4), 119.0), (Saved(4, ""), 121.0), (step(5), 123.0),  # and killed
        (step(5), 1006.0), (step(6), 1010.0), (Saved(6, ""), 1011.0),
    ]  # fmt: skip
    assert clock(told, [100.0, 1000.0]) == {2: 10.0, 4: 14.0, 6: 24.0}


def test_a_start_is_parted_by_its_events() -> None:
    told = [
        (State("running"), 5.0), (Phase("load"), 5.1), (Phase("cache", 0, 2), 6.0), (Phase("cache", 2, 2), 6.5),
        (Validation(0, 1, 1, True), 8.0), (Sample(0, "a.png", "a", 1), 9.0), (step(1), 10.0),
    ]  # fmt: skip
    found = startup.stages(told, 1.0)
    assert list(found) == [*startup.STAGES, "to the first step"]
    assert list(found.values()) == [4.0, 1.0, 0.5, 1.5, 1.0, 1.0, 9.0]
    without = startup.stages([pair for pair in told if not isinstance(pair[0], Sample)], 1.0)
    assert without["first step"] == 2.0 and "base samples" not in without


@pytest.mark.parametrize(("slower", "ratio"), [(1.0, 1.0), (0.9, 0.9)])
def test_what_a_page_costs_is_told_beside_a_speed_that_drifts(slower: float, ratio: float) -> None:
    turns, told, at, done = [], [], 1000.0, 0.0
    for number in range(41):
        is_alive, speed = number % 2 == 1, 10 * (1 + number / 40)
        for _ in range(4):  # half a second each, and several steps told at once
            at, done = at + 0.5, done + 0.5 * speed * (slower if is_alive else 1.0)
            told += [(round(done * 1000) - 1, at), (round(done * 1000), at)]
        given = 1.5 * (slower if is_alive else 1.0)
        turns.append(window_training.Turn(is_alive, at - 1.5, at, given, 0.03, 0.06 * is_alive, 0.0))
    told.append((told[-1][0] + 1, at + 1.0))
    found = window_training.summary(turns, told, pages=2)
    assert found["pairs"] == 20 and found["ratio"] == pytest.approx([ratio] * 3, abs=0.002)
    assert found["given"] == pytest.approx([ratio] * 3) and found["one_page"] == pytest.approx([ratio**0.5] * 3, abs=0.002)
    assert found["alive_browser_s"] == pytest.approx(0.04) and found["frozen_browser_s"] == 0


def test_the_interval_of_a_median_holds_it_and_is_no_wider_than_the_values() -> None:
    low, high = window_training.interval([0.9, 0.95, 1.0, 1.0, 1.05, 1.1])
    assert 0.9 <= low < 1.0 < high <= 1.1
    assert window_training.interval([1.0] * 5) == (1.0, 1.0)


def test_presets_are_compared_on_the_same_model_and_pictures_and_can_be_changed(tmp_path: Path) -> None:
    for path in PRESETS.glob("*.toml"):
        assert config_of(path.stem, 50, tmp_path).pretrained_model_name_or_path == "starter"
    assert config_of("careful:learning_rate=1e-3,seed=2", 50, tmp_path).learning_rate == 1e-3


def test_the_first_step_that_is_enough_is_told_and_results_outlive_the_process(tmp_path: Path) -> None:
    low, high = ({"concept_with": share, "leak": 0.0, "others_right": 1.0} for share in (0.5, 0.95))
    known = {"a": Result({50: 10.0, 100: 20.0}, {50: low, 100: high}, True, [1.0]), "b": Result({50: 9.0}, {50: low})}
    (tmp_path / "results.json").write_text(json.dumps({name: vars(each) for name, each in known.items()}), "utf-8")
    assert read_results(tmp_path / "results.json") == known and read_results(tmp_path / "none") == {}
    assert row("a", known["a"]) == "| a | 20 s | 100 | 95% | 0% | 100% |"
    assert row("b", known["b"]) == "| b | not within 9 s | 50 | 50% | 0% | 100% |"
    assert time_to_concept.ENOUGH == 0.9


def test_the_script_for_a_graphics_card_is_whole_and_names_benchmarks_that_exist() -> None:
    script = ROOT / "tests" / "benchmarks" / "gpu.sh"
    lines = [line.split() for line in script.read_text(encoding="utf-8").splitlines() if line.strip().startswith("run ")]
    assert len(lines) > 10
    assert all((script.parent / f"{words[2]}.py").is_file() for words in lines)
    names = [words[1] for words in lines]
    half = names.index("step-sd1")  # before it stand the smallest forms
    assert len(set(names[half:])) == len(names[half:])
    if os.name == "nt":
        pytest.skip("what is called bash on Windows needs a Linux")
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
