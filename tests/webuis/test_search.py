"""Where to look on each system, and what is remembered between exports."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lora_core.system import paths
from lora_core.webuis import search as webui_places
from lora_core.webuis.detect import find
from lora_core.webuis.search import here, places_of, remember, remembered
from tests.support import webui_trees as trees


def test_windows(tmp_path: Path) -> None:
    home = tmp_path / "Ana"
    environment = {"APPDATA": str(home / "AppData" / "Roaming"), "LOCALAPPDATA": str(home / "AppData" / "Local")}
    places = list(places_of("win32", home, environment, (tmp_path / "C", tmp_path / "D")))
    for expected in (home, home / "Documents", home / "AppData" / "Local" / "Programs", tmp_path / "C", tmp_path / "D"):
        assert expected in places


def test_linux_and_macos_name_their_own(tmp_path: Path) -> None:
    linux, mac = (list(places_of(system, tmp_path, {}, ())) for system in ("linux", "darwin"))
    assert Path("/opt") in linux
    assert Path("/Applications") in mac
    assert Path("/opt") not in mac
    assert tmp_path in linux
    assert tmp_path in mac


@pytest.mark.parametrize("system", ["win32", "linux", "darwin"])
def test_other_installers_say_where_they_are(system: str, tmp_path: Path) -> None:
    home = tmp_path / "home"
    roaming = {"win32": "AppData/Roaming", "linux": ".config", "darwin": "Library/Application Support"}[system]
    config = home / roaming
    matrix, pinokio, comfy = tmp_path / "D" / "SM", tmp_path / "E" / "pin", tmp_path / "F" / "Comfy"
    trees.write_json(config / "StabilityMatrix" / "library.json", {"LibraryPath": str(matrix)})
    trees.write_json(config / "Pinokio" / "config.json", {"home": str(pinokio)})
    trees.make(config / "ComfyUI", "extra_models_config.yaml")
    text = json.dumps({"comfyui_desktop": {"base_path": str(comfy), "is_default": "true"}})
    (config / "ComfyUI" / "extra_models_config.yaml").write_text(text, encoding="utf-8")
    places = list(places_of(system, home, {}, ()))
    for expected in (matrix, matrix / "Packages", pinokio, comfy):
        assert expected in places


def test_a_webui_in_a_library_elsewhere_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = trees.stability_matrix(tmp_path / "disk" / "data")
    package = trees.forge(library / "Packages" / "forge")
    trees.write_json(tmp_path / "config" / "StabilityMatrix" / "library.json", {"LibraryPath": str(library)})
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setattr(webui_places, "_drives", lambda: ())
    found = {webui.folder for webui in find(here(near=tmp_path / "app" / "Treino"))}
    assert {library, package} <= found


@pytest.mark.parametrize("damaged", ["{", "[]", '{"LibraryPath": 3}', ""])
def test_damaged_notes_of_others_are_passed_by(damaged: str, tmp_path: Path) -> None:
    for name in ("StabilityMatrix/library.json", "Pinokio/config.json", "ComfyUI/extra_models_config.yaml"):
        trees.make(tmp_path / ".config", name)
        (tmp_path / ".config" / name).write_text(damaged, encoding="utf-8")
    assert tmp_path in list(places_of("linux", tmp_path, {}, ()))


def test_the_last_choice_is_remembered_first(tmp_path: Path) -> None:
    config = tmp_path / "config" / "treino"
    assert remembered(config) == []
    for name in ("a", "ção", "a"):
        remember(config, tmp_path / name)
    assert remembered(config) == [tmp_path / "a", tmp_path / "ção"]
    for number in range(20):
        remember(config, tmp_path / str(number))
    assert len(remembered(config)) == 8


@pytest.mark.parametrize("damaged", ["{", "{}", "[1, null]", "\x00"])
def test_a_damaged_memory_is_an_empty_one(damaged: str, tmp_path: Path) -> None:
    (tmp_path / "webuis.json").write_text(damaged, encoding="utf-8")
    assert remembered(tmp_path) == []
    remember(tmp_path, tmp_path / "a")
    assert remembered(tmp_path) == [tmp_path / "a"]


def test_what_cannot_be_remembered_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    remember(tmp_path / "file" / "config", tmp_path / "a")
    assert remembered(tmp_path / "file" / "config") == []


def test_the_memory_is_in_the_users_own_config() -> None:
    assert paths.config_folder().name == "treino"


def test_the_disks_of_this_system_can_be_listed() -> None:
    assert all(isinstance(drive, Path) for drive in webui_places._drives())
