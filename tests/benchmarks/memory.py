"""Predicted peaks of device memory for SD 1.5, 2.1 and XL by modules and checkpointing; measured ones beside them.

    python -m tests.benchmarks.memory [--families sd1 sdxl] [--rank 16] [--batch 1] [--half] [--eight-bit]
                                      [--write] [--cards]

"computed" needs no graphics card: the training step runs on tensors without memory (tests/benchmarks/counting).
With a CUDA card the same step runs there too, on random weights built from the configs, and "measured" is
torch.cuda.max_memory_allocated of the second step; the reserve for driver and workspaces is in neither. "with graphs" is
what the card's own count of free memory loses to steps that are replayed from a graph, with the weights, the graph's list
of kernels, workspaces and gaps.
--cards: the tables of docs/base-models-and-memory.md, of attention at rank 16. --half: adapters in 16 bit instead of fp32,
as the hand count of a textbook loop has them. --eight-bit: the frozen UNet in 8 bits. --write: count anew what comes with
Treino (lora_core/models/families/assets/counts.json).
"""

from __future__ import annotations

import argparse

import torch

from lora_core.config import TrainConfig
from lora_core.models.architecture import Shapes, of_family
from lora_core.training import train
from lora_core.training.estimate import memory as estimate
from lora_core.training.session import Session
from tests.benchmarks.counting.meta_session import meta_model, meta_session, session_of
from tests.benchmarks.counting.op_counter import OpCounter, counting, tensors_of
from tests.benchmarks.counting.shipped import MODULES, RESOLUTION, counted, write

MIB = 2**20
NAMES = {"sd1": "SD 1.5", "sd2": "SD 2.1", "sdxl": "SDXL"}


def half_bytes(shapes: Shapes, config: TrainConfig) -> int:
    """Live bytes of a step beside weights and adapters, with adapters in 16 bit."""
    side = config.resolution // shapes.pixels_per_latent
    session = meta_session(shapes, config, torch.float16, config.train_batch_size, side)
    for parameter in session.parameters.values():
        parameter.data = parameter.data.half()
    counter = OpCounter(plain=True)
    counter.ignore(tensors_of(session.model.adapted()))
    with counting(counter):
        train.optimizer_step(session)
    return int(counter.most())


def measured(shapes: Shapes, config: TrainConfig) -> tuple[int, int]:
    """Peak bytes allocated on the card in a second step, and those beside weights, adapters and optimizer."""
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    session = on_card(shapes, config)
    train.optimizer_step(session)
    torch.cuda.synchronize()
    standing = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    train.optimizer_step(session)
    torch.cuda.synchronize()
    peak = torch.cuda.max_memory_allocated()
    return peak - before, peak - standing


def measured_with_graphs(shapes: Shapes, config: TrainConfig) -> int:
    """Bytes that the card has less after steps that were replayed."""
    torch.cuda.empty_cache()
    before = torch.cuda.mem_get_info()[0]
    session = on_card(shapes, config.replace(cuda_graphs="on"))
    for _ in range(3):
        train.optimizer_step(session)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    return before - torch.cuda.mem_get_info()[0]


def on_card(shapes: Shapes, config: TrainConfig) -> Session:
    """A session of a model with random weights on the card."""
    card, side = torch.device("cuda"), config.resolution // shapes.pixels_per_latent
    model = meta_model(shapes, torch.float16)
    model.unet.to_empty(device=card)
    with torch.no_grad():
        for parameter in model.unet.parameters():
            parameter.normal_(std=0.02)
    return session_of(model, shapes, config, torch.float16, (side, side), card)


def row(family: str, name: str, checkpointing: bool, asked: argparse.Namespace) -> str:
    shapes = of_family(family)
    config = TrainConfig.of({
        "target_modules": MODULES[name], "gradient_checkpointing": checkpointing, "resolution": RESOLUTION[family],
        "lora_rank": asked.rank, "train_batch_size": asked.batch, "eight_bit_base": asked.eight_bit,
        "cuda_graphs": "off",
    })  # fmt: skip
    with counted(shapes, config, 2):
        found = estimate.memory(config, shapes)
    assert found, "it was just counted"
    cells = [f"{family:5} {name:20} {'checkpointed' if checkpointing else 'plain':12}"]
    cells += [f"{found.activations / MIB:10,.0f} {found.peak_step / MIB:10,.0f} {found.total / MIB:10,.0f} computed"]
    if asked.half:
        cells.append(f"{half_bytes(shapes, config) / MIB:10,.0f} computed, adapters in 16 bit")
    if torch.cuda.is_available():
        peak, step = measured(shapes, config)
        cells.append(f"{step / MIB:10,.0f} {peak / MIB:10,.0f} measured")
        cells.append(f"{measured_with_graphs(shapes, config) / MIB:10,.0f} with graphs")
    return "  ".join(cells)


def cards() -> None:
    """The table of the docs: for each family and batch the whole run's peak, and the smallest card it fits on."""
    print(
        "| model, pictures | batch | as it is | `--gradient_checkpointing --cuda_graphs off` | `--eight_bit_base` too |"
    )
    print("|---|---|---|---|---|")
    for family, resolution in RESOLUTION.items():
        for batch in (1, 4):
            cells = [f"{NAMES[family]}, {resolution} px", str(batch)]
            for checkpointing, eight_bit in ((False, False), (True, False), (True, True)):
                found = estimate.memory(TrainConfig.of({
                    "target_modules": MODULES["attention"], "gradient_checkpointing": checkpointing,
                    "resolution": resolution, "train_batch_size": batch, "eight_bit_base": eight_bit,
                    "cuda_graphs": "off" if checkpointing else "on",
                }), of_family(family))  # fmt: skip
                assert found, "it comes with Treino"
                cells.append(f"{found.total / 2**30:.1f} GB: card of {found.smallest_card_gb} GB")
            print(f"| {' | '.join(cells)} |")
    print("\n| recomputed | SD 1.5, 512 px | SD 2.1, 768 px | SDXL, 1024 px | arithmetic |")
    print("|---|---|---|---|---|")
    for quarters, title in enumerate(("nothing", "a quarter", "half", "three quarters", "all")):
        found = [level(family, quarters) for family in RESOLUTION]
        least, most = min(more for _, more in found), max(more for _, more in found)
        print(f"| {title} | {' | '.join(f'{kept / 2**30:.2f} GB' for kept, _ in found)} | +{least:.0%} to {most:.0%} |")


def level(family: str, quarters: int) -> tuple[float, float]:
    """Bytes that a step adds with so many quarters recomputed, and how much more it computes."""
    shapes = of_family(family)
    config = TrainConfig.of({
        "target_modules": MODULES["attention"], "resolution": RESOLUTION[family], "cuda_graphs": "off",
        "gradient_checkpointing": quarters == 4, "checkpointed_quarters": quarters % 4,
    })  # fmt: skip
    found = estimate.memory(config, shapes)
    assert found, "it comes with Treino"
    plain = config.replace(gradient_checkpointing=False, checkpointed_quarters=0)
    return found.activations, estimate.arithmetic(config, shapes) / estimate.arithmetic(plain, shapes) - 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--families", nargs="+", choices=list(RESOLUTION), default=list(RESOLUTION))
    parser.add_argument("--rank", type=int, default=16)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--half", action="store_true")
    parser.add_argument("--eight-bit", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--cards", action="store_true")
    asked = parser.parse_args()
    if asked.write or asked.cards:
        write() if asked.write else cards()
        return
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA card here: nothing is measured"
    print(f"MiB, frozen model in {8 if asked.eight_bit else 16} bit, rank {asked.rank}, batch {asked.batch}; {where}")
    print(f"{'':39} {'step adds':>10} {'step':>10} {'whole run':>10}")
    for family in asked.families:
        for name in MODULES:
            for checkpointing in (False, True):
                print(row(family, name, checkpointing, asked), flush=True)


if __name__ == "__main__":
    main()
