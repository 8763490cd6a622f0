"""Which device to compute on and in which number format, and what to tell the user when it is not what was asked."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from lora_core.errors import first_line
from lora_core.messages import Message
from lora_core.models.architecture import SMALL_MODEL
from lora_core.models.computer import known
from lora_core.settings import ConfigError, Problem
from lora_core.system.distributed import ProcessGroup

_CORES = torch.get_num_threads()
# What a full card is called where torch's own allocator was not the one that asked.
_FULL = (
    "MPS backend out of memory", "CUDA error: out of memory", "HIP error: out of memory", "hipErrorOutOfMemory",
    "CUBLAS_STATUS_ALLOC_FAILED", "HIPBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED",
    "CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED", "miopenStatusAllocFailed",
    "XPU out of memory", "UR_RESULT_ERROR_OUT_OF_DEVICE_MEMORY", "UR_RESULT_ERROR_OUT_OF_RESOURCES",
)  # fmt: skip
_LOST = "UR_RESULT_ERROR_DEVICE_LOST"  # as XPUs have it
# Accelerator errors of one call alone: code for another card, a capture given up, an argument.
_CARD_GOES_ON = ("no kernel image", "captur", "invalid device ordinal", "invalid argument", "invalid configuration")
in_turn = threading.RLock()
"""Held while a CUDA graph is captured, and by who else computes on a device or waits for all of it: a wait for the whole
card, and memory given back to it, spoil a capture from any thread. Whoever draws holds it for a picture."""
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """A device of this computer. `name` is what --device takes, `bytes` its own memory; 0: it uses the computer's.

    works: whether this build of torch has code for it. is_built_in: into the processor, whose memory it shares.
    driver: its version, where torch tells it (Intel's); other makers' is asked of the system (`system.hardware`).
    """

    name: str
    title: str
    bytes: int = 0
    works: bool = True
    is_built_in: bool = False
    driver: str = ""

    @property
    def kind(self) -> str:
        return self.name.partition(":")[0]

    def __str__(self) -> str:
        return f"{self.title}, {self.bytes / 2**30:.0f} GB ({self.name})" if self.bytes else self.title


@dataclass(frozen=True)
class DeviceMemory:
    """A device's own memory in bytes, by its driver: free for all, in all; and what torch holds of it for this program."""

    free: int
    total: int
    held: int

    @property
    def taken_by_others(self) -> int:
        """By other programs, the desktop and the driver."""
        return max(0, self.total - self.free - self.held)


@dataclass(frozen=True)
class Compute:
    """Where and how to compute. fp16 gradients underflow without `scale_loss` (Micikevicius et al. 2018).

    searches_kernels: cuDNN tries its kernels at each new size and takes the quickest. tf32: convolutions in fp32 may round
    their inputs to TF32.
    """

    device: torch.device
    dtype: torch.dtype
    scale_loss: bool
    notices: tuple[Message, ...] = ()
    title: str = "the CPU"  # of the device, in words
    searches_kernels: bool = False
    tf32: bool = True


def choose(device: str, mixed_precision: str, group: ProcessGroup | None = None) -> Compute:
    """The device by name ("auto" takes the best there is) and the nearest format to the asked one that works there.

    Each process of a group on one computer gets a card of its own.

    Raises:
        ConfigError: the device does not exist here; those that do are named.
    """
    there, notices = _device(device, group or ProcessGroup())
    found = known(there)
    formats = found.formats if found else {}
    name, why = _nearest(there, mixed_precision, formats, found.native_bf16 if found else None)
    notices = (*notices, why) if why else notices
    may_be_nan = _may_be_nan(there)
    if may_be_nan and name == "fp16" and "fp16" not in formats:
        notices = (*notices, Message("models.may_be_nan", card=there.title))
    return Compute(
        torch.device(there.name), DTYPES[name], name == "fp16", notices, str(there), may_be_nan, formats.get("tf32", True)
    )


def set_up(compute: Compute) -> None:
    """Let torch compute as `choose` has it. Call it before anything is computed, in the thread that computes.

    What names no device, such as pinned memory and events, then belongs to this one, and cuda:1 opens no context on cuda:0.
    The rest holds for the whole process:
    fp32 products stay fp32. Convolutions in fp32 round their inputs to TF32 where the card can, as is torch's own default:
    the VAE is three times as quick by it, and its error, 2^-11, is that of fp16. Off where it was found wrong.
    """
    if compute.device.type == "xpu":
        torch.xpu.set_device(compute.device)
    if compute.device.type == "cuda":
        torch.cuda.set_device(compute.device)
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = compute.tf32
        torch.backends.cudnn.benchmark = compute.searches_kernels


def wider_formats(device: str, mixed_precision: str) -> list[str]:
    """Values of mixed_precision whose numbers reach further than those computed in now, where there are units for them."""
    try:
        now = choose(device, mixed_precision).dtype
        by_range = [torch.float16, torch.bfloat16, torch.float32]
        wider = [name for name in ("bf16", "no") if by_range.index(DTYPES[name]) > by_range.index(now)]
        return [name for name in wider if choose(device, name).dtype == DTYPES[name]]
    except ConfigError:
        return []


def free_bytes(device: torch.device) -> float:
    """What is left of a card's own memory, with what torch keeps for later; endless where that is not told.

    What CUDA graphs keep is theirs while they live, whether it is in use at this moment or not.
    """
    there = own_memory(device)
    if there is None:
        return float("inf")
    backend = _backend(device)
    if device.type == "cuda":
        number = torch.cuda.current_device() if device.index is None else device.index
        kept = sum(
            segment["total_size"] - segment["allocated_size"]
            for segment in torch.cuda.memory_snapshot()
            if segment["device"] == number and tuple(segment["segment_pool_id"]) == (0, 0)
        )
        return float(there.free + kept)
    in_use = getattr(backend, "memory_allocated", None) or (lambda index: backend.current_allocated_memory())
    return float(there.free + there.held - in_use(device.index))


def memory_of(device: Device) -> DeviceMemory | None:
    """A device's own memory at this moment; None where it has none, or its driver does not tell.

    The first question opens a context on the device, of some hundred MB, as computing there does.
    """
    if not device.bytes or not device.works:
        return None
    place = torch.device(device.kind, _number(device))
    return own_memory(place) if _number(device) < _backend(place).device_count() else None


def own_memory(device: torch.device) -> DeviceMemory | None:
    """The memory that a device has or may take for itself, as far as torch can ask; None where it cannot."""
    backend = _backend(device)
    if ask := getattr(backend, "mem_get_info", None):
        try:
            free, total = ask(device.index)
        except RuntimeError:  # some drivers of Intel's cards do not know it
            return None
        return DeviceMemory(int(free), int(total), int(backend.memory_reserved(device.index)))
    if most := getattr(backend, "recommended_max_memory", None):  # of the computer's memory, for Apple's graphics
        total, held = int(most()), int(backend.driver_allocated_memory())
        return DeviceMemory(max(0, total - held), total, held)
    return None


def end_of_work(device: torch.device) -> Callable[[], None]:
    """What waits until a device has done all that it was given so far, and for nothing that comes later."""
    if device.type not in ("cuda", "xpu", "mps"):
        return lambda: None
    backend: Any = torch.get_device_module(device)
    reached = backend.Event()
    if device.type == "mps":  # has one stream
        reached.record()
    else:  # the device's own, which need not be the current one
        reached.record(backend.current_stream(device))
    wait: Callable[[], None] = reached.synchronize
    return wait


def is_small(unet: torch.nn.Module) -> bool:
    return sum(parameter.numel() for parameter in unet.parameters()) < SMALL_MODEL


def use_cores(unet: torch.nn.Module) -> None:
    """Let the processor compute this model on as many cores as are good for it.

    In a small model every operation is over before a second core has woken up, and where other work keeps the cores busy,
    waiting for each other at thousands of operations makes a step ten times slower (measured with the starter).
    """
    torch.set_num_threads(1 if is_small(unet) else _CORES)


def free_cores(unet: torch.nn.Module, device: torch.device) -> int:
    """How many parts of a batch this model can compute side by side: on the cores that `use_cores` leaves free."""
    return _CORES if device.type == "cpu" and is_small(unet) else 1


def devices() -> list[Device]:
    """Every device of this computer that torch knows: the graphics card with most memory first, the CPU last.

    What is built into a processor comes after all cards: most of the computer's memory counts as its own.
    """
    found = [*_cuda_cards(), *_xpu_cards()]
    cards = sorted(found, key=lambda card: (not card.works, card.is_built_in, -card.bytes))
    apple = [Device("mps", "Apple graphics")] if torch.backends.mps.is_available() else []
    return [*cards, *apple, Device("cpu", "the CPU")]


def begin_peak(device: torch.device) -> None:
    """Let `used_bytes` count from here on: what an earlier training or a picture took is not this one's."""
    if begin := getattr(_backend(device), "reset_peak_memory_stats", None):
        begin(device)


def peak_bytes(device: torch.device) -> int:
    """The most that tensors have taken of a device's own memory since `begin_peak`; 0 where torch does not count it."""
    most = getattr(_backend(device), "max_memory_allocated", None)
    return int(most(device)) if most else 0


def used_bytes(device: torch.device) -> int:
    """The peak; where nobody counts it (Apple's), what this program holds now. 0 on a CPU."""
    held = getattr(_backend(device), "driver_allocated_memory", None)
    return int(held()) if held else peak_bytes(device)


def is_full_card(error: BaseException) -> bool:
    """Whether a graphics card's memory was not enough, whoever asked for it: torch, its libraries or the driver."""
    is_told = isinstance(error, RuntimeError) and any(words in str(error) for words in _FULL)
    return isinstance(error, torch.OutOfMemoryError) or is_told


def is_lost_card(error: BaseException) -> bool:
    """Whether this process can compute nothing on its card any more: the driver was reset or ended the process's work."""
    if is_full_card(error):
        return False
    if isinstance(error, torch.AcceleratorError):
        return not any(words in str(error) for words in _CARD_GOES_ON)
    return isinstance(error, RuntimeError) and _LOST in str(error)


def why_lost(error: BaseException) -> str:
    """What the driver calls it, in its own words."""
    return first_line(error).rstrip(". ")


def is_full_computer(error: BaseException) -> bool:
    """Whether the computer's own memory was not enough, for Python or for torch."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and "DefaultCPUAllocator" in str(error))


def smallest_for(needed: int, found: Sequence[Device]) -> Device | None:
    """The card with the least memory that has `needed` bytes; None when none has."""
    enough = [device for device in found if device.works and device.bytes >= needed]
    return min(enough, key=lambda device: device.bytes, default=None)


def _device(name: str, group: ProcessGroup) -> tuple[Device, tuple[Message, ...]]:
    found = devices()
    number = name.partition(":")[2]
    # "cuda" without a number is the best of its kind.
    matching = [device for device in found if name in ("auto", device.name) or (not number and device.kind == name)]
    if not matching:
        here = "; ".join(f"{device.name} ({device.title})" for device in found)
        raise ConfigError([Problem("device", Message("models.device_missing", name=name, here=here))])
    usable = [device for device in matching if device.works]
    if not usable:
        raise ConfigError([Problem("device", Message("models.device_useless", why=_useless(matching)))])
    if group.size > 1 and usable[0].kind in ("cuda", "xpu"):
        return _own_card(name, group, usable), ()
    idle = [device for device in matching if not device.works]
    told = (Message("models.computing_on_cpu", why=_useless(idle)),) if idle and usable[0].name == "cpu" else ()
    return usable[0], told


def _own_card(name: str, group: ProcessGroup, usable: Sequence[Device]) -> Device:
    cards = {int(card.name.partition(":")[2]): card for card in usable if card.kind == usable[0].kind}
    if ":" in name or group.local_rank not in cards:
        told = Message("models.device_not_own", name=name, process=str(group), count=len(cards))
        raise ConfigError([Problem("device", told)])
    return cards[group.local_rank]


def _useless(cards: Sequence[Device]) -> Message:
    return Message("models.no_code_for", version=torch.__version__, cards=[str(card) for card in cards])


def _cuda_cards() -> list[Device]:
    """NVIDIA's cards, or AMD's where torch is built for ROCm."""
    if not torch.cuda.is_available():
        return []
    built_for = torch.cuda.get_arch_list()
    cards = []
    for number in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(number)
        if torch.version.hip:
            works = about.gcnArchName.partition(":")[0] in built_for  # not the graphics inside a processor
        else:
            works = any(_runs(code, about.major, about.minor) for code in built_for)
        title = f"{about.name}, ROCm" if torch.version.hip else about.name
        cards.append(Device(f"cuda:{number}", title, about.total_memory, works, bool(about.is_integrated)))
    return cards


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether code for "sm_86" or "compute_90" runs on a card: of the same major version, or as PTX of any older one."""
    kind, _, digits = code.rstrip("af").partition("_")
    version = divmod(int(digits), 10) if digits.isdigit() else (999, 0)
    return version <= (major, minor) and (kind == "compute" or version[0] == major)


def _xpu_cards() -> list[Device]:
    if not torch.xpu.is_available():
        return []
    cards = [torch.xpu.get_device_properties(number) for number in range(torch.xpu.device_count())]
    return [
        Device(
            f"xpu:{number}", card.name, card.total_memory, is_built_in=card.is_integrated_gpu, driver=card.driver_version
        )
        for number, card in enumerate(cards)
    ]


def _nearest(
    there: Device, asked: str, formats: Mapping[str, bool], native_bf16: bool | None
) -> tuple[str, Message | None]:
    """The nearest format to the asked one that a device has units for and in which nothing was found wrong; why another.

    formats, native_bf16: as `computer.Computer` has them.
    """
    if asked == "no":
        return asked, None
    has_bf16 = has_bf16_units(there) if native_bf16 is None else native_bf16
    units = {"fp16": there.kind != "cpu", "bf16": has_bf16}
    if units[asked] and formats.get(asked, True):
        return asked, None
    if there.kind == "cpu":
        return "no", Message("models.cpu_format", format=asked)
    other = next((name for name in ("fp16", "bf16") if units[name] and formats.get(name, True)), "no")
    if other == "fp16" and not units[asked]:
        return other, Message("models.no_bf16")
    wrong = asked if units[asked] else "fp16"
    return other, Message("models.format_wrong", format=wrong, card=there.title, other="fp32" if other == "no" else other)


def _may_be_nan(there: Device) -> bool:
    """Whether a card is of the kind known to compute NaN in fp16 with cuDNN's usual kernels: Turing without tensor cores.

    No property tells whether a card has tensor cores, so it goes by the name, as A1111 does (`modules/devices.py`).
    """
    is_turing = there.kind == "cuda" and not torch.version.hip and "GTX 16" in there.title
    return is_turing and torch.cuda.get_device_capability(torch.device(there.name)) == (7, 5)


def has_bf16_units(there: Device) -> bool:
    """Whether a device has units of its own for bf16, by what torch tells of it: NVIDIA's since Ampere."""
    if there.kind == "cpu":
        return _cpu_has_bf16()
    if there.kind == "mps":
        return torch.backends.mps.is_macos_or_newer(14, 0)
    if there.kind == "xpu":
        return bool(torch.xpu.get_device_properties(_number(there)).has_bfloat16_conversions)
    # ROCm computes in bf16 on all cards it has code for.
    return bool(torch.version.hip) or torch.cuda.get_device_capability(torch.device(there.name))[0] >= 8


def _backend(device: torch.device) -> Any:
    """torch.cuda, torch.xpu and the like: asked for what it has, for none of them has all."""
    return getattr(torch, device.type)


def _number(there: Device) -> int:
    return int(there.name.partition(":")[2] or 0)


def _cpu_has_bf16() -> bool:
    """Native units only: emulated bf16 matrix products are tens of times slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
