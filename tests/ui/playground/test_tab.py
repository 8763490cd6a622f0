"""The Test tab without a browser: what its controls ask for, what fills them, what is shown."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from lora_core.errors import UserError
from lora_core.messages import LANGUAGES, plain
from lora_core.runs.run import Run
from lora_core.sampling import grid, samplers
from lora_core.sampling.gallery import Drawn
from lora_core.sampling.params import GenerationParams
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state import drawing as stages
from lora_core.ui.state import lora_library
from lora_core.ui.state.app import App
from lora_core.ui.state.drawing import Cell, View
from lora_core.ui.tabs.page import Page
from lora_core.ui.tabs.playground import views
from lora_core.ui.tabs.playground.tab import TrialTab
from tests.support.event_loop import in_a_loop
from tests.support.lora_runs import SDXL_LAYER, finished_run, write_lora

TEXT = Texts("en")
PLAIN = GenerationParams('a "zebu" & <b>', 7, 64, 64, steps=4, base="starter")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return finished_run(
        tmp_path_factory.mktemp("window") / "runs" / "gato", {0: 0.9, 100: 0.4, 200: 0.5}, resolution=64, seed=11,
        pretrained_model_name_or_path="starter", sample_prompts=["a zebu, red"], sample_inference_steps=9,
    )  # fmt: skip


@pytest.fixture(scope="module")
def app(run: Run) -> App:
    return App(run.folder.parent.parent / "home", run.folder.parent)


@pytest.fixture(scope="module")
def tab(app: App) -> TrialTab:
    return build(app)


def build(app: App) -> TrialTab:
    async def made() -> TrialTab:
        with gr.Blocks(), gr.Tabs() as tabs:
            page = Page(app, TEXT, tabs)
            with gr.Tab("Test"):
                tab = TrialTab(page)
                tab.connect()
        return tab

    return in_a_loop(made())


def values(tab: TrialTab, **changes: Any) -> list[Any]:
    """What the controls hold, some of them changed."""
    now = {name: field.value for name, field in tab.form.fields.items()}
    return list({**now, **changes}.values())


def filled(tab: TrialTab, path: Path, before: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """The controls' values after choosing a LoRA."""
    updates = tab.choose(str(path), [], before or {}, *values(tab, **changes))
    now = dict(zip(tab.form.fields, values(tab, **changes), strict=True))
    return {
        **now,
        **{name: updates[field] for name, field in tab.form.fields.items() if field in updates},
        "lora": str(path),
    }


def drawn(path: Path, params: GenerationParams, at: float) -> Drawn:
    Image.new("RGB", (params.width, params.height)).save(path)
    return Drawn(path, params, at)


def test_a_lora_fills_the_form_but_writes_over_nothing(tab: TrialTab, run: Run) -> None:
    path = run.folder / "zebu.safetensors"
    first = filled(tab, path)
    assert (first["prompt"], first["base"], first["seed"], first["steps"]) == ("a zebu, red", "starter", 11, 9)
    assert (first["width"], first["height"], first["weight"]) == (64, 64, 0.8), "it overfits"
    assert first["checkpoints"]["value"] == sorted(str(f.path) for f in tab.library.found())
    told = tab.choose(str(path), [], {}, *values(tab))[tab.form.filled]
    second = filled(tab, run.checkpoints / "step_0000100" / "lora.safetensors", told, prompt="mine", seed=11, steps=9)
    assert second["prompt"] == "mine", "what a person wrote stays"
    assert "toy" not in tab.form.facts_for(str(path), "starter")


def test_what_the_controls_ask_for_becomes_settings(tab: TrialTab, run: Run) -> None:
    now = values(
        tab, lora=str(run.folder / "zebu.safetensors"), prompt="a zebu", width=100, height=64.0, weight=0.7, seed=5
    )
    asked = tab.form.read(now)
    assert asked.grid is None and (asked.params.width, asked.params.height, asked.params.seed) == (96, 64, 5)
    assert (asked.params.name, asked.params.trigger, asked.params.weight) == ("zebu", "zebu", 0.7)
    assert len(asked.params.hash) == 64 and asked.params.sampler == samplers.NAMES[0]
    rolled = {tab.form.read(values(tab, seed=5, new_seed=True), roll=True).params.seed for _ in range(4)}
    assert len(rolled) > 1 and tab.form.read(values(tab, seed=5, new_seed=True)).params.seed == 5
    with pytest.raises(UserError, match="There is no file"):
        tab.form.read(values(tab, lora=str(run.folder / "gone.safetensors")))


def test_grids_are_read_from_the_form(tab: TrialTab, run: Run) -> None:
    loras = [str(found.path) for found in tab.library.found()]
    shared = {"lora": loras[0], "mode": "grid", "weights": "0, 1", "checkpoints": loras, "prompts": "one\ntwo\nthree"}
    by_kind = [tab.form.read(values(tab, **shared, kind=kind)).grid for kind in "012"]
    assert [len(made) for made in by_kind if made] == [4, 6, 6]
    assert by_kind[0] is not None and by_kind[0].rows.labels == ("100 ★", "200")
    assert by_kind[0].params((0, 1)).lora.endswith("lora.safetensors") and len(by_kind[0].params((0, 1)).hash) == 64
    assert "4 pictures: 2 across, 2 down" in tab.form.count_html(*values(tab, **shared, kind="0"))
    assert "no weight" in tab.form.count_html(*values(tab, **{**shared, "weights": "x"}, kind="0"))
    with pytest.raises(UserError, match="choose a LoRA first"):
        tab.form.read(values(tab, **{**shared, "lora": ""}))
    assert tab.form.count_html(*values(tab)) == ""


def test_the_text_for_a_webui_and_the_message_to_export(tab: TrialTab, run: Run, tmp_path: Path) -> None:
    path = str(run.folder / "zebu.safetensors")
    assert tab.paste_for(path, 0.8) == "<lora:zebu:0.8> zebu" and tab.paste_for("", 1.0) == ""
    assert tab.send([], path)[1] == {"lora": path, "picture": None}
    worn = dataclasses.replace(PLAIN, lora=path, name="zebu", weight=0.8)
    kept = tab.worker.gallery.keep(Image.new("RGB", (64, 64)), worn, Path(path))
    tab.worker.gallery.keep(Image.new("RGB", (64, 64)), PLAIN, Path(path))
    opened, message = tab.send([], path)
    assert message == {"lora": path, "picture": str(kept.path)} and opened.selected == "export"
    with pytest.raises(UserError):
        tab.send([], "")


def test_a_message_or_a_path_brings_a_lora_from_anywhere(tab: TrialTab, tmp_path: Path, run: Run) -> None:
    other = write_lora(tmp_path / "elsewhere" / "ink.safetensors")
    now = values(tab)
    for updates in (tab.receive({"lora": str(other)}, [], {}, *now), tab.take(f' "{other}" ', [], {}, *now)):
        chosen = updates[tab.form.fields["lora"]]
        assert chosen["value"] == str(other) and str(other) in [path for _, path in chosen["choices"]]
    assert tab.receive(None, [], {}, *now) == {} and tab.take(" ", [], {}, *now) == {}
    whole = tab.receive({"lora": str(run.folder)}, [], {}, *now)[tab.form.fields["lora"]]
    assert whole["value"] == str(run.folder / "zebu.safetensors"), "a run folder means its finished LoRA"


def test_two_pictures_at_most_are_chosen_from_the_strip(tab: TrialTab, app: App) -> None:
    kept = [tab.worker.gallery.keep(Image.new("RGB", (64, 64)), dataclasses.replace(PLAIN, seed=n)) for n in range(3)]
    names = [views.key(one) for one in kept]
    picked: list[str] = []
    for name in names:
        updates = tab.pick({}, picked, f"{name} 1")
        picked = updates[tab.picked]
    assert picked == names[1:]
    assert 'class="test-frame test-compare' in updates[tab.stage] and updates[tab.history].count('aria-pressed="true"') == 2
    assert tab.pick({}, picked, f"{names[2]} 2")[tab.picked] == [names[1]]
    brought = tab.bring_back([names[1]])
    assert brought[tab.form.fields["seed"]] == 1 and tab.unpick({}, picked)[tab.picked] == []


def test_a_page_finds_itself_as_it_was(run: Run, tmp_path: Path) -> None:
    app = App(tmp_path / "home", run.folder.parent)
    tab = build(app)
    lora = tab.form.fields["lora"]
    first = tab.tick({}, [], [], "", "")
    assert first[lora]["choices"][1][0] == "gato · zebu, step 200"
    assert "value" not in first[lora], "what is chosen while the list is on its way stays chosen"
    seen = first[tab.seen]
    assert lora not in tab.tick(seen, [], [], "", ""), "nothing is filled in before the core is there"
    app.wait_for_core()
    for chosen, named, prompt in (([], "chosen meanwhile", ""), (["its answer is under way"], "", ""), ([], "", "written")):
        assert lora not in tab.tick(seen, [], chosen, named, prompt)
    second = tab.tick(seen, [], [], "", "")
    assert second[lora]["value"] == str(run.folder / "zebu.safetensors")
    assert set(tab.tick(second[tab.seen], [], [], "x", "x")) == {tab.seen}, "what did not change is not sent again"


def test_a_choice_is_known_before_it_is_answered(tab: TrialTab, tmp_path: Path) -> None:
    other, chosen = write_lora(tmp_path / "slow" / "ink.safetensors"), ["before"]
    tab.choose(str(other), chosen, {}, *values(tab))
    assert chosen == [str(other)]
    kept = tab.form.still_there(str(tab.library.take(other).path))[tab.form.fields["lora"]]
    assert "value" not in kept
    assert tab.form.still_there(str(tmp_path / "gone"))[tab.form.fields["lora"]]["value"] == ""


@pytest.mark.parametrize("language", LANGUAGES)
def test_progress_is_told_at_every_phase(language: str, tmp_path: Path) -> None:
    text = Texts(language)
    one = Cell(PLAIN, drawn(tmp_path / "one.png", PLAIN, 1.0))
    cells = (one, Cell(dataclasses.replace(PLAIN, seed=8)))
    at_work = View(phase=stages.DRAWING, cells=cells, step=2, steps=4, seconds_left=100.0, holds_training=True)
    told = views.progress(text, at_work)
    assert 'value="75.0"' in told and "2" in told
    for view, words in (
        (View(), "phase_idle"), (View(phase=stages.WAITING, cells=cells), "phase_waiting"),
        (View(phase=stages.DONE, cells=(one,)), "phase_done_one"),
    ):  # fmt: skip
        assert text(f"test.{words}").split("{")[0] in views.progress(text, view)
    download = View(phase=stages.DOWNLOADING, cells=cells, done_bytes=25_000_000, total_bytes=100_000_000)
    assert 'value="25.0"' in views.progress(text, download) and "100 MB" in views.progress(text, download)
    failed = views.progress(text, View(phase=stages.FAILED, error=plain("a <b> & c")))
    assert 'role="alert"' in failed and "a &lt;b&gt; &amp; c" in failed


def test_pages_escape_what_people_wrote(tmp_path: Path) -> None:
    one = drawn(tmp_path / "one.png", PLAIN, 1.0)
    two = drawn(tmp_path / "two.png", dataclasses.replace(PLAIN, lora="x", name="<i>", weight=0.5), 2.0)
    made = grid.Grid(PLAIN, grid.prompts("<u>\ntwo"), grid.weights("1"))
    cells = (Cell(PLAIN, one), Cell(PLAIN))
    pages = [
        views.stage(TEXT, View(), lambda path, side: str(path), [one, two]),
        views.stage(TEXT, View(phase=stages.DRAWING, cells=cells, grid=made), lambda path, side: str(path)),
        views.history(TEXT, [two, one], [views.key(one), views.key(two)], lambda path, side: str(path)),
    ]
    for page in pages:
        assert "<b>" not in page and "<i>" not in page and "<u>" not in page
    assert "being drawn" in pages[1] and pages[1].count("<img") == 1
    assert "left" in pages[2] and "right" in pages[2]


def test_a_lora_that_does_not_fit_is_warned_of_before_anything_is_drawn(tab: TrialTab, tmp_path: Path, run: Run) -> None:
    large = tab.library.take(write_lora(tmp_path / "xl.safetensors", shapes=SDXL_LAYER, family="sdxl"))
    assert "SDXL" in lora_library.misfit(TEXT, large, "stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert lora_library.misfit(TEXT, large, "runwayml/stable-diffusion-v1-5") != "", "a name the hub knows no more"
    assert "toy" in lora_library.misfit(TEXT, large, "starter")
    assert lora_library.misfit(TEXT, large, large.base) == "" == lora_library.misfit(TEXT, large, "someone/a-model")
    assert 'role="alert"' in tab.form.facts_for(str(large.path), "starter")


def test_pages_of_one_app_share_a_library(app: App, tmp_path: Path) -> None:
    assert lora_library.library_of(app) is lora_library.library_of(app)
    assert lora_library.library_of(app) is not lora_library.library_of(App(tmp_path / "other"))
