"""What the check of this computer lets expect of a training: seconds of its steps, and whether CUDA graphs are worth it.

The check measures one step, that of the settings as they are with one picture of 512 pixels on Stable Diffusion 1.5.
Others follow by what was counted: the host's time by the number of operations, the device's by their arithmetic.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig
from lora_core.models import computer
from lora_core.models.architecture import Shapes, of_family
from lora_core.models.computer import GRAPH, Computer
from lora_core.models.families.specs import SD1
from lora_core.training.estimate.counts import At, Graph, StepCount, known

if TYPE_CHECKING:
    from lora_core.models.device import Device
    from lora_core.training.estimate.memory import Size

FORMATS = {"no": "fp32", "fp16": "fp16", "bf16": "bf16"}


@dataclass(frozen=True)
class Work:
    """Of a step, all its batches together: FLOPs, and operations that the host starts."""

    flops: float
    ops: float


@dataclass(frozen=True)
class Seconds:
    """That host and device need for a step, each for itself; the slower one decides. host: 0 where it never is."""

    host: float
    device: float


def count_of(config: TrainConfig, shapes: Shapes, number_bytes: int) -> StepCount | None:
    """What was counted of a step; None where it never was. number_bytes: of the frozen model."""
    found = known().step(Graph.of(shapes, config, number_bytes))
    return found[0] if found else None


def work_of(config: TrainConfig, shapes: Shapes, number_bytes: int, sizes: Collection[Size] = ()) -> Work | None:
    """Of a step on pictures of the mean of these sizes in pixels; None where it was never counted."""
    found = count_of(config, shapes, number_bytes)
    if found is None:
        return None
    side = mean_area(config, sizes) ** 0.5 / shapes.pixels_per_latent
    where = At(config.train_batch_size, side / 8, config.largest_rank)
    added = config.gradient_accumulation_steps
    return Work(found.step.at(where) * added, float(found.ops * added))


def mean_area(config: TrainConfig, sizes: Collection[Size]) -> float:
    """Mean pixels of a picture; of buckets, with the number of pictures in each."""
    if isinstance(sizes, Mapping) and sizes:
        total: int = sum(sizes.values())
        return float(sum(w * h * n for (w, h), n in sizes.items()) / total)
    return sum(w * h for w, h in sizes) / len(sizes) if sizes else float(config.resolution**2)


def seconds(
    config: TrainConfig, shapes: Shapes, found: Computer, number_bytes: int, sizes: Collection[Size] = ()
) -> Seconds | None:
    """Of a step in the plain way, from the check's; None where it measured none in this format, or nothing was counted."""
    name = "fp32" if number_bytes == 4 else FORMATS[config.mixed_precision]
    plain = found.seconds(name)
    asked = work_of(config, shapes, number_bytes, sizes)
    measured = work_of(TrainConfig().replace(resolution=SD1.resolution), of_family(SD1.name), number_bytes)
    if not plain or asked is None or measured is None:
        return None
    on_device = found.seconds(name, GRAPH) or plain
    host = plain * asked.ops / measured.ops if found.host_bound else 0.0
    return Seconds(host, on_device * asked.flops / measured.flops)


def with_graphs_settled(
    config: TrainConfig, shapes: Shapes, device: Device, number_bytes: int, sizes: Collection[Size] = ()
) -> TrainConfig:
    """The settings with what `cuda_graphs` "auto" comes to on a device.

    On where graphs were proven there and the host is the slower one; off where neither was found out.
    """
    if config.cuda_graphs != "auto":
        return config
    found = computer.known(device) if device.kind == "cuda" and not config.lora_dropout else None
    is_worth = bool(found and found.graphs and found.host_bound)
    if found and is_worth and (of_step := seconds(config, shapes, found, number_bytes, sizes)):
        is_worth = of_step.host > of_step.device
    return config.replace(cuda_graphs="on" if is_worth else "off")
