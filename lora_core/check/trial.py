"""A training on random weights, made as `training.prepare` makes one, for others to measure.

On a processor, and where a card has no room for all of it, the UNet is its way down alone: at each resolution the first
resnet and attention of the real shapes. What that takes is scaled to the whole by arithmetic (`whole_arithmetic`).
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import MethodType
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

from lora_core.check.bench import FAMILY
from lora_core.config import TrainConfig
from lora_core.dataset.tokens import MARKED
from lora_core.events import Event
from lora_core.models import int8
from lora_core.models.architecture import Shapes, of_family
from lora_core.models.device import Compute
from lora_core.models.families.base import BaseModel, Conditioning, whole_frame
from lora_core.models.families.registry import family_of
from lora_core.training import diffusion, train
from lora_core.training.data.latent_cache import Example, Prompts
from lora_core.training.data.plan import Plan
from lora_core.training.engine import adapters
from lora_core.training.estimate.memory import arithmetic, memory
from lora_core.training.optim.build import build_optimizer
from lora_core.training.progress import ProgressMeter
from lora_core.training.session import Session

SPREAD = 0.02  # of the adapters' second matrices, which begin as zeros and would hide half of the gradients
FEW = 1_000_003  # random numbers that all weights are cut from, a prime: rows of a weight begin at different ones


@dataclass(frozen=True)
class Case:
    """What is tried. side: of the picture, in pixels. is_whole: the whole UNet, not its way down alone."""

    side: int
    device: torch.device
    dtype: torch.dtype = torch.float32
    is_whole: bool = False
    settings: dict[str, object] = field(default_factory=dict)
    shapes: Shapes = field(default_factory=functools.partial(of_family, FAMILY))

    @property
    def config(self) -> TrainConfig:
        """A rate of nothing, so that every step begins where the first one did."""
        fixed: dict[str, object] = {"learning_rate": 0.0, "resolution": self.side, "max_grad_norm": 1.0}
        return TrainConfig.of({**fixed, **self.settings})


class Trial:
    """A training with one picture, in the plain way."""

    def __init__(self, case: Case):
        self.case, config = case, case.config
        self.model = model_of(case)
        if config.eight_bit_base:
            int8.quantize(self.model.unet)
        self._attach()
        compute = Compute(case.device, case.dtype, case.dtype == torch.float16)
        parameters = adapters.named_parameters(self.model)
        self.session = Session(
            config=config, plan=_one_picture(), compute=compute, model=self.model,
            prompts=_prompts(self.model, case.device), training=[], held_out=[], prior=[], parameters=parameters,
            optimizer=build_optimizer(adapters.parameter_groups(self.model, config), config),
            scaler=torch.amp.GradScaler(case.device.type, enabled=False),
            meter=ProgressMeter(_nobody, 1, 1, torch.device("cpu")), predict=self.model.predict,
        )  # fmt: skip
        self.scale_by(2.0**10)
        self.look_at(case.side)

    def _attach(self) -> None:
        config = self.case.config
        adapters.attach(self.model, config)
        adapters.checkpoint(self.model, config)
        for number, parameter in enumerate(adapters.named_parameters(self.model).values()):
            if not parameter.any():
                _draw(parameter.data, number, SPREAD)
        self.model.unet.train()

    def scale_by(self, scale: float) -> None:
        """What losses in fp16 are multiplied by; trainings find it by overflowing first, which a trial has no time for."""
        compute = self.session.compute
        self.session.scaler = torch.amp.GradScaler(compute.device.type, init_scale=scale, enabled=compute.scale_loss)

    def step(self) -> Tensor:
        """A training's whole step, from noise to the optimizer; its loss."""
        return train.optimizer_step(self.session)

    def look_at(self, side: int) -> None:
        """Train on another picture from here on; side: in pixels."""
        self.session.training = [_example(self.case.shapes, side // self.model.pixels_per_latent, side)]

    def recompute(self, **settings: object) -> None:
        """Compute blocks again on the way back from here on; settings: how many (`training.engine.adapters.checkpoint`)."""
        adapters.checkpoint(self.model, self.case.config.replace(**settings))

    def learn(self) -> tuple[float, Tensor]:
        """The loss of the first step, and all its gradients in one vector on the CPU; the parameters stay as they are."""
        session, trained = self.session, list(self.session.parameters.values())
        for parameter in trained:
            parameter.grad = None
        batch = train.denoising_batch(session, session.training, diffusion.generator(session.config.seed, 0))
        losses_B = session.stepper.backward(functools.partial(train.loss_of, session), [batch], trained, session.scaler)
        scale = session.scaler.get_scale()
        found = [(torch.zeros_like(p) if p.grad is None else p.grad).detach().float().cpu().flatten() for p in trained]
        for parameter in trained:
            parameter.grad = None
        return float(losses_B.sum()), torch.cat(found) / scale


def model_of(case: Case) -> BaseModel:
    """A frozen base model whose UNet has weights on the case's device; its VAE has none, and it has no text encoders."""
    with torch.device("meta"):
        unet: Any = UNet2DConditionModel.from_config(dict(case.shapes.unet))
        vae: Any = AutoencoderKL.from_config(dict(case.shapes.vae))
    if not case.is_whole:
        _cut(unet)
    for module in (unet, vae):
        module.requires_grad_(False).eval()
    nn.Module.to(unet, case.dtype)
    fill(unet, case.device)
    scheduler = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    return BaseModel("random weights", family_of(case.shapes.unet), unet, vae, {}, {}, scheduler)


def encoder_of(shapes: Shapes, dtype: torch.dtype, device: torch.device) -> Any:
    """The part of the VAE that every picture goes through, with random weights: an AutoencoderKL without its decoder."""
    with torch.device("meta"):
        vae: Any = AutoencoderKL.from_config(dict(shapes.vae))
    vae.decoder = nn.Identity()
    nn.Module.to(vae, dtype)
    return fill(vae.requires_grad_(False).eval(), device)


def fill(module: nn.Module, device: torch.device) -> nn.Module:
    """Give a module weights on the device, the same every time, that keep numbers about as large as they are."""
    module.to_empty(device=device)
    with torch.no_grad():
        for number, (name, parameter) in enumerate(module.named_parameters()):
            if parameter.dim() > 1:
                _draw(parameter, number, parameter[0].numel() ** -0.5)
            else:
                parameter.fill_(float(name.endswith("weight")))  # norms let through what comes, and biases add nothing
    return module


def whole_arithmetic(case: Case, side: int) -> float:
    """Of the whole UNet's step at `side` pixels, as training.estimate counted it; 0 where it never was."""
    config, width = case.config.replace(resolution=side), case.dtype.itemsize
    if memory(config, case.shapes, number_bytes=width) is None:
        return 0.0
    return float(arithmetic(config, case.shapes, number_bytes=width))


@contextmanager
def kept_bytes(model: BaseModel) -> Iterator[list[int]]:
    """Within the block, of each tensor that is kept for the way back, its bytes; weights, which stand there anyway, not."""
    known = {parameter.untyped_storage().data_ptr() for parameter in model.unet.parameters()}
    kept: list[int] = []

    def keep(tensor: Tensor) -> Tensor:
        place = tensor.untyped_storage().data_ptr()
        if place not in known:
            known.add(place)
            kept.append(tensor.untyped_storage().nbytes())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        yield kept


class Arithmetic(TorchDispatchMode):
    """Counts the multiplications and additions within its block, as training.estimate does."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.flops = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        name = func._schema.name
        if func._overloadpacket in flop_registry:
            self.flops += flop_registry[func._overloadpacket](*args, **(kwargs or {}), out_val=out)
        elif name == "aten::_scaled_dot_product_flash_attention_for_cpu":
            self.flops += sdpa_flop_count(args[0].shape, args[1].shape, args[2].shape)
        elif name == "aten::_scaled_dot_product_flash_attention_for_cpu_backward":
            self.flops += sdpa_backward_flop_count(args[0].shape, args[1].shape, args[2].shape, args[3].shape)
        return out


def _cut(unet: Any) -> None:
    """Leave a UNet its way down, one resnet and attention at each resolution; the rest is answered by what it found."""
    for block in unet.down_blocks:
        for name in ("resnets", "attentions"):
            if layers := getattr(block, name, None):
                setattr(block, name, nn.ModuleList(layers[:1]))
    unet.mid_block, unet.up_blocks = None, nn.ModuleList()
    unet.forward = MethodType(_down, unet)


def _down(unet: Any, sample: Tensor, timestep: Tensor, encoder_hidden_states: Tensor, **_: Any) -> tuple[Tensor]:
    """sample: [B, 4, H, W] -> ([B, 4, H, W],), to which every resolution adds."""
    time_BD = unet.time_embedding(unet.time_proj(timestep).to(sample.dtype))
    hidden = unet.conv_in(sample)
    first: Tensor | None = None
    for block in unet.down_blocks:
        words = {"encoder_hidden_states": encoder_hidden_states} if hasattr(block, "attentions") else {}
        hidden, levels = block(hidden, time_BD, **words)
        first = levels[0] if first is None else first
    assert first is not None, "a UNet has a way down"
    rest = F.interpolate(hidden.mean(dim=1, keepdim=True), first.shape[-2:])
    return (unet.conv_out(unet.conv_act(unet.conv_norm_out(first + rest))),)


def _draw(into: Tensor, number: int, spread: float) -> None:
    """Write random numbers of about `spread`, another piece of the same ones for each `number`; a pass over the memory."""
    few, flat = _few(into.device, into.dtype) * spread, into.view(-1)
    start = -(number * 7919 % FEW)
    while start < len(flat):
        end = min(start + FEW, len(flat))
        flat[max(start, 0) : end] = few[max(-start, 0) : end - start]
        start = end


@functools.lru_cache(maxsize=2)
def _few(device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.randn(FEW, generator=torch.Generator().manual_seed(0)).to(device, dtype)


def _prompts(model: BaseModel, device: torch.device) -> Prompts:
    prompts = Prompts(model, device, live=False)
    words = torch.randn(MARKED, model.unet.config.cross_attention_dim, generator=torch.Generator().manual_seed(1))
    known: Conditioning = {"encoder_hidden_states": words.to(next(model.unet.parameters()).dtype)}
    prompts.known[""] = known
    return prompts


def _example(shapes: Shapes, latent: int, side: int) -> Example:
    mean_CHW = torch.randn(int(shapes.unet["in_channels"]), latent, latent, generator=torch.Generator().manual_seed(2))
    return Example("", ((mean_CHW, torch.ones_like(mean_CHW)),), whole_frame(side, side))


class _OnePicture:
    """A plan of nothing but one batch."""

    def batch(self, config: TrainConfig, number: int) -> list[int]:
        return [0] * config.train_batch_size


def _one_picture() -> Plan:
    plan: Any = _OnePicture()
    return plan  # type: ignore[no-any-return]


def _nobody(event: Event) -> None:
    """Nobody is told of a trial's events."""
