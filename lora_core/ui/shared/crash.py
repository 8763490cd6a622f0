"""An error nobody foresaw, as it is told: whole, and without what is private."""

from __future__ import annotations

import re
import sys
import traceback
from dataclasses import dataclass

from lora_core.system.redact import traceback_of

_OURS = (r".*[\\/]((?:site-packages|lora_core)[\\/].*)", r".*[\\/]((?:lib[\\/]python[\d.]+|Lib)[\\/].*)")


@dataclass(frozen=True)
class CrashReport:
    """An error: what was being done, its traceback, and the part of that which is nobody's secret."""

    serial: int
    what: str
    report: str
    public: str

    @classmethod
    def of(cls, serial: int, what: str, error: BaseException) -> CrashReport:
        """The crash that an error is."""
        return cls(serial, what, traceback_of(error), public(error))


def tell_terminal(error: BaseException) -> None:
    """Where no page can show it."""
    print(traceback_of(error), end="", file=sys.stderr, flush=True)


def public(error: BaseException) -> str:
    """Its traceback without private paths, and without what errors say, which quotes prompts and captions.

    Of the source, the lines of Treino and of packages are shown: anybody can read them.
    """
    parts: list[str] = []
    seen: set[int] = set()
    left = [error]
    while left:
        now = left.pop()
        if id(now) in seen:
            continue
        seen.add(id(now))
        parts.append(_one(now))
        before = now.__cause__ or (None if now.__suppress_context__ else now.__context__)
        left += [*(now.exceptions if isinstance(now, BaseExceptionGroup) else ()), *([before] if before else [])]
    return "\n\nBefore, or within:\n".join(parts)


def _one(error: BaseException) -> str:
    lines = []
    for frame in traceback.extract_tb(error.__traceback__):
        path = shortened(frame.filename)
        lines.append(f'  File "{path}", line {frame.lineno}, in {frame.name}')
        if frame.line and path != "<path>":
            lines.append(f"    {frame.line}")
    return "\n".join([*lines, f"{type(error).__module__}.{type(error).__qualname__}: …"])


def shortened(path: str) -> str:
    """The part of a path that lies in Treino or in a package, or a placeholder."""
    found = next((match for ours in _OURS if (match := re.fullmatch(ours, path))), None)
    return found[1] if found else path if path.startswith("<frozen ") else "<path>"
