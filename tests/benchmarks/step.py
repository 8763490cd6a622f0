"""Treino's training step against a textbook loop: steps per second and what each keeps in memory, side by side.

    python -m tests.benchmarks.step [sd1 sdxl starter] [--resolution 512] [--batch 1] [--rounds 7] [--steps 5] [--levels]

The textbook is written out below: diffusers' UNet, PEFT's adapters, autocast, cached latents and embeddings, AdamW and
`loss.item()` at every step. Both train the same modules of the same random weights on the same tensors. On a CPU in turns
(A B A B), so that what else the computer does meets both; on a card one after the other, for it holds one UNet at a time.
A ratio is the median over the rounds, with its range.
Memory: on a CUDA card the peak that was allocated beside what stands there between steps, in a step that is no replay of
a graph, as a replay allocates nothing that torch counts; else counted tensor by tensor on the same step without memory
(tests/benchmarks/counting), in 16 bit as on a card. The textbook's adapters then are in 16 bit too: that is the least it
can take, for autocast keeps a copy of every adapter's input, which no count shows.
--levels: instead, Treino's step with more or less memory beside its own as it is: what each setting costs in speed.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from peft import LoraConfig
from torch.nn import functional as F

from lora_core.config import TrainConfig
from lora_core.models import device as precision
from lora_core.models.architecture import Shapes, of_family, shapes_of
from lora_core.models.catalog import STARTER
from lora_core.models.weights import free_device_memory
from lora_core.training import prepare, train
from lora_core.training.diffusion import add_noise
from lora_core.training.engine import compile
from tests.benchmarks.counting.meta_session import POOLED, latent_shape, meta_model, session_of
from tests.benchmarks.counting.op_counter import META, OpCounter, counting, tensors_of

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RANK = 16
CORES = torch.get_num_threads()
RESOLUTION = {"sd1": 512, "sd2": 768, "sdxl": 1024, STARTER: 64}
LEVELS: dict[str, dict[str, object]] = {
    "without graphs": {"cuda_graphs": "off"},
    "all kept": {"lean_activations": False},
    "a quarter recomputed": {"checkpointed_quarters": 1},
    "half recomputed": {"checkpointed_quarters": 2},
    "recomputed": {"gradient_checkpointing": True},
    "optimizer on host": {"optimizer_on_host": True},
    "mid and up alone": {"target_blocks": ("mid", "up")},
    "8 bits": {"eight_bit_base": True},
    "compiled": {"torch_compile": True},
    "both": {"gradient_checkpointing": True, "eight_bit_base": True},
}
MIB = 2**20
StepOnce = Callable[[], object]


@dataclass
class Case:
    """What both train on. `side`: of the latents, in latent pixels."""

    shapes: Shapes
    side: int
    batch: int
    device: torch.device
    dtype: torch.dtype  # of the frozen weights
    level: Mapping[str, object] = field(default_factory=dict)

    @property
    def config(self) -> TrainConfig:
        return TrainConfig.of({
            "target_modules": ATTENTION, "lora_rank": RANK, "train_batch_size": self.batch, "learning_rate": 1e-4,
            "max_grad_norm": 1.0, "cuda_graphs": "on", **self.level,
        })  # fmt: skip

    def scaler(self) -> torch.amp.GradScaler:
        """Of the loss, where gradients are in fp16 (Micikevicius et al. 2018)."""
        is_half = self.dtype == torch.float16 and self.device != META
        return torch.amp.GradScaler(self.device.type if is_half else "cpu", enabled=is_half)


Made = tuple[StepOnce, torch.nn.Module]  # the step, and the UNet that it trains
Side = tuple[Callable[[Case], Made], Case]


def ours(case: Case) -> Made:
    """`train.optimizer_step`, as every training calls it on this device."""
    model = meta_model(case.shapes, case.dtype)
    _fill(model.unet, case.device)
    session = session_of(model, case.shapes, case.config, case.dtype, (case.side, case.side), case.device)
    precision.use_cores(model.unet)
    session.scaler = case.scaler()
    if case.device != META:
        session.stepper = prepare.fastest_stepper(model, case.config, case.device, print)
        session.predict = compile.predict(model, case.config, print) if case.config.is_compiled else model.predict

    def step() -> object:
        precision.use_cores(model.unet)
        loss = train.optimizer_step(session)
        session.step += 1
        return loss

    return step, model.unet


def textbook(case: Case) -> Made:
    """The loop of the tutorials, with what everyone adds to it: caches, and autocast on a card."""
    with META:
        unet: Any = UNet2DConditionModel.from_config(dict(case.shapes.unet))
    torch.nn.Module.to(unet, case.dtype)
    unet.requires_grad_(False)
    _fill(unet, case.device)
    unet.add_adapter(LoraConfig(r=RANK, lora_alpha=RANK, target_modules=list(ATTENTION)))
    unet.train()
    trained = [parameter for parameter in unet.parameters() if parameter.requires_grad]
    for parameter in trained:
        parameter.data = parameter.data.to(case.dtype if case.device == META else torch.float32)
    optimizer = torch.optim.SGD(trained) if case.device == META else torch.optim.AdamW(trained, lr=1e-4)
    scaler = case.scaler()
    latents = torch.zeros(latent_shape(case.shapes, case.batch, case.side), device=case.device)
    conditioning = _conditioning(unet, case)
    alphas_cumprod = torch.linspace(0.999, 0.005, 1000, device=case.device)

    def step() -> object:
        torch.set_num_threads(CORES)
        noise = torch.randn_like(latents)
        timesteps = torch.randint(1000, (case.batch,), device=case.device)
        noisy_latents = add_noise(latents, noise, alphas_cumprod[timesteps])
        with torch.autocast("cuda", case.dtype) if case.device.type == "cuda" else nullcontext():
            prediction = unet(noisy_latents.to(case.dtype), timesteps, **conditioning).sample
        loss = F.mse_loss(prediction.float(), noise)
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=True)
        return loss if case.device == META else loss.item()

    return step, unet


def _fill(unet: torch.nn.Module, device: torch.device) -> None:
    """Give a UNet weights on the device, the same every time; on the meta device it stays without."""
    if device == META:
        return
    unet.to_empty(device=device)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in unet.parameters():
            parameter.normal_(std=0.02)


def _conditioning(unet: Any, case: Case) -> dict[str, Any]:
    states = torch.zeros(case.batch, 77, unet.config.cross_attention_dim, dtype=case.dtype, device=case.device)
    if unet.config.addition_embed_type != "text_time":
        return {"encoder_hidden_states": states}
    pooled = torch.zeros(case.batch, POOLED, dtype=case.dtype, device=case.device)
    frames = torch.zeros(case.batch, 6, device=case.device)
    return {"encoder_hidden_states": states, "added_cond_kwargs": {"text_embeds": pooled, "time_ids": frames}}


def seconds(step: StepOnce, steps: int, device: torch.device) -> float:
    """Of one step, over some."""
    _wait(device)
    began = time.perf_counter()
    for _ in range(steps):
        step()
    _wait(device)
    return (time.perf_counter() - began) / steps


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def kept_mib(make: Callable[[Case], Made], case: Case) -> float:
    """What a step takes at its worst moment, beside weights, adapters and optimizer."""
    if case.device.type == "cuda":
        _let_go()  # of whatever stood there before, or it would hide in the peak
        step, _ = make(replace(case, level={**case.level, "cuda_graphs": "off"}))
        step()
        gc.collect()
        _wait(case.device)
        standing = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        step()
        _wait(case.device)
        return (torch.cuda.max_memory_allocated() - standing) / MIB
    empty = replace(case, device=META, dtype=torch.float16)
    step, unet = make(empty)
    counter = OpCounter(plain=True)
    counter.ignore(tensors_of({"unet": unet}))
    with counting(counter):
        step()
    return counter.most() / MIB


def compare(name: str, mine: Side, theirs: Side, rounds: int, steps: int) -> str:
    """One line: seconds a step of both, and the ratios."""
    device = mine[1].device
    memory = [kept_mib(make, case) for make, case in (mine, theirs)]
    times = by_turns(mine, theirs, rounds, steps) if device.type == "cpu" else one_by_one(mine, theirs, rounds, steps)
    ratios = sorted(other / own for own, other in times)
    own, other = (statistics.median(column) for column in zip(*times, strict=True))
    return (
        f"{name:26} {own:8.3f} s {other:8.3f} s   {statistics.median(ratios):5.2f}x ({ratios[0]:.2f} to {ratios[-1]:.2f})"
        f"   {memory[0]:7.0f} {memory[1]:7.0f} MiB   {memory[0] / memory[1]:.2f}x"
    )


def by_turns(mine: Side, theirs: Side, rounds: int, steps: int) -> list[list[float]]:
    """Seconds a step of both, in turns: what else the computer does meets both."""
    both = [make(case)[0] for make, case in (mine, theirs)]
    for step in both:
        step()
    return [[seconds(step, steps, mine[1].device) for step in both] for _ in range(rounds)]


def one_by_one(mine: Side, theirs: Side, rounds: int, steps: int) -> list[list[float]]:
    """The same on a card, one side after the other: two UNets beside each other would spoil each other's memory."""
    laps = []
    for make, case in (mine, theirs):
        _let_go()
        step = make(case)[0]
        for _ in range(3):
            step()  # of Treino's, the first is the one that a graph is captured from
        laps.append([seconds(step, steps, case.device) for _ in range(rounds)])
        del step
    _let_go()
    return [list(pair) for pair in zip(*laps, strict=True)]


def _let_go() -> None:
    """Give back what is no longer held: sessions are circles, which only the collector ends."""
    gc.collect()
    free_device_memory()


def format_of(device: torch.device) -> torch.dtype:
    """What a training takes by default: fp16 on a card, in which every card since Maxwell computes; else fp32."""
    return torch.float16 if device.type == "cuda" else torch.float32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("models", nargs="*", default=["sd1", STARTER], metavar="|".join(RESOLUTION))
    parser.add_argument("--resolution", type=int, help="in pixels; by default the model's own, on a CPU a quarter of it")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--steps", type=int, default=5, help="in a turn")
    parser.add_argument("--levels", action="store_true")
    asked = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    title = torch.cuda.get_device_name() if device.type == "cuda" else f"the CPU, {torch.get_num_threads()} threads"
    other = "itself as it is" if asked.levels else "the textbook loop"
    print(f"{title}; batch {asked.batch}, rank {RANK} on attention; Treino beside {other}")
    for name in asked.models:
        shapes = shapes_of(STARTER) if name == STARTER else of_family(name)
        quarter = 4 if device.type == "cpu" and name != STARTER else 1
        resolution = asked.resolution or RESOLUTION[name] // quarter
        dtype = format_of(device)
        # The toy model's presets leave it out: there is no memory to save.
        level = {"lean_activations": False} if name == STARTER else {}
        case = Case(shapes, resolution // shapes.pixels_per_latent, asked.batch, device, dtype, level)
        if not asked.levels:
            print(compare(f"{name} {resolution}", (ours, case), (textbook, case), asked.rounds, asked.steps), flush=True)
        for title, level in LEVELS.items() if asked.levels else ():
            if device.type == "cpu" and "torch_compile" in level:
                continue  # many minutes of compiling, for steps that are arithmetic alone
            sides = (ours, replace(case, level={**case.level, **level})), (ours, case)
            print(compare(f"{name} {title}", *sides, asked.rounds, asked.steps), flush=True)


if __name__ == "__main__":
    main()
