"""Names: ours resolve in every client to the module they were trained on, and everyone's come back to ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from lora_core.lora.adapter import Adapter, Lora, LoraError
from lora_core.lora.dialects import decode, peft, webui
from lora_core.lora.dialects.modules import dotted, exists, leaf, loads_everywhere
from lora_core.lora.file import serialise, to_tensors
from lora_core.lora.shapes import family_of, fit
from lora_core.models import unet_keys
from tests.clients import comfy, invoke, original, sd_scripts
from tests.clients.a1111 import A1111
from tests.clients.models import FAMILIES, REAL, TEXT_SIZES, real_unet
from tests.support.lora_values import equal, original_paths, random_lora, real_modules, small_lora, text_place

LAYERS = {family: {which: size[0] for which, size in sizes.items()} for family, sizes in TEXT_SIZES.items()}


def _truth(family: str) -> dict[str, str]:
    """Our module -> the place the original code runs it at."""
    text = {module: text_place(module) for module in real_modules(family) if not module.startswith("unet.")}
    return {**original_paths(family), **text}


# --- every client finds every module -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
def test_a1111_resolves_every_module(family: str) -> None:
    client = A1111(family, original.unet_modules(REAL[family]), LAYERS[family])
    found = {module: client.resolve(webui.name(module, family)) for module in real_modules(family)}
    assert found == _truth(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_comfyui_and_forge_resolve_every_module(family: str) -> None:
    names = comfy.table(family, original.unet_modules(REAL[family]), REAL[family], LAYERS[family])
    found = {module: names.get(webui.name(module, family)) for module in real_modules(family)}
    assert found == _truth(family)


@pytest.mark.parametrize("family", FAMILIES)
def test_sd_scripts_resolves_every_module(family: str) -> None:
    names = sd_scripts.names(family, real_unet(family), REAL[family], LAYERS[family])
    found = {module: names.get(webui.name(module, family)) for module in real_modules(family)}
    by_diffusers = {module: module.removeprefix("unet.") for module in original_paths(family)}
    assert found == {**_truth(family), **(by_diffusers if family != "sdxl" else {})}


@pytest.mark.parametrize("family", FAMILIES)
def test_invokeai_resolves_every_module_and_the_family(family: str) -> None:
    unet = [module for module in real_modules(family) if module.startswith("unet.")]
    names = invoke.modules(family, [module.removeprefix("unet.") for module in unet])
    assert {module: names.get(webui.name(module, family)) for module in unet} == {m: m.removeprefix("unet.") for m in unet}
    assert invoke.base(to_tensors(small_lora(family), family, "fp32")) == family


# Layers of a LoRA -> what InvokeAI takes it for, by family: as its own loader answered, run on such files.
_PARTS = {
    "unet": (("unet.",), ("sd1", "sd2", "sdxl")), "to_k": (("attn2.to_k",), ("sd1", "sd2", "sdxl")),
    "time_emb_proj": (("time_emb_proj",), ("sdxl", "sdxl", "")), "resnets": ((".conv1", ".conv2"), ("", "", "")),
    "proj": (("proj_in", "proj_out"), ("", "", "")), "ff": ((".ff.",), ("", "", "")), "to_q": (("to_q",), ("", "", "")),
    "to_out": (("to_out",), ("", "", "")), "text": (("text_encoder",), ("sd1", "sd2", "")),
    "text, conv": (("text_encoder", ".conv1"), ("sd1", "sd2", "")),
    "text, time_emb_proj": (("text_encoder", "time_emb_proj"), ("sd1", "sd2", "")),
    "fc1": (("mlp.fc1",), ("", "", "")), "all": (("",), ("sd1", "sd2", "sdxl")),
}  # fmt: skip


@pytest.mark.parametrize("parts", _PARTS)
@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", ["fp16", "fp32"])
def test_what_invokeai_takes_a_file_for(parts: str, family: str, dtype: str, tmp_path: Path) -> None:
    wanted, answers = _PARTS[parts]
    shapes = {m: shape for m, shape in real_modules(family).items() if any(part in m for part in wanted)}
    lora = random_lora(shapes)
    path = tmp_path / "x.safetensors"
    path.write_bytes(serialise(lora, family, {}, dtype))  # in the order of the file, as load_file gives it
    assert (invoke.base(safetensors.torch.load_file(path)) or "") == answers[FAMILIES.index(family)]
    assert webui.invokeai_family({m: a.down.shape[1] for m, a in lora.items()}, family) == answers[FAMILIES.index(family)]


@pytest.mark.parametrize("family", FAMILIES)
def test_names_are_unique_and_read_back(family: str) -> None:
    names = {module: webui.name(module, family) for module in real_modules(family)}
    assert len(set(names.values())) == len(names)
    for module, name in names.items():
        assert webui.split(f"{name}.lora_down.weight") == (module, "down")


def test_sdxl_has_the_original_block_names() -> None:
    assert webui.name("unet.down_blocks.1.attentions.0.proj_in", "sdxl") == "lora_unet_input_blocks_4_1_proj_in"
    assert webui.name("unet.up_blocks.0.upsamplers.0.conv", "sdxl") == "lora_unet_output_blocks_2_2_conv"
    assert webui.name("unet.mid_block.resnets.1.conv_shortcut", "sdxl") == "lora_unet_middle_block_2_skip_connection"


@pytest.mark.parametrize("family", FAMILIES)
def test_original_paths_are_read_in_every_family(family: str) -> None:
    for module, path in original_paths(family).items():
        assert f"unet.{unet_keys.from_original(path)}" == module
    if family == "sdxl":  # the only one that is written so
        assert {m: unet_keys.to_original(m.removeprefix("unet.")) for m in original_paths(family)} == original_paths(family)


def test_layers_outside_the_blocks_have_original_names_too() -> None:
    for path in ("conv_in", "conv_out", "time_embedding.linear_1", "add_embedding.linear_2"):
        assert unet_keys.from_original(unet_keys.to_original(path)) == path
        assert exists(f"unet.{path}")
        assert not loads_everywhere(f"unet.{path}")
    assert unet_keys.from_original("down_blocks.0.resnets.0.conv1") is None


def test_names_with_underscores_come_apart_where_they_must() -> None:
    assert dotted("down_blocks_10_attentions_0_transformer_blocks_9_attn2_to_out_0") == (
        "down_blocks.10.attentions.0.transformer_blocks.9.attn2.to_out.0"
    )
    assert dotted("text_model_encoder_layers_11_self_attn_out_proj") == "text_model.encoder.layers.11.self_attn.out_proj"
    assert [leaf(m) for m in ("a.to_out.0", "a.ff.net.2", "a.net.0.proj", "a.conv1")] == [
        "to_out.0",
        "net.2",
        "proj",
        "conv1",
    ]


def test_modules_are_known_by_component() -> None:
    assert loads_everywhere("text_encoder_2.text_model.encoder.layers.31.mlp.fc2")
    assert exists("text_encoder_2.text_projection")
    assert not loads_everywhere("text_encoder_2.text_projection")
    for odd in ("unet.encoder.layers.0.mlp.fc1", "vae.conv_in", "unet.down_blocks.0.norm", "text_encoder.embeddings"):
        assert not exists(odd)


# --- everyone's names come back to ours ----------------------------------------------------------------------------

Encoder = Callable[[Lora, str], tuple[dict[str, Tensor], dict[str, str]]]


def _pairs(lora: Lora, name: Callable[[str], str], ends: Mapping[str, str]) -> dict[str, Tensor]:
    tensors = {}
    for module, adapter in lora.items():
        tensors[f"{name(module)}.{ends['down']}"] = adapter.down
        tensors[f"{name(module)}.{ends['up']}"] = adapter.up
        if "alpha" in ends:
            tensors[f"{name(module)}.{ends['alpha']}"] = torch.tensor(adapter.alpha)
        if adapter.dora_scale is not None and "dora_scale" in ends:
            tensors[f"{name(module)}.{ends['dora_scale']}"] = adapter.dora_scale
    return tensors


_KOHYA = {"down": "lora_down.weight", "up": "lora_up.weight", "alpha": "alpha", "dora_scale": "dora_scale"}
_PEFT = {"down": "lora_A.weight", "up": "lora_B.weight"}


def _ours(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _pairs(lora, lambda module: webui.name(module, family), _KOHYA), {}


def _webui_with_diffusers_blocks(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """OneTrainer's "legacy" files of SDXL, and sd-scripts' of SD1 and SD2."""
    return _pairs(lora, lambda module: webui.name(module, "sd1" if module.startswith("unet.") else family), _KOHYA), {}


def _omi(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """OneTrainer's "OMI" files."""
    words = {"unet": "unet", "text_encoder": "clip_l", "text_encoder_2": "clip_g"}

    def name(module: str) -> str:
        component, _, path = module.partition(".")
        return f"{words[component]}.{original_paths(family)[module] if component == 'unet' else path}"

    return _pairs(lora, name, _KOHYA), {}


def _onetrainer_own(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    words = {
        "unet": "lora_unet",
        "text_encoder": "lora_te1" if family == "sdxl" else "lora_te",
        "text_encoder_2": "lora_te2",
    }
    return _pairs(lora, lambda m: f"{words[m.partition('.')[0]]}.{m.partition('.')[2]}", _KOHYA), {}


def _onetrainer_for_comfyui(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Every weight's own name in ComfyUI (`comfy/lora.py model_lora_keys_unet`, `model_lora_keys_clip`)."""
    words = {
        "unet": "diffusion_model", "text_encoder_2": "text_encoders.clip_g.transformer",
        "text_encoder": f"text_encoders.clip_{'h' if family == 'sd2' else 'l'}.transformer",
    }  # fmt: skip

    def name(module: str) -> str:
        component, _, path = module.partition(".")
        return f"{words[component]}.{original_paths(family)[module] if component == 'unet' else path}"

    return _pairs(lora, name, _KOHYA), {}


def _simpletuner(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """LyCORIS' prefix and diffusers' path (`comfy/lora.py`: "simpletuner lycoris format"); it trains no text encoder."""
    unet = {module: adapter for module, adapter in lora.items() if module.startswith("unet.")}
    text = {module: adapter for module, adapter in lora.items() if module not in unet}
    name = lambda module: f"lycoris_{module.removeprefix('unet.').replace('.', '_')}"  # noqa: E731
    return {**_pairs(unet, name, _KOHYA), **_ours(text, family)[0]}, {}


def _adapter_settings(lora: Lora) -> dict[str, str]:
    table: dict[str, Any] = {}
    for module, adapter in lora.items():
        component, _, path = module.partition(".")
        table.setdefault(f"{component}.alpha_pattern", {})[path] = adapter.alpha
        table[f"{component}.r"], table[f"{component}.lora_alpha"] = adapter.rank, 1
    return {peft.SETTINGS: json.dumps(table)}


def _diffusers(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    return _pairs(lora, lambda module: module, _PEFT), _adapter_settings(lora)


def _diffusers_flattened(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As transformers 5 names CLIPTextModel, in the weights and in the settings."""
    flat = {m.replace("text_encoder.text_model.", "text_encoder."): adapter for m, adapter in lora.items()}
    return _pairs(flat, lambda module: module, _PEFT), _adapter_settings(flat)


def _diffusers_older(lora: Lora, family: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    unet = {m: a for m, a in lora.items() if m.startswith("unet.")}
    text = {m: a for m, a in lora.items() if m not in unet}
    ends = {"down": "lora.down.weight", "up": "lora.up.weight", "alpha": "alpha"}
    text_ends = {"down": "lora_linear_layer.down.weight", "up": "lora_linear_layer.up.weight", "alpha": "alpha"}
    return {**_pairs(unet, lambda m: m, ends), **_pairs(text, lambda m: m, text_ends)}, {}


ENCODERS: tuple[Encoder, ...] = (
    _ours, _webui_with_diffusers_blocks, _omi, _onetrainer_own, _onetrainer_for_comfyui, _simpletuner,
    _diffusers, _diffusers_flattened, _diffusers_older,
)  # fmt: skip


@st.composite
def _loras(draw: st.DrawFn) -> tuple[str, Lora]:
    """A family and random adapters on any subset of its modules, of any rank, dtype and strength."""
    family = draw(st.sampled_from(FAMILIES))
    every = sorted(real_modules(family))
    modules = draw(st.sets(st.sampled_from(every), min_size=1, max_size=8))
    dtype = draw(st.sampled_from((torch.float16, torch.bfloat16, torch.float32)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    lora: Lora = {}
    for module in sorted(modules):
        out, wide, *kernel = real_modules(family)[module]
        rank = draw(st.integers(1, 4))
        lora[module] = Adapter(
            torch.randn(rank, wide, *kernel, generator=generator).to(dtype),
            torch.randn(out, rank, *[1] * len(kernel), generator=generator).to(dtype),
            draw(st.floats(0.125, 512, width=32)),
        )
    return family, lora


@pytest.mark.parametrize("encode", ENCODERS, ids=lambda encode: encode.__name__)
@given(case=_loras())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_there_and_back_is_bit_equal(encode: Encoder, case: tuple[str, Lora]) -> None:
    family, lora = case
    tensors, metadata = encode(lora, family)
    back = fit(decode(tensors, metadata), family)
    assert equal(back, lora)


@pytest.mark.parametrize("family", FAMILIES)
def test_old_attention_processors_come_back(family: str) -> None:
    parts = {"to_q": "to_q", "to_k": "to_k", "to_v": "to_v", "to_out.0": "to_out"}
    shapes = {m: s for m, s in real_modules(family).items() if ".attn" in m}
    lora = random_lora(shapes, alpha=2.0)  # the rank: these files know no other strength
    tensors = {}
    for module, adapter in lora.items():
        stem, part = module.removeprefix("unet.").split(".to_")
        name = f"{stem}.processor.{parts['to_' + part]}_lora"
        tensors[f"{name}.down.weight"], tensors[f"{name}.up.weight"] = adapter.down, adapter.up
    assert equal(decode(tensors, {}), lora)
    assert equal(decode({f"unet.{key}": tensor for key, tensor in tensors.items()}, {}), lora)


def test_old_text_encoder_processors_come_back() -> None:
    adapter = Adapter(torch.ones(2, 768), torch.ones(768, 2), 2.0)
    key = "text_encoder.text_model.encoder.layers.0.self_attn.to_out_lora"
    found = decode({f"{key}.down.weight": adapter.down, f"{key}.up.weight": adapter.up}, {})
    assert equal(found, {"text_encoder.text_model.encoder.layers.0.self_attn.out_proj": adapter})


def test_a_peft_adapter_without_component_names() -> None:
    down, up = torch.ones(2, 320), torch.ones(320, 2)
    stem = "base_model.model.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    text = "base_model.model.encoder.layers.0.mlp.fc1"
    tensors = {f"{name}.lora_{half}.default.weight": t for name in (stem, text) for half, t in (("A", down), ("B", up))}
    assert set(decode(tensors, {})) == {
        "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q",
        "text_encoder.text_model.encoder.layers.0.mlp.fc1",
    }


def test_peft_magnitudes_become_dora_scales() -> None:
    linear, conv = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q", "unet.mid_block.resnets.0.conv1"
    tensors = {
        f"{linear}.lora_A.weight": torch.ones(2, 4), f"{linear}.lora_B.weight": torch.ones(6, 2),
        f"{linear}.lora_magnitude_vector": torch.arange(6.0),
        f"{conv}.lora_A.weight": torch.ones(2, 4, 3, 3), f"{conv}.lora_B.weight": torch.ones(6, 2, 1, 1),
        f"{conv}.lora_magnitude_vector.weight": torch.arange(6.0).reshape(1, 6, 1, 1),
    }  # fmt: skip
    found = decode(tensors, {})
    for module, shape in ((linear, (6, 1)), (conv, (6, 1, 1, 1))):
        scale = found[module].dora_scale
        assert scale is not None
        assert scale.shape == shape
        assert torch.equal(scale.flatten(), torch.arange(6.0))


@pytest.mark.parametrize(
    ("settings_of_adapters", "alpha"),
    [
        ({"unet.r": 4, "unet.lora_alpha": 8}, 8.0),
        ({"unet.lora_alpha": 8, "unet.use_rslora": True}, 16.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"attn1.to_q": 3}}, 3.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {r"mid_block\..*to_q": 3}}, 3.0),
        ({"unet.lora_alpha": 8, "unet.alpha_pattern": {"n1.to_q": 3}}, 8.0),
        ({"text_encoder.lora_alpha": 8}, 4.0),
    ],
)
def test_strength_by_adapter_settings(settings_of_adapters: dict[str, Any], alpha: float) -> None:
    metadata = {peft.SETTINGS: json.dumps(settings_of_adapters)}
    module = "unet.mid_block.attentions.0.transformer_blocks.0.attn1.to_q"
    assert peft.alpha_of(module, 4, metadata) == alpha


def test_without_alpha_the_scale_is_one() -> None:
    name = "lora_unet_mid_block_attentions_0_proj_in"
    found = decode({f"{name}.lora_down.weight": torch.ones(4, 8), f"{name}.lora_up.weight": torch.ones(8, 4)}, {})
    assert found["unet.mid_block.attentions.0.proj_in"].scale == 1


# --- what is no LoRA -------------------------------------------------------------------------------------------------

_GOOD = "lora_unet_mid_block_attentions_0_proj_in"
_PAIR = {f"{_GOOD}.lora_down.weight": torch.ones(2, 8), f"{_GOOD}.lora_up.weight": torch.ones(8, 2)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({}, "no tensors"),
        ({"model.diffusion_model.out.2.weight": torch.ones(1)}, "no LoRA for Stable Diffusion"),
        ({"lora_unet_joint_blocks_0.hada_w1_a": torch.ones(1)}, "LoHa"),
        ({f"{_GOOD}.oft_diag": torch.ones(1)}, "OFT"),
        ({**_PAIR, "bundle_emb.cat.string_to_param": torch.ones(1)}, "bundled embedding"),
        (
            {**_PAIR, "lora_unet_joint_blocks_0.lora_up.weight": torch.ones(1)},
            "1 tensors that no Stable Diffusion LoRA",
        ),
        ({f"{_GOOD}.lora_down.weight": torch.ones(2, 8)}, "lacks half"),
        ({**_PAIR, f"{_GOOD}.lora_up.weight": torch.ones(8, 3)}, "do not fit"),
        ({**_PAIR, f"{_GOOD}.alpha": torch.ones(2)}, "no single number"),
        ({**_PAIR, "unet.mid_block.attentions.0.proj_in.lora_A.weight": torch.ones(2, 8)}, "twice"),
    ],
)
def test_what_is_no_lora_is_told(tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(LoraError, match=words):
        decode(tensors, {})


def test_damaged_adapter_settings_are_told() -> None:
    tensors = {"unet.conv_in.lora_A.weight": torch.ones(2, 4), "unet.conv_in.lora_B.weight": torch.ones(4, 2)}
    for damaged in ("{", "[]"):
        with pytest.raises(LoraError, match="strength is unknown"):
            decode(tensors, {peft.SETTINGS: damaged})


@pytest.mark.parametrize("family", FAMILIES)
def test_family_is_told_by_the_decoded_shapes(family: str) -> None:
    for encode in ENCODERS:
        tensors, metadata = encode(small_lora(family), family)
        assert family_of(decode(tensors, metadata)) == family
