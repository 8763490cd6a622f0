from __future__ import annotations

from pathlib import Path

import pytest
from safetensors import safe_open
from transformers import CLIPTokenizer

from lora_core.starter.score import MODEL, score_model
from lora_core.starter.world import NEW_SHAPE, SHAPES

MODEL_FILES = ("unet/diffusion_pytorch_model", "vae/diffusion_pytorch_model", "text_encoder/model")


def test_the_model_is_small_and_in_fp16() -> None:
    assert sum(path.stat().st_size for path in MODEL.rglob("*") if path.is_file()) <= 16_000_000
    for name in MODEL_FILES:
        with safe_open(MODEL / f"{name}.safetensors", "pt") as file:
            assert {str(file.get_tensor(key).dtype) for key in file.keys()} == {"torch.float16"}  # noqa: SIM118


@pytest.mark.timeout(600)
def test_it_draws_what_it_is_asked_for() -> None:
    """200 prompts whose combination of shape, colour and background was kept from training, 25 DDIM steps."""
    score = score_model(prompts=200)
    assert score["drawings_right"] >= 0.98, "the check itself must be trustworthy"
    assert score["reconstructions_right"] >= 0.97, score
    assert score["prompts_right"] >= 0.90, score


@pytest.mark.parametrize(
    "text", ["", "a red ampulheta", "漢字 и кириллица", "emoji 😀🎨", "ação, coração", "\t\n  x", "a" * 2000]
)
def test_any_text_has_tokens(text: str) -> None:
    tokenizer = CLIPTokenizer.from_pretrained(MODEL / "tokenizer", local_files_only=True)
    ids = tokenizer(text, padding="max_length", max_length=77, truncation=True).input_ids
    assert len(ids) == 77 and ids[0] == tokenizer.bos_token_id and tokenizer.eos_token_id in ids[1:]
    if 0 < len(text) < 50:
        words = tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "")
        assert words == "".join(text.lower().split())


def test_the_new_concept_is_none_of_its_shapes() -> None:
    assert NEW_SHAPE not in SHAPES
    captions = [path.read_text(encoding="utf-8") for path in Path("Training").glob("*.txt")]
    assert len(captions) == 12 and all("ampulheta" in caption for caption in captions)
