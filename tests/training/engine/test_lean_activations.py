"""The layers that keep less: the same numbers, less kept."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from diffusers.models.activations import GEGLU
from diffusers.models.resnet import ResnetBlock2D
from torch import Tensor, nn

from lora_core.config import TARGETS, TrainConfig
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel
from lora_core.training.engine import adapters, lean_activations

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def adapted(folder: Path, dtype: torch.dtype = torch.float32, **values: object) -> BaseModel:
    """The tiny model with adapters that already change what it draws."""
    model = base_models.load(str(folder), dtype, lambda event: None)
    adapters.attach(model, TrainConfig.of({"lora_rank": 4, **values}))
    torch.manual_seed(3)
    for parameter in adapters.named_parameters(model).values():
        parameter.data.normal_(std=0.1)
    return model


def step(model: BaseModel) -> tuple[Tensor, dict[str, Tensor]]:
    """The prediction for a batch of noise, and the gradient of its square for every adapter."""
    rng = torch.Generator().manual_seed(5)
    latents = torch.randn(2, 4, 8, 8, generator=rng)
    states = {"encoder_hidden_states": torch.randn(2, 7, 96, generator=rng)}
    prediction = model.family.predict(model.unet, latents, torch.tensor([3, 700]), states)
    prediction.pow(2).mean().backward()
    return prediction.detach(), {name: p.grad for name, p in adapters.named_parameters(model).items() if p.grad is not None}


@pytest.mark.parametrize("targets", [ATTENTION, ("conv1", "proj_in", "time_emb_proj"), TARGETS])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_prediction_and_gradients_do_not_move_a_digit(
    tiny_sd1: Path, targets: tuple[str, ...], checkpointing: bool
) -> None:
    found = []
    for is_lean in (True, False):
        model = adapted(tiny_sd1, target_modules=targets, lean_activations=is_lean)
        model.unet.train()
        adapters.checkpoint(model, TrainConfig.of({"gradient_checkpointing": checkpointing}))
        found.append(step(model))
    (lean_prediction, lean_gradients), (prediction, gradients) = found
    assert torch.equal(lean_prediction, prediction)
    assert lean_gradients.keys() == gradients.keys() and len(gradients) > 4
    for name, gradient in gradients.items():
        assert torch.equal(lean_gradients[name], gradient), name
        assert bool(gradient.any()), name


def test_recomputing_a_part_moves_no_digit_and_keeps_less_the_larger_the_part(tiny_sd1: Path) -> None:
    found, bytes_kept = [], []
    for quarters in range(5):
        model = adapted(tiny_sd1, target_modules=ATTENTION)
        model.unet.train()
        config = TrainConfig.of({"checkpointed_quarters": quarters % 4, "gradient_checkpointing": quarters == 4})
        adapters.checkpoint(model, config)
        units = [unit.gradient_checkpointing for unit in model.unet.modules() if hasattr(unit, "gradient_checkpointing")]
        assert sum(units) == len(units) * quarters // 4
        with kept() as storages:
            found.append(step(model))
        bytes_kept.append(sum(storages.values()))
    assert bytes_kept == sorted(bytes_kept, reverse=True) and bytes_kept[4] < bytes_kept[2] < bytes_kept[0]
    for prediction, gradients in found[1:]:
        assert torch.equal(prediction, found[0][0]) and gradients.keys() == found[0][1].keys()
        assert all(torch.equal(gradient, found[0][1][name]) for name, gradient in gradients.items())


@contextmanager
def kept() -> Iterator[dict[int, int]]:
    """Bytes by storage that autograd keeps for the backward pass of what runs within."""
    found: dict[int, int] = {}
    held = []  # so that no address is given to a second one

    def pack(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            held.append(tensor.untyped_storage())
            found[held[-1].data_ptr()] = held[-1].nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        yield found


def test_a_frozen_resnet_keeps_two_tensors_of_its_size(tiny_sd1: Path) -> None:
    sizes = {}
    for is_lean in (True, False):
        unet = nn.Sequential(ResnetBlock2D(in_channels=32, temb_channels=8, groups=8)).requires_grad_(False)
        if is_lean:
            lean_activations.keep_less(unet)
        x = torch.randn(1, 32, 64, 64, requires_grad=True)
        with kept() as found:
            unet[0](x * 1, torch.randn(1, 8))
        sizes[is_lean] = sum(found.values()) / (x.numel() * 4)
    assert sizes[True] < 2.1 and sizes[False] > 5.9


def test_a_gated_unit_keeps_its_projection_alone() -> None:
    unet = nn.Sequential(GEGLU(16, 64)).requires_grad_(False)
    lean_activations.keep_less(unet)
    x = torch.randn(1, 1000, 16, requires_grad=True)
    with kept() as found:
        unet[0](x)
    weight = 16 * 128 * 4  # seen as a view, and there anyway
    assert [size for size in found.values() if size != weight] == [1000 * 128 * 4]


def test_in_16_bit_an_adapter_keeps_its_input_as_it_is(tiny_sd1: Path) -> None:
    """Three adapters share one input of one format; PEFT alone would keep three copies in fp32."""
    x = torch.randn(1, 50, 16, dtype=torch.bfloat16, requires_grad=True)
    model = adapted(tiny_sd1, torch.bfloat16, target_modules=ATTENTION)
    attention = next(m for name, m in model.unet.named_modules() if name.endswith("attn1"))
    shared = x * 1
    with kept() as found:
        outputs = [getattr(attention, name)(shared) for name in ("to_q", "to_k", "to_v")]
    assert {output.dtype for output in outputs} == {torch.bfloat16}
    large = [size for size in found.values() if size >= shared.numel() * 2]
    assert large == [shared.numel() * 2]


def test_in_16_bit_gradients_come_out_near_those_in_fp32(tiny_sd1: Path) -> None:
    _, exact = step(adapted(tiny_sd1, target_modules=ATTENTION))
    _, found = step(adapted(tiny_sd1, torch.bfloat16, target_modules=ATTENTION))
    for name, gradient in exact.items():
        assert found[name].dtype == torch.float32
        assert torch.nn.functional.cosine_similarity(found[name].flatten(), gradient.flatten(), dim=0) > 0.98, name


def test_without_its_adapters_the_model_answers_as_it_was(tiny_sd1: Path) -> None:
    model, plain = adapted(tiny_sd1), base_models.load(str(tiny_sd1), torch.float32, lambda event: None)
    latents, states = torch.randn(1, 4, 8, 8), {"encoder_hidden_states": torch.randn(1, 7, 96)}
    with torch.no_grad():
        wanted = plain.family.predict(plain.unet, latents, torch.tensor([10]), states)
        changed = model.family.predict(model.unet, latents, torch.tensor([10]), states)
        with adapters.disabled(model):
            found = model.family.predict(model.unet, latents, torch.tensor([10]), states)
    assert torch.equal(found, wanted) and not torch.equal(changed, wanted)


def test_dora_keeps_its_own_way(tiny_sd1: Path) -> None:
    one, other = (step(adapted(tiny_sd1, adapter="dora", lean_activations=is_lean)) for is_lean in (True, False))
    assert torch.equal(one[0], other[0]) and all(torch.equal(one[1][name], other[1][name]) for name in other[1])
