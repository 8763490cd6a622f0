"""Every kind of model file, told by its header: the stripped ones of tests/stripped, and files that are none."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models import identify
from lora_core.system import tensor_headers
from lora_core.system.tensor_headers import Header, Tensor
from tests import stripped

# title, prediction type, words of the problem
KNOWN = {
    "sd1": ("Stable Diffusion 1.x base model (pruned, fp16)", "epsilon", ""),
    "sd2": ("Stable Diffusion 2.x base model (pruned, fp32)", "", ""),
    "sdxl": ("Stable Diffusion XL base model (pruned, fp16)", "epsilon", ""),
    "sdxl_v": ("Stable Diffusion XL base model (pruned, fp16)", "v_prediction", ""),
    "sd1_with_ema": ("Stable Diffusion 1.x base model (with EMA, fp32)", "epsilon", ""),
    "sd1_ema_only": ("Stable Diffusion 1.x base model (EMA only, fp16)", "epsilon", ""),
    "sdxl_without_vae": ("Stable Diffusion XL base model (pruned, bf16)", "epsilon", ""),
    "sd1_unet_only": ("Stable Diffusion 1.x UNet (pruned, fp8)", "epsilon", ""),
    "sdxl_unet_diffusers": ("Stable Diffusion XL UNet (fp16)", "epsilon", ""),
    "sd1_lcm": ("Stable Diffusion 1.x UNet (LCM, fp16)", "epsilon", ""),
    "sd1_inpainting": ("Stable Diffusion 1.x base model (inpainting, pruned, fp32)", "epsilon", "the LoRA works in both"),
    "sd1_edit": ("Stable Diffusion 1.x base model (editing (InstructPix2Pix), pruned, fp16)", "epsilon", "changes given"),
    "sd2_depth": ("Stable Diffusion 2.x base model (depth, pruned, fp16)", "", "depth map"),
    "sd2_unclip": ("Stable Diffusion 2.x base model (unCLIP, pruned, fp16)", "", "variations"),
    "sdxl_refiner": ("Stable Diffusion XL refiner (fp16)", "", "stable-diffusion-xl-base-1.0"),
    "ssd_1b": ("Stable Diffusion XL base model (reduced, pruned, fp16)", "epsilon", "diffusers folder"),
    "playground": ("Playground 2.5 model (fp16)", "", "EDM"),
    "vae": ("VAE (fp16)", "", "--vae"), "vae_diffusers": ("VAE (fp16)", "", "--vae"),
    "vae_in_checkpoint_names": ("VAE (fp16)", "", "--vae"), "text_encoder": ("text encoder (fp16)", "", "give the whole"),
    "controlnet": ("ControlNet (fp16)", "", "beside a base model"),
    "controlnet_diffusers": ("ControlNet (fp16)", "", "beside a base model"),
    "motion": ("AnimateDiff motion module (fp16)", "", "beside a base model"), "lora": ("LoRA (fp16)", "", "made for"),
    "lora_peft": ("LoRA (fp16)", "", "made for"), "flux": ("Flux model (fp16)", "", "Stable Diffusion only"),
    "flux_diffusers": ("Flux model (fp16)", "", "only"), "sd3": ("Stable Diffusion 3 model (fp16)", "", "only"),
    "sd3_diffusers": ("Stable Diffusion 3 model (fp16)", "", "only"),
    "svd": ("Stable Video Diffusion model (fp16)", "", "only"),
    "pixart": ("diffusion transformer (PixArt, Lumina, Wan, Qwen and the like) (fp16)", "", "only"),
    "embedding": ("textual inversion embedding (fp16)", "", "prompts"),
    "embedding_sdxl": ("textual inversion embedding (fp16)", "", "prompts"),
    "upscaler": ("upscaler (fp16)", "", "enlarges"), "unknown": ("file of no known kind (fp16)", "", "no model known"),
}  # fmt: skip


def test_every_stripped_model_is_known() -> None:
    assert set(stripped.NAMES) == set(KNOWN)


@pytest.mark.parametrize("name", stripped.NAMES)
def test_each_kind_is_told_as_what_it_is(name: str, tmp_path: Path) -> None:
    found = stripped.header(name)
    identity = identify.of_header(found)
    title, prediction_type, problem = KNOWN[name]
    assert (str(identity.title), identity.prediction_type) == (title, prediction_type)
    assert bool(identity.problem) == bool(problem) and problem in str(identity.problem)
    path = stripped.hollow_file(tmp_path / "any name.safetensors", found.tensors, dict(found.metadata))
    assert identify.of_path(path) == identity, "the same from a file of full size, whose weights are a hole"


def test_what_a_file_lacks() -> None:
    def lacking(name: str) -> tuple[str, ...]:
        return identify.of_header(stripped.header(name)).lacking

    assert lacking("sdxl") == () and lacking("sdxl_without_vae") == ("vae",)
    assert lacking("sd1_unet_only") == ("vae", "text_encoder")
    assert lacking("sdxl_unet_diffusers") == ("vae", "text_encoder", "text_encoder_2")


def test_names_of_files_are_hints_and_no_more(tmp_path: Path) -> None:
    found = stripped.header("sdxl")
    turbo = identify.of_path(stripped.hollow_file(tmp_path / "sd_xl_turbo_1.0.safetensors", found.tensors))
    assert turbo.traits == ("turbo", "pruned") and "Its name says turbo" in str(turbo.notes[0]) and not turbo.problem
    by_title = {"modelspec.title": "Thing Lightning 8 steps"}
    lightning = identify.of_path(stripped.hollow_file(tmp_path / "a.safetensors", found.tensors, by_title))
    assert "lightning" in str(lightning.title)
    for name in ("hyperrealism.safetensors", "sd15_inpainting_flux_refiner.safetensors"):
        assert str(identify.of_path(stripped.hollow_file(tmp_path / name, found.tensors)).title) == KNOWN["sdxl"][0]


def test_precision_is_of_most_of_the_bytes() -> None:
    found = dict(stripped.header("sdxl").tensors)
    half = {n: t if "diffusion_model" in n else Tensor("F32", t.shape) for n, t in found.items()}
    assert identify.of_header(Header(half)).precision == "fp16+fp32"
    eight = {n: Tensor("F8_E4M3", t.shape) if t.dtype == "F16" else t for n, t in found.items()}
    assert identify.of_header(Header(eight)).precision == "fp8"
    scaled = {**eight, "model.diffusion_model.out.2.scale_weight": Tensor("F32", ())}
    assert identify.of_header(Header(scaled)).kind == Message("models.kind_quantized")


def test_a_diffusers_folder(tiny_sd1: Path, tmp_path: Path) -> None:
    identity = identify.of_path(tiny_sd1)
    assert (identity.family, identity.prediction_type, identity.lacking) == ("sd1", "epsilon", ())
    model = shutil.copytree(tiny_sd1, tmp_path / "model")

    def changed(part: str, **values: object) -> identify.Identity:
        file = model / part
        before = file.read_text(encoding="utf-8")
        file.write_text(json.dumps({**json.loads(before), **values}), encoding="utf-8")
        try:
            return identify.of_path(model)
        finally:
            file.write_text(before, encoding="utf-8")

    scheduler, unet, index = "scheduler/scheduler_config.json", "unet/config.json", "model_index.json"
    velocity = changed(scheduler, prediction_type="v_prediction", rescale_betas_zero_snr=True)
    assert velocity.prediction_type == "v_prediction" and velocity.zero_snr
    assert "inpainting" in str(changed(unet, in_channels=9).title) and changed(unet, in_channels=9).problem
    assert "refiner" in str(changed(unet, cross_attention_dim=1280).title)
    assert "no known family" in str(changed(unet, cross_attention_dim=4096).problem)
    flux = changed(index, unet=None, _class_name="FluxPipeline")
    assert str(flux.kind) == "Flux model" and "no UNet" in str(flux.problem)
    (model / unet).write_text("{", encoding="utf-8")
    with pytest.raises(UserError, match=r"unet/config.json cannot be read"):
        identify.of_path(model)
    with pytest.raises(UserError, match=r"no model_index.json"):
        identify.of_path(tmp_path)


def test_a_cut_file_is_told_from_its_header_at_every_length(tmp_path: Path) -> None:
    whole = stripped.hollow_file(tmp_path / "whole.safetensors", {"a": Tensor("F32", (10, 10)), "b": Tensor("F16", (3,))})
    content = whole.read_bytes()
    for length in range(len(content)):
        cut = tmp_path / "cut.safetensors"
        cut.write_bytes(content[:length])
        with pytest.raises(UserError, match=r"truncated|empty|no .safetensors file") as told:
            tensor_headers.read(cut)
        assert "\n" not in str(told.value)
    assert set(tensor_headers.read(whole).tensors) == {"a", "b"}
    with pytest.raises(UserError, match=r"truncated: 0.00 MB of 0.00 MB are there \([\d,]+ of [\d,]+ bytes\)"):
        cut.write_bytes(content[:-1])
        tensor_headers.read(cut)


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.safetensors", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "Git LFS"),
        ("a.safetensors", b"\n<!DOCTYPE html><html></html>", "web page"), ("a.safetensors", b"GGUF\x03\0\0\0", "GGUF"),
        ("a.safetensors", b"PK\x03\x04" + b"\0" * 40, "no .safetensors file"), ("a.png", b"\x89PNG....", "no model file"),
        ("a.safetensors", (9).to_bytes(8, "little") + b"[1, 2, 3]", "no .safetensors file"),
        ("a.ckpt", b"\x80\x04nonsense", "damaged"),
        ("a.safetensors", (30).to_bytes(8, "little") + b'{"a": {"dtype": "F32"}}       ', "damaged"),
        ("a.safetensors", (60_000).to_bytes(8, "little") + b'{"a":' * 10_000 + b" " * 10_000, "damaged"),
        ("a.ckpt", b"PK\x03\x04" + b"\0" * 40, "truncated or damaged"), ("a.ckpt", b"plain text", "no torch checkpoint"),
    ],
)  # fmt: skip
def test_what_is_no_model_is_named(name: str, content: bytes, told: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UserError, match=told):
        identify.of_path(path)


def test_no_file() -> None:
    with pytest.raises(UserError, match="There is no file"):
        identify.of_path(Path("nowhere.safetensors"))


@pytest.mark.parametrize("name", stripped.NAMES)
def test_it_can_be_kept_as_json(name: str) -> None:
    identity = identify.of_header(stripped.header(name))
    assert identify.Identity.from_json(json.loads(json.dumps(identity.to_json()))) == identity
    for rubbish in ({}, {**identity.to_json(), "kind": "LoRA"}, {**identity.to_json(), "older": 1}):
        with pytest.raises(ValueError, match=r"no identity|not a message"):
            identify.Identity.from_json(rubbish)
