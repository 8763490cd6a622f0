"""Known security holes in what is installed here; fails when there is one.

python -m tests.policy.audit            against the list in tests/advisories.toml, without a network
python -m tests.policy.audit --online   asks the advisories' own database, by pip-audit
"""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from packaging.specifiers import SpecifierSet
from packaging.version import Version

from tests.policy.licences import ROOT, needed, requirements

LIST = Path(__file__).with_name("advisories.toml")
FILES = (ROOT / "requirements.txt", ROOT / "tests" / "requirements.txt")


@dataclass(frozen=True)
class Hole:
    """`passed_over`: why it does not reach Treino, though no version closes it; `unused`: a pattern no source holds."""

    package: str
    versions: SpecifierSet
    ids: tuple[str, ...]
    what: str
    passed_over: str = ""
    unused: str = ""

    def is_in(self, version: str) -> bool:
        return self.versions.contains(Version(version).public, prereleases=True)


def known() -> list[Hole]:
    """The holes of the list."""
    packages = tomllib.loads(LIST.read_text(encoding="utf-8"))
    return [
        Hole(package, SpecifierSet(versions), **{**row, "ids": tuple(row["ids"])})
        for package, rows in packages.items()
        for versions, row in rows.items()
    ]


def installed() -> dict[str, str]:
    """What Treino and its tests need, with the version that is here."""
    names = [name for path in FILES for name in requirements(path)]
    return {name: package.version for name, package in needed(names).items()}


def found(versions: Mapping[str, str]) -> list[Hole]:
    """The holes in these packages."""
    return [hole for hole in known() if hole.package in versions and hole.is_in(versions[hole.package])]


def line(hole: Hole, version: str) -> str:
    ids = ", ".join(hole.ids)
    if hole.passed_over:
        return f"{hole.package} {version}: {hole.what} ({ids}). It does not reach Treino: {hole.passed_over}."
    return f"{hole.package} {version}: {hole.what} ({ids}; affected: {hole.versions}). Update it."


def main(arguments: list[str]) -> int:
    if "--online" in arguments:
        if importlib.util.find_spec("pip_audit") is None:
            print("pip-audit is not installed: python -m pip install pip-audit, then try again.")
            return 2
        asked = [word for path in FILES for word in ("-r", str(path))]
        asked += [word for hole in known() if hole.passed_over for each in hole.ids for word in ("--ignore-vuln", each)]
        return subprocess.run([sys.executable, "-m", "pip_audit", *asked], check=False).returncode
    versions = installed()
    here, holes = found(versions), known()
    for hole in here:
        print(line(hole, versions[hole.package]))
    beside = _count(hole for hole in here if hole.passed_over)
    reaching = _count(here) - beside
    print(
        f"{len(versions)} packages; {_count(holes)} known holes of {len({hole.package for hole in holes})} of them; "
        f"{reaching} open here, and {beside} that nobody closes and that do not reach Treino"
    )
    return 1 if reaching else 0


def _count(holes: Iterable[Hole]) -> int:
    return sum(len(hole.ids) for hole in holes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
