"""Pictures per second from photos on disk to latents and embeddings on disk, beside a plain loop; and from the cache.

    python -m tests.benchmarks.prepare [--pictures 8 32] [--base starter|sd1|sdxl|MODEL] [--resolution 64] [--rounds 3]

The photos are drawn here: JPEGs of 12 megapixels. The plain loop takes one picture after the other: open, scale and
crop with PIL, VAE, text encoder, torch.save. Each part runs in a process of its own, by turns; models are loaded before the
clock starts. "sd1", "sd2" and "sdxl" are built with random weights (tests/benchmarks/full_size.py). Memory: the most that
the process grew while it worked, and on a CUDA card the most allocated there.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from lora_core.config import TrainConfig
from lora_core.dataset import Item, fit, scan
from lora_core.models import device as precision
from lora_core.models import load as base_models
from lora_core.models.catalog import STARTER
from lora_core.training.data.latent_cache import Prompts, encode_pictures
from lora_core.training.data.plan import Plan
from tests.benchmarks.full_size import PIPELINES, build

WIDTH, HEIGHT = 4000, 3000
MIB = 2**20
PARTS = ("treino", "plain", "again", "one caption")


def draw(folder: Path, count: int) -> None:
    """Photos with captions: soft shapes and the grain of a sensor, a few megabytes each, no two alike."""
    folder.mkdir(exist_ok=True)
    grain_HW1 = np.random.default_rng(0).normal(0, 4, (HEIGHT, WIDTH, 1)).astype(np.float32)

    def one(number: int) -> None:
        if (folder / f"{number:04}.txt").exists():
            return
        colours = np.random.default_rng(number).integers(0, 256, (9, 12, 3), np.uint8)
        soft = Image.fromarray(colours).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)
        pixels = (np.asarray(soft) + np.roll(grain_HW1, 97 * number, 0)).clip(0, 255).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:04}.jpg", quality=90)
        (folder / f"{number:04}.txt").write_text(f"photo {number} of soft shapes", encoding="utf-8")

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(one, range(count)))


@contextmanager
def watched(device: torch.device) -> Iterator[dict[str, float]]:
    """Seconds, and memory at its most beside what stood there before; filled in when the block ends."""
    process, found = psutil.Process(), dict[str, float]()
    before = most = process.memory_info().rss
    ended = threading.Event()

    def watch() -> None:
        nonlocal most
        while not ended.wait(0.02):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch)
    watcher.start()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    began = time.perf_counter()
    try:
        yield found
    finally:
        if device.type == "cuda":
            torch.cuda.synchronize()
            found["card_mib"] = torch.cuda.max_memory_allocated() / MIB
        found["seconds"] = time.perf_counter() - began
        ended.set()
        watcher.join()
        found["grew_mib"] = (max(most, process.memory_info().rss) - before) / MIB


@torch.no_grad()
def plain(model: Any, items: list[Item], plan: Plan, device: torch.device, out: Path) -> None:
    """The loop of the tutorials that cache at all."""
    for number, item in enumerate(items):
        picture = Image.open(item.path).convert("RGB")
        pixels_HW3 = torch.from_numpy(fit(picture, plan.size_of[item.path]))
        pixels_BCHW = pixels_HW3.permute(2, 0, 1)[None].to(device, model.vae.dtype) / 127.5 - 1
        posterior = model.vae.encode(pixels_BCHW).latent_dist
        torch.save({"mean": posterior.mean.cpu(), "std": posterior.std.cpu()}, out / f"{number}.latents.pt")
        states = model.family.encode_text(model, model.family.tokenize(model, [item.caption]))
        torch.save({name: rows.cpu() for name, rows in states.items()}, out / f"{number}.text.pt")


def part(name: str, base: str, resolution: int, photos: Path, home: Path) -> dict[str, float]:
    """One part, in this process."""
    config = TrainConfig.of({
        "pretrained_model_name_or_path": base, "train_data_dir": str(photos), "resolution": resolution,
        "bucket_step": min(64, resolution), "validation_split": 0.0,
    })  # fmt: skip
    compute = precision.choose("auto", "bf16")
    device, items = compute.device, list(scan(photos).items)
    plan = Plan.of(config, scan(photos))
    model = base_models.load(base, compute.dtype, lambda event: None)
    for module in (model.vae, *model.text_encoders.values()):
        module.to(device)
    work: Callable[[], object]
    if name == "plain":
        work = _plain_work(model, items, plan, device, home)
    else:
        os.environ["TREINO_CACHE"] = str(home / "cache")
        for kind in ("vae", *model.text_encoders):  # outside of the clock: it is a part of loading
            base_models.fingerprint(model, kind)

        def work() -> object:
            examples = encode_pictures(model, plan, items, config, device, lambda event: None)
            prompts = Prompts(model, device, live=False)
            prompts.prepare([example.caption for example in examples], lambda event: None)
            return examples, prompts

    with watched(device) as found:
        kept = work()
    del kept
    files = len(list((home / "cache").rglob("*.safetensors"))) if name != "plain" else 0
    return {**found, "files": files}


def _plain_work(model: Any, items: list[Item], plan: Plan, device: torch.device, home: Path) -> Callable[[], object]:
    def work() -> object:
        with tempfile.TemporaryDirectory(dir=home) as out:
            plain(model, items, plan, device, Path(out))
        return None

    return work


def in_own_process(name: str, asked: argparse.Namespace, base: str, photos: Path, home: Path) -> dict[str, float]:
    words = [sys.executable, "-m", "tests.benchmarks.prepare", "--part", name, "--base", base]
    words += ["--resolution", str(asked.resolution), "--photos", str(photos), "--home", str(home)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(asked: argparse.Namespace, base: str, count: int, photos: Path) -> str:
    """All parts on so many photos, by turns; a table."""
    draw(photos, count)
    rounds: dict[str, list[dict[str, float]]] = {name: [] for name in PARTS}
    for _ in range(asked.rounds):
        with tempfile.TemporaryDirectory() as home:
            caption = photos / "0000.txt"
            for name in PARTS:
                if name == "one caption":
                    caption.write_text("another caption", encoding="utf-8")
                rounds[name].append(in_own_process(name, asked, base, photos, Path(home)))
            caption.write_text("photo 0 of soft shapes", encoding="utf-8")
    lines = [_line(name, count, found) for name, found in rounds.items()]
    pairs = zip(rounds["treino"], rounds["plain"], strict=True)
    ratios = sorted(theirs["seconds"] / mine["seconds"] for mine, theirs in pairs)
    anew = {now["files"] - then["files"] for now, then in zip(rounds["one caption"], rounds["again"], strict=True)}
    lines.append(f"  {statistics.median(ratios):.2f}x the plain loop ({ratios[0]:.2f} to {ratios[-1]:.2f})")
    lines.append(f"  files made anew for a changed caption: {', '.join(str(int(number)) for number in sorted(anew))}")
    return "\n".join([f"{count} pictures", *lines])


def _line(name: str, count: int, found: list[dict[str, float]]) -> str:
    rates = sorted(count / each["seconds"] for each in found)
    line = f"  {name:12}{statistics.median(rates):8.2f} pictures/s ({rates[0]:.2f} to {rates[-1]:.2f})"
    line += f"   grew by {statistics.median(each['grew_mib'] for each in found):5.0f} MiB"
    return line + (f"   card {max(each['card_mib'] for each in found):6.0f} MiB" if "card_mib" in found[0] else "")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, nargs="+", default=[8, 32])
    parser.add_argument("--base", default=STARTER)
    parser.add_argument("--resolution", type=int, default=0, help="by default 64 for the starter, 1024 for sdxl, else 512")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--photos", type=Path, help="keep the drawn photos in this folder")
    parser.add_argument("--home", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    asked.resolution = asked.resolution or {STARTER: 64, "sdxl": 1024}.get(asked.base, 512)
    if asked.part:
        print(json.dumps(part(asked.part, asked.base, asked.resolution, asked.photos, asked.home)))
        return
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else f"the CPU, {os.cpu_count()} cores"
    print(f"{where}; {WIDTH} x {HEIGHT} pixels to {asked.resolution}, {asked.base}")
    with tempfile.TemporaryDirectory() as home:
        base = asked.base
        if base in PIPELINES:
            build(base, Path(home) / base)
            base = str(Path(home) / base)
        for count in asked.pictures:
            print(measure(asked, base, count, asked.photos or Path(home) / f"photos {count}"), flush=True)


if __name__ == "__main__":
    main()
