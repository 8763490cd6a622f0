"""lora_core.models.hub.layout: which files of a model, from names alone."""

from __future__ import annotations

import pytest

from lora_core.errors import UserError
from lora_core.models.hub.layout import Choice, choose, single_files

SDXL_INDEX = {
    "_class_name": "StableDiffusionXLPipeline", "force_zeros_for_empty_prompt": True,
    "scheduler": ["diffusers", "EulerDiscreteScheduler"], "feature_extractor": [None, None],
    "tokenizer": ["transformers", "CLIPTokenizer"], "tokenizer_2": ["transformers", "CLIPTokenizer"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "text_encoder_2": ["transformers", "CLIPTextModelWithProjection"],
    "unet": ["diffusers", "UNet2DConditionModel"], "vae": ["diffusers", "AutoencoderKL"],
}  # fmt: skip
# As stabilityai/stable-diffusion-xl-base-1.0 lists them.
SDXL = [
    ".gitattributes", "LICENSE.md", "README.md", "01.png", "comparison.png", "model_index.json", "pipeline.png",
    "scheduler/scheduler_config.json", "sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors",
    "sd_xl_offset_example-lora_1.0.safetensors", "text_encoder/config.json", "text_encoder/flax_model.msgpack",
    "text_encoder/model.fp16.safetensors", "text_encoder/model.onnx", "text_encoder/model.safetensors",
    "text_encoder/openvino_model.bin", "text_encoder/openvino_model.xml", "text_encoder_2/config.json",
    "text_encoder_2/flax_model.msgpack", "text_encoder_2/model.fp16.safetensors", "text_encoder_2/model.onnx",
    "text_encoder_2/model.onnx_data", "text_encoder_2/model.safetensors", "text_encoder_2/openvino_model.bin",
    "text_encoder_2/openvino_model.xml", "tokenizer/merges.txt", "tokenizer/special_tokens_map.json",
    "tokenizer/tokenizer_config.json", "tokenizer/vocab.json", "tokenizer_2/merges.txt",
    "tokenizer_2/special_tokens_map.json", "tokenizer_2/tokenizer_config.json", "tokenizer_2/vocab.json",
    "unet/config.json", "unet/diffusion_flax_model.msgpack", "unet/diffusion_pytorch_model.fp16.safetensors",
    "unet/diffusion_pytorch_model.safetensors", "unet/model.onnx", "unet/model.onnx_data",
    "vae/config.json", "vae/diffusion_flax_model.msgpack", "vae/diffusion_pytorch_model.fp16.safetensors",
    "vae/diffusion_pytorch_model.safetensors", "vae_1_0/config.json",
    "vae_1_0/diffusion_pytorch_model.fp16.safetensors", "vae_1_0/diffusion_pytorch_model.safetensors",
    "vae_decoder/config.json", "vae_decoder/model.onnx", "vae_encoder/config.json", "vae_encoder/model.onnx",
]  # fmt: skip
HALF_FIRST = ("fp16", None)


def pick(paths: list[str], order: tuple[str | None, ...] = HALF_FIRST) -> Choice:
    return choose("a/b", paths, SDXL_INDEX, order)


def test_sdxl_takes_eighteen_files_of_fifty() -> None:
    choice = pick(SDXL)
    assert choice.variant == "fp16"
    assert choice.files == (
        "model_index.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json",
        "tokenizer/special_tokens_map.json", "tokenizer/vocab.json", "tokenizer/merges.txt",
        "tokenizer_2/tokenizer_config.json", "tokenizer_2/special_tokens_map.json", "tokenizer_2/vocab.json",
        "tokenizer_2/merges.txt", "text_encoder/config.json", "text_encoder_2/config.json", "vae/config.json",
        "unet/config.json", "text_encoder/model.fp16.safetensors", "text_encoder_2/model.fp16.safetensors",
        "vae/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.fp16.safetensors",
    )  # fmt: skip
    assert pick(SDXL, (None, "fp16")).files == tuple(name.replace(".fp16", "") for name in choice.files)


def test_full_precision_for_all_rather_than_a_mixture() -> None:
    choice = pick([path for path in SDXL if path != "vae/diffusion_pytorch_model.fp16.safetensors"])
    assert (choice.variant, choice.aliases) == (None, ())
    assert not any("fp16" in path for path in choice.files)


def test_a_mixture_where_nothing_else_is_whole() -> None:
    gone = ("vae/diffusion_pytorch_model.fp16.safetensors", "unet/diffusion_pytorch_model.safetensors")
    choice = pick([path for path in SDXL if path not in gone])
    assert choice.variant == "fp16"
    assert choice.aliases == ((gone[0].replace(".fp16", ""), gone[0]),)
    assert {gone[0].replace(".fp16", ""), gone[1].replace(".saf", ".fp16.saf")} <= set(choice.files)


@pytest.mark.parametrize(
    "shard", ["model.fp16-0000{}-of-00002.safetensors", "model-0000{}-of-00002.fp16.safetensors"]
)  # fmt: skip
def test_shards_count_when_all_are_there(shard: str) -> None:
    rest = [path for path in SDXL if path != "text_encoder_2/model.fp16.safetensors"]
    index = "text_encoder_2/model.safetensors.index.fp16.json"
    shards = [f"text_encoder_2/{shard.format(number)}" for number in (1, 2)]
    choice = pick([*rest, index, *shards])
    assert choice.variant == "fp16"
    assert [path for path in choice.files if path.startswith("text_encoder_2/model")] == [index, *shards]
    assert pick([*rest, index, shards[0]]).variant is None
    assert pick([*rest, *shards]).variant is None


def test_shards_in_a_mixture_are_found_through_their_index() -> None:
    gone = {"unet/diffusion_pytorch_model.safetensors"} | {path for path in SDXL if path.startswith("vae/diff")}
    there = ["vae/diffusion_pytorch_model.safetensors.index.json"]
    there += [f"vae/diffusion_pytorch_model-0000{number}-of-00002.safetensors" for number in (1, 2)]
    choice = pick([*(path for path in SDXL if path not in gone), *there])
    assert choice.variant == "fp16"
    assert choice.aliases == ((there[0], "vae/diffusion_pytorch_model.safetensors.index.fp16.json"),)


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("unet/config.json", "folder unet has no config.json"),
        ("scheduler/scheduler_config.json", "no scheduler_config.json"),
        ("tokenizer_2/merges.txt", "tokenizer_2 has no vocab.json and merges.txt"),
        ("vae/diffusion_pytorch_model", "folder vae has no diffusion_pytorch_model.safetensors"),
    ],
)
def test_what_is_lacking_is_named(lost: str, told: str) -> None:
    with pytest.raises(UserError, match=told):
        pick([path for path in SDXL if not path.startswith(lost)])


def test_pickles_are_refused_by_name() -> None:
    rest = [path for path in SDXL if not path.startswith("text_encoder/")]
    with pytest.raises(UserError, match=r"text_encoder only as text_encoder/pytorch_model.bin, a pickle"):
        pick([*rest, "text_encoder/config.json", "text_encoder/pytorch_model.bin"])


def test_a_refiner_is_no_base_model() -> None:
    index = {**SDXL_INDEX, "tokenizer": [None, None], "text_encoder": [None, None]}
    with pytest.raises(UserError, match="StableDiffusionXLPipeline without tokenizer and text_encoder"):
        choose("a/refiner", SDXL, index, HALF_FIRST)


def test_one_tokenizer_file_is_enough() -> None:
    index = {key: value for key, value in SDXL_INDEX.items() if not key.endswith("_2")}
    paths = [path for path in SDXL if not path.startswith("tokenizer/")] + ["tokenizer/tokenizer.json"]
    assert "tokenizer/tokenizer.json" in choose("a/b", paths, index, HALF_FIRST).files


def test_whole_checkpoints_are_those_in_the_root() -> None:
    assert single_files([*SDXL, "old.ckpt"]) == [
        "old.ckpt", "sd_xl_base_1.0.safetensors", "sd_xl_base_1.0_0.9vae.safetensors",
        "sd_xl_offset_example-lora_1.0.safetensors",
    ]  # fmt: skip
