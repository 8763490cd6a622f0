"""The models a person already has, found where webuis and the hub keep them."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from lora_core.system import tensor_headers
from lora_core.webuis import detect as webuis
from lora_core.webuis.base_models import FoundModel, list_models
from lora_core.webuis.detect import Places
from tests import ROOT, stripped
from tests.support import webui_trees


def checkpoint(path: Path, name: str = "sd1") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    found = stripped.header(name)
    return stripped.hollow_file(path, found.tensors, dict(found.metadata))


@pytest.fixture
def look(tmp_path: Path) -> Callable[[], list[FoundModel]]:
    return lambda: list_models(Places((tmp_path / "disk",)), tmp_path / "hub", tmp_path / "home")


Look = Callable[[], list[FoundModel]]


def test_models_of_every_webui_with_family_and_size(look: Look, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    one = checkpoint(webui_trees.a1111(disk / "a1111") / "models" / "Stable-diffusion" / "anime" / "ünï.safetensors")
    checkpoint(webui_trees.swarm(disk / "swarm") / "Models" / "Stable-Diffusion" / "xl.safetensors", "sdxl_v")
    comfy = webui_trees.comfy(disk / "comfy")
    checkpoint(comfy / "models" / "checkpoints" / "refiner.safetensors", "sdxl_refiner")
    extra = checkpoint(tmp_path / "extra" / "sd" / "two.safetensors", "sd2")
    (comfy / "extra_model_paths.yaml").write_text(
        f"mine:\n  base_path: {tmp_path / 'extra'}\n  checkpoints: |\n    sd\n    nowhere\n", encoding="utf-8"
    )
    (comfy / "models" / "checkpoints" / "put_checkpoints_here").write_text("", encoding="utf-8")
    with one.open("rb") as whole:  # not all of it: it is gigabytes of nothing
        (comfy / "models" / "checkpoints" / "cut.safetensors").write_bytes(whole.read(100_000))
    found = {model.name: model for model in look()}
    assert list(found) == ["anime/ünï.safetensors", "two.safetensors", "xl.safetensors", "cut.safetensors",
                           "refiner.safetensors"]  # fmt: skip
    first = found["anime/ünï.safetensors"]
    assert (first.family, first.place, first.value, first.bytes) == ("sd1", "AUTOMATIC1111", str(one), one.stat().st_size)
    assert found["two.safetensors"].value == str(extra) and found["two.safetensors"].family == "sd2"
    assert found["xl.safetensors"].place == "SwarmUI" and found["xl.safetensors"].identity.zero_snr
    assert "truncated" in str(found["cut.safetensors"].identity.problem)
    assert "SDXL base model" in str(found["refiner.safetensors"].identity.problem)
    assert [model.can_train for model in found.values()] == [True, True, True, False, False]


def test_a_diffusers_folder_and_a_cached_hub_model(look: Look, tmp_path: Path, tiny_sd1: Path) -> None:
    fooocus = webui_trees.fooocus(tmp_path / "disk" / "fooocus")
    shutil.copytree(tiny_sd1, fooocus / "models" / "checkpoints" / "folder")
    repo = tmp_path / "hub" / "models--owner--tiny-model"
    shutil.copytree(tiny_sd1, repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc", encoding="utf-8")
    half = tmp_path / "hub" / "models--owner--half"
    shutil.copytree(repo, half)
    (half / "snapshots" / "abc" / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    found = look()
    assert [(model.name, model.place, model.family, model.can_train) for model in found] == [
        ("folder", "Fooocus", "sd1", True), ("owner/tiny-model", "hub cache", "sd1", True),
    ]  # fmt: skip
    assert found[1].value == "owner/tiny-model" and found[1].bytes > 100_000


def test_it_is_remembered_until_the_file_changes(look: Look, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = webui_trees.forge(tmp_path / "disk" / "forge") / "models" / "Stable-diffusion"
    path = checkpoint(folder / "a.safetensors")
    read: list[Path] = []
    plain = tensor_headers.read

    def count(path: Path) -> tensor_headers.Header:
        read.append(path)
        return plain(path)

    monkeypatch.setattr(tensor_headers, "read", count)
    first = look()
    assert read == [path] and look() == first and read == [path]
    checkpoint(path, "sdxl")
    assert look()[0].family == "sdxl" and len(read) == 2
    path.with_suffix(".yaml").write_text("parameterization: v\n", encoding="utf-8")
    assert look()[0].identity.prediction_type == "v_prediction" and len(read) == 3
    (tmp_path / "home" / "models.json").write_text("[1]", encoding="utf-8")
    assert look()[0].family == "sdxl" and len(read) == 4
    remembered = tmp_path / "home" / "models.json"
    remembered.write_text(remembered.read_text(encoding="utf-8").replace('"traits"', '"older"'), encoding="utf-8")
    assert look()[0].family == "sdxl" and len(read) == 5


@pytest.mark.skipif(sys.platform == "win32", reason="symbolic links are for developers only on Windows")
def test_links_are_followed_once(look: Look, tmp_path: Path) -> None:
    folder = webui_trees.a1111(tmp_path / "disk" / "a1111") / "models" / "Stable-diffusion"
    path = checkpoint(folder / "a.safetensors")
    (folder / "round").symlink_to(folder)
    other = webui_trees.comfy(tmp_path / "disk" / "comfy") / "models"
    (other / "checkpoints").symlink_to(folder)
    (folder / "gone.safetensors").symlink_to(tmp_path / "nowhere.safetensors")
    assert [model.value for model in look()] == [str(path)]


@pytest.mark.parametrize(
    ("build", "file", "text", "expected"),
    [
        (webui_trees.a1111, "webui-user.bat", "set COMMANDLINE_ARGS=--ckpt-dir elsewhere --xformers", "elsewhere"),
        (webui_trees.forge, "webui-user.sh", 'export COMMANDLINE_ARGS="--data-dir data"', "data/models/Stable-diffusion"),
        (webui_trees.sdnext, "config.json", json.dumps({"ckpt_dir": "mine"}), "mine"),
        (webui_trees.fooocus, "config.txt", json.dumps({"path_checkpoints": ["a", "mine"]}), "mine"),
        (webui_trees.swarm, "Data/Settings.fds", "Paths:\n\tModelRoot: A;B\n\tSDModelFolder: c;d\n", "B/d"),
        (webui_trees.invoke, "invokeai.yaml", "", "models"),
        (webui_trees.stability_matrix, "settings.json", "{}", "Models/StableDiffusion"),
    ],
)  # fmt: skip
def test_where_each_webui_is_told_to_keep_its_models(
    build: Callable[[Path], Path], file: str, text: str, expected: str, tmp_path: Path
) -> None:
    folder = build(tmp_path / "ui")
    (folder / file).write_text(text, encoding="utf-8")
    (folder / expected).mkdir(parents=True, exist_ok=True)
    webui = webuis.recognise(folder)
    assert webui and folder / expected in webuis.checkpoint_folders(webui)


def test_neither_torch_nor_gradio_is_needed(tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from lora_core.webuis.base_models import Places, list_models\n"
        f"list_models(Places(), Path({str(tmp_path)!r}), Path({str(tmp_path)!r}))\n"
        "assert not {'torch', 'diffusers', 'transformers', 'gradio'} & set(sys.modules), sorted(sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=60).returncode == 0
