"""Captions as tags, by a tagger of the WD14 kind: SmilingWolf's, trained on the tags of Danbooru.

The model is the plain vision transformer of Dosovitskiy et al. 2021 ("An Image is Worth 16x16 Words") as timm names
its weights: without a class token, the mean of all patches into one linear layer, a sigmoid for each tag.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from lora_core.captioners.inputs import Describe, loaded, numbers, settings, unusable
from lora_core.messages import Message
from lora_core.models.checkpoint_keys import Place
from lora_core.system import tensor_headers

GENERAL, CHARACTER = "0", "4"  # Danbooru's numbers of categories; the ratings, 9, are no part of a caption
SUREST = 0.75  # confidence that a character's name needs at least
HEAD_DIM, EPS = 64, 1e-6
ACTIVATIONS = {"gelu": "none", "gelu_tanh": "tanh"}  # timm's names to torch's


@dataclass(frozen=True)
class Tag:
    name: str  # with underscores
    category: str


@dataclass(frozen=True)
class Shape:
    """What a tagger's weights tell of it; `grid` is the number of patches along a side."""

    width: int
    depth: int
    hidden: int
    patch: int
    grid: int
    tags: int
    approximate: str  # of GELU, as torch names it
    norms_mean: bool  # the last norm is taken of the mean of all patches (timm's fc_norm), not of each

    @property
    def side(self) -> int:
        """Of the pictures, in pixels."""
        return self.patch * self.grid


class Block(nn.Module):
    """Attention and feed-forward, each after its norm and beside what it adds to."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        width, self.approximate = shape.width, shape.approximate
        self.norm1, self.norm2 = nn.LayerNorm(width, EPS), nn.LayerNorm(width, EPS)
        self.attn = nn.ModuleDict({"qkv": nn.Linear(width, 3 * width), "proj": nn.Linear(width, width)})
        self.mlp = nn.ModuleDict({"fc1": nn.Linear(width, shape.hidden), "fc2": nn.Linear(shape.hidden, width)})

    def forward(self, x_BNC: Tensor) -> Tensor:
        q, k, v = self.attn["qkv"](self.norm1(x_BNC)).unflatten(-1, (3, -1, HEAD_DIM)).permute(2, 0, 3, 1, 4)
        seen_BHND = F.scaled_dot_product_attention(q, k, v)
        x_BNC = x_BNC + self.attn["proj"](seen_BHND.transpose(1, 2).flatten(2))
        bent_BNH = F.gelu(self.mlp["fc1"](self.norm2(x_BNC)), approximate=self.approximate)
        grown_BNC: Tensor = x_BNC + self.mlp["fc2"](bent_BNH)
        return grown_BNC


class Tagger(nn.Module):
    """Pictures (batch x 3 x side x side) to a logit for each tag (batch x tags)."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.patch_embed = nn.ModuleDict({"proj": nn.Conv2d(3, shape.width, shape.patch, shape.patch)})
        self.pos_embed = nn.Parameter(torch.zeros(1, shape.grid**2, shape.width))
        self.blocks = nn.Sequential(*(Block(shape) for _ in range(shape.depth)))
        norm = nn.LayerNorm(shape.width, EPS)
        self.norm: nn.Module = nn.Identity() if shape.norms_mean else norm
        self.fc_norm: nn.Module = norm if shape.norms_mean else nn.Identity()
        self.head = nn.Linear(shape.width, shape.tags)

    def forward(self, pixels_BCHW: Tensor) -> Tensor:
        x_BNC = self.patch_embed["proj"](pixels_BCHW).flatten(2).transpose(1, 2) + self.pos_embed
        logits_BT: Tensor = self.head(self.fc_norm(self.norm(self.blocks(x_BNC)).mean(1)))
        return logits_BT


def load(folder: Path, device: torch.device) -> Describe:
    """A tagger from a folder as timm saves it, with selected_tags.csv. Raises UserError for files that are none."""
    file = folder / "model.safetensors"
    shape, tags = shape_of(file, settings(folder / "config.json")), read_tags(folder / "selected_tags.csv")
    if len(tags) != shape.tags:
        why = Message("captioners.odd_tags", count=len(tags), wanted=shape.tags)
        raise unusable(folder / "selected_tags.csv", why)
    model = loaded(lambda: Tagger(shape), file, device, lambda name: [Place(name)])

    def describe(image: Image.Image, threshold: float) -> str:
        pixels_BCHW = prepared(image, shape.side).to(device, model.head.weight.dtype)
        with torch.inference_mode():
            confidences = model(pixels_BCHW)[0].float().sigmoid().tolist()
        return caption(tags, confidences, threshold)

    return describe


def shape_of(file: Path, config: dict[str, Any]) -> Shape:
    """The shape of the tagger in a file with timm's config.json. Raises UserError when it is no plain transformer."""
    found = {name: tensor.shape for name, tensor in tensor_headers.read(file).tensors.items()}
    asked = config.get("model_args")
    arguments = asked if isinstance(asked, dict) else {}
    if (act := str(arguments.get("act_layer") or "gelu")) not in ACTIVATIONS:
        raise unusable(file.with_name("config.json"), Message("captioners.odd_activation", name=act))
    try:
        width, _, patch, _ = found["patch_embed.proj.weight"]
        patches = found["pos_embed"][1]
        shape = Shape(
            width, depth=len({name.split(".")[1] for name in found if name.startswith("blocks.")}),
            hidden=found["blocks.0.mlp.fc1.weight"][0], patch=patch, grid=round(patches**0.5), tags=found["head.weight"][0],
            approximate=ACTIVATIONS[act], norms_mean="fc_norm.weight" in found,
        )  # fmt: skip
    except (KeyError, ValueError, IndexError) as cause:
        raise unusable(file, Message("captioners.odd_weight", cause=cause)) from cause
    if width % HEAD_DIM or shape.grid**2 != patches:
        raise unusable(file, Message("captioners.odd_shape", width=width, patches=patches))
    with torch.device("meta"):
        known = Tagger(shape).state_dict()
    if others := sorted(found.keys() - known.keys()):
        raise unusable(file, Message("captioners.also_holds", name=others[0]))
    return shape


def read_tags(file: Path) -> list[Tag]:
    """The tags in the order of the model's outputs. Raises UserError for a file that is no such list."""
    try:
        with open(file, encoding="utf-8", newline="") as lines:
            return [Tag(row["name"], row["category"]) for row in csv.DictReader(lines)]
    except (OSError, ValueError, KeyError, csv.Error) as cause:
        raise unusable(file, Message("captioners.no_tags")) from cause


def prepared(image: Image.Image, side: int) -> Tensor:
    """A picture as the taggers learned them: in the middle of a white square, `side` pixels large, blue first, -1 to 1."""
    longer = max(image.size)
    square = Image.new("RGB", (longer, longer), (255, 255, 255))
    square.paste(image, ((longer - image.width) // 2, (longer - image.height) // 2))
    rgb_BCHW = numbers(square.resize((side, side), Image.Resampling.BICUBIC), (0.5,) * 3, (0.5,) * 3)
    return rgb_BCHW.flip(1)


def caption(tags: Sequence[Tag], confidences: Sequence[float], threshold: float) -> str:
    """The tags whose confidence is above `threshold`, the surest first; characters, which need more, before the rest."""
    found = sorted(zip(confidences, tags, strict=True), key=lambda pair: -pair[0])
    wanted = [(CHARACTER, max(SUREST, threshold)), (GENERAL, threshold)]
    names = [tag.name for kind, least in wanted for sure, tag in found if tag.category == kind and sure > least]
    return ", ".join(spelled(name) for name in names)


def spelled(name: str) -> str:
    """A tag as a caption spells it: "long hair", but "^_^". Faces have no three letters in a row."""
    return name.replace("_", " ") if re.search(r"[^\W\d_]{3}", name) else name
