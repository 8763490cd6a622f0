"""lora_core.captioners with tiny models from a hub on loopback: nothing is downloaded, nothing is pretended."""

from __future__ import annotations

import gc
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import torch.nn.functional as F
from PIL import Image
from tokenizers import Tokenizer
from torch import Tensor, nn
from transformers import BlipForConditionalGeneration
from transformers.models.blip.image_processing_pil_blip import BlipImageProcessorPil

from lora_core import captioners
from lora_core.captioners import CAPTIONERS, Captioner, describe, inputs, is_here, sentences, tags, to_describe
from lora_core.captioners.tags import Tag, Tagger
from lora_core.errors import UserError
from lora_core.events import Event, Phase, Warned
from lora_core.messages import say
from lora_core.training.controls import Stopped
from tests.support import tiny_captioners as tiny
from tests.support.hub_server import HubServer, in_use

CPU = torch.device("cpu")
BOTH = pytest.mark.parametrize("name", CAPTIONERS)


@pytest.fixture(scope="module")
def repos() -> dict[str, Any]:
    return tiny.repos()


@pytest.fixture
def server(repos: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    with in_use(dict(repos), tmp_path / "hf", monkeypatch) as running:
        yield running


@pytest.fixture
def pictures(tmp_path: Path) -> list[Path]:
    """Three pictures: a plain one, one with transparency, one in printing colours."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    noise().save(folder / "0.png")
    noise(1).convert("RGBA").save(folder / "1.png")
    noise(2).convert("CMYK").save(folder / "2.jpg")
    return sorted(folder.iterdir())


def noise(seed: int = 0, size: tuple[int, int] = (90, 60)) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8))


def phases(events: list[Event], name: str) -> list[tuple[int, int]]:
    return [(event.done, event.total) for event in events if isinstance(event, Phase) and event.name == name]


def put(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def loaded_models() -> int:
    """How many captioners are in memory."""
    return sum(issubclass(type(each), (Tagger, BlipForConditionalGeneration)) for each in gc.get_objects())


# ---- describing -----------------------------------------------------------------------------------------------------


@BOTH
def test_downloaded_once_then_used_without_a_network(name: str, server: HubServer, pictures: list[Path]) -> None:
    captioner, events = CAPTIONERS[name], list[Event]()
    assert not is_here(name)
    captions = dict(describe(name, pictures, events.append))
    assert list(captions) == pictures
    assert all(captions.values())
    assert server.fetched() == set(captioner.files)
    assert is_here(name)
    download = phases(events, "download")
    assert download[-1][0] == download[-1][1] > 0
    assert phases(events, "captioner") == [(0, 0)]
    assert phases(events, "describe") == [(0, 3), (1, 3), (2, 3), (3, 3)]
    server.requests.clear()
    events.clear()
    assert dict(describe(name, pictures, events.append)) == captions
    assert server.requests == [] and phases(events, "download") == []
    assert loaded_models() == 0


def test_the_tiny_tagger_says_what_it_always_says(server: HubServer, pictures: list[Path]) -> None:
    assert {text for _, text in describe("tags", pictures, lambda event: None)} == {tiny.ALWAYS}
    assert [text for _, text in describe("tags", pictures[:1], lambda event: None, 0.95)] == [""]
    assert [text for _, text in describe("tags", pictures[:1], lambda event: None, 0.25)] == [f"{tiny.ALWAYS}, long hair"]


@pytest.mark.parametrize("at", ["download", "captioner", "describe"])
def test_cancelled_where_progress_is_told(at: str, server: HubServer, pictures: list[Path]) -> None:
    def emit(event: Event) -> None:
        if isinstance(event, Phase) and event.name == at and (event.done or at != "describe"):
            raise Stopped

    described = describe("tags", pictures, emit)
    captions = []
    with pytest.raises(Stopped):
        captions.extend(described)  # what came before is kept, in the list
    assert loaded_models() == 0
    assert len(dict(describe("tags", pictures, lambda event: None))) == 3


def test_cancelled_by_who_reads(server: HubServer, pictures: list[Path]) -> None:
    described = describe("tags", pictures, lambda event: None)
    next(described)
    assert loaded_models() == 1
    described.close()  # type: ignore[attr-defined]
    assert loaded_models() == 0


def test_a_picture_that_cannot_be_read_is_told_and_left_out(server: HubServer, pictures: list[Path]) -> None:
    pictures[1].write_bytes(pictures[1].read_bytes()[:2000])
    pictures.append(pictures[0].with_name("gone.png"))
    events: list[Event] = []
    assert [path for path, _ in describe("tags", pictures, events.append)] == [pictures[0], pictures[2]]
    told = [str(event.message) for event in events if isinstance(event, Warned)]
    assert told[0].startswith("1.png breaks off in the middle") and told[1].startswith("gone.png cannot be opened")
    assert phases(events, "describe")[-1] == (4, 4)


def test_no_captioner_without_a_hub(server: HubServer, pictures: list[Path]) -> None:
    del server.repos[CAPTIONERS["tags"].repo]
    with pytest.raises(UserError, match="There is no model SmilingWolf/wd-vit-tagger-v3"):
        next(describe("tags", pictures, lambda event: None))


@pytest.mark.parametrize("error", [torch.OutOfMemoryError("CUDA"), MemoryError(), RuntimeError("DefaultCPUAllocator")])
def test_too_little_memory_is_a_sentence(
    error: Exception, server: HubServer, pictures: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(folder: Path, device: torch.device) -> captioners.Describe:
        raise error

    whole = CAPTIONERS["tags"]
    short = Captioner(whole.name, whole.repo, whole.files, whole.megabytes, load)
    monkeypatch.setitem(CAPTIONERS, "tags", short)
    with pytest.raises(UserError, match="has no memory left for the captioner") as caught:
        next(describe("tags", pictures, lambda event: None))
    assert " memória " in say(caught.value.message, "pt-BR")
    error = torch.AcceleratorError("CUDA error: unknown error")
    with pytest.raises(UserError, match="unknown error.*restart Treino"):
        next(describe("tags", pictures, lambda event: None))


def test_which_pictures_are_described(tmp_path: Path) -> None:
    names = ("0.png", "1.jpg", "1.png", "2.png", "3.png", "4.png")
    captions = {tmp_path / name: "a dog" if name == "3.png" else "" for name in names}
    (tmp_path / "2.txt").mkdir()  # no text file, so nothing that could be written
    (tmp_path / "3.txt").write_text("a dog", encoding="utf-8")
    (tmp_path / "4.txt").write_text("", encoding="utf-8")
    assert [path.name for path in to_describe(captions, replace=False)] == ["0.png", "1.jpg", "4.png"]
    assert [path.name for path in to_describe(captions, replace=True)] == ["0.png", "1.jpg", "3.png", "4.png"]


# ---- tags -----------------------------------------------------------------------------------------------------------


def reference(state: dict[str, Tensor], pixels_BCHW: Tensor, approximate: str) -> Tensor:
    """The same network of torch's own encoder layers."""
    x = F.conv2d(pixels_BCHW, state["patch_embed.proj.weight"], state["patch_embed.proj.bias"], stride=8)
    x = x.flatten(2).transpose(1, 2) + state["pos_embed"]

    def gelu(x: Tensor) -> Tensor:
        return F.gelu(x, approximate=approximate)

    for block in range(2):
        layer = nn.TransformerEncoderLayer(128, 2, 96, 0.0, gelu, 1e-6, batch_first=True, norm_first=True)
        names = {
            "self_attn.in_proj_": "attn.qkv.", "self_attn.out_proj.": "attn.proj.", "linear1.": "mlp.fc1.",
            "linear2.": "mlp.fc2.", "norm1.": "norm1.", "norm2.": "norm2.",
        }  # fmt: skip
        pairs = [(own + kind, name + kind) for own, name in names.items() for kind in ("weight", "bias")]
        layer.load_state_dict({own: state[f"blocks.{block}.{name}"] for own, name in pairs})
        x = layer.eval()(x)
    if "fc_norm.weight" in state:
        x = F.layer_norm(x.mean(1), (128,), state["fc_norm.weight"], state["fc_norm.bias"], 1e-6)
    else:
        x = F.layer_norm(x, (128,), state["norm.weight"], state["norm.bias"], 1e-6).mean(1)
    return x @ state["head.weight"].T + state["head.bias"]


@pytest.mark.parametrize(("act", "approximate"), [("gelu", "none"), ("gelu_tanh", "tanh")])
@pytest.mark.parametrize("norms_mean", [False, True])
def test_the_transformer_is_that_of_torch(act: str, approximate: str, norms_mean: bool, tmp_path: Path) -> None:
    torch.manual_seed(1)
    state = {name: torch.randn_like(tensor) * 0.2 for name, tensor in tiny.tagger(norms_mean).state_dict().items()}
    file = tmp_path / "model.safetensors"
    safetensors.torch.save_file(state, file)
    shape = tags.shape_of(file, tiny.tagger_config(act))
    assert (shape.side, shape.depth, shape.approximate, shape.norms_mean) == (32, 2, approximate, norms_mean)
    model = Tagger(shape)
    model.load_state_dict(state)
    pixels_BCHW = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        torch.testing.assert_close(model(pixels_BCHW), reference(state, pixels_BCHW, approximate), rtol=1e-4, atol=1e-5)


def test_a_loaded_tagger_answers_what_its_weights_say(tmp_path: Path) -> None:
    torch.manual_seed(2)
    state = {name: torch.randn_like(tensor) * 0.3 for name, tensor in tiny.tagger().state_dict().items()}
    folder = put(tmp_path / "m", {**tiny.tagger_files(), "model.safetensors": safetensors.torch.save(state)})
    read = tags.read_tags(folder / "selected_tags.csv")
    for seed in range(3):
        pixels_BCHW = tags.prepared(noise(seed), 32)
        sure = reference(state, pixels_BCHW, "tanh")[0].sigmoid().tolist()
        assert tags.load(folder, CPU)(noise(seed), 0.3) == tags.caption(read, sure, 0.3)


def test_pictures_stand_on_a_white_square_blue_first() -> None:
    pixels_BCHW = tags.prepared(Image.new("RGB", (40, 20), (255, 0, 51)), 40)
    assert pixels_BCHW.shape == (1, 3, 40, 40)
    assert pixels_BCHW[0, :, 0, 20].tolist() == [1, 1, 1] == pixels_BCHW[0, :, -1, 20].tolist()
    torch.testing.assert_close(pixels_BCHW[0, :, 20, 0], torch.tensor([-0.6, -1.0, 1.0]))


def test_the_rules_of_a_caption() -> None:
    known = [Tag(name, str(category)) for name, category, _ in tiny.TAGS]
    sure = [0.99, 0.5, 0.6, 0.35, 0.4, 0.76]
    assert tags.caption(known, sure, 0.35) == "rex (dinosaur), solo, outdoors, ^_^"
    assert tags.caption(known, sure, 0.8) == ""  # nor the rating, which is surest
    assert tags.caption(known, [0.99, 0.5, 0.6, 0.35, 0.4, 0.75], 0.55) == "solo"


@pytest.mark.parametrize(
    ("name", "caption"),
    [
        ("long_hair", "long hair"), ("1girl", "1girl"), ("^_^", "^_^"), ("0_0", "0_0"), (">_o", ">_o"),
        ("(o)_(o)", "(o)_(o)"), ("rex_(dinosaur)", "rex (dinosaur)"), ("açaí_na_tigela", "açaí na tigela"),
    ],
)  # fmt: skip
def test_underscores(name: str, caption: str) -> None:
    assert tags.spelled(name) == caption


def _without(name: str) -> bytes:
    state = safetensors.torch.load(tiny.tagger_files()["model.safetensors"])
    return safetensors.torch.save({key: value for key, value in state.items() if key != name})


def _with(name: str, shape: tuple[int, ...]) -> bytes:
    state = safetensors.torch.load(tiny.tagger_files()["model.safetensors"])
    return safetensors.torch.save({**state, name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("model.safetensors", lambda: _without("pos_embed"), "'pos_embed' is not as a tagger has it"),
        ("model.safetensors", lambda: _without("blocks.1.attn.proj.bias"), "blocks.1.attn.proj.bias is not in the file"),
        ("model.safetensors", lambda: _with("blocks.0.ls1.gamma", (128,)), "also holds blocks.0.ls1.gamma"),
        ("model.safetensors", lambda: _with("cls_token", (1, 1, 128)), "also holds cls_token"),
        ("model.safetensors", lambda: _with("pos_embed", (1, 17, 128)), "17 patches is no tagger"),
        ("model.safetensors", lambda: _with("patch_embed.proj.weight", (100, 3, 8, 8)), "100 channels"),
        ("model.safetensors", lambda: _with("blocks.0.attn.qkv.weight", (128, 128)), "blocks.0.attn.qkv.weight is"),
        ("model.safetensors", lambda: tiny.tagger_files()["model.safetensors"][:9000], "truncated"),
        ("selected_tags.csv", lambda: tiny.tag_list() + b"9,more,0,1\n", "it has 7 tags, and the model 6"),
        ("selected_tags.csv", lambda: b"a,b\n1,2\n", "no list of tags"),
        ("selected_tags.csv", lambda: b"name,category\n\xff\xfe\n", "no list of tags"),
        ("config.json", lambda: tiny.as_json(tiny.tagger_config("silu")), "no tagger has silu"),
        ("config.json", lambda: b"[]", "no settings"),
        ("config.json", lambda: b"{", "cannot be read"),
    ],
)  # fmt: skip
def test_what_is_no_tagger_is_told(file: str, content: Any, words: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "m", {**tiny.tagger_files(), file: content()})
    with pytest.raises(UserError, match=words) as caught:
        tags.load(folder, CPU)
    assert str(folder / file).replace("\\", "/") in str(caught.value).replace("\\", "/")
    if "truncated" not in words:
        assert say(caught.value.message, "pt-BR") != str(caught.value)


# ---- sentences ------------------------------------------------------------------------------------------------------


def test_sentences_are_those_of_transformers(tmp_path: Path) -> None:
    """Its own loading, its own processing of pictures, its own search, with the same file."""
    folder = put(tmp_path / "m", {k: v for k, v in tiny.blip_files().items() if not k.endswith(".bin")})
    theirs = BlipForConditionalGeneration.from_pretrained(folder).eval()
    processing = BlipImageProcessorPil(**json.loads((folder / "preprocessor_config.json").read_bytes()))
    words = Tokenizer.from_file(str(folder / "tokenizer.json"))
    said, ours = set(), sentences.load(folder, CPU)
    for seed in range(4):
        pixels_BCHW = processing(noise(seed), return_tensors="pt")["pixel_values"]
        own_BCHW = inputs.numbers(noise(seed).resize((32, 32), Image.Resampling.BICUBIC), (0.5, 0.4, 0.3), (0.3, 0.25, 0.2))
        torch.testing.assert_close(own_BCHW, pixels_BCHW, rtol=1e-4, atol=1e-4)
        with torch.inference_mode():
            tokens = theirs.generate(pixels_BCHW, num_beams=3, max_new_tokens=40, do_sample=False)[0]
        said.add(ours(noise(seed), 0.0))
        assert ours(noise(seed), 0.9) == sentences.cleaned(words.decode(tokens.tolist()))
    assert len(said) > 1 and "" not in said  # it looks at the pictures


@pytest.mark.parametrize(
    ("said", "cleaned"),
    [
        ("a dog on a beach", "a dog on a beach"),
        ("arafed woman in a red dress", "woman in a red dress"),
        ("there is an arafed man with an araffe hat", "there is a man with a hat"),
        ("a araffed image of a araffe dog", "an image of a dog"),
        ("a giraffe and a carafe", "a giraffe and a carafe"),
        ("a a dog dog  on the the beach", "a dog on the beach"),
        ("a man with a hat on top of a hat on top of a hat on top of a hat", "a man with a hat on top of a hat"),
        ("red red beach beach red red beach beach red", "red beach red"),
        ("a boy and a girl and a dog", "a boy and a girl and a dog"),
        ("the theory of a an", "the theory of a an"),
        ("", ""),
    ],
)  # fmt: skip
def test_what_is_cleaned_from_a_sentence(said: str, cleaned: str) -> None:
    assert sentences.cleaned(said) == cleaned


def _changed(file: str, **changes: object) -> bytes:
    return tiny.as_json({**json.loads(tiny.blip_files()[file]), **changes})


def _text(**changes: object) -> dict[str, object]:
    return {**tiny.blip_config().text_config.to_dict(), **changes}


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("config.json", lambda: _changed("config.json", model_type="git"), "not of BLIP"),
        ("config.json", lambda: _changed("config.json", text_config=_text(hidden_size="wide")), "make no sense"),
        ("config.json", lambda: _changed("config.json", text_config=_text(hidden_size=33)), "multiple"),
        ("config.json", lambda: _changed("config.json", text_config=_text(vocab_size=18)), "is .* in the file and not"),
        ("preprocessor_config.json", lambda: _changed("preprocessor_config.json", size=32), "make no sense"),
        ("preprocessor_config.json", lambda: _changed("preprocessor_config.json", image_std=[1, 0, 1]), "make no sense"),
        ("preprocessor_config.json", lambda: _changed("preprocessor_config.json", size={"width": 9, "height": 9}), "9x9"),
        ("tokenizer.json", lambda: b"{}", "cannot be read"),
        ("model.safetensors", lambda: tiny.blip_files()["model.safetensors"][:9000], "truncated"),
        ("model.safetensors", lambda: tiny.tagger_files()["model.safetensors"], "more weights are not in the file"),
    ],
)  # fmt: skip
def test_what_is_no_blip_is_told(file: str, content: Any, words: str, tmp_path: Path) -> None:
    folder = put(tmp_path / "m", {**tiny.blip_files(), file: content()})
    with pytest.raises(UserError, match=words):
        sentences.load(folder, CPU)
