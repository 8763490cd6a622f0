"""A base model and a finished LoRA file in a real diffusers pipeline, kept loaded from one picture to the next.

What draws here is what a user of diffusers would load: the file is read back through `load_lora_weights`, so a
picture also proves the file. Samplers, seeds and decoding are those of the previews during training.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import recurse_remove_peft_layers
from PIL import Image
from torch import Tensor, nn

from lora_core.events import Emit
from lora_core.lora.adapter import LayerChange, Lora, LoraError
from lora_core.lora.dora import adapted_layers
from lora_core.lora.file import is_ready, read
from lora_core.lora.peft_layers import base_shapes, disabled, inject
from lora_core.lora.shapes import check_fits, family_of
from lora_core.models.device import choose, free_bytes, in_turn, set_up
from lora_core.models.families.base import BaseModel
from lora_core.models.families.specs import FAMILIES
from lora_core.models.load import load
from lora_core.models.weights import free_device_memory
from lora_core.sampling import sample
from lora_core.sampling.params import GenerationParams

_ADAPTER = "lora"
_SPARE_BYTES = 3 * 2**30  # of the device, for what drawing itself needs

OnStep = Callable[[int, int], None]
"""Told the denoising steps done and their number; may raise to cancel."""


@dataclass(frozen=True)
class _LoadedLora:
    """The LoRA in the pipeline. A file of the same name and another time is another LoRA."""

    path: Path
    changed_ns: int
    by_diffusers: bool


class Pipeline:
    """Draws pictures; for one thread at a time. Holds nothing until `open`, and nothing after `free`."""

    def __init__(self, device: str = "auto") -> None:
        self.device = device
        self.base = ""  # name of the loaded base model
        self.pipeline: Any = None  # StableDiffusionPipeline, or the one of the model's family
        self._asked = ("", "", "auto", "auto")
        self._model: BaseModel | None = None
        self._lora: _LoadedLora | None = None

    @property
    def is_on_card(self) -> bool:
        """Whether it holds memory of a graphics card, which a training may want."""
        return self._model is not None and self._model.device.type != "cpu"

    def open(
        self, base: str, emit: Emit, vae: str = "", prediction_type: str = "auto", zero_terminal_snr: str = "auto"
    ) -> None:
        """Load a base model unless it is loaded; `emit` is told of downloads and may raise to cancel.

        vae, prediction_type, zero_terminal_snr: as the LoRA was trained with, like the settings of these names.

        Raises:
            UserError: there is no such model, or none that Treino knows.
        """
        asked = (base, vae, prediction_type, zero_terminal_snr)
        if self._model is not None and self._asked == asked:
            return
        self.free()
        compute = choose(self.device, "fp16")
        set_up(compute)
        model = load(base, compute.dtype, emit, vae, prediction_type, zero_terminal_snr)
        model.unet.to(compute.device)
        if _has_room(compute.device, model):
            for module in (model.vae, *model.text_encoders.values()):
                module.to(compute.device)
        self._asked = asked
        self.base, self._model, self.pipeline = base, model, model.family.pipeline(model)

    def free(self) -> None:
        """Give the memory back."""
        self._model = self.pipeline = self._lora = None
        self.base = ""
        gc.collect()
        free_device_memory()

    def draw(self, params: GenerationParams, on_step: OnStep | None = None) -> Image.Image:
        """Draw one picture with the opened base model. At weight 0 it is the base model's, bit for bit.

        Raises:
            LoraError: the LoRA cannot be read, or does not fit the base model.
        """
        model = self._model
        assert model is not None, "open a base model first"
        side = model.pixels_per_latent
        assert not params.width % side and not params.height % side, f"no multiples of {side}: {params}"
        done = 0

        def count() -> None:
            nonlocal done
            done += 1
            if on_step:
                on_step(done, int(self.pipeline.num_timesteps))

        model.read_captions(params.clip_skip, params.max_token_length)
        with in_turn, ExitStack() as stack:
            if params.has_lora:
                self._load_lora(model, Path(params.lora))
            stack.enter_context(self._weighted(model, params.weight if params.has_lora else 0.0))
            return sample.draw(model, [params], count, self.pipeline)[0]

    def _load_lora(self, model: BaseModel, path: Path) -> None:
        changed_ns = path.stat().st_mtime_ns if path.is_file() else 0
        if self._lora and (self._lora.path, self._lora.changed_ns) == (path, changed_ns):
            return
        self._unload_lora(model)
        lora, metadata = read(path)
        check_base(model, path, lora, family_of(lora, metadata))
        by_diffusers = _is_for_diffusers(path, lora, model.family.name)
        # Set first: when loading fails half-way, the next LoRA still finds a clean model.
        self._lora = _LoadedLora(path, changed_ns, by_diffusers)
        try:
            if by_diffusers:
                self.pipeline.load_lora_weights(str(path.parent), weight_name=path.name, adapter_name=_ADAPTER)
            else:
                for component, module in model.adapted().items():
                    if any(name.startswith(f"{component}.") for name in lora):
                        inject(module, component, lora, _ADAPTER)
        except BaseException:
            self._unload_lora(model)
            raise
        for module in model.adapted().values():
            module.requires_grad_(False)

    def _unload_lora(self, model: BaseModel) -> None:
        if self._lora is None:
            return
        if self._lora.by_diffusers:
            self.pipeline.unload_lora_weights()
        else:
            for module in model.adapted().values():
                recurse_remove_peft_layers(module)
                vars(module).pop("peft_config", None)  # PEFT's note that the name is taken
        self._lora = None

    @contextmanager
    def _weighted(self, model: BaseModel, weight: float) -> Iterator[None]:
        """The LoRA at a weight within the block; at 0 the adapters do not compute at all."""
        if self._lora is None:
            yield
            return
        layers: list[Any] = [
            layer for part in model.adapted().values() for layer in adapted_layers(part, _ADAPTER).values()
        ]
        with ExitStack() as stack:
            if not weight:
                stack.enter_context(disabled(layers))
            elif self._lora.by_diffusers:
                self.pipeline.set_adapters(_ADAPTER, weight)
            elif weight != 1:
                for layer in layers:
                    stack.callback(layer.register_forward_hook(_between(weight)).remove)
            yield


def _between(weight: float) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], Tensor]:
    """A layer's answer part of the way from the frozen layer's: how webuis weigh what is no plain product (DoRA)."""

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], adapted: Tensor) -> Tensor:
        frozen: Tensor = layer.get_base_layer()(*inputs)  # type: ignore[operator]
        return frozen + weight * (adapted - frozen)

    return hook


def check_base(model: BaseModel, path: Path, lora: Mapping[str, LayerChange], family: str) -> None:
    """Raises LoraError with the reason why a LoRA does nothing good on this base model."""
    if family != model.family.name:
        title = FAMILIES[family].title
        other = model.family.spec.title
        raise LoraError("sampling.other_family", lora=path.name, family=title, base=model.name, other=other)
    shapes: dict[str, tuple[int, ...]] = {}
    for component, module in model.adapted().items():
        shapes |= base_shapes(module, component)
    try:
        check_fits(lora, shapes)
    except LoraError as cause:
        raise LoraError("sampling.does_not_fit", lora=path.name, base=model.name, why=cause) from None


def _is_for_diffusers(path: Path, lora: Lora, family: str) -> bool:
    """Whether diffusers reads the file as it was meant: our names, one rank, one alpha, and plain: no DoRA, LoHa or LoKr.

    Of several alphas it gives many layers that of others (0.42), even where alpha / rank is the same everywhere.
    """
    found = {(adapter.kind, adapter.rank, adapter.alpha) for adapter in lora.values()}
    if len(found) > 1 or any(kind != "lora" for kind, *_ in found):
        return False
    return is_ready(path, lora, family)


def _has_room(device: torch.device, model: BaseModel) -> bool:
    """Whether text encoders and VAE may stay on the device; else each is moved there for its turn."""
    parts = (model.vae, *model.text_encoders.values())
    needed = sum(p.numel() * p.element_size() for part in parts for p in part.parameters())
    return bool(free_bytes(device) > needed + _SPARE_BYTES)
