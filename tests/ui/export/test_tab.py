"""The export tab's logic: what is offered, what is said at which field, and what lies in the webui afterwards."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from PIL import Image

from lora_core.errors import UserError
from lora_core.lora.summary import LoraSummary
from lora_core.messages import LANGUAGES, Message
from lora_core.runs.index import RunIndex
from lora_core.system.file_names import PROBLEMS
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App
from lora_core.ui.tabs.export import choices
from lora_core.ui.tabs.export import views as export_views
from lora_core.ui.tabs.export.convert import FOLDER, ConvertPanel, Source
from lora_core.ui.tabs.export.tab import Chosen, ExportTab, Places
from lora_core.ui.tabs.export.views import Views, heard
from lora_core.ui.tabs.page import TABS, Page
from lora_core.webuis import detect, export, search
from tests.support import webui_trees as trees
from tests.support.event_loop import in_a_loop
from tests.support.prepared_runs import TOY, prepare_run, write_lora


@pytest.fixture(autouse=True)
def no_webui_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever listens on this computer is left alone."""
    monkeypatch.setattr(export, "refresh", lambda webui: "")


@pytest.fixture
def app(tmp_path: Path) -> App:
    return App(tmp_path / "config" / "treino", tmp_path / "runs")


@pytest.fixture
def comfy(tmp_path: Path) -> detect.WebUI:
    return detect.at(trees.comfy(tmp_path / "ComfyUI"))


def built(app: App, language: str = "en") -> tuple[ExportTab, ConvertPanel]:
    """The tab's parts on a page of their own, connected."""

    async def build() -> tuple[ExportTab, ConvertPanel]:
        with gr.Blocks():
            inbox = {name: gr.State() for name in TABS}
            with gr.Tabs() as tabs, gr.Tab("export") as tab:
                page = Page(app, Texts(language), tabs, inbox)
                views = Views(page.text, app.files.url)
                part = ExportTab(page, views, RunIndex(app.runs_folder, app.home / "runs.json"))
                convert = ConvertPanel(page, views)
                part.connect(tab, convert)
        return part, convert

    return in_a_loop(build())


def card_of(updates: dict[Any, Any], part: ExportTab, **changes: Any) -> dict[str, Any]:
    return {**{name: updates[component] for name, component in part.form.card.items()}, **changes}


# --- what is offered -------------------------------------------------------------------------------------------------


def test_versions_and_pictures_of_a_run(app: App) -> None:
    run = prepare_run(app.runs_folder / "a", (0.3, 0.4))
    (row,) = choices.exportable(RunIndex(app.runs_folder, app.home / "runs.json").rows())
    text = Texts("en")
    assert [choices.version_label(each, text) for each in choices.versions(row)] == [
        "Finished, step 200", "Checkpoint, step 100 ★ best",
    ]  # fmt: skip
    names = [path.name for path in choices.pictures(run.checkpoints / "step_0000100" / "lora.safetensors")]
    assert names == ["step_0000100_0.png", "step_0000200_0.png"]
    own = app.home / "own.png"
    assert choices.pictures(run.folder / "zebu.safetensors", own)[0] == own
    assert choices.pictures(app.home / "elsewhere.safetensors") == []


def test_a_run_without_a_lora_is_not_offered(app: App) -> None:
    run = prepare_run(app.runs_folder / "a")
    (run.folder / "zebu.safetensors").unlink()
    index = RunIndex(app.runs_folder, app.home / "runs.json")
    assert len(choices.exportable(index.rows())) == 1
    for path in run.checkpoints.glob("*/lora.safetensors"):
        path.unlink()
    assert choices.exportable(index.rows()) == []


def test_every_kind_has_its_words_in_every_language() -> None:
    for language in LANGUAGES:
        text = Texts(language)
        of_kinds = [kind.hint for kind in detect.KINDS]
        others = [detect.folder_of_loras(Path("w")).hint, "webuis.hint_lorafolder"]
        hints = {text.say(Message(hint, name="zebu", folder="w", weight=1.0)) for hint in (*of_kinds, *others)}
        assert len(hints) == len(of_kinds) + len(others)
        assert all("{" not in hint and "zebu" in hint for hint in hints)
        assert {*choices.NAME_PROBLEMS} == {*PROBLEMS}
        assert all(key in text for key in (*choices.NAME_PROBLEMS.values(), *export_views.DIALECTS.values()))


@pytest.mark.parametrize("name", ["", "a/b", "zebu.", "CON", "猫" * 67])
def test_what_is_wrong_with_a_name_is_said_in_both_languages(name: str) -> None:
    said = {choices.name_problem(name, Texts(language)) for language in LANGUAGES}
    assert len(said) == 2
    assert "" not in said
    assert choices.name_problem("coração", Texts("en")) == ""


def test_a_folder_is_a_webui_or_a_place_to_save(tmp_path: Path) -> None:
    trees.forge(tmp_path / "forge")
    (tmp_path / "stuff").mkdir()
    assert choices.target_of(f'"{tmp_path / "forge"}"').kind == "Forge"
    assert choices.target_of(str(tmp_path / "stuff")).kind == detect.PLAIN
    for folder in ("", str(tmp_path / "nothing")):
        with pytest.raises(UserError):
            choices.target_of(folder)


def test_what_came_from_files_is_escaped(app: App, tmp_path: Path) -> None:
    views = Views(Texts("en"), app.files.url)
    odd = detect.WebUI("<b>", tmp_path / "<i>", tmp_path / "<i>" / "l", "")
    told = LoraSummary.read(write_lora(tmp_path / "x.safetensors"))
    summary = dataclasses.replace(told, metadata={**told.metadata, "ss_sd_model_name": "<img src=x>"})
    shown = (
        views.places([odd], "")
        + views.summary(summary)
        + views.pictures([tmp_path / '"><x.png'], None)
        + views.paste("<u>")
    )
    assert not any(tag in shown for tag in ("<b>", "<i>", "<img src=x>", '""><x', "<u>"))
    assert heard("nonsense") == {}
    assert heard("[1]") == {}


# --- into a webui ----------------------------------------------------------------------------------------------------


def test_export_fills_asks_and_writes(app: App, comfy: detect.WebUI) -> None:
    run = prepare_run(app.runs_folder / "a", (0.3, 0.4))
    part, _ = built(app)
    places = Places(looked=True, webuis=(comfy,), place=str(comfy.folder))
    filled = part.open(None, Chosen(), None)
    chosen = filled[part.chosen]
    assert (chosen.run, chosen.lora, chosen.picture) == ("a", run.folder / "zebu.safetensors", chosen.pictures[0])
    card = card_of(filled, part)
    assert (card["name"], card["trigger"], card["weight"]) == ("zebu", "zebu", 0.8)
    assert "lowest at step 100 (0.3000)" in filled[part.form.summary]

    wrong = part.export(chosen, places, {**card, "name": "a/b"}, ("", None), "cancel")
    assert "not allowed" in wrong[part.form.name_wrong]
    nowhere = dataclasses.replace(places, place="other")
    assert "Name a folder" in part.export(chosen, nowhere, card, ("", None), "cancel")[part.form.place_wrong]
    assert [*comfy.lora_folder.iterdir()] == []

    picture = part.hear('{"name": "export-picture", "value": "1"}', chosen, places)[part.chosen]
    done = part.export(picture, places, {**card, "notes": "mine"}, ("", None), "cancel")
    assert sorted(path.name for path in comfy.lora_folder.iterdir()) == ["zebu.json", "zebu.png", "zebu.safetensors"]
    assert json.loads((comfy.lora_folder / "zebu.json").read_text(encoding="utf-8"))["notes"] == "mine"
    with Image.open(chosen.pictures[1]) as wanted, Image.open(comfy.lora_folder / "zebu.png") as put:
        assert put.getpixel((9, 9)) == wanted.getpixel((9, 9))
    assert "Press R in ComfyUI" in done[part.form.result]
    assert search.remembered(app.home) == [comfy.folder]

    asked = part.export(chosen, places, card, ("", None), "cancel")
    assert asked[part.form.taken]["visible"]
    assert asked[part.form.keep] == "Keep both, as zebu-2"
    part.export(chosen, places, card, ("", None), "keep-both")
    part.export(chosen, places, {**card, "notes": "newer"}, ("", None), "replace")
    assert len([*comfy.lora_folder.glob("*.safetensors")]) == 2
    assert json.loads((comfy.lora_folder / "zebu.json").read_text(encoding="utf-8"))["notes"] == "newer"


def test_a_folder_of_ones_own_and_a_picture_of_ones_own(app: App, tmp_path: Path) -> None:
    lora = write_lora(tmp_path / "elsewhere" / "other.safetensors", TOY)
    part, _ = built(app, "pt-BR")
    filled, places = part.choose_file(str(lora), Chosen()), Places(looked=True, place="other")
    assert "modelo de brinquedo" in filled[part.form.summary]
    (tmp_path / "saved").mkdir()
    own = tmp_path / "own.png"
    Image.new("RGB", (300, 300), "red").save(own)
    done = part.export(filled[part.chosen], places, card_of(filled, part), (str(tmp_path / "saved"), str(own)), "cancel")
    assert sorted(path.name for path in (tmp_path / "saved").iterdir()) == ["other.json", "other.png", "other.safetensors"]
    assert "Copie os arquivos" in done[part.form.result]
    assert "Não existe o arquivo" in part.choose_file(str(tmp_path / "no.safetensors"), Chosen())[part.form.file_wrong]


def test_a_webui_that_was_named_becomes_a_card(app: App, tmp_path: Path) -> None:
    prepare_run(app.runs_folder / "a")
    tree = trees.a1111(tmp_path / "hidden" / "webui")
    part, _ = built(app)
    filled, places = part.open(None, Chosen(), None), Places(looked=True, place="other")
    assert "That is AUTOMATIC1111" in part.check_folder(str(tree))[0]
    done = part.export(filled[part.chosen], places, card_of(filled, part), (str(tree), None), "cancel")
    assert done[part.places].place == str(tree)
    assert "AUTOMATIC1111" in done[part.form.places]
    assert choices.find_webuis(app.home)[0].folder == tree


def test_a_message_brings_lora_and_picture(app: App, tmp_path: Path) -> None:
    run = prepare_run(app.runs_folder / "a")
    lora = run.checkpoints / "step_0000100" / "lora.safetensors"
    picture = tmp_path / "drawn.png"
    Image.new("RGB", (64, 64)).save(picture)
    part, _ = built(app)
    message = {"lora": str(lora), "picture": str(picture)}
    assert part.chosen not in part.open(message, Chosen(), None), "the message would be lost"
    updates = part.receive(message, Chosen())
    chosen = updates[part.chosen]
    assert (chosen.run, chosen.lora, chosen.picture, chosen.pictures[0]) == ("a", lora, picture, picture)
    assert updates[part.form.version]["value"] == str(lora)
    other = write_lora(tmp_path / "other.safetensors")
    assert part.receive({"lora": str(other)}, chosen)[part.chosen].run == ""


# --- any LoRA --------------------------------------------------------------------------------------------------------


def test_any_lora_is_converted_where_it_is_wanted(app: App, comfy: detect.WebUI, tmp_path: Path) -> None:
    _, convert = built(app)
    lora = write_lora(tmp_path / "theirs.safetensors")
    looked = convert.look_at(str(lora), Source())
    assert "Stable Diffusion 1.x" in looked[convert.summary]
    (tmp_path / "out").mkdir()
    source = looked[convert.source]
    out = tmp_path / "out" / "new.safetensors"
    done = convert.convert(source, "", "fp32", False, FOLDER, str(out.parent), "new", False)
    assert LoraSummary.read(out).dtype == "fp32"
    assert "new.safetensors" in done[convert.result]
    taken = convert.convert(source, "", "bf16", False, FOLDER, str(out.parent), "new", False)
    assert "already" in taken[convert.wrong]
    assert LoraSummary.read(out).dtype == "fp32"
    convert.convert(source, "", "bf16", False, FOLDER, str(out.parent), "new", True)
    assert LoraSummary.read(out).dtype == "bf16"
    convert.convert(source, "", "", False, str(comfy.folder), "", "new", False)
    assert sorted(path.name for path in comfy.lora_folder.iterdir()) == ["new.json", "new.safetensors"]


def test_what_cannot_be_converted_is_said_at_its_field(app: App, tmp_path: Path) -> None:
    _, convert = built(app)
    (tmp_path / "x.safetensors").write_bytes(b"no tensors")
    assert "cut short" in convert.look_at(str(tmp_path / "x.safetensors"), Source())[convert.file_wrong]
    assert "Choose a LoRA" in convert.convert(Source(), "", "", False, FOLDER, "", "x", False)[convert.wrong]
    source = Source(write_lora(tmp_path / "a.safetensors"))
    assert "Give it a name" in convert.convert(source, "", "", False, FOLDER, str(tmp_path), " ", False)[convert.wrong]
    assert "Name a folder" in convert.convert(source, "", "", False, FOLDER, "", "x", False)[convert.wrong]
    assert "fits sd1" in convert.convert(source, "sdxl", "", False, FOLDER, str(tmp_path), "y", False)[convert.wrong]
    assert not (tmp_path / "y.safetensors").exists()
