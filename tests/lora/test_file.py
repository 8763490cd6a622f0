"""The file: what is trained is what every client computes from it, and only a file that proved so takes its name."""

from __future__ import annotations

import dataclasses
import functools
import pickle
from collections import namedtuple
from pathlib import Path

import pytest
import safetensors.torch
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from lora_core.lora import file as lora_file
from lora_core.lora.adapter import Adapter, Lora, LoraError, NoEffectError
from lora_core.lora.dialects import peft, webui
from lora_core.lora.dora import normalise_over_inputs
from lora_core.lora.file import read, to_tensors, width_of, write
from lora_core.lora.peft_layers import from_peft
from lora_core.system.files import WriteError
from tests.clients import a1111, comfy, sd_scripts
from tests.clients.models import FAMILIES, TARGETS, TEXT_TARGETS, tiny_text_encoders, tiny_unet
from tests.support import header_lengths
from tests.support.lora_values import equal, random_lora, real_modules, small_lora

TARGET_SETS = {
    "q and v": ("to_q", "to_v"),
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention and feed-forward": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    "projections": ("to_v", "proj_in", "proj_out"),
    "all": TARGETS,
}
VARIANTS = {
    "plain": {"lora_alpha": 3},
    "rslora": {"lora_alpha": 3, "use_rslora": True},
    "dora": {"lora_alpha": 3, "use_dora": True},
}  # fmt: skip


@functools.cache
def _trained(family: str, targets: str, variant: str) -> dict[str, nn.Module]:
    """Tiny models of a family with random adapters: the UNet on a set of targets, the text encoders on all."""
    models = {"unet": tiny_unet(family), **tiny_text_encoders(family)}
    for component, model in models.items():
        wanted = list(TARGET_SETS[targets] if component == "unet" else TEXT_TARGETS)
        # Random, for a fresh adapter is zero.
        config = LoraConfig(r=4, target_modules=wanted, init_lora_weights=False, **VARIANTS[variant])
        inject_adapter_in_model(config, model)
        if variant == "dora":
            normalise_over_inputs(model)
            for name, parameter in model.named_parameters():
                if "magnitude" in name:
                    parameter.data *= 1 + torch.rand_like(parameter)
    return models


def _lora(models: dict[str, nn.Module]) -> Lora:
    lora: Lora = {}
    for component, model in models.items():
        lora |= from_peft(model, component)
    return lora


def _layers(models: dict[str, nn.Module]) -> dict[str, LoraLayer]:
    """Adapted layers by our names."""
    found = {}
    for component, model in models.items():
        for path, layer in model.named_modules():
            if isinstance(layer, LoraLayer):
                is_flat = component != "unet" and not path.startswith("text_model.")
                found[f"{component}.{'text_model.' if is_flat else ''}{path}"] = layer
    return found


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("targets", TARGET_SETS)
@pytest.mark.parametrize("family", FAMILIES)
def test_every_client_computes_the_trained_weight(family: str, targets: str, variant: str, tmp_path: Path) -> None:
    models = _trained(family, targets, variant)
    lora, layers = _lora(models), _layers(models)
    assert lora.keys() == layers.keys()
    write(tmp_path / "x.safetensors", lora, family, {"ss_v2": "False"}, "fp32")
    tensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    for module, layer in layers.items():
        name, weight = webui.name(module, family), layer.get_base_layer().weight.detach()
        if variant == "dora":
            trained = _merged(layer)
            for computed in (
                a1111.with_dora(tensors, name, weight),
                comfy.with_dora(tensors[f"{name}.dora_scale"], weight, a1111.delta(tensors, name, tuple(weight.shape))),
            ):
                assert torch.allclose(computed, trained, rtol=1e-5, atol=1e-6)
        else:
            trained = layer.get_delta_weight("default").detach()
            assert (a1111.delta(tensors, name, tuple(weight.shape)) - trained).abs().max() <= 1e-6
    assert len(tensors) == len(lora) * (4 if variant == "dora" else 3)


def _merged(layer: LoraLayer) -> Tensor:
    """The weight a layer acts with, found by asking it: its answer to every input alone, without the bias."""
    base = layer.get_base_layer()
    if isinstance(base, nn.Linear):
        width = base.in_features
        answers = layer(torch.eye(width)) - layer(torch.zeros(1, width))
        return answers.T.detach()
    kernel = base.kernel_size[0]
    probe = torch.zeros(base.in_channels * kernel * kernel, base.in_channels, kernel, kernel)
    for number in range(len(probe)):
        probe[number].view(-1)[number] = 1
    saved = base.padding, base.stride
    base.padding, base.stride = (0, 0), (1, 1)
    inner = layer.lora_A["default"]
    saved_inner = inner.padding, inner.stride
    inner.padding, inner.stride = (0, 0), (1, 1)
    answers = layer(probe) - layer(torch.zeros_like(probe[:1]))
    (base.padding, base.stride), (inner.padding, inner.stride) = saved, saved_inner
    return answers.flatten(1).T.reshape(base.weight.shape).detach()


# diffusers guesses a file's dialect from the layers it holds, so one family is tried with every set.
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize(
    ("family", "targets"),
    [*(("sd1", targets) for targets in TARGET_SETS), *((f, t) for f in ("sd2", "sdxl") for t in ("q and v", "all"))],
)
def test_diffusers_loads_every_key_at_its_strength(family: str, targets: str, tmp_path: Path) -> None:
    lora = _lora(_trained(family, targets, "rslora"))
    write(tmp_path / "x.safetensors", lora, family, {}, "fp32")
    pipeline = _pipeline(family)
    pipeline.load_lora_weights(str(tmp_path), weight_name="x.safetensors")
    loaded = _layers({"unet": pipeline.unet, **{c: getattr(pipeline, c) for c in tiny_text_encoders(family)}})
    assert loaded.keys() == lora.keys()
    for module, layer in loaded.items():
        (adapter,) = layer.scaling
        delta = layer.get_delta_weight(adapter)
        ours = lora[module]
        expected = (ours.up.flatten(1) @ ours.down.flatten(1)).reshape(delta.shape) * ours.scale
        assert (delta - expected).abs().max() <= 1e-6


def _pipeline(family: str) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    from diffusers import DDIMScheduler

    parts = {"unet": tiny_unet(family), **tiny_text_encoders(family), "vae": None, "tokenizer": None}
    if family == "sdxl":
        return StableDiffusionXLPipeline(**parts, tokenizer_2=None, scheduler=DDIMScheduler())
    return StableDiffusionPipeline(
        **parts, scheduler=DDIMScheduler(steps_offset=1, clip_sample=False), safety_checker=None,
        feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_is_there_always_and_has_no_dimension(family: str) -> None:
    tensors = to_tensors(small_lora(family), family, "fp16")
    downs = [name for name in tensors if name.endswith("lora_down.weight")]
    for name in downs:
        alpha = tensors[name.replace("lora_down.weight", "alpha")]
        assert alpha.shape == ()
        assert alpha.item() == 3
    assert {tensors[name].dtype for name in downs} == {torch.float16}


@pytest.mark.parametrize(("family", "dimensions"), [("sd1", 4), ("sd2", 2), ("sdxl", 2)])
def test_projections_are_stored_as_the_family_has_them(family: str, dimensions: int) -> None:
    """However they came: a linear stored 4-D, or a 1x1 convolution stored 2-D, crashes sd-scripts and diffusers."""
    lora = {m: a for m, a in small_lora(family).items() if m.endswith(("proj_in", "attn2.to_k"))}
    for turn in (lambda t: t.reshape(*t.shape[:2]), lambda t: t.reshape(*t.shape[:2], 1, 1)):
        turned = {m: dataclasses.replace(a, down=turn(a.down), up=turn(a.up)) for m, a in lora.items()}
        tensors = to_tensors(turned, family, "fp32")
        projection = next(name for name in tensors if "proj_in.lora_down" in name)
        attention = next(name for name in tensors if "to_k.lora_down" in name)
        assert tensors[projection].dim() == dimensions
        assert tensors[attention].dim() == 2


@pytest.mark.parametrize("dtype", ["fp16", "bf16", "fp32"])
def test_written_and_read_is_the_same(dtype: str, tmp_path: Path) -> None:
    lora = small_lora("sd1", lora_file.DTYPES[dtype])
    write(tmp_path / "x.safetensors", lora, "sd1", {"a": "é"}, dtype)
    back, metadata = read(tmp_path / "x.safetensors")
    assert equal(back, lora)
    assert width_of(back) == dtype
    assert metadata["a"] == "é"


def test_hashes_are_those_of_sd_scripts(tmp_path: Path) -> None:
    metadata = {"ss_output_name": "x", "modelspec.title": "y", "treino.config": "z" * 1000}
    attention = {m: s for m, s in real_modules("sd1").items() if ".attn" in m}
    write(tmp_path / "x.safetensors", random_lora(attention), "sd1", metadata, "fp32")
    _, found = read(tmp_path / "x.safetensors")
    expected = sd_scripts.hashes(safetensors.torch.load_file(tmp_path / "x.safetensors"), metadata)
    assert (found["sshs_model_hash"], found["sshs_legacy_hash"]) == expected
    assert (tmp_path / "x.safetensors").stat().st_size > 0x110000  # so the legacy hash is of something
    assert found["sshs_legacy_hash"] != "e3b0c442"


def test_the_same_lora_is_the_same_file(tmp_path: Path) -> None:
    metadata = {f"ss_{number}": "x" for number in range(20)}
    for name, order in (("a", metadata), ("b", dict(reversed(metadata.items())))):
        write(tmp_path / name, small_lora(), "sd1", order, "fp16")
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    read(tmp_path / "a")


def test_hashes_brought_along_are_made_anew(tmp_path: Path) -> None:
    write(tmp_path / "a", small_lora(), "sd1", {"sshs_model_hash": "of another file"}, "fp16")
    assert len(read(tmp_path / "a")[1]["sshs_model_hash"]) == 64


# --- what never takes the name -------------------------------------------------------------------------------------


def _files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def _only(lora: Lora, **changes: object) -> Lora:
    return {module: dataclasses.replace(adapter, **changes) for module, adapter in lora.items()}


def test_a_lora_without_effect_is_told(tmp_path: Path) -> None:
    lora = small_lora()
    zero_up = {m: dataclasses.replace(a, up=torch.zeros_like(a.up)) for m, a in lora.items()}
    zero_down = {m: dataclasses.replace(a, down=torch.zeros_like(a.down)) for m, a in lora.items()}
    lost_in_fp16 = {m: dataclasses.replace(a, up=a.up * 1e-9) for m, a in lora.items()}
    for useless in (zero_up, zero_down, lost_in_fp16, _only(lora, alpha=0.0), {}):
        with pytest.raises(NoEffectError):
            write(tmp_path / "x.safetensors", useless, "sd1", {}, "fp16")
    assert _files(tmp_path) == []


def test_one_adapter_with_effect_is_enough(tmp_path: Path) -> None:
    lora = small_lora()
    first = next(iter(lora))
    mostly = {m: a if m == first else dataclasses.replace(a, up=torch.zeros_like(a.up)) for m, a in lora.items()}
    write(tmp_path / "x.safetensors", mostly, "sd1", {}, "fp16")
    assert _files(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_number_that_is_none_never_lands(bad: float, tmp_path: Path) -> None:
    lora = small_lora()
    next(iter(lora.values())).up[0, 0] = bad
    with pytest.raises(LoraError, match="not finite"):
        write(tmp_path / "x.safetensors", lora, "sd1", {}, "fp16")
    with pytest.raises(LoraError, match="not finite"):
        write(tmp_path / "x.safetensors", _only(small_lora(), alpha=bad), "sd1", {}, "fp32")
    assert _files(tmp_path) == []


def test_numbers_too_large_for_fp16_are_told_with_the_way_out(tmp_path: Path) -> None:
    lora = {m: dataclasses.replace(a, up=a.up * 1e6) for m, a in small_lora().items()}
    with pytest.raises(LoraError, match="bf16 or fp32"):
        write(tmp_path / "x.safetensors", lora, "sd1", {}, "fp16")
    write(tmp_path / "x.safetensors", lora, "sd1", {}, "bf16")


@pytest.mark.parametrize("module", ["unet.conv_in", "unet.conv_out", "unet.time_embedding.linear_1"])
def test_layers_that_not_every_webui_loads_are_refused(module: str, tmp_path: Path) -> None:
    lora = {**small_lora(), module: Adapter(torch.ones(2, 4), torch.ones(4, 2), 2.0)}
    with pytest.raises(LoraError, match="not every webui loads"):
        write(tmp_path / "x.safetensors", lora, "sd1", {}, "fp16")


def test_a_lora_of_another_family_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraError, match="fits sd2, not sd1"):
        write(tmp_path / "x.safetensors", small_lora("sd2"), "sd1", {}, "fp16")


def test_a_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x.safetensors"
    write(path, small_lora(), "sd1", {}, "fp16")
    before = path.read_bytes()
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage(10**9, 10**9, 1000))
    with pytest.raises(WriteError, match=r"disk is full.*Free some space"):
        write(path, small_lora("sd2"), "sd2", {}, "fp16")
    assert path.read_bytes() == before
    assert _files(tmp_path) == ["x.safetensors"]


@pytest.mark.parametrize("damage", ["flip", "cut", "other dtype"])
def test_a_disk_that_gives_back_other_bytes_is_noticed(
    damage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "x.safetensors"
    write(path, small_lora(), "sd1", {}, "fp16")
    before, real = path.read_bytes(), Path.read_bytes

    def damaged(self: Path) -> bytes:
        data = real(self)
        if not self.name.endswith(".treino.tmp"):
            return data
        if damage == "cut":
            return data[: len(data) // 2]
        return data[:-1] + bytes([data[-1] ^ 1]) if damage == "flip" else data.replace(b'"F16"', b'"I16"', 1)

    monkeypatch.setattr(Path, "read_bytes", damaged)
    with pytest.raises((WriteError, LoraError)):
        write(path, small_lora(dtype=torch.float16), "sd1", {"new": "1"}, "fp16")
    monkeypatch.undo()
    assert path.read_bytes() == before
    assert _files(tmp_path) == ["x.safetensors"]


# --- reading what is none ------------------------------------------------------------------------------------------


def test_reading_what_is_no_lora_file(tmp_path: Path) -> None:
    path = tmp_path / "x.safetensors"
    with pytest.raises(LoraError, match="no file"):
        read(path)
    with pytest.raises(LoraError, match="cannot be read"):
        read(tmp_path)
    for junk in (b"", b"1234", b"not a lora at all" * 10, b"\xff" * 64, (10**9).to_bytes(8, "little") + b"{}"):
        path.write_bytes(junk)
        with pytest.raises(LoraError, match="cut short or no .safetensors"):
            read(path)


def test_a_pickle_is_refused_without_being_opened(tmp_path: Path) -> None:
    touched = tmp_path / "touched"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[object, ...]]:
            return Path.write_bytes, (touched, b"x")

    for protocol in range(2, 6):
        (tmp_path / "x.safetensors").write_bytes(pickle.dumps({"a": Trap()}, protocol))
        with pytest.raises(LoraError, match="pickle"):
            read(tmp_path / "x.safetensors")
    torch.save({"a": torch.ones(1)}, tmp_path / "x.bin")
    with pytest.raises(LoraError, match="pickle"):
        read(tmp_path / "x.bin")
    assert not touched.exists()


def test_a_cut_file_is_told(tmp_path: Path) -> None:
    write(tmp_path / "x.safetensors", small_lora(), "sd1", {}, "fp16")
    data = (tmp_path / "x.safetensors").read_bytes()
    for length in (7, 100, len(data) // 2, len(data) - 1):
        (tmp_path / "cut.safetensors").write_bytes(data[:length])
        with pytest.raises(LoraError, match="cut short"):
            read(tmp_path / "cut.safetensors")


def test_the_settings_beside_a_peft_adapter_give_its_strength(tmp_path: Path) -> None:
    name = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    tensors = {f"{name}.lora_A.weight": torch.ones(4, 1280), f"{name}.lora_B.weight": torch.ones(1280, 4)}
    safetensors.torch.save_file(tensors, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 8, "use_rslora": true}', encoding="utf-8")
    lora, metadata = read(tmp_path / "adapter_model.safetensors")
    assert next(iter(lora.values())).scale == 4  # 8 / sqrt(4)
    assert peft.SETTINGS in metadata
    (tmp_path / "adapter_config.json").write_text("{", encoding="utf-8")
    with pytest.raises(LoraError, match="strength"):
        read(tmp_path / "adapter_model.safetensors")


def test_names_with_other_letters(tmp_path: Path) -> None:
    path = tmp_path / "coração 猫.safetensors"
    write(path, small_lora(), "sd1", {}, "fp16")
    assert equal(read(path)[0], small_lora(dtype=torch.float16))


def test_a_header_of_any_length_is_read_also_where_its_length_looks_like_a_pickle() -> None:
    for length, path in header_lengths.headers():
        if length >= header_lengths.SHORTEST:
            tensors, metadata = lora_file.load_tensors(path)
            assert list(tensors) == ["a"] and metadata["sshs_model_hash"] == "0af1", length
        else:
            with pytest.raises(LoraError, match="cut short"):
                lora_file.load_tensors(path)


def test_what_is_written_is_read_again_whatever_the_length_of_its_metadata() -> None:
    tensors = {"a": torch.ones(1)}
    shortest, seen = len(lora_file.pack(tensors, {"note": ""})), set()
    for length in range(0, header_lengths.LENGTHS[-1], 8):  # what a header is filled up to
        path = header_lengths.in_memory(lora_file.pack(tensors, {"note": "x" * length}))
        seen.add(len(path.data) - shortest)
        assert len(lora_file.load_tensors(path)[1]["note"]) == length
    assert len(seen) == len(header_lengths.LENGTHS) // 8
