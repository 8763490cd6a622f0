"""The frozen base in 8 bits: near the same answers, exact gradients of what it holds, nothing cast kept."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from lora_core.config import TARGETS, TrainConfig
from lora_core.events import Finished, Step
from lora_core.models import frozen_layers, int8
from lora_core.models import load as base_models
from lora_core.models.families.base import BaseModel, whole_frame
from lora_core.models.weights import load_to, offload, on_device
from lora_core.training.data.latent_cache import Prompts
from lora_core.training.engine import adapters
from tests.support.training import config_for, run
from tests.training.engine.test_lean_activations import ATTENTION, kept, step

LAYERS = [nn.Linear(96, 64), nn.Conv2d(96, 64, 3, padding=1), nn.Conv2d(96, 64, 3, stride=2, padding=1, bias=False)]


def shrunk(layer: nn.Linear | nn.Conv2d) -> tuple[nn.Linear | nn.Conv2d, nn.Linear | nn.Conv2d]:
    """A copy of a layer in 8 bits, and a plain one with the weight that this one stands for."""
    torch.manual_seed(1)
    small, plain = (type(layer)(*_shape(layer)).requires_grad_(False) for _ in range(2))
    plain.load_state_dict(small.state_dict())
    int8.quantize(nn.Sequential(small))
    plain.weight.copy_(frozen_layers.weight_of(small, torch.float32))
    return small, plain


def _shape(layer: nn.Linear | nn.Conv2d) -> tuple[object, ...]:
    if isinstance(layer, nn.Linear):
        return layer.in_features, layer.out_features
    return layer.in_channels, layer.out_channels, layer.kernel_size, layer.stride, layer.padding


@pytest.mark.parametrize("layer", LAYERS, ids=["linear", "conv", "strided"])
def test_answers_and_gradients_are_those_of_the_weight_it_stands_for(layer: nn.Linear | nn.Conv2d) -> None:
    small, plain = shrunk(layer)
    size = (2, 96) if isinstance(layer, nn.Linear) else (2, 96, 9, 9)
    mine = torch.randn(*size, requires_grad=True)
    other = mine.detach().clone().requires_grad_()
    (answer := small(mine)).pow(2).sum().backward()
    (wanted := plain(other)).pow(2).sum().backward()
    assert torch.equal(answer, wanted)
    torch.testing.assert_close(mine.grad, other.grad)
    assert small.weight.dtype == torch.int8 and small.weight.nbytes * 4 == plain.weight.nbytes


@pytest.mark.parametrize("layer", LAYERS[:2], ids=["linear", "conv"])
def test_nothing_is_kept_for_the_way_back(layer: nn.Linear | nn.Conv2d) -> None:
    small, _ = shrunk(layer)
    size = (2, 96) if isinstance(layer, nn.Linear) else (2, 96, 9, 9)
    x = torch.randn(*size, requires_grad=True)
    with kept() as found:
        small(x * 1)
    assert not found


def test_no_number_is_off_by_more_than_half_a_step() -> None:
    weight = torch.randn(32, 48, 3, 3) * torch.logspace(-6, 2, 32)[:, None, None, None]
    weight[3] = 0
    whole, scale = int8.quantized(weight)
    off = (whole * scale[:, None, None, None] - weight).abs().flatten(1).amax(1)
    assert whole.shape == weight.shape and whole.abs().max() == 127
    assert bool((off <= scale * 0.5001).all()) and not whole[3].any()


@pytest.mark.parametrize(("dtype", "most"), [(torch.float16, 1e-3), (torch.bfloat16, 2e-3)])
def test_a_cast_adds_only_its_rounding_also_to_rows_of_small_weights(dtype: torch.dtype, most: float) -> None:
    """In fp16 a scale under 6.1e-5, of rows whose largest weight is under 8e-3, has no ten bits left: up to 4 % here."""
    torch.manual_seed(0)
    layer = nn.Linear(512, 64, bias=False)
    weight = torch.randn(64, 512) * torch.logspace(-4.5, -1, 64)[:, None]
    layer.weight.data.copy_(weight)
    int8.quantize(nn.Sequential(layer))
    exact, cast = (frozen_layers.weight_of(layer, each) for each in (torch.float32, dtype))
    assert cast.dtype == dtype and int((weight.abs().amax(1) < 8e-3).sum()) > 20
    added, missed = ((each.norm(dim=1) / weight.norm(dim=1)).max() for each in (cast - exact, exact - weight))
    assert float(missed) < 0.0115 and float(added) < most


def test_a_cast_makes_one_tensor_of_the_weights_size() -> None:
    class Made(TorchDispatchMode):
        def __torch_dispatch__(self, op: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            found = op(*args, **(kwargs or {}))
            if isinstance(found, Tensor) and found.numel() == 64 * 96:
                made[found.untyped_storage()._cdata] = found
            return found

    made: dict[int, Tensor] = {}
    with torch.device("meta"):  # as on a card: there kernels read and write numbers of several formats
        layer = nn.Linear(96, 64)
    int8.quantize(nn.Sequential(layer))
    with Made():
        answer = frozen_layers.weight_of(layer, torch.float16)
    assert [(tensor.dtype, key) for key, tensor in made.items()] == [(torch.float16, answer.untyped_storage()._cdata)]


def adapted(folder: Path, small: bool, dtype: torch.dtype = torch.float32, **values: object) -> BaseModel:
    """The tiny model with adapters that already change what it draws, read in 8 bits or not."""
    model = base_models.open_on_meta(str(folder), dtype, lambda event: None)
    if small:
        int8.quantize(model.unet)
    load_to(model.unet, "cpu")
    adapters.attach(model, TrainConfig.of({"lora_rank": 4, **values}))
    torch.manual_seed(3)
    for parameter in adapters.named_parameters(model).values():
        parameter.data.normal_(std=0.1)
    return model


@pytest.mark.parametrize("values", [
    {"target_modules": ATTENTION}, {"target_modules": TARGETS, "lean_activations": False}, {"target_modules": TARGETS},
    {"adapter": "dora", "target_modules": ("to_q", "conv1")},
    *({"adapter": kind, "target_modules": TARGETS} for kind in ("loha", "lokr")),
])  # fmt: skip
@pytest.mark.parametrize("checkpointing", [False, True])
def test_a_step_comes_out_near_that_in_full(tiny_sd1: Path, values: dict[str, object], checkpointing: bool) -> None:
    found: list[tuple[Tensor, dict[str, Tensor]]] = []
    for small in (True, False):
        model = adapted(tiny_sd1, small, **values)
        model.unet.train()
        if checkpointing:
            model.unet.enable_gradient_checkpointing()
        found.append(step(model))
    (mine, gradients), (wanted, exact) = found
    assert not torch.equal(mine, wanted)
    assert (mine - wanted).norm() < 0.03 * wanted.norm()
    assert gradients.keys() == exact.keys()
    for name, gradient in exact.items():
        assert torch.nn.functional.cosine_similarity(gradients[name].flatten(), gradient.flatten(), dim=0) > 0.98, name


def test_it_is_read_from_the_file_as_it_would_be_shrunk(tiny_sd1: Path) -> None:
    whole = base_models.load(str(tiny_sd1), torch.float16, lambda event: None).unet
    int8.quantize(whole)
    read = base_models.open_on_meta(str(tiny_sd1), torch.float16, lambda event: None).unet
    int8.quantize(read)
    with on_device([read], "cpu"):
        assert_same(read, whole)
    load_to(read, "cpu")
    assert_same(read, whole)
    offload(read)
    assert {tensor.device.type for tensor in (*read.parameters(), *read.buffers())} == {"meta"}
    plain = base_models.load(str(tiny_sd1), torch.float16, lambda event: None).unet
    smaller, size = (sum(p.nbytes for p in unet.parameters()) for unet in (whole, plain))
    assert int8.bytes_of(whole) < smaller < 0.7 * size  # much of so small a model are its first and last layers


def assert_same(one: nn.Module, other: nn.Module) -> None:
    mine, theirs = ({**dict(m.named_parameters()), **dict(m.named_buffers())} for m in (one, other))
    assert mine.keys() == theirs.keys() and any(tensor.dtype == torch.int8 for tensor in mine.values())
    for name, tensor in mine.items():
        assert torch.equal(tensor, theirs[name]), name


def test_a_trained_model_answers_nearly_the_same() -> None:
    model = base_models.load("starter", torch.float32, lambda event: None)
    noisy_latents, timesteps = torch.randn(4, 12, 8, 8), torch.tensor([20, 300, 700, 990])
    prompts = Prompts(model, torch.device("cpu"), live=False)
    conditioning = prompts.base(["a red zebu"] * 4, [whole_frame(64, 64)] * 4)
    with torch.no_grad():
        wanted = model.family.predict(model.unet, noisy_latents, timesteps, conditioning).flatten(1)
        int8.quantize(model.unet)
        found = model.family.predict(model.unet, noisy_latents, timesteps, conditioning).flatten(1)
    assert bool(((found - wanted).norm(dim=1) < 0.005 * wanted.norm(dim=1)).all())


def test_a_whole_training_with_samples_in_8_bits(tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    curves = []
    for small in (True, False):
        config = config_for(
            tiny_sd1, pictures, tmp_path / str(small), eight_bit_base=small, max_train_steps=4, save_steps=2,
            sample_prompts=["a cat"], sample_count=1, gradient_checkpointing=True,
        )  # fmt: skip
        _, events = run(config)
        assert isinstance(events[-1], Finished)
        curves.append([event.loss for event in events if isinstance(event, Step)])
    assert curves[0] != curves[1] and curves[0] == pytest.approx(curves[1], rel=0.02)
