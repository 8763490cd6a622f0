"""Webuis told by their own files, and the folder each reads its LoRAs from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.webuis.detect import KINDS, Places, at, find, recognise
from tests.support import webui_trees as trees
from tests.support.webui_trees import BUILDERS


@pytest.mark.parametrize("kind", BUILDERS)
def test_each_kind_is_told_by_its_own_files(kind: str, tmp_path: Path) -> None:
    build, loras = BUILDERS[kind]
    folder = build(tmp_path / "somewhere")
    webui = recognise(folder)
    assert webui is not None
    assert (webui.kind, webui.folder, webui.lora_folder) == (kind, folder, folder / loras)
    assert webui.hint


def test_every_kind_is_tested() -> None:
    assert {kind.name for kind in KINDS} == set(BUILDERS)


def test_the_desktop_app_of_comfyui_is_known_by_its_models(tmp_path: Path) -> None:
    webui = recognise(trees.comfy_desktop(tmp_path))
    assert webui is not None
    assert webui.kind == "ComfyUI"


def test_other_folders_are_no_webuis(tmp_path: Path) -> None:
    trees.make(tmp_path, "webui.py", "main.py", "models/Lora/", "src/", "settings.json")
    assert recognise(tmp_path) is None
    assert recognise(tmp_path / "nothing") is None


# --- where the LoRAs are ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("file", "line", "expected"),
    [
        ("webui-user.bat", "set COMMANDLINE_ARGS=--api --lora-dir {x} --xformers", "{x}"),
        ("webui-user.bat", 'set COMMANDLINE_ARGS=--lora-dir "{x} y"', "{x} y"),
        ("webui-user.bat", "set COMMANDLINE_ARGS=--lora-dir=loras", "{ui}/loras"),
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--lora-dir {x}"', "{x}"),
        ("webui-user.sh", "export COMMANDLINE_ARGS=\"--lora-dir '{x} y' --api\"", "{x} y"),
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--lora-dir \\"{x} y\\""', "{x} y"),
        ("webui-user.sh", 'export COMMANDLINE_ARGS="--data-dir {x}"', "{x}/models/Lora"),
        ("webui-user.bat", "@rem set COMMANDLINE_ARGS=--lora-dir {x}", "{ui}/models/Lora"),
        ("webui-user.bat", "REM --lora-dir {x}", "{ui}/models/Lora"),
        ("webui-user.sh", '#export COMMANDLINE_ARGS="--lora-dir {x}"', "{ui}/models/Lora"),
        ("webui-user.bat", "set COMMANDLINE_ARGS=", "{ui}/models/Lora"),
    ],
)
def test_a1111_reads_its_start_script(file: str, line: str, expected: str, tmp_path: Path) -> None:
    folder = trees.a1111(tmp_path / "ui")
    other = tmp_path / "other"
    (folder / file).write_text(f"echo\n{line.replace('{x}', str(other))}\n", encoding="utf-8")
    webui = recognise(folder)
    assert webui is not None
    assert webui.lora_folder == Path(expected.replace("{x}", str(other)).replace("{ui}", str(folder)))


def test_the_port_is_read_from_the_start_script(tmp_path: Path) -> None:
    folder = trees.forge(tmp_path)
    assert recognise(folder).port is None  # type: ignore[union-attr]
    (folder / "webui-user.bat").write_text("set COMMANDLINE_ARGS=--api --port 7999", encoding="utf-8")
    assert recognise(folder).port == 7999  # type: ignore[union-attr]


@pytest.mark.parametrize(("named", "expected"), [("{x}", "{x}"), ("Lora2", "{ui}/Lora2"), (3, "{ui}/models/Lora")])
def test_sdnext_reads_config_json(named: object, expected: str, tmp_path: Path) -> None:
    folder, other = trees.sdnext(tmp_path / "ui"), tmp_path / "other"
    named = named.replace("{x}", str(other)) if isinstance(named, str) else named
    trees.write_json(folder / "config.json", {"lora_dir": named})
    assert recognise(folder).lora_folder == Path(expected.format(x=other, ui=folder))  # type: ignore[union-attr]
    (folder / "config.json").write_text("{damaged", encoding="utf-8")
    assert recognise(folder).lora_folder == folder / "models" / "Lora"  # type: ignore[union-attr]


@pytest.mark.parametrize("several", [False, True])
def test_fooocus_reads_config_txt(several: bool, tmp_path: Path) -> None:
    folder, other = trees.fooocus(tmp_path / "ui"), tmp_path / "other"
    trees.write_json(folder / "config.txt", {"path_loras": [str(other), "x"] if several else str(other)})
    assert recognise(folder).lora_folder == other  # type: ignore[union-attr]
    trees.write_json(folder / "config.txt", ["not an object"])
    assert recognise(folder).lora_folder == folder / "models" / "loras"  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ("Paths:\n\tModelRoot: {x}\n\tSDLoraFolder: loras\n", "{x}/loras"),
        ("Paths:\n\tModelRoot: {x};Models\n\tSDLoraFolder: Lora;LyCORIS\n", "{x}/Lora"),
        ("Paths:\n\tSDLoraFolder: {x}\n", "{x}"),
        ("Paths:\n\t#ModelRoot: {x}\n", "{ui}/Models/Lora"),
    ],
)
def test_swarmui_reads_its_settings(settings: str, expected: str, tmp_path: Path) -> None:
    folder, other = trees.swarm(tmp_path / "ui"), tmp_path / "other"
    (folder / "Data" / "Settings.fds").write_text(settings.replace("{x}", str(other)), encoding="utf-8")
    assert recognise(folder).lora_folder == Path(expected.format(x=other, ui=folder))  # type: ignore[union-attr]


_EXTRA = "a111:\n    base_path: {x}\n{default}    checkpoints: models/Stable-diffusion\n    loras: |\n         models/Lora\n         models/LyCORIS\n"  # noqa: E501


@pytest.mark.parametrize(
    ("is_default", "has_own", "is_there", "expected"),
    [
        (True, True, True, "{x}/models/Lora"), (False, True, True, "{ui}/models/loras"),
        (False, False, True, "{x}/models/Lora"), (True, True, False, "{ui}/models/loras"),
        (False, False, False, "{ui}/models/loras"),
    ],
)  # fmt: skip
def test_comfyui_reads_extra_model_paths(
    is_default: bool, has_own: bool, is_there: bool, expected: str, tmp_path: Path
) -> None:
    folder, other = trees.comfy(tmp_path / "ui"), tmp_path / "other"
    if is_there:
        trees.make(other, "models/Lora/")
    if not has_own:
        (folder / "models" / "loras").rmdir()
    text = _EXTRA.format(x=other, default="    is_default: true\n" if is_default else "")
    (folder / "extra_model_paths.yaml").write_text(text, encoding="utf-8")
    assert recognise(folder).lora_folder == Path(expected.format(x=other, ui=folder))  # type: ignore[union-attr]


@pytest.mark.parametrize("text", ["a: [", "just words", "a111:\n  loras: 3\n", "- 1\n", "", "a: b: c"])
def test_comfyui_with_a_file_it_cannot_use(text: str, tmp_path: Path) -> None:
    folder = trees.comfy(tmp_path)
    (folder / "extra_model_paths.yaml").write_text(text, encoding="utf-8")
    assert recognise(folder).lora_folder == folder / "models" / "loras"  # type: ignore[union-attr]


def test_a_base_path_beside_the_file(tmp_path: Path) -> None:
    folder = trees.make(trees.comfy(tmp_path / "ui"), "shared/mine/")
    (folder / "extra_model_paths.yaml").write_text(
        "x:\n  base_path: shared\n  is_default: true\n  loras: mine\n", encoding="utf-8"
    )
    assert recognise(folder).lora_folder == folder / "shared" / "mine"  # type: ignore[union-attr]


def test_invokeai_is_told_where_to_scan(tmp_path: Path) -> None:
    webui = recognise(trees.invoke(tmp_path))
    assert webui is not None
    told = str(Message(webui.hint, name="zebu", folder=webui.lora_folder, weight=0.5))
    assert str(webui.lora_folder) in told and "zebu" in told and "0.5" in told


# --- the folder a person names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("build", "inner"), [(trees.a1111, "webui"), (trees.comfy, "ComfyUI"), (trees.fooocus, "Fooocus")])
def test_the_folder_a_package_was_unpacked_into(build: Callable[[Path], Path], inner: str, tmp_path: Path) -> None:
    assert at(build(tmp_path / inner).parent).folder == tmp_path / inner


@pytest.mark.parametrize("name", ["Lora", "loras", "LoRA", "LyCORIS"])
def test_a_lora_folder_is_taken_as_it_is(name: str, tmp_path: Path) -> None:
    (tmp_path / name).mkdir()
    assert at(tmp_path / name).lora_folder == tmp_path / name


def test_other_folders_are_refused_with_what_would_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no webui Treino knows.*ComfyUI.*models/Lora"):
        at(tmp_path)
    with pytest.raises(UserError, match="no folder"):
        at(tmp_path / "none")


# --- finding ---------------------------------------------------------------------------------------------------------


def _found(places: Places) -> list[tuple[str, Path]]:
    return [(webui.kind, webui.folder) for webui in find(places)]


def test_found_below_a_root_under_any_name(tmp_path: Path) -> None:
    trees.forge(tmp_path / "my favourite ui")
    trees.comfy(tmp_path / "ComfyUI_windows_portable" / "ComfyUI")
    trees.a1111(tmp_path / "sd.webui" / "webui")
    trees.fooocus(tmp_path / "Fooocus_win64_2-5-0" / "Fooocus")
    trees.make(tmp_path, "Windows/", "file.txt", ".hidden/webui.py")
    assert sorted(_found(Places(roots=(tmp_path,)))) == [
        ("AUTOMATIC1111", tmp_path / "sd.webui" / "webui"),
        ("ComfyUI", tmp_path / "ComfyUI_windows_portable" / "ComfyUI"),
        ("Fooocus", tmp_path / "Fooocus_win64_2-5-0" / "Fooocus"),
        ("Forge", tmp_path / "my favourite ui"),
    ]


@pytest.mark.parametrize("shelf", ["AI", "Stable Diffusion", "stable-diffusion", "Programs", "git"])
def test_found_on_the_shelves_people_use(shelf: str, tmp_path: Path) -> None:
    folder = trees.swarm(tmp_path / shelf / "SwarmUI")
    assert _found(Places(roots=(tmp_path,))) == [("SwarmUI", folder)]


def test_nothing_is_dug_out_of_other_folders(tmp_path: Path) -> None:
    trees.swarm(tmp_path / "Backup of 2023" / "old" / "SwarmUI")
    assert _found(Places(roots=(tmp_path,))) == []


@pytest.mark.parametrize("data", ["StabilityMatrix", "StabilityMatrix/Data"])
def test_stability_matrix_with_its_packages(data: str, tmp_path: Path) -> None:
    shared = trees.stability_matrix(tmp_path / data)
    package = trees.sdnext(shared / "Packages" / "automatic")
    assert _found(Places(roots=(tmp_path,))) == [("Stability Matrix", shared), ("SD.Next", package)]


def test_packages_that_share_a_folder_are_listed_once(tmp_path: Path) -> None:
    shared = trees.stability_matrix(tmp_path / "StabilityMatrix")
    package = trees.forge(shared / "Packages" / "forge")
    (package / "models" / "Lora").rmdir()
    try:
        (package / "models" / "Lora").symlink_to(shared / "Models" / "Lora", target_is_directory=True)
    except OSError:
        pytest.skip("this system lets only administrators make links")
    assert _found(Places(roots=(tmp_path,))) == [("Stability Matrix", shared)]


def test_pinokio_apps(tmp_path: Path) -> None:
    folder = trees.a1111(tmp_path / "pinokio" / "api" / "automatic1111.git" / "app")
    comfy = trees.comfy(tmp_path / "pinokio" / "api" / "comfyui.git" / "app")
    assert _found(Places(roots=(tmp_path,))) == [("AUTOMATIC1111", folder), ("ComfyUI", comfy)]


def test_found_beside_and_above_the_app(tmp_path: Path) -> None:
    shelf = tmp_path / "disk" / "shelf"
    beside = trees.comfy(shelf / "ComfyUI")
    above = trees.a1111(shelf / "webui")
    app = above / "tools" / "Treino"
    app.mkdir(parents=True)
    assert _found(Places(near=app)) == [("AUTOMATIC1111", above)]
    assert _found(Places(near=shelf / "Treino")) == [("ComfyUI", beside), ("AUTOMATIC1111", above)]


def test_remembered_ones_come_first_and_once(tmp_path: Path) -> None:
    first, second = trees.comfy(tmp_path / "a"), trees.forge(tmp_path / "b")
    places = Places(roots=(tmp_path,), remembered=(tmp_path / "gone", second))
    assert _found(places) == [("Forge", second), ("ComfyUI", first)]


def test_a_folder_nobody_may_read_is_passed_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, real = trees.comfy(tmp_path / "ui"), Path.iterdir

    def iterdir(self: Path) -> object:
        if self.name == "locked":
            raise PermissionError(13, "no")
        return real(self)

    (tmp_path / "locked").mkdir()
    monkeypatch.setattr(Path, "iterdir", iterdir)
    assert _found(Places(roots=(tmp_path / "locked", tmp_path / "none", tmp_path))) == [("ComfyUI", folder)]
