from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

from lora_core.errors import UserError
from lora_core.models import load as base_models


def quiet(event: object) -> None:
    pass


def test_starter_and_folder_load_frozen_in_the_asked_format(tiny_sd1: Path) -> None:
    for name in ("starter", str(tiny_sd1)):
        model = base_models.load(name, torch.float16, quiet)
        assert model.family.name == "sd1" and model.prediction_type == "epsilon" and model.pixels_per_latent == 8
        for module in model.adapted().values():
            assert {p.dtype for p in module.parameters()} == {torch.float16}
        assert {p.dtype for p in model.vae.parameters()} == {torch.float32}, "SD1's VAE overflows in fp16"
        assert not any(
            p.requires_grad for module in (model.vae, *model.adapted().values()) for p in module.parameters()
        )


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("no such model", "no hub id"), ("C:\\models\\none", "There is no base model"), ("", "There is no base model"),
        ("a/b/c", "There is no base model"), ("{folder}", "model_index.json"), ("{file}", "is no .safetensors file"),
    ],
)  # fmt: skip
def test_what_is_no_base_model_is_told_before_anything_is_loaded(name: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"x")
    with pytest.raises(UserError, match=told):
        base_models.check(name.format(folder=tmp_path, file=tmp_path / "model.safetensors"))


def test_a_model_of_another_family_is_told(tiny_sd1: Path, tmp_path: Path) -> None:
    model = shutil.copytree(tiny_sd1, tmp_path / "model")
    config = model / "unet" / "config.json"
    values = json.loads(config.read_text(encoding="utf-8"))
    config.write_text(json.dumps({**values, "cross_attention_dim": 2048}), encoding="utf-8")
    with pytest.raises(UserError, match="cross-attention width 2048"):
        base_models.check(str(model))


@pytest.mark.parametrize(
    "part",
    ["unet/config.json", "unet/diffusion_pytorch_model.safetensors", "vae/config.json", "tokenizer/tokenizer.json"],
)
def test_an_incomplete_or_truncated_model_is_a_sentence(part: str, tiny_sd1: Path, tmp_path: Path) -> None:
    for damage in (lambda file: file.unlink(), lambda file: file.write_bytes(file.read_bytes()[:50])):
        model = shutil.copytree(tiny_sd1, tmp_path / "model")
        damage(model / part)
        with pytest.raises(UserError) as told:
            base_models.load(str(model), torch.float32, quiet)
        assert "\n" not in str(told.value)
        shutil.rmtree(model)


def test_the_fingerprint_follows_the_weights(tiny_sd1: Path) -> None:
    first, second = (base_models.load(str(tiny_sd1), torch.float32, quiet) for _ in range(2))
    assert base_models.fingerprint(first, "vae") == base_models.fingerprint(second, "vae")
    second.fingerprints.clear()
    with torch.no_grad():
        next(second.vae.parameters())[0] += 1
    assert base_models.fingerprint(first, "vae") != base_models.fingerprint(second, "vae")
