"""What reads a file of a kind. Each raises a UserError (a sentence) or nothing; anything else is a finding."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from lora_core.config import TrainConfig, read_preset, read_values
from lora_core.dataset import load_picture, report, scan
from lora_core.errors import UserError
from lora_core.lora import file as lora_file
from lora_core.models import identify
from lora_core.models.weights import open_weights
from lora_core.runs.history import History
from lora_core.runs.index import RunIndex
from lora_core.runs.run import Run, list_runs
from lora_core.system import tensor_headers
from lora_core.training import checkpoint
from lora_core.webuis import trial_defaults
from tests.fuzz import corpus


@dataclass(frozen=True)
class Kind:
    """A kind of file: whole ones to be damaged, how such a file is called, and what reads it."""

    seeds: Callable[[], Sequence[bytes]]
    names: tuple[str, ...]
    read: Callable[[Path], object]


def picture(path: Path) -> None:
    (path.parent / "good.png").write_bytes(corpus.pictures()[8])
    dataset = scan(path.parent)
    report(dataset, 512, len)
    for item in dataset.items:
        load_picture(item.path)


def caption(path: Path) -> None:
    path.with_suffix(".png").write_bytes(corpus.pictures()[8])
    report(scan(path.parent, "zebu"), 512, len)


def table(path: Path) -> None:
    for read in (lambda: TrainConfig.of(read_values(path)), lambda: read_preset(path)):
        told(read)


def lora(path: Path) -> None:
    for read in (lora_file.read, trial_defaults.defaults_for, identify.of_path, read_values):
        told(lambda read=read: read(path))  # type: ignore[misc]


def weights(path: Path) -> None:
    told(lambda: identify.of_path(path))
    told(lambda: tensor_headers.read(path))

    def every() -> None:
        opened = open_weights(path)
        try:
            for name in opened.header.tensors:
                opened.read(name)
        except ValueError:  # `load_to` makes a sentence of it
            pass
        finally:
            opened.close()

    told(every)


def events(path: Path) -> None:
    run = Run(path.parent)
    history = History(run)
    history.update()
    assert history.losses and history.ended in ("", "failed", "finished", "stopped")
    run.read(path.stat().st_size // 2)


def state(path: Path) -> None:
    told(lambda: checkpoint.load(path.parent))
    told(lambda: checkpoint.latest(path.parent.parent))


def run_folder(path: Path) -> None:
    """A whole run of which something is missing, or is a folder where a file should be, chosen by the bytes of `path`."""
    chance = random.Random(path.read_bytes())
    path.unlink()
    root = path.parent / "runs"
    run = Run(root / "a")
    run.begin(TrainConfig())
    run.events_file.write_bytes(corpus.events())
    (run.checkpoints / "step_0000004").mkdir()
    (run.checkpoints / "step_0000004" / checkpoint.STATE_FILE).write_bytes(corpus.pickles()[0])
    run.checkpoint_lora(4).write_bytes(corpus.loras()[0])
    run.lora_file(TrainConfig()).write_bytes(corpus.loras()[0])
    for part in chance.sample(sorted(run.folder.rglob("*")), 3):
        if part.is_dir():
            shutil.rmtree(part)
        elif part.exists():
            part.unlink()
            if chance.random() < 0.3:
                part.mkdir()
    for found in list_runs(root):
        told(found.config)
        told(found.finished)
        History(found).update()
        told(lambda found=found: checkpoint.latest(found.checkpoints))  # type: ignore[misc]
        told(lambda found=found: trial_defaults.defaults_for(found.folder))  # type: ignore[misc]
    for row in RunIndex(root, path.parent / "index.json").rows():
        assert row.name and (row.lora is None or row.lora.exists()) and (row.picture is None or os.fspath(row.picture))


def told(read: Callable[[], object]) -> None:
    """Call it; a sentence is fine if it is one."""
    try:
        read()
    except UserError as wrong:
        assert str(wrong).strip() and "Traceback" not in str(wrong)


KINDS = {
    "picture": Kind(
        corpus.pictures, ("a.png", "b.jpg", "c.webp", "d.gif", "e.tiff"), lambda path: told(lambda: picture(path))
    ),
    "caption": Kind(corpus.captions, ("a.txt",), lambda path: told(lambda: caption(path))),
    "settings": Kind(corpus.tables, ("preset.toml",), table),
    "LoRA": Kind(corpus.loras, ("a.safetensors",), lora),
    "model": Kind(corpus.pickles, ("a.ckpt", "a.pt", "a.safetensors"), weights),
    "events": Kind(lambda: (corpus.events(),), ("events.jsonl",), events),
    "checkpoint": Kind(corpus.pickles, ("checkpoints/step_0000003/state.pt",), state),
    "run folder": Kind(corpus.captions, ("seed",), run_folder),
}
