"""Known security holes in what is installed here; fails when there is one.

python -m tests.audit            against the list in tests/advisories.toml, without a network
python -m tests.audit --online   asks the advisories' own database, by pip-audit
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.licences import ROOT, needed, requirements

LIST = Path(__file__).with_name("advisories.toml")
FILES = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")


@dataclass(frozen=True)
class Hole:
    package: str
    versions: SpecifierSet
    ids: tuple[str, ...]
    what: str

    def is_in(self, version: str) -> bool:
        return self.versions.contains(Version(version).public, prereleases=True)


def known() -> list[Hole]:
    """The holes of the list."""
    rows = tomllib.loads(LIST.read_text(encoding="utf-8"))["hole"]
    return [Hole(row["package"], SpecifierSet(row["versions"]), tuple(row["ids"]), row["what"]) for row in rows]


def installed() -> dict[str, str]:
    """What Treino and its tests need, with the version that is here."""
    names = [name for path in FILES for name in requirements(path)]
    return {name: package.version for name, package in needed(names).items()}


def found(versions: Mapping[str, str]) -> list[str]:
    """A line for every hole in these packages."""
    return [
        f"{hole.package} {versions[hole.package]}: {hole.what} ({', '.join(hole.ids)}; affected: {hole.versions})"
        for hole in known()
        if hole.package in versions and hole.is_in(versions[hole.package])
    ]


def main(arguments: list[str]) -> int:
    if "--online" in arguments:
        if importlib.util.find_spec("pip_audit") is None:
            print("pip-audit is not installed: python -m pip install pip-audit, then try again.")
            return 2
        asked = [word for path in FILES for word in ("-r", str(path))]
        return subprocess.run([sys.executable, "-m", "pip_audit", *asked], check=False).returncode
    versions = installed()
    lines = found(versions)
    print("\n".join(lines), end="\n" * bool(lines))
    holes = known()
    packages = {hole.package for hole in holes}
    count = sum(len(hole.ids) for hole in holes)
    print(f"{len(versions)} packages; {count} known holes of {len(packages)} of them; {len(lines)} open here")
    return 1 if lines else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
