"""Captions become the tokens and states that diffusers' own pipelines make of them, from a folder and from one file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from transformers import CLIPTokenizer

from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.starter.tokens import build_tokenizer
from tests.support.single_files import FAMILIES, tiny_assets, tiny_checkpoint, use, write
from tests.support.twins import save_twin

PIPELINES: dict[str, Any] = {
    "sd1": StableDiffusionPipeline, "sd2": StableDiffusionPipeline, "sdxl": StableDiffusionXLPipeline,
}  # fmt: skip
CAPTIONS = ["a red ball, on a table", "cow", "", "a cow " * 60, "Ação (zebu:1.2) 東京"]
END = "<|endoftext|>"


def load(path: Path) -> BaseModel:
    return base_models.load(str(path), torch.float32, lambda event: None)


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory, tiny_sd1: Path) -> dict[str, Path]:
    """A diffusers folder of each family, whose tokenizers pad with what the published ones pad with."""
    home = tmp_path_factory.mktemp("folders")
    sd2, sdxl = (save_twin(family, home / family) for family in ("sd2", "sdxl"))
    padding = build_tokenizer()
    padding.pad_token = "!"
    padding.save_pretrained(sd2 / "tokenizer")
    return {"sd1": tiny_sd1, "sd2": sd2, "sdxl": sdxl}


def assert_as_the_pipeline(model: BaseModel, pipeline: Any) -> None:
    """`encode_prompt` of the library tokenizes, pads and encodes by itself."""
    for caption in CAPTIONS:
        with torch.no_grad():
            ours = model.family.encode_text(model, model.family.tokenize(model, [caption]))
            theirs = pipeline.encode_prompt(
                prompt=caption, device="cpu", num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        if caption or "pooled" not in ours:  # SDXL's empty caption is zeros, as its pipeline has it for guidance alone
            torch.testing.assert_close(ours["encoder_hidden_states"], theirs[0])
            if "pooled" in ours:
                torch.testing.assert_close(ours["pooled"], theirs[2])
        else:
            assert not ours["encoder_hidden_states"].any() and not ours["pooled"].any()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_folder_s_captions_are_encoded_as_by_the_library(family: str, folders: dict[str, Path]) -> None:
    """The library loads its pipeline by itself."""
    pipeline = PIPELINES[family].from_pretrained(folders[family], local_files_only=True)
    assert_as_the_pipeline(load(folders[family]), pipeline)


def ids(tokenizer: Any) -> list[int]:
    found: list[int] = tokenizer("a cow", padding="max_length", max_length=77, truncation=True).input_ids
    return found


@pytest.mark.parametrize("family", FAMILIES)
def test_what_captions_are_padded_with(
    family: str, folders: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SD1 and SDXL's first encoder with the end mark; SD2 and SDXL's second, which are OpenCLIP's, with the first id."""
    assets = tiny_assets(tmp_path / "assets")
    use(monkeypatch, assets)
    single = load(write(tmp_path / "model.safetensors", tiny_checkpoint(family, assets)))
    zeros = {"sd1": (), "sd2": ("tokenizer",), "sdxl": ("tokenizer_2",)}[family]
    for model in (load(folders[family]), single):
        assert set(model.tokenizers) == {"tokenizer", *zeros}
        for name, tokens in model.family.tokenize(model, ["a cow"]).items():
            tokenizer: CLIPTokenizer = model.tokenizers[name]
            end = tokenizer.convert_tokens_to_ids(END)
            (row,) = tokens.tolist()
            length = row.index(end) + 1
            assert length < 10 and row[length:] == [0 if name in zeros else end] * (77 - length)
    for name, tokenizer in single.tokenizers.items():  # the real vocabulary, in numbers known from the published models
        assert ids(tokenizer) == [49406, 320, 9706, 49407, *[0 if name in zeros else 49407] * 73]
