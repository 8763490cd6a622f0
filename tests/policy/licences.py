"""What Treino is built on, with version and licence; fails on a licence that does not go with ours (MIT).

    python -m tests.policy.licences
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests import ROOT

# Permissive ones, and two that bind changes to their own files only (MPL) or lie beside a program (LGPL, as a library).
WELCOME = r"MIT|BSD|Apache|PSF|Python-2|Python Software|ISC|MPL|Mozilla|HPND|Unlicense|CC0|0BSD|LGPL|Zlib|BSL-1"


def needed(names: list[str]) -> dict[str, metadata.Distribution]:
    """The installed packages of that name, and all that they need here."""
    found: dict[str, metadata.Distribution] = {}
    left = [Requirement(name) for name in names]
    while left:
        wanted = left.pop()
        name = canonicalize_name(wanted.name)
        if name in found or (wanted.marker and not wanted.marker.evaluate({"extra": ""})):
            continue
        try:
            found[name] = metadata.distribution(name)
        except metadata.PackageNotFoundError:  # for another system
            continue
        left += [Requirement(line) for line in found[name].requires or ()]
    return dict(sorted(found.items()))


def licence_of(package: metadata.Distribution) -> str:
    """As the package names it: an expression, a classifier, or the first line of its text; "" when it does not."""
    about = package.metadata
    if expression := about.get("License-Expression"):
        return str(expression)
    classes = [c.rpartition(" :: ")[2] for c in about.get_all("Classifier") or () if c.startswith("License ::")]
    named = [name for name in classes if name != "OSI Approved"]
    return ", ".join(named) or str(about.get("License") or "").strip().split("\n")[0]


def requirements(path: Path = ROOT / "requirements.txt") -> list[str]:
    lines = [line.split("#")[0].strip() for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if line and not line.startswith("-")]


def main() -> int:
    found = {name: (package.version, licence_of(package)) for name, package in needed(requirements()).items()}
    for name, (version, licence) in found.items():
        print(f"{name:28} {version:16} {licence or 'names no licence'}")
    strange = [name for name, (_, licence) in found.items() if not re.search(WELCOME, licence)]
    verdict = f"to be looked at: {', '.join(strange)}" if strange else "all go with the MIT licence"
    print(f"{len(found)} packages; {verdict}")
    return 1 if strange else 0


if __name__ == "__main__":
    sys.exit(main())
