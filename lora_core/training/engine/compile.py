"""The UNet's forward pass and its gradient as one program (torch.compile; Ansel et al. 2024), where that is asked for.

Operations that only read what another has written are joined into one kernel. It takes minutes at the first step of each
picture size, and a compiler beside torch: Triton for a card, C++ for a processor. Where that is missing or fails, the
model answers as it is. What is kept for the gradients is up to the compiler, which sees through no function of our own:
layers that keep less (lean_activations) are left as they are, and int8 layers (models/int8) cannot be compiled.
"""

from __future__ import annotations

import warnings
from collections.abc import Hashable

import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.errors import UserError, first_line
from lora_core.events import Emit, Phase, Warned
from lora_core.messages import Message
from lora_core.models.families.base import BaseModel, Conditioning, Predict
from lora_core.training.engine import adapters, lean_activations

BACKEND = "inductor"
CLOSE = 0.02  # of the length of a prediction: joined kernels round less often in 16 bit
MOST = 8  # picture sizes that are compiled: the others would take minutes each, and are seldom seen


def predict(model: BaseModel, config: TrainConfig, emit: Emit) -> Predict:
    """`BaseModel.predict`, compiled for what has gradients and adapters; the rest, drawing above all, is as it was."""
    return _Compiled(model, config, emit)


class _Compiled:
    def __init__(self, model: BaseModel, config: TrainConfig, emit: Emit):
        torch.compiler.reset()  # an earlier training's programs hold its model, and count against the limit of this one
        self._model, self._is_lean, self._emit = model, config.lean_activations, emit
        self._compiled: Predict = torch.compile(model.predict, fullgraph=True, dynamic=False, backend=BACKEND)
        self._layer = adapters.layers(model)[0]
        self._tried: set[Hashable] = set()
        self._is_off = False

    def __call__(self, noisy_latents_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> Tensor:
        if self._is_off or self._layer.disable_adapters or not torch.is_grad_enabled():
            return self._model.predict(noisy_latents_BCHW, timesteps_B, conditioning)
        key = noisy_latents_BCHW.shape
        if key not in self._tried and len(self._tried) < MOST:
            self._try(noisy_latents_BCHW, timesteps_B, conditioning)
            self._tried.add(key)
        if self._is_off or key not in self._tried:
            return self._model.predict(noisy_latents_BCHW, timesteps_B, conditioning)
        return self._compiled(noisy_latents_BCHW, timesteps_B, conditioning)

    def _try(self, noisy_latents_BCHW: Tensor, timesteps_B: Tensor, conditioning: Conditioning) -> None:
        """Compile for this size, and compare with the model as it is, gradients too."""
        try:
            self._emit(Phase("compile", detail="×".join(map(str, noisy_latents_BCHW.shape[:1:-1]))))
            asked = (noisy_latents_BCHW, timesteps_B, conditioning)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # the compiler looks at what it must not, and warns of it
                found = self._answers(self._compiled, *asked)
            wanted = self._answers(self._model.predict, *asked)
            if any(not _alike(one, other) for one, other in zip(found, wanted, strict=True)):
                raise UserError("training.answers_differ")
        except Exception as error:  # noqa: BLE001  whatever it is, there is another way
            self._is_off = True
            if self._is_lean:
                lean_activations.keep_less(self._model.unet)
            cause = getattr(error, "inner_exception", error)
            why = cause.message if isinstance(cause, UserError) else first_line(cause).rstrip(".")
            self._emit(Warned(Message("training.not_compiled", why=why)))

    def _answers(self, predict: Predict, *asked: Tensor | Conditioning) -> tuple[Tensor, Tensor]:
        """A prediction, and the gradient of its square by all adapters of the UNet, end to end."""
        trained = [parameter for parameter in self._model.unet.parameters() if parameter.requires_grad]
        prediction = predict(*asked)  # type: ignore[arg-type]
        found = torch.autograd.grad(prediction.float().square().sum(), trained, allow_unused=True)
        return prediction.detach(), torch.cat([each.flatten() for each in found if each is not None])


def _alike(found: Tensor, wanted: Tensor) -> bool:
    """Whether they are near; where numbers overflow, nothing can be told."""
    length = wanted.float().norm()
    return bool((found.float() - wanted.float()).norm() <= CLOSE * length) or not bool(torch.isfinite(length))
