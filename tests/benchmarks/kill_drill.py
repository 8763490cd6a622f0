"""Kill a training at random moments, go on with --resume, and prove that nothing was lost.

    python -m tests.benchmarks.kill_drill [--kills 100] [--seed 0]

Every attempt is a process of its own that runs the command line. It kills itself with SIGKILL at a file operation of
its own (weighted towards saving, caching, sampling and events, up to 3 ms later, so also in the middle of a write), or
anywhere in time. After every kill the files are read; at each end they are compared with those of an unbroken run.
Processes are forked from one that has torch loaded, so a kill costs a second and not ten: not for Windows.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # several threads would not survive the fork

from safetensors.torch import load as load_tensors

from lora_core.cli import main as cli
from lora_core.events import Sample, Saved, Step, Validation, from_line
from lora_core.runs.run import Run, resumable
from tests.support.tiny import tiny_dataset, tiny_model
from tests.support.training import adapters_after, equal

STEPS, SAVE_EVERY = 12, 3
LONGEST_ATTEMPT_S = 300
WRITES = ("open", "os.rename", "os.mkdir", "os.remove", "os.rmdir")
# What is going on, and how many file operations of the kind an unbroken run makes at least.
KINDS = {"save": 40, "cache": 30, "sample": 20, "events": 40, "start": 12}


@dataclass
class Tally:
    kills: Counter[str] = field(default_factory=Counter)
    runs: int = 0
    files: int = 0
    damaged: list[str] = field(default_factory=list)
    slowest_s: float = 0.0

    def line(self) -> str:
        where = ", ".join(f"{count} {kind}" for kind, count in sorted(self.kills.items()))
        return (
            f"{sum(self.kills.values())} kills ({where}), {self.runs} runs ended bit-equal to the unbroken one, "
            f"{self.files} .safetensors read whole, {len(self.damaged)} problems, slowest start {self.slowest_s:.1f} s"
        )


@dataclass(frozen=True)
class Moment:
    """When to die: at operation `number` of a kind, `delay_s` later; of the kind "time", after `delay_s`."""

    kind: str
    number: int
    delay_s: float


class Drill:
    def __init__(self, folder: Path, seed: int):
        self.folder, self.random, self.tally = folder, random.Random(seed), Tally()
        self.out, self.cache = folder / "out", folder / "cache"
        self.model, self.data = tiny_model(folder / "model"), tiny_dataset(folder / "pictures", 5)
        os.environ["TREINO_CACHE"], os.environ["HF_HUB_OFFLINE"] = str(self.cache), "1"
        began = time.monotonic()
        assert self._attempt(None, folder / "whole") == 0, "the unbroken run failed"
        self.usual_s = time.monotonic() - began
        self.whole = Run(folder / "whole")

    def go(self, kills: int) -> Tally:
        """Kill as often as asked, then let the last run come to its end."""
        while sum(self.tally.kills.values()) < kills:
            for place in (self.out, self.cache):
                shutil.rmtree(place, ignore_errors=True)
            while True:
                enough = sum(self.tally.kills.values()) >= kills
                moment = None if enough else self._moment()
                began = time.monotonic()
                code = self._attempt(moment, self.out)
                self.tally.slowest_s = max(self.tally.slowest_s, time.monotonic() - began)
                self._read_back()
                if code == 0:
                    break
                if code != -signal.SIGKILL or moment is None:
                    said = (self.folder / "said.txt").read_text(encoding="utf-8").splitlines()
                    self._note("\n  ".join([f"an attempt ended with {code} after {moment}:", *said[-4:]]))
                    return self.tally
                self.tally.kills[moment.kind] += 1
            self._compare()
        return self.tally

    def _moment(self) -> Moment:
        if self.random.random() < 0.2:
            return Moment("time", 0, self.random.uniform(0, self.usual_s))
        kind = self.random.choice([*KINDS])
        return Moment(kind, self.random.randint(1, KINDS[kind]), self.random.choice([0.0, self.random.uniform(0, 3e-3)]))

    def _attempt(self, moment: Moment | None, out: Path) -> int:
        process = multiprocessing.get_context("fork").Process(target=self._train, args=(moment, out))
        process.start()
        process.join(LONGEST_ATTEMPT_S)
        if process.exitcode is None:
            process.kill()
            process.join()
            self._note("an attempt hung")
            return 1
        return process.exitcode

    def _train(self, moment: Moment | None, out: Path) -> None:
        if moment:
            self._arm(moment, out)
        with (self.folder / "said.txt").open("a", encoding="utf-8") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
        sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  it lives as long as the process
        sys.stderr = sys.stdout
        more = ["--resume"] if resumable(Run(out).checkpoints) else []
        code = cli.main(["--output_dir", str(out), *more, *self._settings()])
        sys.stdout.flush()
        os._exit(code)

    def _settings(self) -> list[str]:
        values = {
            "train_data_dir": self.data, "pretrained_model_name_or_path": self.model, "max_train_steps": STEPS,
            "save_steps": SAVE_EVERY, "resolution": 64, "bucket_step": 16, "lora_rank": 4, "mixed_precision": "no",
            "learning_rate": 1e-3, "sample_count": 2, "sample_inference_steps": 2, "validation_split": 0.2,
            "lora_dropout": 0.1, "device": "cpu",
        }  # fmt: skip
        return [word for name, value in values.items() for word in (f"--{name}", str(value))]

    def _arm(self, moment: Moment, out: Path) -> None:
        """Let this process kill itself at the moment."""
        seen: Counter[str] = Counter()

        def die() -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        def look(event: str, args: tuple[object, ...]) -> None:
            if event not in WRITES or not isinstance(args[0], (str, os.PathLike)):
                return
            if event == "open" and isinstance(args[2], int) and not args[2] & (os.O_WRONLY | os.O_RDWR):
                return
            if not (kind := self._kind(str(args[0]), out)):
                return
            seen[kind] += 1
            if kind == moment.kind and seen[kind] == moment.number:
                if moment.delay_s:
                    threading.Timer(moment.delay_s, die).start()
                else:
                    die()

        if moment.kind == "time":
            timer = threading.Timer(moment.delay_s, die)
            timer.daemon = True
            timer.start()
        else:
            sys.addaudithook(look)

    def _kind(self, path: str, out: Path) -> str:
        if path.startswith(str(self.cache)):
            return "cache"
        if not path.startswith(str(out)):
            return ""
        if path.startswith(str(out / "checkpoints")) or path.endswith(".safetensors"):
            return "save"
        if path.startswith(str(out / "samples")):
            return "sample"
        return "events" if path.endswith("events.jsonl") else "start"

    # --- what must hold ---------------------------------------------------------------------------------------

    def _note(self, what: str) -> None:
        self.tally.damaged.append(what)
        print(what, flush=True)

    def _read_back(self) -> None:
        """After a kill: every finished file is whole, and what was told can be read but for a last line cut short."""
        for path in [*self.out.rglob("*.safetensors"), *self.cache.rglob("*.safetensors")]:
            try:
                load_tensors(path.read_bytes())
                self.tally.files += 1
            except Exception as error:  # noqa: BLE001  whatever it is, the file is not whole
                self._note(f"{path} is damaged: {error}")
        events = Run(self.out).events_file
        lines = events.read_bytes().split(b"\n") if events.is_file() else []
        cut = [line for line in lines[:-1] if not self._is_event(line)]
        if len(cut) > 1:  # one kill cuts one line, and the next start drops it
            self._note(f"{len(cut)} of {len(lines)} lines of the events cannot be read: {cut[0][:60]!r}")

    def _is_event(self, line: bytes) -> bool:
        try:
            return bool(from_line(line.decode("utf-8")))
        except ValueError:
            return False

    def _compare(self) -> None:
        """At the end: the same weights, the same story, and nothing lies about."""
        run = Run(self.out)
        if not equal(adapters_after(self.whole.folder, STEPS), adapters_after(self.out, STEPS)):
            self._note("the adapters differ from those of the unbroken run")
        name = "pytorch_lora_weights.safetensors"
        if not equal(*(load_tensors((r.folder / name).read_bytes()) for r in (self.whole, run))):
            self._note("the LoRA differs from that of the unbroken run")
        for kind in (Step, Validation, Saved, Sample):
            told = [[e.step for e, _ in r.read()[0] if isinstance(e, kind)] for r in (self.whole, run)]
            if told[0] != told[1]:
                self._note(f"{kind.__name__} events: {told[1]}, unbroken {told[0]}")
        for path in self.whole.samples.iterdir():
            if (run.samples / path.name).read_bytes() != path.read_bytes():
                self._note(f"{path.name} differs from that of the unbroken run")
        strays = [str(p) for root in (self.out, self.cache) for p in root.rglob("*") if p.name.endswith(".tmp")]
        if strays:
            self._note(f"temporary files were left: {', '.join(strays)}")
        if (self.out / "previous").exists() and any((self.out / "previous").rglob("state.pt")):
            self._note("a checkpoint was set aside")
        self.tally.runs += 1


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="treino-drill-") as folder:
        tally = Drill(Path(folder), given.seed).go(given.kills)
    print(f"kill drill, seed {given.seed}: {tally.line()}")
    return 1 if tally.damaged else 0


if __name__ == "__main__":
    sys.exit(main())
