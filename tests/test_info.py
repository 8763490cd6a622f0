"""`treino.py info PATH` as a person types it."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_core import cli
from tests import stripped


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
