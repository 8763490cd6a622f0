"""The optimizer's state in the computer's memory, as ZeRO-Offload has it (Ren et al. 2021), for cards that it would crowd.

A step then takes the gradients to the computer and brings the adapters back: two transfers of the adapters' size. The
numbers are those of the same optimizer, so checkpoints of one go on with the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

Groups = list[dict[str, Any]]


def cpu_buffers(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Places in the computer's memory, which a CUDA card writes to by itself (pinned)."""
    return [torch.empty_like(t, device="cpu", pin_memory=t.device.type == "cuda") for t in tensors]


@torch.no_grad()
def fetch(tensors: Sequence[Tensor], into: Sequence[Tensor]) -> Callable[[], None]:
    """Copy to the computer's memory; what is returned waits until all are there. Until then the device works on."""
    if not tensors or tensors[0].device.type != "cuda":
        put(tensors, into)
        return lambda: None
    put(tensors, into, wait=False)
    copied = torch.cuda.Event()
    copied.record(torch.cuda.current_stream(tensors[0].device))
    return copied.synchronize


@torch.no_grad()
def put(values: Sequence[Tensor], into: Sequence[Tensor], wait: bool = True) -> None:
    """Copy contents, never places: CUDA graphs know tensors by where they are."""
    if values:
        torch._foreach_copy_(list(into), list(values), non_blocking=not wait)


class CPUOffloadOptimizer(torch.optim.Optimizer):
    """Another optimizer on copies of the parameters. Groups, state and checkpoints look as if it were that one.

    Values that others give the parameters (a checkpoint, the first process of a group) are seen by their version and taken.
    """

    def __init__(self, groups: Groups, build: Callable[[Groups], torch.optim.Optimizer]):
        self._parameters: list[Tensor] = [parameter for group in groups for parameter in group["params"]]
        self._copies = [torch.nn.Parameter(place) for place in cpu_buffers(self._parameters)]
        self._gradients = cpu_buffers(self._parameters)
        copies = iter(self._copies)
        self._inner = build([{**group, "params": [next(copies) for _ in group["params"]]} for group in groups])
        self._seen: list[int] = []  # versions of the parameters that the copies are of
        super().__init__(groups, self._inner.defaults)
        self.state = self._inner.state

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """The gradients to the computer, a step there, the parameters back."""
        assert closure is None
        waits = [] if self._seen == self._versions() else [fetch(self._parameters, self._copies)]
        places = []
        for parameter, copy, place in zip(self._parameters, self._copies, self._gradients, strict=True):
            copy.grad = None if parameter.grad is None else place
            if parameter.grad is not None:
                places.append((parameter.grad, place))
        waits.append(fetch(*map(list, zip(*places, strict=True))) if places else lambda: None)
        for wait in waits:
            wait()
        self._lend_options()
        self._inner.step()
        # Nothing writes to the copies before the next step has waited for its gradients, which come later than these.
        put(self._copies, self._parameters, wait=self._parameters[0].device.type != "cuda")
        self._seen = self._versions()

    def state_dict(self) -> dict[str, Any]:
        """That of the optimizer without this one around it."""
        self._lend_options()
        return self._inner.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._inner.load_state_dict(state_dict)
        self.state = self._inner.state
        for mine, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            mine.update({name: value for name, value in inner.items() if name != "params"})

    def _lend_options(self) -> None:
        """The rates above all: they are set in the groups that everybody sees."""
        for mine, inner in zip(self.param_groups, self._inner.param_groups, strict=True):
            inner.update({name: value for name, value in mine.items() if name != "params"})

    def _versions(self) -> list[int]:
        return [parameter._version for parameter in self._parameters]
