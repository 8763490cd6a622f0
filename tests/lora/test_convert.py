"""Converting: any program's LoRA becomes a file that every webui loads, and nothing of it is lost unsaid."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import safetensors.torch
import torch

from lora_core.errors import UserError
from lora_core.lora.adapter import Lora, LoraError
from lora_core.lora.convert import convert_lora
from lora_core.lora.file import read, write
from lora_core.lora.summary import LoraSummary
from tests.clients import a1111, comfy, invoke
from tests.clients.models import FAMILIES
from tests.support.lora_values import equal, random_lora, real_modules, small_lora


def _as_diffusers(lora: Lora, path: Path) -> Path:
    tensors = {f"{m}.lora_A.weight": a.down for m, a in lora.items()}
    tensors |= {f"{m}.lora_B.weight": a.up for m, a in lora.items()}
    safetensors.torch.save_file(tensors, path, {"format": "pt"})
    return path


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("family", FAMILIES)
def test_from_diffusers_bit_for_bit(family: str, dtype: torch.dtype, tmp_path: Path) -> None:
    lora = small_lora(family, dtype)
    source = _as_diffusers(lora, tmp_path / "in.safetensors")
    done = convert_lora(source, tmp_path / "out.safetensors")
    assert (done.family, done.dtype) == (family, "fp16" if dtype == torch.float16 else "fp32")
    assert (done.modules, done.left_out) == (len(lora), ())
    back, metadata = read(done.path)
    assert equal(back, {m: dataclasses.replace(a, alpha=2.0) for m, a in lora.items()})
    assert a1111.detect_version(metadata) == {"sd1": "SD1", "sd2": "SD2", "sdxl": "SDXL"}[family]
    assert invoke.base(safetensors.torch.load_file(done.path)) == family


def test_converting_twice_changes_nothing_more(tmp_path: Path) -> None:
    source = _as_diffusers(small_lora("sdxl"), tmp_path / "in.safetensors")
    (tmp_path / "a").mkdir()
    once = convert_lora(source, tmp_path / "a").path
    twice = convert_lora(once, tmp_path / "in2.safetensors").path
    assert equal(read(once)[0], read(twice)[0])
    assert once == tmp_path / "a" / "in.safetensors"


def test_numbers_of_another_format_on_request(tmp_path: Path) -> None:
    source = _as_diffusers(small_lora(), tmp_path / "in.safetensors")
    done = convert_lora(source, tmp_path / "out.safetensors", dtype="bf16")
    assert next(iter(read(done.path)[0].values())).down.dtype == torch.bfloat16


def test_mixed_numbers_keep_the_wider_format(tmp_path: Path) -> None:
    lora = small_lora(dtype=torch.float16)
    first = next(iter(lora))
    lora[first] = dataclasses.replace(lora[first], up=lora[first].up.float() + 1e-7)
    done = convert_lora(_as_diffusers(lora, tmp_path / "in.safetensors"), tmp_path / "out.safetensors")
    assert done.dtype == "fp32"
    assert torch.equal(read(done.path)[0][first].up, lora[first].up)


def test_the_family_is_asked_for_where_nothing_tells(tmp_path: Path) -> None:
    module = "unet.down_blocks.1.resnets.0.conv2"
    source = _as_diffusers(random_lora({module: real_modules("sd1")[module]}), tmp_path / "in.safetensors")
    with pytest.raises(LoraError, match="--family"):
        convert_lora(source, tmp_path / "out.safetensors")
    assert convert_lora(source, tmp_path / "out.safetensors", family="sd2").family == "sd2"


def test_layers_that_not_every_webui_loads_need_a_word(tmp_path: Path) -> None:
    lora = {**small_lora(), **random_lora({"unet.conv_in": (320, 4, 3, 3)})}
    source = _as_diffusers(lora, tmp_path / "in.safetensors")
    with pytest.raises(LoraError, match=r"unet\.conv_in .*--drop"):
        convert_lora(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    done = convert_lora(source, tmp_path / "out.safetensors", drop=True)
    assert done.left_out == ("unet.conv_in",)
    only = _as_diffusers(random_lora({"unet.conv_in": (320, 4, 3, 3)}), tmp_path / "only.safetensors")
    with pytest.raises(LoraError, match="nothing would be left"):
        convert_lora(only, tmp_path / "out2.safetensors", family="sd1", drop=True)


def test_an_existing_file_is_left_unless_told(tmp_path: Path) -> None:
    source = _as_diffusers(small_lora(), tmp_path / "in.safetensors")
    (tmp_path / "out.safetensors").write_bytes(b"older")
    with pytest.raises(UserError, match="--replace"):
        convert_lora(source, tmp_path / "out.safetensors")
    assert (tmp_path / "out.safetensors").read_bytes() == b"older"
    convert_lora(source, tmp_path / "out.safetensors", replace=True)
    read(tmp_path / "out.safetensors")


def test_a_file_may_be_converted_in_place(tmp_path: Path) -> None:
    source = _as_diffusers(small_lora(), tmp_path / "in.safetensors")
    convert_lora(source, source, replace=True)
    assert all(key.startswith("lora_") for key in safetensors.torch.load_file(source))


def test_a_folder_with_one_lora(tmp_path: Path) -> None:
    folder = tmp_path / "attn_procs"
    folder.mkdir()
    with pytest.raises(UserError, match="no .safetensors"):
        convert_lora(folder, tmp_path / "out.safetensors")
    (folder / "pytorch_lora_weights.bin").write_bytes(b"PK")
    with pytest.raises(UserError, match="pickle"):
        convert_lora(folder, tmp_path / "out.safetensors")
    _as_diffusers(small_lora(), folder / "pytorch_lora_weights.safetensors")
    assert convert_lora(folder, tmp_path / "out.safetensors").family == "sd1"
    _as_diffusers(small_lora(), folder / "second.safetensors")
    with pytest.raises(UserError, match="holds 2"):
        convert_lora(folder, tmp_path / "out2.safetensors")


@pytest.mark.parametrize(("name", "words"), [("out.bin", "must be a .safetensors"), ("CON.safetensors", "device")])
def test_names_that_cannot_be(name: str, words: str, tmp_path: Path) -> None:
    source = _as_diffusers(small_lora(), tmp_path / "in.safetensors")
    with pytest.raises(UserError, match=words):
        convert_lora(source, tmp_path / name)


def test_what_is_no_lora(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no file"):
        convert_lora(tmp_path / "none.safetensors", tmp_path / "out.safetensors")
    safetensors.torch.save_file({"x": torch.ones(1)}, tmp_path / "in.safetensors")
    with pytest.raises(LoraError, match="no LoRA"):
        convert_lora(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_dora_scales_come_along(tmp_path: Path) -> None:
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    lora = random_lora({module: (1280, 768)}, dora=True)
    write(tmp_path / "in.safetensors", lora, "sd1", {}, "fp32")
    done = convert_lora(tmp_path / "in.safetensors", tmp_path / "out.safetensors")
    assert [warning.key for warning in done.warnings] == ["lora.warned_dora"]
    assert equal(read(tmp_path / "out.safetensors")[0], lora)


def test_what_the_metadata_say_of_the_old_names_goes(tmp_path: Path) -> None:
    """InvokeAI reads a file of OneTrainer's OMI names by `ot_branch` (`configs/lora.py`), and nothing of ours under it."""
    source = _as_diffusers(small_lora("sdxl"), tmp_path / "in.safetensors")
    about = {"ot_branch": "omi_format", "ot_revision": "1", "modelspec.sai_model_spec": "1.0.1"}
    safetensors.torch.save_file(safetensors.torch.load_file(source), source, about)
    _, metadata = read(convert_lora(source, tmp_path / "out.safetensors").path)
    assert "ot_branch" not in metadata and metadata["ot_revision"] == "1"


@pytest.mark.parametrize("family", ["", "sdxl"])
def test_a_folder_of_the_second_text_encoder_is_told_by_its_width(family: str, tmp_path: Path) -> None:
    """PEFT's names say nothing of the component: sdxl's first text encoder is 768 wide, its second 1280."""
    for component, wide, prefix in (("text_encoder_2", 1280, "lora_te2_"), ("text_encoder", 768, "lora_te1_")):
        every = real_modules("sdxl")
        shapes = {m: s for m, s in every.items() if m.startswith(f"{component}.") and ".layers.0." in m}
        assert all(wide in shape for shape in shapes.values())
        bare = {module.replace(f"{component}.", "base_model.model.", 1): a for module, a in random_lora(shapes).items()}
        folder = tmp_path / component
        folder.mkdir()
        _as_diffusers(bare, folder / "adapter_model.safetensors")
        told = family or ("sdxl" if wide == 1280 else "sd1")
        done = convert_lora(folder, tmp_path / f"{component}.safetensors", family)
        names = safetensors.torch.load_file(done.path)
        assert done.family == told
        assert all(name.startswith(prefix if told == "sdxl" else "lora_te_") for name in names)


def test_a_dora_over_outputs_is_refused_as_webuis_compute_it_wrong(tmp_path: Path) -> None:
    """A1111 (`network.py apply_weight_decompose`) norms inputs only, ComfyUI and Forge the frozen weight's outputs."""
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k"
    adapter = random_lora({module: (1280, 768)})[module]
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(1280, 768, generator=generator)
    change = adapter.up @ adapter.down  # scale 1, as PEFT reads a file without settings
    magnitude = torch.rand(1280, generator=generator) + 27
    trained = (weight + change) * (magnitude / (weight + change).norm(dim=1))[:, None]  # PEFT `tuners/lora/dora.py`
    scale = magnitude[:, None]
    stored = {"x.lora_down.weight": adapter.down, "x.lora_up.weight": adapter.up, "x.dora_scale": scale}
    for drawn in (a1111.with_dora(stored, "x", weight), comfy.with_dora(scale, weight, change)):
        assert (drawn - trained).abs().mean() > 0.01 * trained.abs().mean()
    source = _as_diffusers({module: adapter}, tmp_path / "in.safetensors")
    tensors = safetensors.torch.load_file(source) | {f"{module}.lora_magnitude_vector": magnitude}
    safetensors.torch.save_file(tensors, source)
    with pytest.raises(LoraError, match=r"normalised over outputs.*plain LoRA"):
        convert_lora(source, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()
    assert [warning.key for warning in LoraSummary.read(source).warnings] == ["lora.dora_over_outputs"]
