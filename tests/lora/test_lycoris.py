"""LoHa and LoKr: trained, written and read as every program reads LyCORIS' files."""

from __future__ import annotations

from pathlib import Path

import pytest
import safetensors.torch
import torch
from peft import inject_adapter_in_model
from torch import Tensor

from lora_core.lora.adapter import LoraError, NoEffectError
from lora_core.lora.convert import convert_lora
from lora_core.lora.dialects import decode, webui
from lora_core.lora.dora import adapted_layers
from lora_core.lora.file import read, write
from lora_core.lora.lycoris import Lycoris
from lora_core.lora.peft_layers import from_peft, inject, peft_config, scale_as_readers, told_widths
from lora_core.lora.shapes import family_of
from lora_core.lora.summary import LoraSummary
from tests.clients import lycoris
from tests.clients.models import TARGETS, TEXT_TARGETS, tiny_text_encoders, tiny_unet

NAME = "lora_unet_mid_block_attentions_0_proj_in"
MODULE = "unet.mid_block.attentions.0.proj_in"


def _models(family: str) -> dict[str, torch.nn.Module]:
    return {"unet": tiny_unet(family), **tiny_text_encoders(family)}


def _trained(family: str, kind: str, rank: int) -> dict[str, torch.nn.Module]:
    """Tiny models with random adapters on every layer there is."""
    torch.manual_seed(0)
    models = _models(family)
    for component, model in models.items():
        wanted = list(TARGETS if component == "unet" else TEXT_TARGETS)
        inject_adapter_in_model(peft_config(kind, rank, 3.0, target_modules=wanted), model)
        scale_as_readers(model)
        for layer in adapted_layers(model).values():
            for parameter in layer.parameters():  # type: ignore[attr-defined]
                if parameter.requires_grad:
                    parameter.data.normal_()
    return models


@pytest.mark.parametrize("kind", ["loha", "lokr"])
@pytest.mark.parametrize("family", ["sd1", "sdxl"])
def test_every_reader_computes_the_trained_weight(family: str, kind: str, tmp_path: Path) -> None:
    models = _trained(family, kind, 3)
    lora = {module: value for part, model in models.items() for module, value in from_peft(model, part).items()}
    write(tmp_path / "x.safetensors", lora, family, {}, "fp32")
    tensors = safetensors.torch.load_file(tmp_path / "x.safetensors")
    forms = set()
    for component, model in models.items():
        for path, layer in adapted_layers(model).items():
            flat = component != "unet" and not path.startswith("text_model.")
            module = f"{component}.{'text_model.' if flat else ''}{path}"
            shape = tuple(layer.get_base_layer().weight.shape)
            trained = layer.get_delta_weight("default").detach()  # type: ignore[attr-defined]
            computed = lycoris.delta(tensors, webui.name(module, family), shape)
            assert torch.allclose(computed, trained, rtol=1e-4, atol=1e-5), module
            value = lora[module]
            assert isinstance(value, Lycoris)
            assert torch.allclose(value.change().reshape(shape), trained, rtol=1e-4, atol=1e-5)
            forms.add((*sorted(value.tensors), len(shape)))
    assert len(forms) == {"loha": 2, "lokr": 4}[kind], "convolutions and linear layers, factors whole and of a rank"

    found, _ = read(tmp_path / "x.safetensors")
    assert family_of(found) == family
    bare = _models(family)
    for component, model in bare.items():
        inject(model, component, found)
    for component, model in models.items():
        theirs = adapted_layers(bare[component])
        for path, layer in adapted_layers(model).items():
            drawn = theirs[path].get_delta_weight("default")  # type: ignore[attr-defined]
            assert torch.equal(drawn, layer.get_delta_weight("default"))  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["loha", "lokr"])
def test_a_file_factored_by_another_program_acts_by_the_formulas(kind: str) -> None:
    """With Tucker's cores, both factors of a rank, and a 1x1 kernel on a linear layer."""
    torch.manual_seed(1)
    rank = 2
    conv = "lora_unet_mid_block_resnets_0_conv1"
    unet = tiny_unet("sd1")
    out, inputs = unet.mid_block.resnets[0].conv1.weight.shape[:2]
    if kind == "loha":
        tucker = {
            f"{conv}.hada_{part}": torch.randn(*shape)
            for n in "12"
            for part, shape in ((f"t{n}", (rank, rank, 3, 3)), (f"w{n}_a", (rank, out)), (f"w{n}_b", (rank, inputs)))
        }
    else:
        tucker = {
            f"{conv}.lokr_w1_a": torch.randn(4, rank), f"{conv}.lokr_w1_b": torch.randn(rank, 4),
            f"{conv}.lokr_t2": torch.randn(rank, rank, 3, 3), f"{conv}.lokr_w2_a": torch.randn(rank, out // 4),
            f"{conv}.lokr_w2_b": torch.randn(rank, inputs // 4),
        }  # fmt: skip
    tensors = {**tucker, f"{conv}.alpha": torch.tensor(1.5)}
    found = decode(tensors, {})
    module = "unet.mid_block.resnets.0.conv1"
    shape = (out, inputs, 3, 3)
    meant = lycoris.delta(tensors, conv, shape)
    value = found[module]
    assert isinstance(value, Lycoris) and value.shape == shape
    assert torch.allclose(value.change(), meant, rtol=1e-4, atol=1e-5)
    inject(unet, "unet", found)
    drawn = adapted_layers(unet)["mid_block.resnets.0.conv1"].get_delta_weight("default")  # type: ignore[attr-defined]
    assert torch.allclose(drawn, meant, rtol=1e-4, atol=1e-5)


_LOHA = {
    "hada_w1_a": torch.ones(8, 2), "hada_w1_b": torch.ones(2, 8), "hada_w2_a": torch.ones(8, 2),
    "hada_w2_b": torch.ones(2, 8),
}  # fmt: skip
_LOKR = {"lokr_w1": torch.ones(2, 2), "lokr_w2": torch.ones(4, 4)}


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({**_LOHA, **_LOKR}, "no LoHa or LoKr"),
        ({**_LOHA, "hada_w2_b": torch.ones(2, 9)}, "no LoHa or LoKr"),
        ({**_LOHA, "hada_w2_b": torch.ones(3, 8)}, "no LoHa or LoKr"),
        ({**_LOHA, "hada_t1": torch.ones(2, 2)}, "no LoHa or LoKr"),
        ({name: tensor for name, tensor in _LOHA.items() if name != "hada_w1_a"}, "no LoHa or LoKr"),
        ({**_LOHA, "hada_w1_a": torch.ones(8, 0), "hada_w1_b": torch.ones(0, 8)}, "no LoHa or LoKr"),
        ({"lokr_w1": torch.ones(2, 2)}, "no LoHa or LoKr"),
        ({**_LOKR, "lokr_w2_a": torch.ones(4, 1), "lokr_w2_b": torch.ones(1, 4)}, "no LoHa or LoKr"),
        ({**_LOKR, "lokr_w1": torch.ones(2, 2, 1, 1)}, "no LoHa or LoKr"),
        ({**_LOKR, "lokr_w2": torch.ones(())}, "no LoHa or LoKr"),
        ({**_LOHA, "alpha": torch.ones(2)}, "no single number"),
        ({**_LOHA, "dora_scale": torch.ones(1, 8)}, r"LoHa \+ dora_scale"),
        ({**_LOHA, "lora_down.weight": torch.ones(2, 8)}, r"LoHa \+ down"),
    ],
)
def test_tensors_that_do_not_belong_together_are_told(tensors: dict[str, Tensor], words: str) -> None:
    with pytest.raises(LoraError, match=words):
        decode({f"{NAME}.{part}": tensor for part, tensor in tensors.items()}, {})


def test_strength_is_alpha_by_rank_and_one_where_no_rank_is() -> None:
    def found(tensors: dict[str, Tensor]) -> float:
        return decode({f"{NAME}.{part}": tensor for part, tensor in tensors.items()}, {})[MODULE].scale

    alpha = {"alpha": torch.tensor(1.0)}
    factored = {"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(4, 2), "lokr_w2_b": torch.ones(2, 4)}
    assert (found({**_LOHA, **alpha}), found(_LOHA)) == (0.5, 1.0)
    assert (found({**factored, **alpha}), found(factored)) == (0.5, 1.0)
    assert (found({**_LOKR, **alpha}), found(_LOKR)) == (1.0, 1.0)


def test_one_without_effect_is_not_written_and_invokeai_sees_whole_factors_alone(tmp_path: Path) -> None:
    idle = {MODULE: Lycoris({**_LOKR, "lokr_w2": torch.zeros(4, 4)}, 1.0)}
    with pytest.raises(NoEffectError):
        write(tmp_path / "x.safetensors", idle, "sd1", {}, "fp32")
    factored = Lycoris({"lokr_w1": torch.ones(2, 2), "lokr_w2_a": torch.ones(4, 2), "lokr_w2_b": torch.ones(2, 4)}, 1.0)
    assert told_widths({**idle, "unet.mid_block.attentions.0.proj_out": factored}) == {MODULE: 8}


@pytest.mark.parametrize("tensors", [_LOHA, _LOKR], ids=["LoHa", "LoKr"])
def test_converted_it_stays_what_it_is_and_what_reads_it_not_is_told(
    tensors: dict[str, Tensor], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    title = request.node.callspec.id
    names = {f"lycoris_mid_block_attentions_0_proj_in.{part}": tensor for part, tensor in tensors.items()}
    safetensors.torch.save_file(names, tmp_path / "x.safetensors")
    done = convert_lora(tmp_path / "x.safetensors", tmp_path / "y.safetensors", family="sd1")
    assert f"This is a {title}" in " ".join(map(str, done.warnings)) and "diffusers does not" in str(done.warnings[-1])
    summary = LoraSummary.read(done.path)
    assert summary.kinds == (title,) and summary.metadata["ss_network_module"] == "lycoris.kohya"
    found, before = read(done.path)[0][MODULE], read(tmp_path / "x.safetensors")[0][MODULE]
    assert isinstance(found, Lycoris) and isinstance(before, Lycoris) and torch.equal(found.change(), before.change())
