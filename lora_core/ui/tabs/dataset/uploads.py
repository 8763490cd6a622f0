"""Pictures and captions that are dropped on the Dataset tab: kept aside until all are there."""

from __future__ import annotations

import re
from pathlib import Path

from lora_core.dataset import fixes
from lora_core.dataset.listing import OTHER_SUFFIXES, PICTURE_SUFFIXES
from lora_core.errors import UserError
from lora_core.system.file_names import plain
from lora_core.system.files import WriteError, explain, write_bytes_whole

LARGEST_FILE = 64 * 2**20  # bytes of one dropped file
MOST_FILES = 2000  # of one drop
MOST_BYTES = 8 * 2**30  # of one drop
BATCH = r"^[0-9a-f]{8,32}$"  # the name of a drop: a folder of its own
ENDINGS = (*PICTURE_SUFFIXES, *OTHER_SUFFIXES, ".txt")


def new_folder(name: str) -> Path:
    """Where a dataset of that name lies: below the user's own Treino folder. Raises UserError for no name."""
    if not plain(name):
        raise UserError("ui.no_dataset_name")
    return Path.home() / "Treino" / plain(name)


def stage(folder: Path, batch: str, name: str, content: bytes) -> None:
    """Keep a dropped file below `folder`, not yet among its pictures.

    Raises:
        UserError: it is neither a picture nor a caption, or there are too many of them.
        WriteError: it cannot be kept.
    """
    path = Path(name.replace("\\", "/"))
    stem, ending = plain(path.stem), path.suffix.lower()
    if not stem or ending not in ENDINGS:
        raise UserError("ui.not_dropped", name=name)
    place = _place(folder, batch)
    try:
        place.mkdir(parents=True, exist_ok=True)
        kept = [file.stat().st_size for file in place.iterdir()]
    except OSError as error:
        raise WriteError(explain(error, place)) from error
    if len(kept) >= MOST_FILES or sum(kept) + len(content) > MOST_BYTES:
        raise UserError("ui.too_many_dropped", most=MOST_FILES, most_gb=MOST_BYTES >> 30)
    write_bytes_whole(place / f"{stem}{ending}", content)


def staged(folder: Path, batch: str) -> list[Path]:
    """What was kept by `stage`."""
    place = _place(folder, batch)
    return sorted(place.iterdir()) if place.is_dir() else []


def _place(folder: Path, batch: str) -> Path:
    if not re.fullmatch(BATCH, batch):
        raise ValueError(batch)
    return folder / fixes.ADDED / batch
