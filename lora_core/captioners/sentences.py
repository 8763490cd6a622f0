"""Captions as sentences, by BLIP (Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training").

Pictures are brought to the model's size with Pillow alone, for transformers' own processor asks for torchvision on
graphics cards and none is needed. Beam search without chance: the same picture gives the same sentence.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from PIL import Image
from tokenizers import Tokenizer
from transformers import BlipConfig, BlipForConditionalGeneration

from lora_core.captioners.inputs import Describe, loaded, numbers, settings, unusable
from lora_core.messages import Message
from lora_core.models.checkpoint_keys import Place

BEAMS, LONGEST = 3, 40  # tokens
# What Radford et al. 2021 (CLIP) trained with, and BLIP after them.
MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
# The large checkpoint's own stutter, which means nothing: "arafed man", "an araffe dog".
_STUTTER = r"\baraf+ed?\b"
_LAST = "text_decoder.cls.predictions"
_TIED = (
    (f"{_LAST}.decoder.weight", "text_decoder.bert.embeddings.word_embeddings.weight"),
    (f"{_LAST}.decoder.bias", f"{_LAST}.bias"),
)


def load(folder: Path, device: torch.device) -> Describe:
    """BLIP from a folder as transformers saves it. Raises UserError for files that are no BLIP."""
    config = _config(folder / "config.json")
    size, mean, std = _processing(folder / "preprocessor_config.json")
    vocabulary = _vocabulary(folder / "tokenizer.json")
    model = loaded(lambda: BlipForConditionalGeneration(config), folder / "model.safetensors", device, _places)
    if size != (config.vision_config.image_size,) * 2:
        why = Message("captioners.odd_size", width=size[0], height=size[1])
        raise unusable(folder / "preprocessor_config.json", why)
    end = config.text_config.sep_token_id

    def describe(image: Image.Image, threshold: float) -> str:
        pixels_BCHW = numbers(image.resize(size, Image.Resampling.BICUBIC), mean, std).to(device, model.dtype)
        with torch.inference_mode():
            tokens = model.generate(pixels_BCHW, num_beams=BEAMS, max_new_tokens=LONGEST, do_sample=False)[0].tolist()
        words = tokens[1:]  # the first is the sign to begin
        return cleaned(vocabulary.decode(words[: words.index(end)] if end in words else words))

    return describe


def cleaned(sentence: str) -> str:
    """A sentence of BLIP without its stutter and without words and phrases that come twice in a row."""
    text = " ".join(sentence.split())
    # "an arafed man" is "a man".
    text = re.sub(rf"\ban? {_STUTTER} (?=(\w))", lambda found: "an " if found[1] in "aeiou" else "a ", text)
    text, before = " ".join(re.sub(_STUTTER, "", text).split()), ""
    while text != before:  # words that come twice may hide phrases that do
        before, text = text, re.sub(r"(?<!\S)(\S+(?: \S+)*?)(?: \1)+(?!\S)", r"\1", text)
    return text


def _config(file: Path) -> Any:
    table = settings(file)
    if table.get("model_type") != "blip":
        raise unusable(file, Message("captioners.not_blip"))
    try:
        return BlipConfig.from_dict(table)
    except (StrictDataclassError, ValueError, TypeError, KeyError, AttributeError) as cause:
        raise unusable(file, Message("captioners.senseless_settings")) from cause


def _processing(file: Path) -> tuple[tuple[int, int], Sequence[float], Sequence[float]]:
    """Width and height that pictures are brought to, and the mean and deviation of each channel."""
    table = settings(file)
    try:
        size = int(table["size"]["width"]), int(table["size"]["height"])
        mean = [float(each) for each in table.get("image_mean", MEAN)]
        std = [float(each) for each in table.get("image_std", STD)]
        if len(mean) != 3 or len(std) != 3 or 0 in std:
            raise ValueError("not three channels")
        return size, mean, std
    except (ValueError, TypeError, KeyError) as cause:
        raise unusable(file, Message("captioners.senseless_settings")) from cause


def _vocabulary(file: Path) -> Tokenizer:
    try:
        return Tokenizer.from_file(str(file))
    except Exception as cause:  # the tokenizers library raises plain Exceptions
        raise unusable(file, Message("captioners.unreadable")) from cause


def _places(name: str) -> list[Place]:
    """A weight by its own name, or by that of the one it is tied to: files hold one of them or both."""
    return [Place(name), *(Place(other) for pair in _TIED for other in pair if name in pair and other != name)]
