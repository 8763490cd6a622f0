"""The report of a device's last whole check, kept beside what was proven: after a restart it can be read and sent still."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from lora_core.check import machine
from lora_core.check.findings import Report
from lora_core.messages import Message, from_json, to_json
from lora_core.models.computer import MOST_KEPT, Computer, Named, computer_file, known
from lora_core.system.files import JsonMemo


@dataclass(frozen=True)
class Kept:
    """What an earlier check told, as it was read and sent. at: Unix seconds."""

    lines: tuple[Message, ...]
    at: float


def keep(report: Report) -> None:
    """In the place of an earlier report of the same; one of a check that was stopped is not worth keeping."""
    if not report.is_whole:
        return
    key = _key(report.computer)
    others = {name: row for name, row in _file().read(dict).items() if name != key}
    mine = {"at": report.computer.checked_at, "lines": [to_json(line) for line in report.lines()]}
    _file().write(dict([(key, mine), *others.items()][:MOST_KEPT]))


def last(device: Named) -> Kept | None:
    """What is known of a device; None where nothing is, or not with this driver, torch and Treino.

    Where there is no report of it, because its check was stopped or the file is damaged, the most important figures alone.
    """
    if (found := known(device)) is None:
        return None
    rows: dict[str, Any] = _file().read(dict)
    try:
        row = rows[_key(found)]
        return Kept(tuple(from_json(line) for line in row["lines"]), float(row["at"]))
    except (TypeError, KeyError, ValueError):
        return Kept(tuple(machine.proven(found)), found.checked_at)


def _key(computer: Computer) -> str:
    return "; ".join(str(value) for value in vars(computer.identity).values())


def _file() -> JsonMemo:
    return JsonMemo(computer_file().with_name("computer_reports.json"))
