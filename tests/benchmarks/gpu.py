"""What a card shows of Treino in ten minutes: its check, the default path beside plain and textbook, the levels of memory.

    python -m tests.benchmarks.gpu [--device cuda] [--minutes 10] [--out lora_out/gpu.json] [--smallest]
    python -m tests.benchmarks.gpu --table lora_out/gpu.json     what a report holds, as the table of docs/performance.md

Models have random weights of the real shapes, made on the device: nothing is downloaded. Each measurement is a process of
its own, so that no two UNets meet on the card; it is printed as it ends, and the report is written anew. A part whose time
is up is ended or left out, and told. The exit code is the number of parts that failed.
--smallest: every part on the toy model, also without a card, to see that they start; what it measures says nothing.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch

from lora_core import __version__
from lora_core.models.catalog import STARTER
from lora_core.models.device import choose
from lora_core.system import hardware
from lora_core.system.redact import redact
from tests import ROOT
from tests.benchmarks.step import LEVELS
from tests.benchmarks.way import GIB, Way

CASES = (("sd1", 512, 1), ("sd1", 512, 4), ("sdxl", 1024, 1))
WAYS: dict[str, dict[str, object]] = {"default": {}, "plain": {"cuda_graphs": "off"}, "graphs": {"cuda_graphs": "on"}}
GRAPHS = "CudaGraph"  # the stepper's name
CHECK_S, WAY_S, LARGE_S, COMPILE_S = 90.0, 60.0, 90.0, 150.0  # the most that a part takes, its start included
TOO_LATE_S = 8.0  # before the end no process is started any more


@dataclass
class Part:
    """A process: the check, or ways to train, of which there are several where they are small."""

    name: str
    limit: float
    ways: tuple[Way, ...] = ()


@dataclass
class Report:
    """machine: what was measured on. parts: each with its name, state, seconds, and what was found.

    state: "done", "failed" or "left out", with the reason.
    """

    machine: dict[str, Any]
    check: dict[str, Any] = field(default_factory=dict)
    parts: list[dict[str, Any]] = field(default_factory=list)

    def found(self) -> dict[str, dict[str, Any]]:
        """Of each way by its name, what `way.Found` holds."""
        return {each["name"]: each for part in self.parts for each in part.get("found", [])}


class Bench:
    """Runs parts until the time is up, and keeps the report."""

    def __init__(self, device: str, out: Path, seconds: float):
        self.device, self.out, self.deadline = device, out, time.monotonic() + seconds
        self.report = Report(machine_of(device))

    def run(self, part: Part) -> None:
        """Do a part, tell its state, write the report."""
        limit, began = min(part.limit, self.deadline - time.monotonic()), time.monotonic()
        told: dict[str, Any] = {"name": part.name, "state": "left out", "why": "the time is up"}
        if limit >= TOO_LATE_S:
            with tempfile.TemporaryDirectory() as folder:
                told |= self._check(Path(folder), limit) if not part.ways else self._ways(part.ways, Path(folder), limit)
            told["seconds"] = round(time.monotonic() - began, 1)
        self.leave(told)

    def leave(self, told: dict[str, Any]) -> None:
        if told["state"] != "done":
            tell([f"{told['name']:44} {told['state']}: {told['why']}"])
        self.report.parts.append(told)
        self.out.parent.mkdir(parents=True, exist_ok=True)
        self.out.write_text(json.dumps(asdict(self.report), indent=1) + "\n", encoding="utf-8")

    def _check(self, folder: Path, limit: float) -> dict[str, Any]:
        out = folder / "stdout"
        told = self._process(["treino.py", "check", "--json", "--device", self.device], out, folder, limit)
        if told["state"] == "done":
            self.report.check = json.loads(out.read_text(encoding="utf-8"))
            tell([f"check: {each['text']}" for each in self.report.check["findings"]])
        return told

    def _ways(self, ways: Sequence[Way], folder: Path, limit: float) -> dict[str, Any]:
        jobs, results = folder / "jobs.json", folder / "results.json"
        jobs.write_text(json.dumps([asdict(way) for way in ways]), encoding="utf-8")
        told = self._process(["-m", "tests.benchmarks.way", str(jobs), str(results)], None, folder, limit)
        return {**told, "found": json.loads(results.read_text(encoding="utf-8")) if results.is_file() else []}

    def _process(self, arguments: Sequence[str], out: Path | None, folder: Path, limit: float) -> dict[str, Any]:
        """Run Python; `out`: where what it prints goes, if not to the terminal."""
        errors = folder / "stderr"
        with errors.open("wb") as stderr, (out or Path(os.devnull)).open("wb") as file:
            stdout = file if out else None
            process = subprocess.Popen([sys.executable, *arguments], cwd=ROOT, stdout=stdout, stderr=stderr)
            try:
                code = process.wait(limit)
            except subprocess.TimeoutExpired:
                return {"state": "left out", "why": f"not done within {limit:.0f} s"}
            finally:
                process.kill()
                process.wait()
        last = [line for line in errors.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()][-1:]
        why = redact(" ".join(last) or f"ended with {code}")
        return {"state": "failed", "why": why} if code else {"state": "done"}


def tell(lines: Sequence[str]) -> None:
    for line in lines:
        print(line, flush=True)


def machine_of(device: str) -> dict[str, Any]:
    compute = choose(device, "no")
    return {
        "treino": __version__, "torch": torch.__version__, "cuda": torch.version.cuda, "rocm": torch.version.hip,
        "python": platform.python_version(), "system": platform.system(), "device": compute.title,
        "driver": hardware.driver() if compute.device.type != "cpu" else "", "cores": os.cpu_count(),
        "date": time.strftime("%Y-%m-%d"),
    }  # fmt: skip


def name_of(family: str, resolution: int, batch: int, title: str) -> str:
    return f"{family} {resolution} px, batch {batch}: {title}"


def compared(bench: Bench, family: str, resolution: int, batch: int) -> Iterator[Part]:
    """The ways of a case, one after the other; graphs are asked for where the default path has none."""
    large = resolution > 512

    def part(title: str, **facts: Any) -> Part:
        name = name_of(family, resolution, batch, title)
        limit = LARGE_S if large else WAY_S
        return Part(name, limit, (Way(name, family, resolution, batch, bench.device, 9.0 if large else 6.0, **facts),))

    yield part("default")
    yield part("plain", settings=WAYS["plain"])
    default = bench.report.found().get(name_of(family, resolution, batch, "default"), {})
    if bench.device.startswith("cuda") and default.get("stepper") != GRAPHS:
        yield part("graphs", settings=WAYS["graphs"])
    yield part("textbook", is_textbook=True)


def summary(found: dict[str, dict[str, Any]], case: tuple[str, int, int]) -> list[str]:
    """What the ways of a case are beside each other; nothing where one is missing."""

    def of(title: str) -> dict[str, Any]:
        return found.get(name_of(*case, title), {})

    def times(one: dict[str, Any], other: dict[str, Any]) -> str:
        return f"{statistics.median(one['rates']) / statistics.median(other['rates']):.2f}x"

    default, plain, textbook = of("default"), of("plain"), of("textbook")
    graphs = next((each for each in (default, of("graphs")) if each.get("stepper") == GRAPHS), {})
    lines = []
    if default and textbook:
        lines.append(f"default beside the textbook loop: {times(default, textbook)} as fast")
    if graphs and plain:
        pairs = zip(graphs["losses"], plain["losses"], strict=True)
        off = max(abs(one - other) / abs(other) for one, other in pairs)
        lines.append(f"graphs beside plain steps: {times(graphs, plain)} as fast, losses at most {off:.2%} apart")
    return [name_of(*case, line) for line in lines]


def levels(device: str, families: Sequence[tuple[str, int, int]], seconds: float) -> Iterator[Part]:
    """The levels of memory, those that a compiler spends minutes on last."""
    for is_compiled in (False, True):
        for family, resolution, batch in families:
            for title, settings in LEVELS.items():
                if title == "without graphs" or ("torch_compile" in settings) != is_compiled:
                    continue
                name = name_of(family, resolution, batch, title)
                limit = COMPILE_S if is_compiled else LARGE_S if resolution > 512 else WAY_S
                yield Part(name, limit, (Way(name, family, resolution, batch, device, seconds, dict(settings)),))


def ten_minutes(bench: Bench) -> None:
    bench.run(Part("check", CHECK_S))
    for case in CASES:
        for part in compared(bench, *case):
            bench.run(part)
        tell(summary(bench.report.found(), case))
    for part in levels(bench.device, [case for case in CASES if case[2] == 1], 4.0):
        bench.run(part)


def smallest(bench: Bench) -> None:
    """Every part on the toy model, all ways in one process: its start takes longer than they do."""
    bench.run(Part("check", CHECK_S))
    case, seconds = (STARTER, 64, 1), 0.2
    ways = [
        Way(name_of(*case, title), *case, bench.device, seconds, settings)  # type: ignore[arg-type]
        for title, settings in WAYS.items()
    ]
    ways.append(Way(name_of(*case, "textbook"), *case, bench.device, seconds, is_textbook=True))
    small = levels(bench.device, [case], seconds)
    ways += [way for part in small if part.limit < COMPILE_S for way in part.ways]
    bench.run(Part("all ways", COMPILE_S, tuple(ways)))
    tell(summary(bench.report.found(), case))


def table(report: Report) -> list[str]:
    """Rows for docs/performance.md."""
    rows = ["| what | steps/s | peak GiB, counted | stop | |", "|---|---|---|---|---|"]
    for name, each in report.found().items():
        peak, counted = (f"{each[key] / GIB:.2f}" if each[key] else "-" for key in ("peak", "counted"))
        speed, how = statistics.median(each["rates"]), f"{each['mixed_precision']}, {each['stepper']}"
        rows.append(f"| {name} | {speed:.2f} | {peak}, {counted} | {each['stop_s']:.2f} s | {how} |")
    about = report.machine
    missing = [part["name"] for part in report.parts if part["state"] != "done"]
    rows += ["", f"{about['device']}, torch {about['torch']}, {about['system']}, driver {about['driver'] or 'none'}."]
    return [*rows, f"Not measured: {', '.join(missing)}."] if missing else rows


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=Path("lora_out/gpu.json"))
    parser.add_argument("--smallest", action="store_true")
    parser.add_argument("--table", type=Path, metavar="REPORT")
    asked = parser.parse_args(arguments)
    if asked.table:
        tell(table(Report(**json.loads(asked.table.read_text(encoding="utf-8")))))
        return 0
    device = choose(asked.device, "no").device
    if device.type == "cpu" and not asked.smallest:
        parser.error("there is no card here; --smallest runs every part on the toy model")
    bench = Bench(str(device), asked.out, asked.minutes * 60)
    tell([f"{name}: {value}" for name, value in bench.report.machine.items()])
    (smallest if asked.smallest else ten_minutes)(bench)
    tell([f"The report is in {asked.out}."])
    return sum(part["state"] == "failed" for part in bench.report.parts)


if __name__ == "__main__":
    sys.exit(main())
