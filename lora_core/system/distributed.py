"""Several processes that train one LoRA together, as `accelerate launch` starts them. Mostly there is one, alone.

The batches that are added up before a step are dealt out, so a group of N does what one process does with N times the
`gradient_accumulation_steps`. The first process alone speaks, samples and saves. Making the connection is accelerate's.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from lora_core.errors import UserError

if TYPE_CHECKING:
    import torch

_FROM_LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
# The others wait while the first one samples; a process that dies is noticed at once, whatever this is.
_LONGEST_WAIT = timedelta(days=1)


class ProcessLost(RuntimeError):
    """Another process of the group has ended."""


@dataclass(frozen=True)
class ProcessGroup:
    """The place of this process among `size` ones. `local_rank` counts the processes on this computer."""

    size: int = 1
    rank: int = 0
    local_rank: int = 0

    @classmethod
    def here(cls, environment: Mapping[str, str] = os.environ) -> ProcessGroup:
        """The group this process was launched into; itself alone when it was not."""
        if not all(environment.get(name) for name in _FROM_LAUNCHER):
            return cls()
        size, rank, local_rank = (int(environment[name]) for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"))
        return cls(size, rank, local_rank) if size > 1 else cls()

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def __str__(self) -> str:
        return f"process {self.rank + 1} of {self.size}"

    def join(self, device: torch.device) -> None:
        """Meet the others; from here on every process must make the same calls in the same order."""
        if self.size == 1:
            return
        from accelerate import PartialState
        from torch import distributed

        backend = None  # gloo, for the CPU
        if device.type == "cuda":
            backend = "cuda:nccl,cpu:gloo" if distributed.is_nccl_available() else "gloo"
        elif device.type == "xpu":
            backend = "xpu:xccl,cpu:gloo"
        try:
            state = PartialState(cpu=device.type == "cpu", backend=backend, timeout=_LONGEST_WAIT)
        except RuntimeError as cause:
            raise ProcessLost(str(cause)) from cause
        if state.num_processes != self.size:
            raise UserError("system.no_group", device=str(device))

    def leave(self) -> None:
        """After the last call that the others make too."""
        if self.size > 1:
            from accelerate import PartialState

            PartialState().destroy_process_group()

    def share(self, batches: int) -> range:
        """Which of the batches of a step are this process's."""
        return range(self.rank, batches, self.size)

    def add_up(self, parameters: Iterable[torch.nn.Parameter], loss: torch.Tensor) -> torch.Tensor:
        """Give every process the sum of all gradients; returns the sum of the losses."""
        if self.size == 1:
            return loss
        import torch

        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        total = self._reduced(torch.cat([loss.view(1), *(gradient.flatten() for gradient in gradients)]), "sum")
        for gradient, summed in zip(gradients, total[1:].split([g.numel() for g in gradients]), strict=True):
            gradient.copy_(summed.view_as(gradient))
        return total[0]

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process. On the CPU: no device waits for it."""
        if self.size == 1:
            return flag
        import torch

        return bool(self._reduced(torch.tensor(int(flag)), "max"))

    def align(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Give every process the first one's values."""
        if self.size == 1:
            return
        import torch

        tensors = [parameter.detach() for parameter in parameters]
        mine = torch.cat([tensor.flatten() for tensor in tensors])
        first = self._reduced(mine if self.is_first else torch.zeros_like(mine), "sum")
        for tensor, values in zip(tensors, first.split([t.numel() for t in tensors]), strict=True):
            tensor.copy_(values.view_as(tensor))

    def _reduced(self, tensor: torch.Tensor, how: str) -> torch.Tensor:
        from accelerate.utils import reduce

        try:
            reduced: torch.Tensor = reduce(tensor, how)
        except RuntimeError as cause:
            raise ProcessLost(str(cause)) from cause
        return reduced
