"""DoRA over the input axis: the layer acts with the weight that webuis compute, and learns magnitude and direction."""

from __future__ import annotations

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor, nn
from torch.nn import functional

from lora_core.lora.dora import InputDora, adapted_layers, normalise_over_inputs


class Pair(nn.Module):
    """A linear layer and a strided convolution with a bias each."""

    def __init__(self) -> None:
        super().__init__()
        self.to_q = nn.Linear(6, 5)
        self.conv1 = nn.Conv2d(6, 7, 3, stride=2, padding=1)

    def forward(self, tokens_BLD: Tensor, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
        return self.to_q(tokens_BLD), self.conv1(image_BCHW)


@pytest.fixture
def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    return torch.randn(2, 4, 6), torch.randn(2, 6, 9, 8)


def _adapted(*, zero: bool = True, dropout: float = 0.0) -> Pair:
    torch.manual_seed(0)
    model = Pair()
    config = LoraConfig(
        r=3, lora_alpha=5, target_modules=["to_q", "conv1"], use_dora=True, init_lora_weights=zero, lora_dropout=dropout
    )
    inject_adapter_in_model(config, model)
    normalise_over_inputs(model)
    return model


def _weight(layer: nn.Module) -> Tensor:
    """The formula of DoRA with the norm of every input's column, as A1111 and LyCORIS write it."""
    base, scale = layer.get_base_layer().weight, layer.scaling["default"]
    up, down = layer.lora_B["default"].weight, layer.lora_A["default"].weight
    merged = base + scale * (up.flatten(1) @ down.flatten(1)).reshape(base.shape)
    norm = merged.transpose(0, 1).reshape(merged.shape[1], -1).norm(dim=1, keepdim=True)
    norm = norm.reshape(merged.shape[1], *[1] * (merged.dim() - 1)).transpose(0, 1)
    return merged * (layer.lora_magnitude_vector["default"].weight / norm)


def test_a_fresh_adapter_changes_nothing(inputs: tuple[Tensor, Tensor]) -> None:
    model = _adapted()
    plain = Pair()
    plain.to_q, plain.conv1 = model.to_q.get_base_layer(), model.conv1.get_base_layer()
    for ours, frozen in zip(model(*inputs), plain(*inputs), strict=True):
        assert torch.allclose(ours, frozen, atol=1e-6)


def test_the_layer_acts_with_the_weight_webuis_compute(inputs: tuple[Tensor, Tensor]) -> None:
    model = _adapted(zero=False)
    for layer in (model.to_q, model.conv1):
        magnitude = layer.lora_magnitude_vector["default"].weight
        magnitude.data *= 1 + torch.rand_like(magnitude)
    linear, image = model(*inputs)
    conv = model.conv1.get_base_layer()
    assert torch.allclose(
        linear, functional.linear(inputs[0], _weight(model.to_q), model.to_q.get_base_layer().bias), atol=1e-5
    )
    assert torch.allclose(image, functional.conv2d(inputs[1], _weight(model.conv1), conv.bias, 2, 1), atol=1e-5)


def test_a_matrix_of_inputs_works_like_tokens(inputs: tuple[Tensor, Tensor]) -> None:
    model = _adapted(zero=False)
    tokens = inputs[0]
    assert torch.allclose(model.to_q(tokens[0]), model.to_q(tokens)[0], atol=1e-6)


def test_magnitude_and_matrices_learn_and_the_frozen_weight_does_not(inputs: tuple[Tensor, Tensor]) -> None:
    model = _adapted(dropout=0.5).train()
    linear, image = model(*inputs)
    (linear.square().mean() + image.square().mean()).backward()
    for layer in (model.to_q, model.conv1):
        assert layer.lora_magnitude_vector["default"].weight.grad.abs().sum() > 0
        assert layer.lora_B["default"].weight.grad.abs().sum() > 0
        assert layer.get_base_layer().weight.grad is None


def test_half_precision_inputs_stay_half(inputs: tuple[Tensor, Tensor]) -> None:
    model = _adapted(zero=False).to(torch.bfloat16)
    linear, image = model(*(tensor.bfloat16() for tensor in inputs))
    assert linear.dtype == image.dtype == torch.bfloat16


def test_shapes_and_names() -> None:
    model = _adapted()
    assert set(adapted_layers(model)) == {"to_q", "conv1"}
    assert adapted_layers(model, "other") == {}
    assert {n: tuple(p.shape) for n, p in model.named_parameters() if "magnitude" in n} == {
        "to_q.lora_magnitude_vector.default.weight": (1, 6),
        "conv1.lora_magnitude_vector.default.weight": (1, 6, 1, 1),
    }
    assert isinstance(model.to_q.lora_magnitude_vector["default"], InputDora)


def test_a_plain_lora_is_left_as_it_is() -> None:
    model = Pair()
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["to_q"]), model)
    normalise_over_inputs(model)
    assert len(model.to_q.lora_magnitude_vector) == 0
