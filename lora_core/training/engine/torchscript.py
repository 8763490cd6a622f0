"""A forward pass as a list of operations, which several threads can go through at once.

A small model made of Python modules holds the interpreter for much of its time, so threads that compute parts of a batch
(lanes.py), or serve the window, wait for each other between any two operations. Recorded by the tracer of TorchScript
and played without the optimizations of that compiler, the same operations follow each other in C++: the same numbers to
the last bit, and the same gradients. TorchScript is no longer developed, but nothing else in PyTorch makes a program
with gradients on a computer without a C++ compiler; where it fails, the model answers as it is.
"""

from __future__ import annotations

import threading
import warnings
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn
from torch.jit._fuser import optimized_execution
from torch.jit._trace import TracerWarning

from lora_core.config import TrainConfig
from lora_core.events import Emit, Warned
from lora_core.messages import plain
from lora_core.models import device as precision
from lora_core.models.families.base import BaseModel, Conditioning, Predict, Tensors
from lora_core.training.engine import adapters

Function = Callable[[Tensors], Tensors]


def can_record(unet: nn.Module, config: TrainConfig, device: torch.device) -> bool:
    """Where it pays and can be done: what keeps less for the backward pass is Python of our own (frozen.py).

    Dropout is left out, because its draws would not be those of the model as it is.
    """
    recomputes = config.gradient_checkpointing or config.checkpointed_quarters
    keeps_all = not (config.is_lean or recomputes or config.eight_bit_base or config.is_compiled)
    return device.type == "cpu" and precision.is_small(unet) and keeps_all and not config.lora_dropout


def predict(model: BaseModel, emit: Emit) -> Predict:
    """`BaseModel.predict`, recorded with the adapters on, and off."""
    layer = adapters.layers(model)[0]

    def ask(inputs: Tensors) -> Tensors:
        noisy_latents_BCHW, timesteps_B, *rows = inputs.values()
        conditioning = dict(zip(list(inputs)[2:], rows, strict=True))
        return {"prediction": model.predict(noisy_latents_BCHW, timesteps_B, conditioning)}

    answer = _Recorded(ask, [model.unet], lambda: layer.disable_adapters, emit)
    return lambda noisy_latents_BCHW, timesteps_B, conditioning: answer(
        {"noisy_latents": noisy_latents_BCHW, "timesteps": timesteps_B, **conditioning}
    )["prediction"]


def encode_text(model: BaseModel, emit: Emit) -> Callable[[Tensors], Conditioning]:
    """The family's `encode_text`, recorded."""
    layer = adapters.layers(model)[0]
    encoders = list(model.text_encoders.values())
    return _Recorded(partial(model.family.encode_text, model), encoders, lambda: layer.disable_adapters, emit)


class _Recorded:
    """A function that asks these modules, recorded for each size of its inputs but the batch, which comes first.

    state: what else its operations depend on.
    """

    def __init__(self, function: Function, modules: Sequence[nn.Module], state: Callable[[], Hashable], emit: Emit):
        self._function, self._state, self._emit = function, state, emit
        self._parameters = [
            (owner._parameters, name)
            for module in modules
            for owner in module.modules()
            for name, parameter in owner._parameters.items()
            if parameter is not None
        ]
        self._records: dict[Hashable, Callable[..., Tensor | tuple[Tensor, ...]]] = {}
        self._answers: dict[Hashable, tuple[str, ...]] = {}
        self._lock = threading.Lock()
        self._is_off = False

    def __call__(self, inputs: Tensors) -> Tensors:
        key = (*((name, each.shape[1:], each.dtype) for name, each in inputs.items()), self._state())
        with self._lock:  # while one thread records, the modules are without their parameters
            if key not in self._records and not self._is_off:
                self._record(key, inputs)
            parameters = self._now()
        return self._function(inputs) if self._is_off else self._play(key, inputs, parameters)

    def _now(self) -> list[Tensor | None]:
        return [owner[name] for owner, name in self._parameters]

    def _play(self, key: Hashable, inputs: Tensors, parameters: Sequence[Tensor | None]) -> Tensors:
        with optimized_execution(False):
            found = self._records[key](*inputs.values(), *parameters)
        values = (found,) if isinstance(found, Tensor) else found
        return dict(zip(self._answers[key], values, strict=True))

    def _record(self, key: Hashable, inputs: Tensors) -> None:
        """Record, and try it on another batch: what is not the same to the last bit is not used."""
        try:
            self._trace(key, inputs)
            other = {name: torch.cat([each.flip(0), each]) for name, each in inputs.items()}
            with torch.no_grad():
                found, wanted = self._play(key, other, self._now()), self._function(other)
            if not all(torch.equal(found[name], wanted[name]) for name in wanted):
                raise RuntimeError("the answers differ")
        except Exception as error:  # noqa: BLE001  whatever it is, there is another way
            self._is_off = True
            self._emit(Warned(plain(f"A step takes a little longer than it could, for recording it failed: {error}.")))

    def _trace(self, key: Hashable, inputs: Tensors) -> None:
        """Write the operations down, as a program of its own: what `torch.jit.trace` makes is never freed again."""
        names = tuple(inputs)

        def function(*tensors: Tensor) -> tuple[Tensor, ...]:
            with self._in_place(tensors[len(names) :]):
                answer = self._function(dict(zip(names, tensors[: len(names)], strict=True)))
            self._answers[key] = tuple(answer)
            return tuple(answer.values())

        tensors = (*inputs.values(), *self._now())
        with warnings.catch_warnings():
            # That Python's branches are not recorded: they depend on sizes, and each size has a record of its own.
            warnings.simplefilter("ignore", TracerWarning)
            graph, _ = torch._C._create_graph_by_tracing(function, tensors, lambda value: "", True, False)
        program = torch._C.CompilationUnit()
        program.create_function("record", graph, True)
        self._records[key] = program.find_function("record")

    @contextmanager
    def _in_place(self, tensors: Sequence[Tensor]) -> Iterator[None]:
        """Within the block the parameters are inputs of the record: as its constants they would not learn."""
        before = self._now()
        try:
            for (owner, name), tensor in zip(self._parameters, tensors, strict=True):
                owner[name] = tensor  # type: ignore[assignment]
            yield
        finally:
            for (owner, name), parameter in zip(self._parameters, before, strict=True):
                owner[name] = parameter  # type: ignore[assignment]
