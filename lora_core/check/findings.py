"""What the check found: sentences with their figures, the decision that follows from each, and the report of them all."""

from __future__ import annotations

import contextlib
import getpass
import re
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from lora_core.messages import Message, to_json
from lora_core.models.computer import Computer
from lora_core.system.redact import redact

GOOD, SLOWER, FAILED = "good", "slower", "failed"
MOST_LINES = 60
_LEAST = 3  # letters of a name that is hidden; a shorter one is found in ordinary words
_HIDDEN = "…"
# Whole paths, and what cards are told apart by: GPU-1b2c3d4e-..., a serial number, a PCI address.
_PATHS = re.compile(r"(?:[A-Za-z]:\\|\\\\|(?<![\w.:/])/(?=\w+/))[^\s'\"<>|,;)]+")
_SERIALS = re.compile(
    r"(?i)\b(?:GPU|MIG)-[0-9a-f-]{8,}|\bserial(?: (?:number|no\.?))?\s*[:=]?\s*\w*\d\w*"
    r"|\b[0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.\d\b"
)


@dataclass(frozen=True)
class Finding:
    """A sentence, and what trainings do because of it, if anything.

    verdict: GOOD; SLOWER where a slower or narrower way is taken for it; FAILED where something has to be done, or a
    part of the check could not be carried out.
    """

    verdict: str
    message: Message
    decision: Message | None = None


@dataclass(frozen=True)
class Report:
    """All that was found. heading: what was checked. is_whole: nobody stopped it."""

    heading: tuple[Message, ...]
    findings: tuple[Finding, ...]
    computer: Computer
    seconds: float
    is_whole: bool = True
    unsafe: tuple[str, ...] = field(default_factory=lambda: tuple(_own_names()))  # texts that must not be sent

    def lines(self) -> list[Message]:
        """The report as it is read and sent, at most MOST_LINES lines."""
        told = [*self.heading]
        for finding in self.findings:
            told.append(Message(f"check.line_{finding.verdict}", what=finding.message))
            if finding.decision:
                told.append(Message("check.line_decision", what=finding.decision))
        if len(told) >= MOST_LINES:
            told = [*told[: MOST_LINES - 2], Message("check.more", count=len(told) - (MOST_LINES - 2))]
        ended = (
            Message("check.took", seconds=self.seconds) if self.is_whole else Message("check.stopped", seconds=self.seconds)
        )
        return [line.mapped(self.discreet) for line in (*told, ended)]

    def text(self) -> str:
        return "\n".join(str(line) for line in self.lines())

    def to_json(self) -> dict[str, Any]:
        """One object for programs: the findings by their keys, and what trainings will read."""
        return {
            "heading": [str(line.mapped(self.discreet)) for line in self.heading],
            "findings": [self._row(finding) for finding in self.findings],
            "computer": _plain(self.computer),
            "seconds": round(self.seconds, 2),
            "whole": self.is_whole,
        }

    def discreet(self, text: str) -> str:
        """A text without paths, names of this user and computer, and numbers of a single card."""
        text = _SERIALS.sub(_HIDDEN, _PATHS.sub(_HIDDEN, redact(text)))
        for name in self.unsafe:
            text = re.sub(rf"(?i)(?<![^\W_]){re.escape(name)}(?![^\W_])", _HIDDEN, text)
        return text

    def _row(self, finding: Finding) -> dict[str, Any]:
        message = finding.message.mapped(self.discreet)
        decision = finding.decision and finding.decision.mapped(self.discreet)
        told = {"verdict": finding.verdict, **to_json(message), "text": str(message)}
        return {**told, "decision": {**to_json(decision), "text": str(decision)}} if decision else told


def _own_names() -> list[str]:
    """What this user and computer are called, the longest first."""
    found = {Path.home().name, socket.gethostname(), socket.gethostname().partition(".")[0]}
    with contextlib.suppress(OSError, KeyError, ImportError):  # a user without a name, in a container
        found.add(getpass.getuser())
    return sorted((name for name in found if len(name) >= _LEAST), key=len, reverse=True)


def _plain(computer: Computer) -> dict[str, Any]:
    rows = {name: dict(value) if isinstance(value, Mapping) else value for name, value in vars(computer).items()}
    return {**rows, "identity": vars(computer.identity)}
