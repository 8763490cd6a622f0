"""Put thousands of damaged files before the code that reads them.

python -m tests.fuzz [--cases 10000] [--seed 0]
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import psutil
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.corpus import OPENED
from tests.fuzz.readers import KINDS, Kind

LONGEST_S, MOST_BYTES = 5.0, 2 * 2**30
Damage = tuple[str, float, bytes]

damages = st.lists(
    st.tuples(
        st.sampled_from(["cut", "flip", "insert", "remove", "whole"]), st.floats(0, 1), st.binary(min_size=1, max_size=8)
    ),
    max_size=3,
)


@dataclass
class Figures:
    cases: int = 0
    slowest_s: float = 0.0
    slowest: str = ""
    peak_bytes: int = 0

    def line(self) -> str:
        return (
            f"{self.cases:,} cases, no traceback and nothing changed; slowest {self.slowest_s:.2f} s ({self.slowest}), "
            f"peak memory {self.peak_bytes / 2**20:,.0f} MiB"
        )


def damaged(data: bytes, harm: list[Damage]) -> bytes:
    for how, where, more in harm:
        at = int(where * len(data))
        if how == "cut":
            data = data[:at]
        elif how == "flip":
            data = data[:at] + more + data[at + len(more) :]
        elif how == "insert":
            data = data[:at] + more + data[at:]
        elif how == "remove":
            data = data[:at] + data[at + len(more) * 50 :]
    return data


def try_one(kind: Kind, name: str, data: bytes, figures: Figures, label: str) -> None:
    """Read one file in a folder of its own; raises AssertionError for what must not happen."""
    with tempfile.TemporaryDirectory(prefix="treino-fuzz-") as folder:
        path = Path(folder) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        began = time.monotonic()
        kind.read(path)
        took = time.monotonic() - began
        if path.is_file():
            assert path.read_bytes() == data, "the file was changed"
        assert not Path(OPENED).exists() and not (Path(folder) / OPENED).exists(), "code in a pickle was run"
    used = psutil.Process().memory_info().rss
    figures.cases += 1
    figures.peak_bytes = max(figures.peak_bytes, used)
    if took > figures.slowest_s:
        figures.slowest_s, figures.slowest = took, label
    assert took < LONGEST_S, f"it took {took:.1f} s"
    assert used < MOST_BYTES, f"it took {used / 2**20:.0f} MiB"


def fuzz(name: str, cases: int, number: int, figures: Figures) -> None:
    """All seeds of a kind as they are, then damaged ones up to `cases`."""
    kind = KINDS[name]
    seeds = kind.seeds()
    for file in kind.names:
        for data in seeds:
            try_one(kind, file, data, figures, name)

    @seed(number)
    @settings(
        max_examples=max(1, cases - len(seeds) * len(kind.names)), deadline=None, database=None,
        phases=[Phase.generate, Phase.shrink], suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.integers(0, len(seeds) - 1), st.sampled_from(kind.names), damages)
    def check(index: int, file: str, harm: list[Damage]) -> None:
        try_one(kind, file, damaged(seeds[index], harm), figures, name)

    check()


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=0)
    given_ = parser.parse_args(argv)
    figures, broken = Figures(), []
    for name in KINDS:
        try:
            fuzz(name, -(-given_.cases // len(KINDS)), given_.seed, figures)
        except Exception as error:
            broken.append(name)
            for each in error.exceptions if isinstance(error, ExceptionGroup) else (error,):
                notes = "\n  ".join(getattr(each, "__notes__", []))
                print(f"{name}: {type(each).__name__}: {each}\n  {notes}", flush=True)
            if os.environ.get("FUZZ_TRACEBACK"):
                raise
    print(f"fuzz, seed {given_.seed}: {figures.line() if not broken else 'findings in ' + ', '.join(broken)}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
