"""What was proven on this computer, for each of its devices: the check (`lora_core.check`) finds it out and keeps it here.

Training and window read it, and take a fast way only where it was proven. It holds for one device with one driver, one
torch and one Treino: after a change of any of them nothing is known again, and everything goes the plain way. Lies in
`computer.toml` beside the caches. Needs no torch.
"""

from __future__ import annotations

import functools
import json
import tomllib
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

from lora_core import __version__
from lora_core.models.families.specs import SD1
from lora_core.system import files, hardware, paths

MOST_KEPT = 16  # tables; the one that was kept last is the first
PLAIN, GRAPH, EIGHT_BIT, RECOMPUTED = "plain", "graph", "eight_bit", "recomputed"
FORMATS = ("fp32", "fp16", "bf16", "tf32")


class Named(Protocol):
    """A device as `models.device.Device` tells it: "cuda" or "cpu", its title, its own memory, 0: the computer's, and its
    driver, "": the computer's.
    """

    @property
    def kind(self) -> str: ...

    @property
    def title(self) -> str: ...

    @property
    def bytes(self) -> int: ...

    @property
    def driver(self) -> str: ...


@dataclass(frozen=True)
class Identity:
    """What a proof holds for. `memory`: the device's own, in bytes."""

    device: str
    memory: int
    driver: str
    torch: str
    treino: str

    @classmethod
    def of(cls, device: Named) -> Identity:
        """Of a device as it is now. One without memory of its own is told by the processor and the computer's memory."""
        name = device.title if device.bytes else f"{device.title}: {hardware.processor()}"
        driver = "" if device.kind == "cpu" else device.driver or hardware.driver()
        return cls(name, device.bytes, driver, _torch(), __version__)


@dataclass(frozen=True)
class Computer:
    """What was found out of a device; None, or not in the table: not found out.

    formats: of FORMATS, whether convolutions, attention and the VAE are finite and right in it.
    native_bf16: bf16 is computed by units of its own, not emulated.
    graphs: a step replayed as a CUDA graph comes to the same loss and gradients, is quicker, and gives its memory back.
    eight_bit, recomputed: a base model held in 8 bits, and blocks computed again on the way back, come to the same loss.
    host_bound: a step at one picture waits for Python and launches, not for the device.
    step_seconds: of a training step, by `step_key`.
    threads, vae_threads: of the processor, with which a step and the VAE are the quickest; on a CPU alone.
    free_bytes, taken_by_others: of the device's memory when it was checked, by its driver.
    memory_ratio: the peak of a plain step as torch measured it, over the counted one.
    disk_bytes_per_second: written to the folder of the caches, until it is on the disk.
    checked_at: Unix seconds.
    """

    identity: Identity
    formats: Mapping[str, bool] = field(default_factory=dict)
    native_bf16: bool | None = None
    graphs: bool | None = None
    eight_bit: bool | None = None
    recomputed: bool | None = None
    host_bound: bool | None = None
    step_seconds: Mapping[str, float] = field(default_factory=dict)
    threads: int | None = None
    vae_threads: int | None = None
    free_bytes: int | None = None
    taken_by_others: int | None = None
    memory_ratio: float | None = None
    disk_bytes_per_second: float | None = None
    checked_at: float = 0.0

    def seconds(self, mixed_precision: str, way: str = PLAIN, family: str = SD1.name) -> float | None:
        """Of a step at the family's own size and one picture. mixed_precision: fp32, fp16 or bf16."""
        return self.step_seconds.get(step_key(mixed_precision, way, family))


def step_key(mixed_precision: str, way: str = PLAIN, family: str = SD1.name) -> str:
    """The name of a step's seconds. way: one of PLAIN, GRAPH, EIGHT_BIT, RECOMPUTED."""
    return f"{family}-{mixed_precision}-{way}"


def known(device: Named) -> Computer | None:
    """What was proven of a device; None where it was never checked, or with another driver, torch or Treino."""
    wanted = Identity.of(device)
    return next((found for found in _kept() if found.identity == wanted), None)


def keep(computer: Computer) -> bool:
    """Keep what was found out, in the place of what was known of the same; whether the disk took it."""
    others = [old for old in _kept() if old.identity != computer.identity]
    text = "\n".join(_table(each) for each in (computer, *others[: MOST_KEPT - 1]))
    path = computer_file()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write_text_whole(path, text)
    except (OSError, files.WriteError):
        return False
    return True


def computer_file() -> Path:
    return paths.cache_folder() / "computer.toml"


def _kept() -> list[Computer]:
    path = computer_file()
    return list(_read(path, files.stamp(path)))


@functools.lru_cache(maxsize=4)
def _read(path: Path, stamp: tuple[int, int]) -> tuple[Computer, ...]:
    """Every whole table of the file; `stamp` makes a file that was written anew another one."""
    try:
        rows = tomllib.loads(path.read_text(encoding="utf-8"))["checked"]
        return tuple(found for row in rows if (found := _computer(row)))
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def _computer(row: object) -> Computer | None:
    """The table's content; None where it is damaged or of another version."""
    if not isinstance(row, dict) or not isinstance(of := row.get("identity"), dict):
        return None
    given = {name: value for name, value in row.items() if name != "identity"}
    if not (_fits(Identity, of) and len(of) == len(fields(Identity)) and _fits(Computer, given)):
        return None
    return Computer(Identity(**of), **given)


def _fits(kind: type, values: Mapping[str, Any]) -> bool:
    """Whether every value is one that the class has, of its type."""
    wanted = typing.get_type_hints(kind)
    return all(name in wanted and _is_a(value, wanted[name]) for name, value in values.items())


def _is_a(value: object, kind: Any) -> bool:
    choices = typing.get_args(kind)
    if typing.get_origin(kind) is not None and issubclass(typing.get_origin(kind), Mapping):
        return isinstance(value, dict) and all(_is_a(each, choices[1]) for each in value.values())
    if choices:
        return any(_is_a(value, each) for each in choices)
    is_of_kind = isinstance(value, int | float if kind is float else kind)
    return is_of_kind and isinstance(value, bool) == (kind is bool)


def _table(computer: Computer) -> str:
    plain, tables = [], []
    for each in fields(computer):
        value = getattr(computer, each.name)
        if isinstance(value, Identity | Mapping):
            rows = vars(value) if isinstance(value, Identity) else value
            lines = [f"{json.dumps(name)} = {_toml(row)}" for name, row in rows.items()]
            tables += [f"[checked.{each.name}]", *lines]
        elif value is not None:
            plain.append(f"{each.name} = {_toml(value)}")
    return "\n".join(["[[checked]]", *plain, *tables]) + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    # JSON's escapes are TOML's, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)


@functools.cache
def _torch() -> str:
    try:
        return metadata.version("torch")
    except metadata.PackageNotFoundError:
        return ""
