"""Adapters between PEFT's layers in a model and our values."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from lora_core.lora.adapter import Adapter, LayerChange, Lora, LoraError
from lora_core.lora.dialects import output_axis
from lora_core.lora.dialects.modules import TEXT_ENCODERS, with_text_model
from lora_core.lora.dora import AdaptedLayer, adapted_layers, normalise_over_inputs
from lora_core.lora.lycoris import TENSORS, Lycoris
from lora_core.lora.shapes import check_fits

_UNTOLD = ("lokr_w1_a", "lokr_w2_a")


def from_peft(model: nn.Module, component: str, adapter: str = "default") -> Lora:
    """The adapters PEFT put into a component ("unet", "text_encoder", "text_encoder_2") as they stand, on the CPU.

    The scale is the layer's own, so rsLoRA and alpha patterns are in the alpha. Values are copies.
    """
    return {module: _read(layer, adapter) for module, layer in named_layers(model, component, adapter).items()}


def named_layers(model: nn.Module, component: str, adapter: str = "default") -> dict[str, AdaptedLayer]:
    """Every layer of a component that PEFT gave this adapter, by module name."""
    found = adapted_layers(model, adapter)
    return {f"{component}.{_file_path(path, component)}": layer for path, layer in found.items()}


def load_into_peft(model: nn.Module, component: str, lora: Lora, adapter: str = "default") -> None:
    """The inverse: put values into adapters already injected, which must be the same modules and ranks.

    Raises:
        LoraError: they are not; the model is as it was.
    """
    layers = named_layers(model, component, adapter)
    mine = {module: value for module, value in lora.items() if module.startswith(f"{component}.")}
    if odd := sorted(layers.keys() ^ mine.keys()):
        raise LoraError("lora.other_layers", layers=odd[:3])
    for module, layer in layers.items():
        have = _read(layer, adapter)
        if _shapes(have) != _shapes(mine[module]):
            theirs = str(_shapes(mine[module]))
            raise LoraError("lora.other_adapter", module=module, theirs=theirs, mine=str(_shapes(have)))
    with torch.no_grad():
        for module, layer in layers.items():
            _write(layer, adapter, mine[module])


def inject(model: nn.Module, component: str, lora: Lora, adapter: str = "default") -> None:
    """Put adapters with the values of a LoRA onto a bare component; other components' adapters are left aside.

    Exact for every LoRA of ours, DoRA included, which diffusers' own loader leaves out.

    Raises:
        LoraError: the component lacks a layer, a layer has another size, or layers are of several kinds.
    """
    from peft import inject_adapter_in_model

    has_text_model = any(name.startswith("text_model.") for name, _ in model.named_modules())
    mine = {module: value for module, value in lora.items() if module.startswith(f"{component}.")}
    check_fits(mine, base_shapes(model, component))
    kinds = {value.kind for value in mine.values()}
    if len(kinds) > 1:
        raise LoraError("lora.several_kinds")
    paths = {module: module.partition(".")[2] for module in mine}
    if not has_text_model:
        paths = {module: path.removeprefix("text_model.") for module, path in paths.items()}
    # PEFT takes names for regular expressions.
    ranks: dict[str, Any] = {re.escape(paths[module]): value.rank for module, value in mine.items()}
    alphas: dict[str, Any] = {re.escape(paths[module]): value.alpha for module, value in mine.items()}
    kind = kinds.pop() if kinds else "lora"
    config = peft_config(kind, target_modules=list(paths.values()), rank_pattern=ranks, alpha_pattern=alphas)
    inject_adapter_in_model(config, model, adapter)
    if all(_is_over_inputs(value) for value in mine.values()):
        normalise_over_inputs(model, adapter)
    for module, layer in named_layers(model, component, adapter).items():
        if isinstance(value := mine[module], Lycoris):  # which may be factored in another way than PEFT would
            _lay_out(layer, adapter, value)
    load_into_peft(model, component, mine, adapter)


def peft_config(kind: str, rank: int = 8, alpha: float = 8.0, **rest: Any) -> Any:
    """PEFT's settings of a kind of adapter; rest: what all its kinds call by one name.

    LoHa and LoKr are as LyCORIS has them by default: convolutions flattened, not by Tucker, and LoKr's factors as near to
    the root of each side as there are (factor -1), the second starting at zero.
    """
    from peft import LoHaConfig, LoKrConfig, LoraConfig

    if kind == "loha":
        return LoHaConfig(r=rank, alpha=alpha, **rest)
    if kind == "lokr":
        return LoKrConfig(r=rank, alpha=alpha, init_weights="lycoris", **rest)
    return LoraConfig(r=rank, lora_alpha=alpha, use_dora=kind == "dora", **rest)


def scale_as_readers(model: nn.Module, adapter: str = "default") -> None:
    """LoKr's layers of two whole matrices have no rank by which a reader could divide the alpha: their scale is 1."""
    for layer in adapted_layers(model, adapter).values():
        if all(adapter in getattr(layer, name, ()) for name in ("lokr_w1", "lokr_w2")):
            layer.scaling[adapter] = 1.0


@contextmanager
def disabled(layers: Iterable[Any]) -> Iterator[None]:
    """Within the block PEFT's layers answer as if they had no adapters."""
    layers = list(layers)
    _enable(layers, False)
    try:
        yield
    finally:
        _enable(layers, True)


def _enable(layers: list[Any], enabled: bool) -> None:
    for layer in layers:
        # Not enable_adapters(): that also turns requires_grad off and on, which would break a backward in progress.
        layer._disable_adapters = not enabled


def _is_over_inputs(value: LayerChange) -> bool:
    return value.dora_scale is not None and value.dora_scale.shape[0] == 1


def base_shapes(model: nn.Module, component: str) -> dict[str, tuple[int, ...]]:
    """The weight shapes of every linear and convolution of a component, by module name; adapters left aside."""
    shapes: dict[str, tuple[int, ...]] = {}
    for path, module in model.named_modules():
        if ".lora_" not in path and isinstance(module, nn.Linear | nn.Conv2d):
            name = path.removesuffix(".base_layer")  # PEFT's place for what it wraps
            shapes[f"{component}.{_file_path(name, component)}"] = tuple(module.weight.shape)
    return shapes


def input_widths(model: nn.Module, component: str) -> dict[str, int]:
    """The inputs of every layer of a component by which InvokeAI can tell them (`told_widths`), by module name."""
    return {
        module: int(layer.get_base_layer().weight.shape[1])
        for module, layer in named_layers(model, component).items()
        if not any(getattr(layer, name, ()) for name in _UNTOLD)
    }


def told_widths(lora: Lora) -> dict[str, int]:
    """The inputs of each module, where InvokeAI can tell: of a LoKr it looks at whole matrices alone."""
    return {
        module: value.inputs
        for module, value in lora.items()
        if isinstance(value, Adapter) or not any(name in value.tensors for name in _UNTOLD)
    }


def _file_path(path: str, component: str) -> str:
    return with_text_model(path) if component in TEXT_ENCODERS else path


def _read(layer: AdaptedLayer, adapter: str) -> LayerChange:
    tensors = {name: getattr(layer, name)[adapter] for name in TENSORS if adapter in getattr(layer, name, ())}
    if tensors:
        found = Lycoris({name: _copy(tensor) for name, tensor in tensors.items()}, float(cast(Any, layer).r[adapter]))
        return replace(found, alpha=float(torch.tensor(layer.scaling[adapter] * found.rank, dtype=torch.float32)))
    down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
    # Through fp32, in which the file keeps it: what is read back is then what was written.
    alpha = float(torch.tensor(layer.scaling[adapter] * down.shape[0], dtype=torch.float32))
    return Adapter(_copy(down), _copy(up), alpha, _magnitude(layer, adapter, down.dim()))


def _magnitude(layer: AdaptedLayer, adapter: str, dimensions: int) -> Tensor | None:
    if adapter not in layer.lora_magnitude_vector:
        return None
    magnitude = layer.lora_magnitude_vector[adapter]
    values = _copy(cast(Tensor, magnitude.weight))
    return values if getattr(magnitude, "over_inputs", False) else output_axis(values, dimensions)


def _lay_out(layer: AdaptedLayer, adapter: str, value: Lycoris) -> None:
    """Give a layer the tensors that this value has, of these shapes."""
    device = next(cast(nn.Module, layer).parameters()).device
    for name in TENSORS:
        own = getattr(layer, name, {})
        if adapter in own:
            del own[adapter]
        if name in value.tensors:
            own[adapter] = nn.Parameter(torch.empty(value.tensors[name].shape, device=device))
    cast(Any, layer).r[adapter] = value.rank


def _write(layer: AdaptedLayer, adapter: str, value: LayerChange) -> None:
    layer.scaling[adapter] = value.scale
    if isinstance(value, Lycoris):
        for name, tensor in value.tensors.items():
            getattr(layer, name)[adapter].copy_(tensor)
        return
    layer.lora_A[adapter].weight.copy_(value.down)
    layer.lora_B[adapter].weight.copy_(value.up)
    if value.dora_scale is not None:
        weight = cast(Tensor, layer.lora_magnitude_vector[adapter].weight)
        weight.copy_(value.dora_scale.reshape(weight.shape))


def _shapes(value: LayerChange) -> tuple[list[int], ...]:
    tensors = (*value.matrices, value.dora_scale)
    return tuple(list(tensor.shape) for tensor in tensors if tensor is not None)


def _copy(tensor: Tensor) -> Tensor:
    return tensor.detach().to("cpu", torch.float32, copy=True)
