"""Both captioners with random weights, a few hundred kilobytes, as repositories of a hub on loopback.

The tagger answers ALWAYS to every picture, for only its last bias is not zero; the sentences are random words.
"""

from __future__ import annotations

import json

import safetensors.torch
import torch
from tokenizers import Tokenizer, decoders, normalizers, pre_tokenizers
from tokenizers.models import WordPiece
from transformers import BlipConfig, BlipForConditionalGeneration

from lora_core.captioners import CAPTIONERS
from lora_core.captioners.tags import Shape, Tagger
from tests.support.hub_server import Repo

ALWAYS = "solo, outdoors"  # what the tagger says at the usual threshold
TAGS = (  # name, Danbooru's category, confidence
    ("general", 9, 0.99), ("outdoors", 0, 0.8), ("solo", 0, 0.9), ("long_hair", 0, 0.3), ("^_^", 0, 0.2),
    ("rex_(dinosaur)", 4, 0.7),
)  # fmt: skip
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
WORDS = ("a", "red", "dog", "on", "the", "beach", "with", "hat", "##s", "and", "tree", "blue")
FIRST = len(SPECIAL) + len(WORDS)  # the sign to begin has a number after the vocabulary, as in BLIP


def repos() -> dict[str, Repo]:
    """The hub's repositories by id, each with everything its captioner asks for and with what it does not."""
    return {CAPTIONERS["sentences"].repo: Repo(blip_files()), CAPTIONERS["tags"].repo: Repo(tagger_files())}


def blip_files() -> dict[str, bytes]:
    """A BLIP for pictures of 32 pixels, the same every time."""
    torch.manual_seed(0)
    model = BlipForConditionalGeneration(blip_config())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" not in name.lower():
                parameter.normal_(std=1.0 if "embedding" in name else 0.4)
        bias = model.text_decoder.cls.predictions.bias
        bias.zero_()
        bias[: len(SPECIAL)] = -100.0
        bias[FIRST:] = -100.0
    processing = {
        "size": {"height": 32, "width": 32}, "resample": 3, "image_mean": [0.5, 0.4, 0.3], "image_std": [0.3, 0.25, 0.2],
    }  # fmt: skip
    # The two matrices that are tied are one in the file, as on the hub.
    weights = {k: v for k, v in model.state_dict().items() if not k.startswith("text_decoder.cls.predictions.decoder.")}
    return {
        "config.json": as_json(model.config.to_dict()),
        "preprocessor_config.json": as_json(processing),
        "tokenizer.json": tokenizer().to_str().encode(),
        "model.safetensors": safetensors.torch.save(weights),
        "pytorch_model.bin": b"a pickle that nobody asks for",
    }


def blip_config() -> BlipConfig:
    text = {
        "vocab_size": FIRST + 2, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
        "num_attention_heads": 2, "max_position_embeddings": 64, "bos_token_id": FIRST,
        "sep_token_id": SPECIAL.index("[SEP]"), "pad_token_id": 0, "eos_token_id": 2,
    }  # fmt: skip
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 16,
    }  # fmt: skip
    return BlipConfig(text_config=text, vision_config=vision)


def tokenizer() -> Tokenizer:
    """BERT's kind of tokenizer with a dozen words."""
    made = Tokenizer(WordPiece({word: n for n, word in enumerate(SPECIAL + WORDS)}, unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece(prefix="##")
    made.add_special_tokens(list(SPECIAL))
    return made


def tagger_files() -> dict[str, bytes]:
    """A tagger for pictures of 32 pixels that always has the confidences of TAGS."""
    weights = {name: torch.zeros_like(tensor) for name, tensor in tagger().state_dict().items()}
    weights["head.bias"] = torch.logit(torch.tensor([confidence for *_, confidence in TAGS]))
    return {
        "config.json": as_json(tagger_config()),
        "selected_tags.csv": tag_list(),
        "model.safetensors": safetensors.torch.save(weights),
        "model.onnx": b"the same for another program",
    }


def tagger(norms_mean: bool = False, approximate: str = "tanh") -> Tagger:
    return Tagger(Shape(128, 2, 96, 8, 4, len(TAGS), approximate, norms_mean)).requires_grad_(False)


def tagger_config(act: str = "gelu_tanh") -> dict[str, object]:
    """As timm writes it."""
    return {"architecture": "vit_base_patch16_224", "model_args": {"act_layer": act, "class_token": False, "img_size": 32}}


def tag_list() -> bytes:
    rows = [f"{100 + number},{name},{category},1000" for number, (name, category, _) in enumerate(TAGS)]
    return "\n".join(["tag_id,name,category,count", *rows, ""]).encode()


def as_json(table: object) -> bytes:
    return json.dumps(table).encode()
