"""What a requirements file asks for, and whether it is installed; the standard library is all it takes.

PEP 440 and PEP 508 as far as our own files go: a name, or a name with releases such as `>=1.2,<2`.
"""

from __future__ import annotations

import operator
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

_BOUND = r"(==|!=|>=|<=|>|<)\s*([0-9]+(?:\.[0-9]+)*)"
_LINE = re.compile(rf"([A-Za-z0-9][A-Za-z0-9._-]*)\s*((?:{_BOUND}\s*,?\s*)*)")
_VERSION = re.compile(r"(\d+(?:\.\d+)*)(?:(a|b|rc)(\d+))?(?:\.post(\d+))?(?:\.dev(\d+))?(?:\+[a-z0-9.]+)?")
_COMPARE: dict[str, Callable[[_Key, _Key], bool]] = {
    "==": operator.eq, "!=": operator.ne, ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip
_PHASES = ("dev", "a", "b", "rc", "final")
_FINAL, _NO_DEV = (_PHASES.index("final"), 0), float("inf")

if TYPE_CHECKING:
    _Key = tuple[tuple[int, ...], tuple[int, int], int, float]


@dataclass(frozen=True)
class Requirement:
    """A distribution and the versions of it that will do, as pairs of operator and version."""

    name: str
    versions: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return self.name + ",".join(sign + version for sign, version in self.versions)

    @property
    def pin(self) -> str:
        """The one version that will do, or "" where there are several."""
        return next((version for sign, version in self.versions if sign == "=="), "")

    def allows(self, version: str) -> bool:
        """Whether the installed `version` will do; a local label such as +cpu counts for nothing (PEP 440)."""
        return all(_allows(sign, wanted, version) for sign, wanted in self.versions)


def read(file: Path) -> tuple[Requirement, ...]:
    """The requirements in `file`, in its order. Raises ValueError on a line of another kind."""
    lines = (line.partition("#")[0].strip() for line in file.read_text(encoding="utf-8").splitlines())
    return tuple(parse(line) for line in lines if line)


def parse(line: str) -> Requirement:
    """One requirement. Raises ValueError on options, extras, markers and addresses, which our files do without."""
    found = _LINE.fullmatch(line.strip())
    if not found:
        raise ValueError(f"requirement {line!r} is not a name with releases such as >=1.2,<2")
    return Requirement(found[1], tuple(re.findall(_BOUND, found[2])))


def unmet(wanted: Iterable[Requirement], path: Sequence[str] | None = None) -> list[str]:
    """What is missing or has the wrong version in `path` (default: where this interpreter looks), a phrase each."""
    installed = versions(path)
    problems = []
    for requirement in wanted:
        version = installed.get(_canonical(requirement.name))
        if version is None:
            problems.append(f"{requirement} is missing")
        elif not requirement.allows(version):
            problems.append(f"{requirement} is wanted, {version} is there")
    return problems


def versions(path: Sequence[str] | None = None) -> dict[str, str]:
    """Canonical name -> version of all that is installed; of two copies the one that is imported."""
    from importlib import metadata  # newer than the oldest Python that has to read this file

    found: dict[str, str] = {}
    for distribution in metadata.distributions(path=sys.path if path is None else list(path)):
        # A folder that an interrupted pip left behind has no name.
        name = distribution.metadata["Name"] if distribution.metadata else None
        if name:
            found.setdefault(_canonical(name), distribution.version)
    return found


def _canonical(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _allows(sign: str, wanted: str, version: str) -> bool:
    try:
        have, want = _key(version), _key(wanted)
    except ValueError:
        return False
    if have[0] == want[0]:  # within one release: 2.0rc1 is not taken as below 2.0, nor 2.0.post1 as above it
        is_early = have[1] < _FINAL or have[3] != _NO_DEV
        if (sign == "<" and is_early) or (sign == ">" and have[2] >= 0):
            return False
    return _COMPARE[sign](have, want)


def _key(version: str) -> _Key:
    """Sorts as PEP 440 wants it: release, phase, post-release, development release."""
    found = _VERSION.fullmatch(version.strip().lower())
    if not found:
        raise ValueError(f"{version!r} is not a version such as 1.2.3")
    release = [int(part) for part in found[1].split(".")]
    while release[-1:] == [0]:
        release.pop()
    is_dev_of_final = found[5] is not None and found[2] is None and found[4] is None
    phase = "dev" if is_dev_of_final else found[2] or "final"
    return (
        tuple(release),
        (_PHASES.index(phase), int(found[3] or 0)),
        int(found[4]) if found[4] is not None else -1,
        int(found[5]) if found[5] is not None else _NO_DEV,
    )
