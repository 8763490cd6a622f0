"""Which device to compute on and in which number format, and what to tell the user when it is not what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from lora_core.messages import Message
from lora_core.settings import ConfigError, Problem
from lora_core.system.distributed import ProcessGroup

SMALL_MODEL = 50_000_000  # weights of a UNet; SD 1.5 has 860 million, the starter 6
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
DTYPES = {"no": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Device:
    """A device of this computer. `name` is what --device takes, `bytes` its own memory; 0: it uses the computer's.

    works: whether this build of torch has code for it.
    """

    name: str
    title: str
    bytes: int = 0
    works: bool = True

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
    """Where and how to compute. fp16 gradients underflow without `scale_loss` (Micikevicius et al. 2018)."""

    device: torch.device
    dtype: torch.dtype
    scale_loss: bool
    notices: tuple[Message, ...] = ()
    title: str = "the CPU"  # of the device, in words


def choose(device: str, mixed_precision: str, group: ProcessGroup | None = None) -> Compute:
    """The device by name ("auto" takes the best there is) and the nearest format to the asked one that works there.

    Each process of a group on one computer gets a card of its own.

    Raises:
        ConfigError: the device does not exist here; those that do are named.
    """
    there, notices = _device(device, group or ProcessGroup())
    chosen, asked = torch.device(there.name), DTYPES[mixed_precision]
    if chosen.type == "cpu" and asked != torch.float32 and not (asked == torch.bfloat16 and _cpu_has_bf16()):
        why = Message("models.cpu_format", format=mixed_precision)
        return Compute(chosen, torch.float32, False, (*notices, why), str(there))
    if chosen.type == "cuda" and asked == torch.bfloat16 and not _card_has_bf16(chosen):
        why = Message("models.no_bf16")
        return Compute(chosen, torch.float16, True, (*notices, why), str(there))
    return Compute(chosen, asked, asked == torch.float16, notices, str(there))


def free_bytes(device: torch.device) -> float:
    """What is left of a card's own memory, with what torch keeps for later; endless where that is not told."""
    if device.type != "cuda":
        return float("inf")
    kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return float(torch.cuda.mem_get_info(device)[0] + kept)


def memory_of(device: Device) -> DeviceMemory | None:
    """A device's own memory at this moment; None where it has none, or its driver does not tell.

    The first question opens a context on the device, of some hundred MB, as computing there does.
    """
    if not device.bytes or not device.works or device.kind not in ("cuda", "xpu"):
        return None
    backend = torch.cuda if device.kind == "cuda" else torch.xpu
    number = int(device.name.partition(":")[2] or 0)
    if number >= backend.device_count():
        return None
    try:
        free, total = backend.mem_get_info(number)
    except RuntimeError:  # some drivers of Intel's cards do not know it
        return None
    return DeviceMemory(int(free), int(total), int(backend.memory_reserved(number)))


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
    """Every device of this computer that torch knows: the graphics card with most memory first, the CPU last."""
    cards = sorted([*_cuda_cards(), *_xpu_cards()], key=lambda card: (not card.works, -card.bytes))
    apple = [Device("mps", "Apple graphics")] if torch.backends.mps.is_available() else []
    return [*cards, *apple, Device("cpu", "the CPU")]


def used_bytes(device: torch.device) -> int:
    """The most that tensors have taken of a device's own memory so far; on Apple's, what they take now. 0 on a CPU."""
    counters = {"cuda": torch.cuda.max_memory_allocated, "xpu": torch.xpu.max_memory_allocated}
    if device.type in counters:
        return int(counters[device.type](device))
    return int(torch.mps.driver_allocated_memory()) if device.type == "mps" else 0


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
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(". ")


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
        cards.append(Device(f"cuda:{number}", title, about.total_memory, works))
    return cards


def _runs(code: str, major: int, minor: int) -> bool:
    """Whether code for "sm_86" or "compute_90" runs on a card: of the same major version, or as PTX of any older one."""
    kind, _, digits = code.rstrip("af").partition("_")
    version = divmod(int(digits), 10) if digits.isdigit() else (999, 0)
    return version <= (major, minor) and (kind == "compute" or version[0] == major)


def _xpu_cards() -> list[Device]:
    if not torch.xpu.is_available():
        return []
    properties = [torch.xpu.get_device_properties(number) for number in range(torch.xpu.device_count())]
    return [Device(f"xpu:{number}", about.name, about.total_memory) for number, about in enumerate(properties)]


def _card_has_bf16(device: torch.device) -> bool:
    """NVIDIA's since Ampere; ROCm computes in bf16 on all cards it has code for."""
    return bool(torch.version.hip) or torch.cuda.get_device_capability(device)[0] >= 8


def _cpu_has_bf16() -> bool:
    """Native units only: emulated bf16 matrix products are tens of times slower than fp32."""
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
