"""What the benchmarks compute from events; that they run at all, their authors see."""

from __future__ import annotations

import json
import os
import subprocess
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from lora_core.config import PRESETS
from lora_core.events import Phase, Sample, Saved, State, Step, Validation
from lora_core.starter.world import draw
from tests import ROOT
from tests.benchmarks import gpu, recipe_by_pictures, startup, time_to_concept, way, window_training
from tests.benchmarks.step import LEVELS
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


def test_the_script_for_a_graphics_card_is_a_script() -> None:
    if os.name == "nt":
        pytest.skip("what is called bash on Windows needs a Linux")
    script = ROOT / "tests" / "benchmarks" / "gpu.sh"
    done = subprocess.run(["bash", "-n", str(script)], capture_output=True, check=False)
    assert done.returncode == 0, done.stderr


def test_all_that_is_measured_on_a_card_starts_on_the_toy_model(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONUTF8", "1")
    out = tmp_path / "gpu.json"
    assert gpu.main(["--smallest", "--device", "cpu", "--out", str(out)]) == 0, capfd.readouterr()
    text = out.read_text(encoding="utf-8")
    report = gpu.Report(**json.loads(text))
    assert [(part["name"], part["state"]) for part in report.parts] == [("check", "done"), ("all ways", "done")]
    assert report.check["findings"] and str(tmp_path) not in text and str(ROOT) not in text
    found = {name.partition(": ")[2]: each for name, each in report.found().items()}
    assert set(found) == {*gpu.WAYS, "textbook", *LEVELS} - {"without graphs", "compiled"}
    assert all(each["rates"] and min(each["rates"]) > 0 and each["stop_s"] >= 0 for each in found.values())
    assert found["default"]["losses"] == found["plain"]["losses"] and len(found["plain"]["losses"]) == way.LOSSES
    told = capfd.readouterr().out
    assert "default beside the textbook loop" in told and "losses " in told
    rows = gpu.table(report)
    assert len([row for row in rows if row.startswith("| starter 64 px")]) == len(found)


def a_way(**facts: Any) -> way.Way:
    return way.Way(**{"name": "a way", "family": "starter", "resolution": 64, "batch": 1, "device": "cpu", **facts})


def test_what_fails_or_takes_too_long_on_a_card_is_told_and_the_rest_goes_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = gpu.Bench("cpu", tmp_path / "out" / "gpu.json", 600)
    bench.run(gpu.Part("fails", 60, (a_way(settings={"lora_rank": -1}),)))
    bench.deadline = time.monotonic() + 5
    bench.run(gpu.Part("too late", 60, (a_way(),)))
    monkeypatch.setattr(gpu, "TOO_LATE_S", 0)
    bench.run(gpu.Part("too long", 0.1, (a_way(),)))
    parts = json.loads(bench.out.read_text(encoding="utf-8"))["parts"]
    assert [(each["name"], each["state"]) for each in parts] == [
        ("fails", "failed"), ("too late", "left out"), ("too long", "left out"),
    ]  # fmt: skip
    assert "lora_rank" in parts[0]["why"] and "time is up" in parts[1]["why"] and "within 0 s" in parts[2]["why"]
    assert all(each["why"] in capsys.readouterr().out for each in parts[:1])


@pytest.mark.parametrize("stepper", ["CudaGraph", "Plain"])
def test_on_a_card_each_way_is_a_process_and_graphs_are_asked_for_where_the_default_has_none(
    stepper: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = gpu.Bench("cpu", tmp_path / "gpu.json", 600)
    bench.device, parts = "cuda:0", []

    def run(part: gpu.Part) -> None:
        parts.append(part)
        for each in part.ways:
            asked = {"on": "CudaGraph", "off": "Plain"}.get(str(each.settings.get("cuda_graphs")), stepper)
            found = {"name": each.name, "stepper": asked, "rates": [2.0 if asked == "CudaGraph" else 1.0], "losses": [1.0]}
            bench.report.parts.append({"name": part.name, "state": "done", "found": [found]})

    monkeypatch.setattr(bench, "run", run)
    gpu.ten_minutes(bench)
    assert parts[0].name == "check" and all(len(part.ways) == 1 for part in parts[1:])
    names = [part.name for part in parts]
    assert len(set(names)) == len(names) and parts[-1].name.endswith("compiled")
    for case in gpu.CASES:
        wanted = ["default", "plain", *(["graphs"] if stepper == "Plain" else []), "textbook"]
        place = names.index(gpu.name_of(*case, "default"))
        assert names[place : place + len(wanted)] == [gpu.name_of(*case, title) for title in wanted]
    assert capsys.readouterr().out.count("graphs beside plain steps: 2.00x as fast, losses at most 0.00% apart") == 3


@pytest.mark.parametrize("subject", recipe_by_pictures.INTENTS)
def test_recipes_are_asked_for_colours_that_no_picture_of_theirs_has(subject: str) -> None:
    trained, asked = recipe_by_pictures.scenes(subject)
    assert (trained, asked) == recipe_by_pictures.scenes(subject), "the same at each start"
    assert len(trained) == recipe_by_pictures.DRAWN and len(asked) == recipe_by_pictures.ASKED
    pairs = [{(scene.colour, scene.background) for scene in scenes} for scenes in (trained, asked)]
    assert len(pairs[0]) == len(trained) and not pairs[0] & pairs[1]


def test_an_outline_is_told_from_a_filled_figure_and_from_another_outline() -> None:
    scenes, _ = recipe_by_pictures.scenes("style")
    for scene, other in pairwise(scenes[:13]):
        drawn = recipe_by_pictures.outlined(scene, 64)
        assert recipe_by_pictures.is_outline(drawn, scene) and not recipe_by_pictures.is_outline(drawn, other)
        assert not recipe_by_pictures.is_outline(draw(scene, 64), scene)
