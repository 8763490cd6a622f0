"""What the Train tab works out and writes as HTML; the browser test sees it at work."""

from __future__ import annotations

import dataclasses
import json
import re
import shutil
import time
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from lora_core.config import TrainConfig, presets, read_preset
from lora_core.errors import UserError
from lora_core.events import Failed, Finished, Phase, Sample, Saved, State, Step, Validation, Warned, to_line
from lora_core.messages import Message, plain
from lora_core.runs.curve import MOST_POINTS
from lora_core.runs.run import Run
from lora_core.runs.verdict import verdict
from lora_core.training.estimate.budget import Budget
from lora_core.training.estimate.cost import Estimate
from lora_core.training.estimate.fit import Fit
from lora_core.training.estimate.speed import Pace
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.state.training import Training
from lora_core.ui.tabs.train import form
from lora_core.ui.tabs.train.buttons import actions, label_of, ran_out_of_memory
from lora_core.ui.tabs.train.cost import card_line, memory_line, span, time_line
from lora_core.ui.tabs.train.live import MOST_ROWS, ViewContext, end_html, plot_html, samples_html, status_html, told_html
from lora_core.ui.tabs.train.plan import Pictures, new_folder, preset_values
from lora_core.ui.tabs.train.preset_cards import FIRST, REAL_WORK, Cards, beginning, cards_html
from lora_core.ui.tabs.train.setup import Said, Setup
from lora_core.ui.tabs.train.usual_rate import usual_rate
from tests import ROOT
from tests.support.training import config_for

EN, PT = Texts("en"), Texts("pt-BR")


def write(folder: Path, *events: object) -> Run:
    folder.mkdir(parents=True, exist_ok=True)
    with Run(folder).events_file.open("a", encoding="utf-8") as file:
        file.writelines(to_line(event, time.time()) + "\n" for event in events)  # type: ignore[arg-type]
    return Run(folder)


def view(run: Run, state: str = "running", text: Texts = EN) -> ViewContext:
    training = Training()
    return ViewContext(text, training.history(run), state, lambda path, side: f"/files/{path.name}?{side}", 3 * 2**29)


# --- presets and cards ----------------------------------------------------------------------------------------------


def test_a_card_keeps_ones_own_pictures_and_drops_those_of_another_card(tmp_path: Path) -> None:
    cards = Cards(tmp_path)
    toy = cards.values(FIRST, {})
    assert Path(str(toy["train_data_dir"])) == ROOT / "Training" and toy["trigger_word"] == "ampulheta"
    assert "train_data_dir" not in cards.values("style", toy) and "trigger_word" not in cards.values("style", toy)
    mine = {"train_data_dir": "/pictures", "trigger_word": "zebu", "output_name": "zebu", "lora_rank": 99}
    values = cards.values("style", mine)
    assert values == {"train_data_dir": "/pictures", "trigger_word": "zebu", "output_name": "zebu"}
    base = "pretrained_model_name_or_path"
    assert cards.values("style", {base: "/models/own.safetensors"}) == {base: "/models/own.safetensors"}
    assert cards.values(FIRST, {base: "/models/own.safetensors"})[base] == "starter"
    with pytest.raises(UserError, match="not there any more"):
        cards.values("own:gone", {})


def test_a_preset_of_ones_own_is_a_file_that_treino_reads(tmp_path: Path) -> None:
    cards = Cards(tmp_path / "presets")
    config = TrainConfig.of(
        {"lora_rank": 24, "trigger_word": "zebu", "train_data_dir": "/secret", "sample_prompts": ("a", "b")}
    )
    name = cards.save('My "best": \\ç/', config)
    (path,) = (tmp_path / "presets").glob("*.toml")
    preset = read_preset(path)
    assert preset.title == 'My "best": \\ç/' and cards.all()[name].values == preset.values
    assert TrainConfig.of(preset.values) == config.replace(trigger_word="", train_data_dir="")
    assert "secret" not in path.read_text(encoding="utf-8")
    html = cards_html(cards, PT, name)
    assert "My &quot;best&quot;" in html and html.count('type="radio"') == len(presets()) + 1
    assert html.count(" checked") == 1
    path.with_name("broken.toml").write_text("x = [", encoding="utf-8")
    assert "own:broken" not in cards.all()
    with pytest.raises(UserError, match="letters or digits"):
        cards.save(" .. ", config)


def test_portuguese_cards_speak_portuguese(tmp_path: Path) -> None:
    html = cards_html(Cards(tmp_path), PT)
    assert "Início rápido" in html
    for preset in presets():
        assert preset.title not in html and preset.description not in html
        shipped = (EN(f"train.preset_{preset.name}"), EN(f"train.preset_{preset.name}_for"))
        assert shipped == (preset.title, preset.description), "the card says what the preset's own file says"


def test_a_folder_begins_with_the_toy_model_only_for_its_own_concept(tmp_path: Path, pictures: Path) -> None:
    cards = Cards(tmp_path / "presets")
    assert beginning(cards, str(ROOT / "Training")) == FIRST
    assert beginning(cards, str(shutil.copytree(ROOT / "Training", tmp_path / "copy"))) == FIRST
    assert beginning(cards, str(pictures)) == REAL_WORK


def test_the_tab_takes_the_pictures_that_are_open_and_never_those_of_somebody_elses(
    tmp_path: Path, pictures: Path
) -> None:
    app = App(tmp_path / "config", tmp_path / "runs")
    setup = Setup(app, EN)
    toy = form.boxes(setup.cards.values(FIRST, {}))
    assert setup.arrive(toy) == {}, "nothing is open"
    app.dataset.open(pictures)
    order = setup.arrive(toy)
    assert order["card"] == REAL_WORK
    filled = order["fill"]
    assert isinstance(filled, dict) and filled["train_data_dir"] == str(pictures)
    assert setup.arrive(filled) == {}
    assert setup.arrive({**toy, "train_data_dir": ""})["card"] == REAL_WORK
    typed = tmp_path / "typed"
    offered = setup.arrive({**filled, "train_data_dir": str(typed)})
    assert offered == {"open": {"folder": str(pictures), "says": f"Train on the pictures open in Dataset: {pictures}"}}


def test_runs_get_folders_of_their_own_with_names_every_system_takes(tmp_path: Path) -> None:
    def name(**values: object) -> str:
        return new_folder(tmp_path, TrainConfig.of(values)).name

    assert name(output_name="zebu") == "zebu"
    assert name(trigger_word="a/b: c?") == "a_b_ c"
    assert name(trigger_word="NUL") == "NUL_"
    assert name(train_data_dir="/x/My Photos") == "My Photos"
    assert name() == "lora"
    (tmp_path / "Zebu").mkdir()
    (tmp_path / "zebu 2").mkdir()
    assert name(output_name="zebu") == "zebu 3"


# --- the plan -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> App:
    app = App(tmp_path_factory.mktemp("home"), tmp_path_factory.mktemp("runs"))
    app.wait_for_core()
    return app


def test_a_new_window_begins_with_the_quick_start_ready_to_go(app: App) -> None:
    setup = Setup(app, EN)
    order = json.loads(setup.hello())
    assert order["card"] == FIRST and order["fill"]["pretrained_model_name_or_path"] == "starter"
    found = setup.look_at(Said(order["fill"]))
    for _ in range(100):
        if not found.again:
            break
        time.sleep(0.1)
        found = setup.look_at(Said(order["fill"]))
    assert (found.problems, found.reason) == ({}, "") and found.config is not None
    assert "train-plan-memory" in found.plan and "MiB of" in found.plan, "the toy model's memory and disk are known"
    assert "11 to train on, 1 held out" in found.plan and "64×64 (12)" in found.plan
    told = re.search(r'id="train-plan-time">(roughly|about) \d+ (seconds|minutes)', found.plan)
    assert told, "a processor is measured before the first training, and known after it"


def test_a_card_tells_what_choosing_it_comes_to(app: App) -> None:
    """With the quick start in the form, whose toy model and pictures the other cards do not keep."""
    from lora_core.training.estimate.cost import estimate

    setup = Setup(app, EN)
    boxed = json.loads(setup.hello())["fill"]
    told: Any = None
    for _ in range(600):
        if told := setup.costs(Said(boxed), ""):
            break
        time.sleep(0.1)
    assert sorted(told["lines"]) == sorted(setup.cards.all())
    for card in setup.cards.all():
        config = TrainConfig.of(form.read(json.loads(setup.choose(card, boxed))["fill"]))
        if card != FIRST:
            assert config.resolution == 512, "of Stable Diffusion 1.5, not of the toy"
        assert told["lines"][card] == card_line(config, estimate(config), EN), card


def test_the_time_is_told_as_finely_as_it_can_be_known() -> None:
    told = [span(seconds, EN) for seconds in (0.4, 37, 89, 91, 5000, 5500, 50_000, 200_000)]
    assert told == [
        "5 seconds", "35 seconds", "90 seconds", "2 minutes", "83 minutes", "1.5 hours", "14 hours", "2.5 days"
    ]  # fmt: skip
    assert span(5500, PT) == "1,5 horas"
    assert time_line(Pace(600.0), EN) == "about 10 minutes from the first step on"
    assert time_line(Pace(600.0, rough=True), EN).startswith("roughly 10 minutes; ")
    assert "first steps" in time_line(None, EN)


def test_a_card_tells_memory_and_time_as_far_as_they_are_known() -> None:
    fits, over = (Fit(found, 2**31, 2**33 if found else 2**30, ()) for found in (True, False))
    steps = "1,500 steps, 512\u00a0px"

    def told(**known: Any) -> list[str]:
        return card_line(TrainConfig(), Estimate(**known), EN).split("\n")

    assert told(fit=fits, time=Pace(600.0)) == [steps, "Memory 2.0 GiB: fits", "About 10 minutes"]
    assert told(fit=fits) == [steps, "Memory 2.0 GiB: fits"]
    assert told(fit=over, time=Pace(600.0)) == [steps, "Memory 2.0 GiB: more than there is"]
    assert told() == [steps] and card_line(TrainConfig(), Estimate(), PT) == "1.500 passos, 512\u00a0px"


def test_beside_a_training_the_form_waits_for_its_end_and_does_not_ask_again(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    setup = Setup(app, EN)
    boxed = json.loads(setup.hello())["fill"]
    monkeypatch.setattr(app.training, "busy", lambda: True)
    found = setup.look_at(Said(boxed))
    for _ in range(100):
        if found.again != "soon":  # while the pictures are read
            break
        time.sleep(0.1)
        found = setup.look_at(Said(boxed))
    assert (found.reason, found.again) == (EN("train.reason_busy"), "end")


def test_the_plan_tells_what_is_wrong_at_its_field_and_why_start_is_not_allowed(app: App, tmp_path: Path) -> None:
    setup = Setup(app, PT)
    boxed = form.boxes({"train_data_dir": str(tmp_path / "nowhere"), "lora_rank": 8})
    found = setup.look_at(Said({**boxed, "lora_rank": "0"}))
    assert found.problems["train_data_dir"] == "Essa pasta não existe."
    assert found.problems["lora_rank"] == "0 é pouco; o mínimo é 1"
    assert "Rank" in found.reason and "Imagens" in found.reason and found.config is None
    assert setup.look_at(Said(form.boxes({}))).problems == {"train_data_dir": "Indique a pasta com as suas imagens."}
    assert "train_data_dir" in setup.look_at(Said(form.boxes({"train_data_dir": str(tmp_path)}))).problems


def test_pictures_are_read_once_and_again_when_a_file_changes(tmp_path: Path, pictures: Path) -> None:
    folder = shutil.copytree(pictures, tmp_path / "data")
    known = Pictures()
    reading = known.of(folder, "", 60)
    assert reading.dataset is not None and len(reading.dataset.items) == 9 and (reading.done, reading.total) == (9, 9)
    assert known.of(folder, "") is reading
    (folder / "000.txt").write_text("something else entirely", encoding="utf-8")
    again = known.of(folder, "", 60)
    assert again is not reading and again.dataset is not None
    assert again.dataset.items[0].caption == "something else entirely"
    shutil.rmtree(folder)
    folder.mkdir()
    assert "no pictures" in str(known.of(folder, "", 60).problem)


def test_letters_fill_the_form(app: App, pictures: Path) -> None:
    setup = Setup(app, EN)
    toy = form.boxes(preset_values(Cards(app.home).all()[FIRST].values))
    order = json.loads(setup.take_folder(str(pictures), toy))
    assert order["card"] == REAL_WORK and order["fill"]["train_data_dir"] == str(pictures)
    assert order["fill"]["trigger_word"] == ""
    mine = {**order["fill"], "lora_rank": "7"}
    order = json.loads(setup.take_folder("/elsewhere", mine))
    assert order["fill"]["lora_rank"] == "7" and order["fill"]["train_data_dir"] == "/elsewhere"
    assert order["card"] is None  # what was chosen stays chosen
    hourglasses = str(Cards(app.home).all()[FIRST].values["train_data_dir"])
    assert json.loads(setup.take_folder(hourglasses, {}))["card"] == FIRST
    order = json.loads(setup.fill({"lora_rank": 5, "output_dir": "/old", "no_such": 1}))
    assert order["fill"]["lora_rank"] == "5" and "no_such" not in order["fill"] and "output_dir" not in order["fill"]


# --- the live view --------------------------------------------------------------------------------------------------


def test_the_live_view_of_a_run_in_every_phase(tmp_path: Path) -> None:
    run = write(tmp_path / "<zebu>")
    assert 'data-phase="start"' in status_html(view(run))
    write(run.folder, State("running"), Phase("download", 5_000_000, 20_000_000, "unet/<b>"))
    html = status_html(view(run))
    assert "5 of 20 MB" in html and "unet/&lt;b&gt;" in html and "<h3>&lt;zebu&gt;</h3>" in html
    assert "curves appear here" in plot_html(view(run), False) and "appear here" in samples_html(view(run))
    write(run.folder, Phase("cache", 3, 9))
    assert "3 de 9" in status_html(view(run, text=PT))
    steps = [Step(n, 100, 0.2 - n / 1000, 1e-3, 0.5, (100 - n) * 2.0, 3 * 2**30) for n in range(1, 41)]
    write(run.folder, *steps)
    html = status_html(view(run, text=PT))
    assert "40 de 100" in html and "2,0 s/it" in html and "cerca de 2:00" in html and "3,0 GiB" in html
    assert 'data-title="40%"' in html and "train-phase" not in html
    assert 'id="train-eta">–' in status_html(view(run, "paused"))
    for markup in (html, plot_html(view(run), True), told_html(view(run), "x < y", "")):
        ElementTree.fromstring(f"<div>{markup}</div>")


def test_the_plot_of_a_long_run_stays_small_and_names_the_best(tmp_path: Path) -> None:
    steps = [Step(n, 20_000, 0.1 + (n % 17) / 100, 1e-4) for n in range(1, 20_001)]
    saves = [
        event
        for n in range(100, 20_001, 100)
        for event in (Saved(n, "x"), Validation(n, 0.2 + abs(n - 5000) / 1e6, 0.1 - n / 1e6, n <= 5000))
    ]
    run = write(tmp_path, *steps, *saves)
    html = plot_html(view(run), False)
    assert len(html) < 60_000 and "best: step 5000" in html and "memorise since step 5000" in html
    assert all(int(count) <= MOST_POINTS for count in re.findall(r'data-points="(\d+)"', html))
    assert plot_html(view(run), False) == html


@pytest.mark.parametrize(
    ("held_out", "known", "kind", "step"),
    [
        ([0.5, 0.4], [0.5, 0.3], "early", 0),
        ([0.5, 0.4, 0.3], [0.5, 0.4, 0.3], "no_held_out", 0),
        ([0.5, 0.4, 0.3, 0.2], [0.5, 0.3, 0.2, 0.1], "learning", 30),
        ([0.5, 0.4, 0.401, 0.402], [0.5, 0.3, 0.3, 0.3], "flat", 10),
        ([0.5, 0.3, 0.35, 0.4], [0.5, 0.3, 0.2, 0.1], "memorising", 10),
        ([0.5, 0.3, 0.35, 0.4], [0.5, 0.3, 0.4, 0.5], "worse", 10),
        ([0.5, 0.3, 0.4], [0.5, 0.3, 0.2], "learning", 10),
    ],
)
def test_the_curves_are_put_into_words(held_out: list[float], known: list[float], kind: str, step: int) -> None:
    def points(values: list[float]) -> list[tuple[int, float]]:
        return [(index * 10, value) for index, value in enumerate(values)]

    found = verdict(points(held_out), points(known))
    assert (found.kind, found.step) == (kind, step)


def test_samples_are_shown_by_step_newest_first_and_bounded(tmp_path: Path) -> None:
    (tmp_path / "samples").mkdir()
    Image.new("RGB", (8, 8)).save(tmp_path / "samples" / "a.png")
    run = write(tmp_path, *[Sample(step, "samples/a.png", "<i>zebu</i>", 1) for step in range(0, 1000, 10)])
    table = ElementTree.fromstring(samples_html(view(run)))
    rows = [row.get("data-step") for row in table.iter("tr") if row.get("data-step")]
    assert len(rows) == MOST_ROWS and rows[0] == "990" and rows[-1] == "0"
    assert "<i>zebu</i>" in {button.get("data-caption", "").partition(": ")[2] for button in table.iter("button")}
    (tmp_path / "samples" / "a.png").unlink()
    assert "<img" not in samples_html(view(run))


def test_the_end_names_the_file_the_best_step_and_what_to_do(tmp_path: Path) -> None:
    warned, finished = Warned(plain("first")), Finished(9, "zebu.safetensors", 6)
    run = write(tmp_path, State("running"), Step(9, 9, 0.1, 1e-3), warned, finished)
    html = end_html(view(run, "finished"), tmp_path / "zebu.safetensors", tmp_path / "before_after.png")
    assert "Done after 9 steps." in html and "at step 6" in html and "zebu.safetensors" in html and "<img" not in html
    Image.new("RGB", (8, 8)).save(tmp_path / "before_after.png")
    assert "<img" in end_html(view(run, "finished"), tmp_path / "z", tmp_path / "before_after.png")
    assert "first" in told_html(view(run), "", "")
    other = write(tmp_path / "b", Finished(0, "", 0, stopped=True))
    assert "nothing to save" in end_html(view(other, "stopped"), tmp_path, tmp_path / "no.png")
    assert "pause or stop it there" in end_html(view(write(tmp_path / "e"), "elsewhere"), tmp_path, tmp_path / "no.png")
    assert "switched off" in end_html(view(write(tmp_path / "c"), "cut"), tmp_path, tmp_path / "no.png")


# --- buttons --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("state", "shown"),
    [
        ("running", {"pause", "sample_now", "save_now", "stop"}),
        ("pausing", {"go_on", "sample_now", "save_now", "stop"}),
        ("paused", {"go_on", "sample_now", "save_now", "stop"}),
        ("stopping", {"pause", "sample_now", "save_now", "stop"}),
        ("finished", {"test_it", "export_it"}),
        ("stopped", {"test_it", "export_it", "resume"}),
        ("failed", {"resume"}),
        ("cut", {"resume"}),
        ("elsewhere", set()),
    ],
)
def test_buttons_follow_the_state(state: str, shown: set[str], tmp_path: Path) -> None:
    run = write(tmp_path, Step(3, 9, 0.1, 1e-3), Finished(3, "zebu.safetensors", 3, True))
    (run.checkpoints / "step_0000003").mkdir(parents=True)
    (run.checkpoints / "step_0000003" / "state.pt").touch()
    training = Training()
    found = actions(training, run, state, training.history(run))
    assert {name for name, action in found.items() if action.visible} == shown | {"to_settings"}
    if state == "stopping":
        assert not any(found[name].enabled for name in shown)


def test_nothing_can_be_sampled_before_a_step_nor_resumed_without_a_checkpoint(tmp_path: Path) -> None:
    training, run = Training(), write(tmp_path, State("running"), Phase("load"))
    found = actions(training, run, "running", training.history(run))
    assert not found["sample_now"].enabled and not found["save_now"].enabled and found["stop"].enabled
    assert not actions(training, run, "cut", training.history(run))["resume"].visible


def test_out_of_memory_offers_the_next_settings(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    training, run = Training(), Run(tmp_path)
    run.begin(config_for(tiny_sd1, pictures, tmp_path, gradient_checkpointing=True, train_batch_size=4))
    advice = Message("training.memory_start_with", flags="--train_batch_size 2")
    write(tmp_path, Failed(Message("training.full_card", advice=advice), "torch.OutOfMemoryError: CUDA out of memory"))
    training.show(run)
    assert ran_out_of_memory(training)
    assert actions(training, run, "failed", training.history(run))["retry"].visible
    assert label_of("retry", training.history(run), EN) == "Start again with less memory: Batch size 2, Batches per step 2"
    write(tmp_path, State("running"), Failed(plain("Other"), "ValueError: MemoryError"))
    assert not ran_out_of_memory(training)
    write(tmp_path, State("running"), Failed(Message("training.full_computer", advice=advice)))
    assert ran_out_of_memory(training)


@pytest.mark.parametrize(
    ("rate", "contrast", "offered"),
    [(1e-5, 2, 1e-4), (1e-5, 90, None), (1e-4, 2, None), (6e-5, 2, None)],
    ids=["careful, and nothing moved", "the pictures moved", "the rate is the usual one", "the rate is near it"],
)
def test_a_run_that_hardly_changed_the_pictures_offers_the_usual_rate(
    tiny_sd1: Path, pictures: Path, tmp_path: Path, rate: float, contrast: int, offered: float | None
) -> None:
    run = Run(tmp_path)
    base = "stable-diffusion-v1-5/stable-diffusion-v1-5"
    run.begin(TrainConfig.of({"pretrained_model_name_or_path": base, "learning_rate": rate, "output_dir": str(tmp_path)}))
    run.samples.mkdir(exist_ok=True)
    for step, left in ((0, 100), (9, 100 + contrast)):
        picture = Image.new("RGB", (64, 64), (left, left, left))
        picture.paste((200, 200, 200), (32, 0, 64, 64))
        picture.save(run.samples / f"{step}.png")
        write(tmp_path, Sample(step, f"samples/{step}.png", "a zebu", 1))
    write(tmp_path, Step(9, 9, 0.1, rate), Finished(9, "zebu.safetensors", 9))
    training = Training()
    history = training.history(run)
    assert usual_rate(history) == (pytest.approx(offered) if offered else None)
    action = actions(training, run, "finished", history)["usual_rate"]
    assert action.visible is bool(offered) and not actions(training, run, "running", history)["usual_rate"].visible
    if offered:
        assert label_of("usual_rate", history, PT) == "Configurações com a taxa de aprendizado comum: 0,0001"
        setup = Setup(App(tmp_path / "home", tmp_path / "runs"), EN)
        assert json.loads(setup.with_usual_rate(run))["fill"]["learning_rate"] == "0.0001"


# --- words ----------------------------------------------------------------------------------------------------------


def test_sentences_of_the_core_are_said_in_portuguese(pictures: Path) -> None:
    from lora_core.dataset import scan
    from lora_core.training.data.plan import Plan
    from lora_core.training.failures import explain

    config = TrainConfig.of({"trigger_word": "absent", "save_steps": 9999, "train_data_dir": str(pictures)})
    dataset = scan(pictures)
    few = dataclasses.replace(dataset, items=dataset.items[:4])
    notices = Plan.of(config, few).notices
    assert len(notices) == 3
    for notice in notices:
        assert PT.say(notice) != EN.say(notice) == str(notice)
    assert "absent" in PT.say(notices[-1])
    out_of_memory = explain(MemoryError(), config)
    assert PT.say(out_of_memory).endswith("Recomece com --gradient_checkpointing.")
    assert PT.say(plain("Something nobody translated.")) == "Something nobody translated."


def test_a_card_that_is_too_small_is_told_what_is_computed_again() -> None:
    gib = 2**30
    found = Fit(True, 7 * gib, 8 * gib, (), {"checkpointed_quarters": 2}, 9 * gib, 0.178)
    assert memory_line(found, EN) == (
        "about 7.0 GiB of 8.0 GiB: as it is it would need 9.0 GiB, so part of it is computed again, for 18 % more "
        "arithmetic and the same LoRA"
    )
    assert memory_line(found, PT).startswith("cerca de 7,0 GiB de 8,0 GiB: inteiro precisaria de 9,0 GiB")
    beside = Fit(True, 5 * gib, 7 * gib, budget=Budget(7 * gib, others=gib, ratio=1.2))
    assert memory_line(beside, EN) == (
        "about 5.0 GiB of 7.0 GiB; the driver, the desktop and other programs take 1.0 GiB; the check of this computer "
        "measured 120 % of what was counted, and the plan follows it"
    )
