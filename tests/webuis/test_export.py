"""Export: three files in the webui's folder, all or none, called by a name of their own, and nothing lost there."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from lora_core.errors import UserError
from lora_core.lora.adapter import Adapter, LoraError, NoEffectError
from lora_core.lora.convert import convert_lora
from lora_core.lora.file import read, write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.system import files
from lora_core.system.files import WriteError
from lora_core.webuis import detect as webuis
from lora_core.webuis import export
from lora_core.webuis.export import (
    CANCEL,
    KEEP_BOTH,
    REPLACE,
    ExistsError,
    Exported,
    Sidecar,
    export_lora,
    prompt_text,
    webui_picture,
)
from tests.clients import a1111, comfy
from tests.clients.models import FAMILIES
from tests.support import webui_trees as trees
from tests.support.lora_values import equal, random_lora, real_modules, small_lora
from tests.support.webui_server import running
from tests.support.webui_trees import BUILDERS


@pytest.fixture(autouse=True)
def no_webui_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever listens on this computer is left alone."""
    monkeypatch.setattr(export, "refresh", lambda webui: "")


@pytest.fixture
def lora(tmp_path: Path) -> Path:
    """A finished LoRA as a run leaves it."""
    return _lora(tmp_path / "run" / "zebu.safetensors")


@pytest.fixture
def webui(tmp_path: Path) -> Path:
    return trees.a1111(tmp_path / "stable-diffusion-webui")


def _lora(path: Path, family: str = "sd1", name: str = "zebu") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    attention = {m: s for m, s in real_modules(family).items() if "mid_block" in m and "attn2" in m}
    facts = TrainingMetadata(output_name=name, family=family, rank=2, alpha=3.0, resolution=512, trigger_phrase="zebu")
    write(path, random_lora(attention), family, build(facts), "fp16")
    return path


def _sample(path: Path, size: tuple[int, int] = (64, 64)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    about = PngInfo()
    about.add_itxt("parameters", "a secret prompt")
    Image.linear_gradient("L").resize(size).convert("RGB").save(path, pnginfo=about)
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _put(lora: Path, webui: Path, name: str = "zebu", on_existing: str = KEEP_BOTH, **card: object) -> Exported:
    return export_lora(lora, webui, name, on_existing, Sidecar(**card))  # type: ignore[arg-type]


# --- what is put there -----------------------------------------------------------------------------------------------


def test_three_files_with_the_same_name(lora: Path, webui: Path, tmp_path: Path) -> None:
    picture = _sample(tmp_path / "run" / "samples" / "step_0000500_0.png")
    card = Sidecar("A zebu.", "", "zebu, stripes", 0.9, "blurry", "café\nnotes")
    done = export_lora(lora, webui, "zebu", CANCEL, card, picture)
    folder = webui / "models" / "Lora"
    assert _names(folder) == ["zebu.json", "zebu.png", "zebu.safetensors"]
    assert (done.lora, done.sidecar, done.picture) == tuple(folder / f"zebu.{e}" for e in ("safetensors", "json", "png"))
    assert done.prompt == "<lora:zebu:0.9> zebu, stripes"
    assert (done.webui, done.name, done.warnings) == ("AUTOMATIC1111", "zebu", ())


def test_the_card_is_as_a1111s_editor_writes_it(lora: Path, webui: Path) -> None:
    done = _put(lora, webui, description="d", activation_text="zebu", preferred_weight=0.8, negative_text="n", notes="é")
    text = done.sidecar.read_text(encoding="utf-8")
    expected = {
        "description": "d", "sd version": "SD1", "activation text": "zebu", "preferred weight": 0.8,
        "negative text": "n", "notes": "é", "tags": ["zebu"],
    }  # fmt: skip
    assert json.loads(text) == expected
    assert text == json.dumps(expected, indent=4, ensure_ascii=False)
    assert type(json.loads(text)["preferred weight"]) is float  # the editor gives it to a slider


def test_sdnext_reads_the_words_from_tags(lora: Path, webui: Path) -> None:
    """Which A1111's editor keeps: it changes keys of its own in what it has read, and writes all of it."""
    folder = webui / "models" / "Lora"
    (folder / "zebu.json").write_text('{"tags": ["animal"], "modelId": 7}', encoding="utf-8")
    done = _put(lora, webui, on_existing=REPLACE, activation_text="Zebu, striped coat,, zebu")
    assert sdnext_tags(json.loads(done.sidecar.read_bytes())) == ["zebu", "striped coat", "animal"]
    edited = {**json.loads(done.sidecar.read_bytes()), "activation text": "zebu", "notes": "edited"}
    done.sidecar.write_text(json.dumps(edited), encoding="utf-8")
    again = json.loads(_put(lora, webui, on_existing=REPLACE, activation_text="zebu").sidecar.read_bytes())
    assert (sdnext_tags(again)[0], again["modelId"]) == ("zebu", 7)
    assert "tags" not in json.loads(_put(lora, webui, "wordless").sidecar.read_bytes())
    for odd in ({"a": "b"}, "text"):
        (folder / "odd.json").write_text(json.dumps({"tags": odd}), encoding="utf-8")
        assert json.loads(_put(lora, webui, "odd", REPLACE, activation_text="x").sidecar.read_bytes())["tags"] == odd


def sdnext_tags(card: dict[str, Any]) -> list[str]:
    """What SD.Next's `ExtraNetworksPageLora.get_tags` finds in a card."""
    tags = card.get("tags", [])
    return list(dict.fromkeys(tag.strip().lower() for tag in (tags if isinstance(tags, list) else tags.values())))


@pytest.mark.parametrize(("family", "version"), [("sd1", "SD1"), ("sd2", "SD2"), ("sdxl", "SDXL")])
def test_the_version_is_told_by_the_lora(family: str, version: str, webui: Path, tmp_path: Path) -> None:
    done = _put(_lora(tmp_path / "x.safetensors", family), webui, "x")
    assert json.loads(done.sidecar.read_bytes())["sd version"] == version
    given = _put(tmp_path / "x.safetensors", webui, "y", sd_version="Unknown")
    assert json.loads(given.sidecar.read_bytes())["sd version"] == "Unknown"


def test_under_its_own_name_it_is_the_same_file_byte_for_byte(lora: Path, webui: Path) -> None:
    done = _put(lora, webui)
    assert done.lora.read_bytes() == lora.read_bytes()


def test_under_another_name_only_what_it_is_called_changes(lora: Path, webui: Path) -> None:
    """A1111 calls LoRAs by ss_output_name: two that say the same there would hide each other."""
    done = _put(lora, webui, "outro nome")
    (old, about_old), (new, about_new) = read(lora), read(done.lora)
    assert equal(old, new)
    assert about_new == {**about_old, "ss_output_name": "outro nome", "sshs_legacy_hash": about_new["sshs_legacy_hash"]}
    assert about_new["sshs_model_hash"] == about_old["sshs_model_hash"]


@pytest.mark.parametrize("kind", BUILDERS)
def test_into_every_kind_of_webui(kind: str, lora: Path, tmp_path: Path) -> None:
    build_tree, loras = BUILDERS[kind]
    folder = build_tree(tmp_path / "ui")
    done = _put(lora, folder)
    assert done.lora == folder / loras / "zebu.safetensors"
    assert done.webui == kind
    assert "zebu" in str(done.hint) and done.next_step == done.hint


def test_a_missing_lora_folder_is_made(lora: Path, webui: Path) -> None:
    (webui / "models" / "Lora").rmdir()
    assert _put(lora, webui).lora.is_file()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_lora_of_diffusers_is_converted_on_the_way(family: str, webui: Path, tmp_path: Path) -> None:
    values = small_lora(family, torch.float16)
    tensors = {f"{m}.lora_A.weight": a.down for m, a in values.items()}
    tensors |= {f"{m}.lora_B.weight": a.up for m, a in values.items()}
    safetensors.torch.save_file(tensors, tmp_path / "pytorch_lora_weights.safetensors", {"format": "pt"})
    done = _put(tmp_path / "pytorch_lora_weights.safetensors", webui, "x")
    back, metadata = read(done.lora)
    assert equal(back, {m: dataclasses.replace(a, alpha=2.0) for m, a in values.items()})
    version = {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}[family]
    assert a1111.detect_version(metadata) == comfy.forge_version(metadata) == version


# --- the picture -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        ((512, 512), (512, 512)),
        ((1024, 768), (512, 384)),
        ((64, 64), (512, 512)),
        ((96, 64), (480, 320)),
        ((300, 40), (300, 40)),
    ],
)
def test_the_size_of_a_card(size: tuple[int, int], expected: tuple[int, int], tmp_path: Path) -> None:
    (tmp_path / "card.png").write_bytes(webui_picture(_sample(tmp_path / "x.png", size)))
    with Image.open(tmp_path / "card.png") as picture:
        assert (picture.format, picture.mode, picture.size, picture.info) == ("PNG", "RGB", expected, {})


def test_a_photo_is_turned_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (400, 300)).save(tmp_path / "photo.jpg", exif=exif)
    (tmp_path / "card.png").write_bytes(webui_picture(tmp_path / "photo.jpg"))
    with Image.open(tmp_path / "card.png") as picture:
        assert picture.size == (300, 400)


def test_what_is_no_picture_is_told_before_anything_is_copied(lora: Path, webui: Path, tmp_path: Path) -> None:
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    whole = _sample(tmp_path / "whole.png", (512, 512)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    for name in ("text.png", "cut.png", "none.png"):
        with pytest.raises(UserError, match=rf"picture .*{name}.* cannot be used"):
            export_lora(lora, webui, "zebu", CANCEL, Sidecar(), tmp_path / name)
    assert _names(webui / "models" / "Lora") == []


# --- what is there already -------------------------------------------------------------------------------------------


def test_cancel_leaves_it(lora: Path, webui: Path) -> None:
    folder = webui / "models" / "Lora"
    (folder / "zebu.safetensors").write_bytes(b"older")
    with pytest.raises(ExistsError, match="left as it is"):
        _put(lora, webui, on_existing=CANCEL)
    assert _names(folder) == ["zebu.safetensors"]
    assert (folder / "zebu.safetensors").read_bytes() == b"older"


@pytest.mark.parametrize("older", ["zebu.safetensors", "zebu.json", "zebu.png", "zebu.preview.png"])
def test_keep_both_counts_up(older: str, lora: Path, webui: Path) -> None:
    folder = webui / "models" / "Lora"
    (folder / older).write_bytes(b"older")
    first, second = _put(lora, webui), _put(lora, webui)
    assert (first.name, second.name) == ("zebu-2", "zebu-3")
    assert (folder / older).read_bytes() == b"older"
    assert read(first.lora)[1]["ss_output_name"] == "zebu-2"
    assert first.prompt == "<lora:zebu-2:1>"


def test_replace_takes_its_place_and_keeps_what_others_wrote(lora: Path, webui: Path) -> None:
    folder = webui / "models" / "Lora"
    (folder / "zebu.safetensors").write_bytes(b"older")
    (folder / "zebu.json").write_text('{"modelId": 7, "notes": "old"}', encoding="utf-8")
    (folder / "zebu.png").write_bytes(b"older picture")
    done = _put(lora, webui, on_existing=REPLACE, notes="new")
    assert read(done.lora)[1]["ss_output_name"] == "zebu"
    card = json.loads(done.sidecar.read_bytes())
    assert (card["modelId"], card["notes"]) == (7, "new")
    assert (folder / "zebu.png").read_bytes() == b"older picture"  # none was given
    assert _names(folder) == ["zebu.json", "zebu.png", "zebu.safetensors"]


@pytest.mark.parametrize("older", ["[]", "{", ""])
def test_a_damaged_card_is_replaced(older: str, lora: Path, webui: Path) -> None:
    (webui / "models" / "Lora" / "zebu.json").write_text(older, encoding="utf-8")
    assert json.loads(_put(lora, webui, on_existing=REPLACE).sidecar.read_bytes())["sd version"] == "SD1"


def test_refiles_that_fails_gives_back_all_three(lora: Path, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = webui / "models" / "Lora"
    for ending in ("safetensors", "json", "png"):
        (folder / f"zebu.{ending}").write_bytes(ending.encode())
    picture, real = _sample(webui / "sample.png"), files.replace_with_retry

    def fails_at_the_card(src: Path, dst: Path) -> None:
        if dst.suffix == ".json":
            raise PermissionError(13, "the webui has it open")
        real(src, dst)

    monkeypatch.setattr(files, "replace_with_retry", fails_at_the_card)
    with pytest.raises(WriteError, match="another program has it open"):
        export_lora(lora, webui, "zebu", REPLACE, Sidecar(), picture)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == {
        f"zebu.{ending}": ending.encode() for ending in ("safetensors", "json", "png")
    }


# --- wrong input -----------------------------------------------------------------------------------------------------


def test_nothing_is_copied_of_what_is_no_lora(webui: Path, tmp_path: Path) -> None:
    folder = webui / "models" / "Lora"
    junk = tmp_path / "junk.safetensors"
    safetensors.torch.save_file({"model.diffusion_model.out.2.weight": torch.ones(2)}, junk)
    with pytest.raises(LoraError, match="no LoRA"):
        _put(junk, webui)
    junk.write_bytes(_lora(tmp_path / "x.safetensors").read_bytes()[:-9])
    with pytest.raises(LoraError, match="cut short"):
        _put(junk, webui)
    torch.save({"x": torch.ones(2)}, junk)
    with pytest.raises(LoraError, match="pickle"):
        _put(junk, webui)
    with pytest.raises(LoraError, match="no file"):
        _put(tmp_path / "none.safetensors", webui)
    assert _names(folder) == []


@pytest.mark.parametrize(
    ("family", "part", "told"),
    [
        ("sd1", "attn2.to_k", ""), ("sd1", "time_emb_proj", "one of SDXL and does not offer it for Stable Diffusion 1.x"),
        ("sd2", ".conv1", "cannot tell which models"), ("sdxl", "time_emb_proj", "cannot tell which models"),
    ],
)  # fmt: skip
def test_what_invokeai_does_not_know_is_told_there_alone(family: str, part: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    about = build(TrainingMetadata(output_name="x", family=family, rank=2, alpha=3.0, resolution=512))
    write(path, random_lora({m: s for m, s in real_modules(family).items() if m.endswith(part)}), family, about, "fp16")
    into = trees.invoke(tmp_path / "invoke")
    warned = " ".join(map(str, _put(path, into, "x").warnings))
    assert told in warned if told else not warned
    assert _put(path, trees.forge(tmp_path / "forge"), "x").warnings == ()


def test_of_layers_that_not_every_webui_loads_the_way_out_is_named(webui: Path, tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    odd = random_lora({"unet.conv_in": (320, 4, 3, 3), "unet.conv_out": (4, 320, 3, 3)})
    tensors = {}
    for module, adapter in {**small_lora(), **odd}.items():
        tensors |= {f"{module}.lora_A.weight": adapter.down, f"{module}.lora_B.weight": adapter.up}
    safetensors.torch.save_file(tensors, foreign)
    with pytest.raises(LoraError, match=r"unet\.conv_in .* 2 such layers with `treino.py convert .*foreign.* --drop`"):
        _put(foreign, webui, "foreign")
    assert _names(webui / "models" / "Lora") == []
    _put(convert_lora(foreign, tmp_path / "new.safetensors", drop=True).path, webui, "foreign")


def test_a_lora_without_effect_is_not_exported(webui: Path, tmp_path: Path) -> None:
    name = "lora_unet_mid_block_attentions_0_transformer_blocks_0_attn2_to_k"
    tensors = {f"{name}.lora_down.weight": torch.ones(2, 768), f"{name}.lora_up.weight": torch.zeros(1280, 2)}
    safetensors.torch.save_file(tensors, tmp_path / "x.safetensors")
    with pytest.raises(NoEffectError):
        _put(tmp_path / "x.safetensors", webui)


@pytest.mark.parametrize("name", ["CON", "a:b", "zebu.", "", "n" * 201, "../zebu", "a\\b"])
def test_names_no_system_takes(name: str, lora: Path, webui: Path) -> None:
    with pytest.raises(UserError, match="cannot be the name"):
        _put(lora, webui, name)
    assert _names(webui / "models" / "Lora") == []


def test_a_name_that_grows_too_long_by_counting(lora: Path, webui: Path) -> None:
    _put(lora, webui, "n" * 200)
    with pytest.raises(UserError, match="too long"):
        _put(lora, webui, "n" * 200)


def test_a_full_disk(lora: Path, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 10**9, 10))
    with pytest.raises(WriteError, match="disk is full"):
        _put(lora, webui)
    assert _names(webui / "models" / "Lora") == []


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="an administrator may write anywhere")
def test_a_folder_without_permission(lora: Path, webui: Path) -> None:
    folder = webui / "models" / "Lora"
    folder.chmod(0o500)
    try:
        with pytest.raises(WriteError, match="no permission"):
            _put(lora, webui)
    finally:
        folder.chmod(0o700)


def test_a_folder_that_refuses_a_file(lora: Path, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = Path.open

    def refuses(self: Path, mode: str = "r", *more: object, **options: object) -> object:
        if "w" in mode and self.parent.name == "Lora":
            raise PermissionError(13, "Permission denied")
        return real(self, mode, *more, **options)

    monkeypatch.setattr(Path, "open", refuses)
    with pytest.raises(WriteError, match="no permission"):
        _put(lora, webui)
    assert _names(webui / "models" / "Lora") == []


def test_a_lora_folder_that_cannot_be_made(lora: Path, webui: Path) -> None:
    (webui / "models" / "Lora").rmdir()
    (webui / "models" / "Lora").write_text("a file in the way", encoding="utf-8")
    with pytest.raises(WriteError, match="in each other's way"):
        _put(lora, webui)


def test_no_webui_there(lora: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no webui Treino knows"):
        _put(lora, tmp_path)


# --- what is worth saying --------------------------------------------------------------------------------------------


def test_a_toys_lora_comes_with_a_warning(webui: Path, tmp_path: Path) -> None:
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    write(tmp_path / "x.safetensors", random_lora({module: (112, 96)}), "sd1", {}, "fp16")
    assert [each.key for each in _put(tmp_path / "x.safetensors", webui).warnings] == ["lora.warned_toy"]


def test_a_dora_comes_with_a_warning_and_one_over_outputs_is_refused(webui: Path, tmp_path: Path) -> None:
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_v"
    down, up, inputs, outputs = torch.ones(2, 768), torch.ones(1280, 2), torch.ones(1, 768), torch.ones(1280)
    write(tmp_path / "x.safetensors", {module: Adapter(down, up, 2.0, inputs)}, "sd1", {}, "fp16")
    assert [each.key for each in _put(tmp_path / "x.safetensors", webui).warnings] == ["lora.warned_dora"]
    tensors = {"lora_A.weight": down, "lora_B.weight": up, "lora_magnitude_vector": outputs}
    safetensors.torch.save_file({f"{module}.{n}": t for n, t in tensors.items()}, tmp_path / "peft.safetensors")
    with pytest.raises(LoraError, match=r"other pictures.*extract a plain LoRA"):
        _put(tmp_path / "peft.safetensors", webui)
    assert not list(webuis.at(webui).lora_folder.glob("peft*"))


def test_fooocus_has_sdxl_only(tmp_path: Path) -> None:
    folder = trees.fooocus(tmp_path / "Fooocus")
    assert _put(_lora(tmp_path / "a.safetensors", "sdxl"), folder).warnings == ()
    assert "SDXL" in str(_put(_lora(tmp_path / "b.safetensors", "sd1"), folder).warnings[0])


def test_a_running_webui_is_refreshed(lora: Path, webui: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lora_core.webuis import refresh

    with running() as (port, requests):
        monkeypatch.setattr(export, "refresh", lambda ui: refresh.refresh(ui, (port,)))
        done = _put(lora, webui)
    assert done.refreshed == f"http://127.0.0.1:{port}"
    assert requests == ["POST /sdapi/v1/refresh-loras"]


@pytest.mark.parametrize(
    ("card", "prompt"),
    [
        (Sidecar(), "<lora:x:1>"), (Sidecar(preferred_weight=0.75), "<lora:x:0.75>"),
        (Sidecar(activation_text="zebu"), "<lora:x:1> zebu"),
    ],
)  # fmt: skip
def test_what_to_paste(card: Sidecar, prompt: str) -> None:
    assert prompt_text("x", card) == prompt


@pytest.mark.parametrize("kind", BUILDERS)
def test_what_to_paste_depends_on_the_webui(kind: str, lora: Path, tmp_path: Path) -> None:
    """ComfyUI and InvokeAI know no <lora:...>: there one chooses the LoRA and its weight in boxes."""
    done = _put(lora, BUILDERS[kind][0](tmp_path / "ui"), activation_text="zebu", preferred_weight=0.85)
    if kind in ("ComfyUI", "InvokeAI"):
        assert done.prompt == "zebu" and "0.85" in str(done.next_step)
    else:
        assert done.prompt == "<lora:zebu:0.85> zebu"


def test_any_folder_takes_a_lora_when_asked_for(lora: Path, tmp_path: Path) -> None:
    done = export_lora(lora, webuis.folder_of_loras(tmp_path / "my loras"), "zebu", "cancel", Sidecar())
    assert (done.webui, done.lora.parent, done.refreshed) == (webuis.PLAIN, tmp_path / "my loras", "")
    assert export.next_name(tmp_path / "my loras", "zebu") == "zebu-2"
    with pytest.raises(ExistsError):
        export_lora(lora, webuis.folder_of_loras(tmp_path / "my loras"), "zebu", "cancel", Sidecar())
