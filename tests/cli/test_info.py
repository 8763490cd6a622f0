"""`treino.py info PATH` as a person types it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lora_core.cli import main as cli
from tests import stripped
from tests.support.lora_runs import write_lora


def told(path: Path, capsys: pytest.CaptureFixture[str], code: int = 0) -> str:
    assert cli.main(["info", str(path)]) == code
    found = capsys.readouterr()
    return found.err if code else found.out


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("sdxl_v", ["Stable Diffusion XL base model (pruned, fp16)", "velocity (v_prediction), with zero terminal SNR",
                    "Holds: unet, vae, text_encoder, text_encoder_2",
                    'Can be trained on: --pretrained_model_name_or_path "{path}"']),
        ("sd1_with_ema", ["Predicts: noise (epsilon)", "Note: It holds its weights twice"]),
        ("sd2", ["Predicts: noise or velocity, the file does not say", "--prediction_type"]),
        ("sdxl_without_vae", ["Can be trained on with a VAE of its kind beside it: --vae PATH."]),
        ("sd1_unet_only", ["Cannot be trained on alone: it lacks vae, text_encoder."]),
        ("sdxl_refiner", ["Stable Diffusion XL refiner", "Cannot be trained on. It finishes what"]),
        ("flux", ["Flux model (fp16)", "Cannot be trained on. This is a Flux model."]),
    ],
)  # fmt: skip
def test_what_a_model_file_is(name: str, lines: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = stripped.header(name)
    path = stripped.hollow_file(tmp_path / "my model.safetensors", found.tensors, dict(found.metadata))
    text = told(path, capsys)
    for line in lines:
        assert line.format(path=path) in text


def test_a_folder_and_what_is_no_model(tiny_sd1: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "Stable Diffusion 1.x base model (fp32)" in told(tiny_sd1, capsys)
    assert "no model_index.json" in told(tmp_path, capsys, 2)
    assert "There is no file" in told(tmp_path / "none.safetensors", capsys, 2)
    assert "give that folder" in told(tiny_sd1 / "unet", capsys, 2)


def test_the_starter(capsys: pytest.CaptureFixture[str]) -> None:
    text = told(Path("starter"), capsys)
    assert "starter: Stable Diffusion 1.x base model" in text
    assert "Can be trained on: --pretrained_model_name_or_path starter" in text


def test_a_lora(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(write_lora(tmp_path / "my lora.safetensors"), capsys)
    for line in ("LoRA (fp16)", "For: Stable Diffusion 1.x", "UNet, rank 2", 'export "', "Cannot be trained on"):
        assert line in text


def test_a_folder_of_models(tmp_path: Path, tiny_sd1: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = stripped.header("sd1")
    stripped.hollow_file(tmp_path / "a.safetensors", found.tensors)
    (tmp_path / "b.safetensors").write_bytes(b"")
    (tmp_path / "notes.txt").write_bytes(b"")
    shutil.copytree(tiny_sd1, tmp_path / "c")
    text = told(tmp_path, capsys)
    assert "a folder with 3 models in it" in text and "notes" not in text
    assert "  a.safetensors: Stable Diffusion 1.x base model" in text and "  b.safetensors is empty." in text
    assert "  c: Stable Diffusion 1.x base model" in text


def test_a_name_of_the_hub(
    tmp_path: Path, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    text = told(Path("owner/model"), capsys, 2)
    assert "was not downloaded yet" in text and "--pretrained_model_name_or_path owner/model" in text
    moved = tmp_path / "models--stable-diffusion-v1-5--stable-diffusion-v1-5"
    shutil.copytree(tiny_sd1, moved / "snapshots" / "1")
    (moved / "refs").mkdir()
    (moved / "refs" / "main").write_text("1", encoding="utf-8")
    text = told(Path("runwayml/stable-diffusion-v1-5"), capsys)
    assert "(in the cache of the hub): Stable Diffusion 1.x base model" in text and "no longer on the hub" in text


def test_a_known_base_is_described_before_it_is_downloaded(
    tmp_path: Path, tiny_sd1: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    name = "Laxhar/noobai-XL-Vpred-1.0"
    lines = told(Path(name), capsys).splitlines()
    assert lines[0] == f"{name}: NoobAI XL 1.0 (v-pred): tags, Fair AI 1.0-SD"
    assert "velocity" in lines[1] and "zero terminal SNR" in lines[1]
    assert "Not downloaded yet" in lines[2] and lines[2].endswith(name)
    there = tmp_path / f"models--{name.replace('/', '--')}"
    shutil.copytree(tiny_sd1, there / "snapshots" / "1")
    (there / "refs").mkdir()
    (there / "refs" / "main").write_text("1", encoding="utf-8")
    text = told(Path(name), capsys)
    assert "velocity" in text and "with zero terminal SNR" in text and "Fair AI 1.0-SD" in text, "not what its settings say"


def test_a_slip_of_the_pen_is_seen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "dreamy.safetensors").write_bytes(b"")
    assert "Did you mean 'dreamy.safetensors'?" in told(tmp_path / "dremy.safetensors", capsys, 2)
