"""`caption`, `convert` and `export` as a person types them, through the door."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import safetensors.torch
from PIL import Image

from lora_core.cli import commands
from lora_core.cli import main as cli
from lora_core.config import TrainConfig
from lora_core.dataset import CaptionEditor
from lora_core.events import Finished, Validation
from lora_core.install.bootstrap import COMMANDS
from lora_core.lora.file import read, write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.messages import say
from lora_core.runs.run import Run
from lora_core.system import paths
from lora_core.webuis import export
from lora_core.webuis import search as webui_places
from lora_core.webuis.detect import Places
from tests.support import tiny_captioners
from tests.support import webui_trees as trees
from tests.support.hub_server import HubServer, in_use
from tests.support.lora_values import random_lora, small_lora

_LAYER = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768)}


@pytest.fixture(autouse=True)
def own_computer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A computer that holds what a test puts below tmp_path/disk, with a memory of its own and no webui running."""
    config = tmp_path / "config"

    def here() -> Places:
        return Places(roots=(tmp_path / "disk",), remembered=tuple(webui_places.remembered(config)))

    monkeypatch.setattr(webui_places, "here", here)
    monkeypatch.setattr(paths, "config_folder", lambda: config)
    monkeypatch.setattr(export, "refresh", lambda webui: "")


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A finished run whose last step is not its best."""
    run = Run(tmp_path / "lora_out")
    config = TrainConfig.of({"output_name": "zebu", "trigger_word": "zebu"})
    run.begin(config)
    for step, loss in ((0, 1.0), (100, 0.4), (200, 0.6)):
        run.append(Validation(step, loss, loss, best=step == 100))
        Image.new("RGB", (64, 64), (step, 0, 0)).save(run.samples / f"step_{step:07d}_0.png")
    run.append(Finished(200, "zebu.safetensors", 100))
    known = {"output_name": "zebu", "family": "sd1", "rank": 2, "alpha": 3.0, "resolution": 512}
    facts = TrainingMetadata(**known, config_toml=config.to_toml())  # type: ignore[arg-type]
    write(run.lora_file(config), random_lora(_LAYER), "sd1", build(facts), "fp16")
    return run.folder


def _told(argv: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, str, str]:
    code = cli.main(argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_export_finds_the_only_webui(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trees.forge(tmp_path / "disk" / "forge") / "models" / "Lora"
    code, out, err = _told(["export", str(run)], capsys)
    assert (code, err) == (0, "")
    assert sorted(path.name for path in folder.iterdir()) == ["zebu.json", "zebu.png", "zebu.safetensors"]
    assert f"Forge: {folder / 'zebu.safetensors'}" in out
    assert "Prompt: <lora:zebu:0.8> zebu" in out
    assert "begun to learn the pictures by heart" in out
    assert "refresh button" in out
    with Image.open(folder / "zebu.png") as picture:
        assert picture.getpixel((0, 0)) == (200, 0, 0)


def test_no_prompt_is_told_where_a_prompt_calls_no_lora(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = trees.comfy(tmp_path / "disk" / "comfy")
    code, out, err = _told(["export", str(run), "--to", str(folder), "--trigger", ""], capsys)
    assert (code, err) == (0, "") and "Prompt" not in out and "<lora" not in out
    assert "in a Load LoRA node, at a strength of 0.8" in out
    assert "Prompt: zebu\n" in _told(["export", str(run), "--to", str(folder)], capsys)[1]


def test_what_is_said_on_the_line_wins(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trees.a1111(tmp_path / "disk" / "ui")
    Image.new("RGB", (600, 300), (0, 9, 0)).save(tmp_path / "mine.png")
    line = [
        "export", str(run), "--to", str(folder), "--name", "meu zebu", "--trigger", "boi", "--weight", "0.7",
        "--negative", "n", "--description", "d", "--notes", "", "--picture", str(tmp_path / "mine.png"),
    ]  # fmt: skip
    assert _told(line, capsys)[0] == 0
    loras = folder / "models" / "Lora"
    assert json.loads((loras / "meu zebu.json").read_bytes()) == {
        "description": "d", "sd version": "SD1", "activation text": "boi", "preferred weight": 0.7,
        "negative text": "n", "notes": "", "tags": ["boi"],
    }  # fmt: skip
    with Image.open(loras / "meu zebu.png") as picture:
        assert picture.size == (512, 256)


def test_no_picture_on_request(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trees.a1111(tmp_path / "disk" / "ui") / "models" / "Lora"
    assert _told(["export", str(run), "--picture", "none"], capsys)[0] == 0
    assert sorted(path.name for path in folder.iterdir()) == ["zebu.json", "zebu.safetensors"]


def test_a_taken_name(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = trees.a1111(tmp_path / "disk" / "ui") / "models" / "Lora"
    for _ in range(2):
        assert _told(["export", str(run)], capsys)[0] == 0
    assert (folder / "zebu-2.safetensors").is_file()
    code, _, err = _told(["export", str(run), "--on-existing", "cancel"], capsys)
    assert code == 2
    assert "left as it is" in err
    assert _told(["export", str(run), "--on_existing", "replace"], capsys)[0] == 0
    assert not (folder / "zebu-3.safetensors").exists()


def test_several_webuis_are_listed_and_the_choice_is_remembered(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = trees.comfy(tmp_path / "disk" / "ComfyUI"), trees.a1111(tmp_path / "disk" / "web ui")
    code, _, err = _told(["export", str(run)], capsys)
    assert code == 2
    assert f"--to {first}" in err
    assert f'--to "{second}"' in err
    assert _told(["export", str(run), "--to", str(second)], capsys)[0] == 0
    assert _told(["export", str(run), "--name", "again"], capsys)[0] == 0
    assert (second / "models" / "Lora" / "again.safetensors").is_file()


def test_no_webui_at_all(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _told(["export", str(run)], capsys)
    assert code == 2
    assert "No webui was found" in err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--weight", "3"], "no weight from 0 to 2"), (["--weight", "much"], "no weight"),
        (["--nonsense"], "--nonsense"), (["--on-existing", "ask"], "invalid choice"), (["--name", "CON"], "device"),
        (["--picture", "none.png"], "cannot be used"), (["--to", "nowhere"], "no folder"),
    ],
)  # fmt: skip
def test_wrong_words_are_one_sentence(
    more: list[str], words: str, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.a1111(tmp_path / "disk" / "ui")
    code, _, err = _told(["export", str(run), *more], capsys)
    assert code == 2
    assert words in err
    assert "Traceback" not in err
    assert list((tmp_path / "disk" / "ui" / "models" / "Lora").iterdir()) == []


def test_a_running_webui_is_named(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trees.a1111(tmp_path / "disk" / "ui")
    monkeypatch.setattr(export, "refresh", lambda webui: "http://127.0.0.1:7860")
    assert "The webui at http://127.0.0.1:7860 has read its list of LoRAs again" in _told(["export", str(run)], capsys)[1]


def test_a_toy_is_warned_of(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trees.a1111(tmp_path / "disk" / "ui")
    module = next(iter(_LAYER))
    write(tmp_path / "toy.safetensors", random_lora({module: (112, 96)}), "sd1", {}, "fp16")
    assert (
        "Warning: This LoRA was made for the starter, a toy model"
        in _told(["export", str(tmp_path / "toy.safetensors")], capsys)[1]
    )


# --- convert ---------------------------------------------------------------------------------------------------------


def test_convert(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lora = {**small_lora("sdxl"), **random_lora({"unet.conv_in": (320, 4, 3, 3)})}
    tensors = {f"{m}.lora_A.weight": a.down for m, a in lora.items()} | {
        f"{m}.lora_B.weight": a.up for m, a in lora.items()
    }
    safetensors.torch.save_file(tensors, tmp_path / "in.safetensors")
    line = ["convert", str(tmp_path / "in.safetensors"), str(tmp_path / "out.safetensors")]
    code, _, err = _told(line, capsys)
    assert code == 2
    assert "--drop" in err
    code, out, _ = _told([*line, "--drop", "--precision", "fp16"], capsys)
    assert code == 0
    assert f"{tmp_path / 'out.safetensors'}: {len(lora) - 1} layers for sdxl, fp16." in out
    assert "Left out: unet.conv_in" in out
    assert len(read(tmp_path / "out.safetensors")[0]) == len(lora) - 1
    code, _, err = _told(line, capsys)
    assert code == 2
    assert "--replace" in err


@pytest.mark.parametrize("line", [["convert"], ["convert", "a"], ["export"], ["convert", "a", "b", "--family", "sd9"]])
def test_missing_words(line: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = _told(line, capsys)
    assert code == 2
    assert "--help" in err


def test_each_command_has_its_function() -> None:
    assert tuple(commands.RUN) == COMMANDS


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as leaving:
        commands.RUN[command](["--help"])
    assert leaving.value.code == 0
    assert f"treino.py {command}" in capsys.readouterr().out


# --- caption ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with in_use(tiny_captioners.repos(), tmp_path / "hf", monkeypatch) as running:
        yield running


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Four pictures: with a caption, with an empty one, without one, and one that cannot be read."""
    folder = tmp_path / "my pictures"
    folder.mkdir()
    for number in range(3):
        Image.new("RGB", (48, 32), (number * 90, 9, 9)).save(folder / f"{number}.png")
    (folder / "0.txt").write_bytes("um café".encode("cp1252"))
    (folder / "1.txt").write_text("", encoding="utf-8")
    (folder / "3.png").write_bytes(b"no picture")
    return folder


def _captions(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.glob("*.txt"))}


def test_caption_describes_what_has_no_caption(hub: HubServer, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _captions(dataset)
    code, out, err = _told(["caption", str(dataset), "--with", "tags"], capsys)
    assert (code, err) == (0, "")
    said = tiny_captioners.ALWAYS
    assert _captions(dataset) == {**before, "1.txt": said.encode(), "2.txt": said.encode()}
    assert f"\n1.png: {said}\n" in out and f"\n2.png: {said}\n" in out and "\n0.png" not in out
    assert "Warning: 3.png is a text file" in out
    assert out.endswith(f"2 captions were written in {dataset}; the window's Dataset tab can undo it.\n")
    editor = CaptionEditor(dataset)
    assert editor.next_undo is not None and say(editor.next_undo, "pt-BR") == "legendas por um modelo"
    editor.undo()
    assert _captions(dataset) == before


def test_caption_replaces_all_as_one_edit(hub: HubServer, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = _captions(dataset)
    line = ["caption", str(dataset), "--with", "tags", "--replace", "--threshold", "0.25", "--trigger", "Solo"]
    assert _told(line, capsys)[0] == 0
    assert set(_captions(dataset).values()) == {f"{tiny_captioners.ALWAYS}, long hair".encode()}  # it holds the word
    assert _told([*line[:-1], "rexdog"], capsys)[0] == 0
    assert set(_captions(dataset).values()) == {f"rexdog, {tiny_captioners.ALWAYS}, long hair".encode()}
    editor = CaptionEditor(dataset)
    editor.undo()
    editor.undo()
    assert _captions(dataset) == before


def test_caption_writes_sentences_unless_told_otherwise(
    hub: HubServer, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _told(["caption", str(dataset), "--only-missing"], capsys)[0] == 0
    assert all(_captions(dataset).values())
    assert "pytorch_model.bin" not in hub.fetched()


def test_caption_leaves_alone_what_it_does_not_recognise(
    hub: HubServer, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = _captions(dataset)
    line = ["caption", str(dataset), "--with", "tags", "--replace", "--threshold", "0.95", "--trigger", "rexdog"]
    code, out, _ = _told(line, capsys)
    assert (code, _captions(dataset)) == (0, before)
    assert "0.png: nothing was recognised" in out and "0 captions were written" in out


def test_caption_has_nothing_to_do(hub: HubServer, dataset: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(4):
        (dataset / f"{number}.txt").write_text("a dog", encoding="utf-8")
    code, out, _ = _told(["caption", str(dataset)], capsys)
    assert (code, hub.requests) == (0, [])
    assert "--replace describes them anew" in out


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--with", "poems"], "invalid choice"), (["--threshold", "2"], "no number from 0 to 1"),
        (["--threshold", "high"], "no number"), (["--trigger", " "], "no trigger word"),
        (["--replace", "--only-missing"], "not allowed with"), (["--nonsense"], "--nonsense"),
    ],
)  # fmt: skip
def test_caption_wrong_words(
    more: list[str], words: str, hub: HubServer, dataset: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = _told(["caption", str(dataset), *more], capsys)
    assert (code, out, hub.requests) == (2, "", [])
    assert words in err and err.count("\n") == 1


def test_caption_wrong_folders_and_no_hub(
    hub: HubServer, dataset: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, err = _told(["caption", str(dataset / "no")], capsys)
    assert code == 2 and "does not exist" in err
    code, _, err = _told(["caption", str(tmp_path / "hf")], capsys)
    assert code == 2 and ("does not exist" in err or "holds no pictures" in err)
    (tmp_path / "empty").mkdir()
    code, _, err = _told(["caption", str(tmp_path / "empty")], capsys)
    assert code == 2 and "holds no pictures" in err
    before = _captions(dataset)
    hub.api_status = 503
    code, _, err = _told(["caption", str(dataset)], capsys)
    assert code == 2 and "has trouble of its own" in err
    assert _captions(dataset) == before


@pytest.mark.skipif(os.name == "nt", reason="Windows sends Ctrl-C to the tests as well")
def test_ctrl_c_keeps_what_is_described_as_one_edit(hub: HubServer, tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    Image.new("RGB", (900, 900)).save(folder / "000.png")
    for number in range(1, 200):
        shutil.copy(folder / "000.png", folder / f"{number:03}.png")
    kept = {key: value for key, value in os.environ.items() if "proxy" not in key.lower() and not key.startswith("HF_")}
    own = {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(tmp_path / "other"), "PYTHONUTF8": "1", "PYTHONUNBUFFERED": "1"}
    script = "import sys; from lora_core.cli.main import main; sys.exit(main(sys.argv[1:]))"
    child = subprocess.Popen(
        [sys.executable, "-c", script, "caption", str(folder), "--with", "tags"], env={**kept, **own},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, encoding="utf-8",
    )  # fmt: skip
    assert child.stdout is not None
    for line in child.stdout:
        if line.startswith("002.png: "):
            break
    child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    assert (child.returncode, err) == (130, "")
    written = _captions(folder)
    assert 3 <= len(written) < 200
    assert list(written) == [f"{number:03}.txt" for number in range(len(written))]
    assert set(written.values()) == {tiny_captioners.ALWAYS.encode()}
    assert f"Stopped after {len(written)} of 200 pictures" in out
    CaptionEditor(folder).undo()
    assert _captions(folder) == {}
