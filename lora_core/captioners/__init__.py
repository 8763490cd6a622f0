"""Captioners: models that look at pictures and write captions, downloaded when they are first asked for.

Nothing is written here: `describe` gives captions, and who asked shows them, lets them be changed, and writes them
through a CaptionEditor.

    inputs     what all of them begin with: settings, weights, a picture as numbers
    sentences  a caption as a sentence, by BLIP
    tags       a caption as comma-separated tags, by a WD14 tagger
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.dataset.captions import caption_bytes, caption_path
from lora_core.dataset.pictures import PictureError, load_picture
from lora_core.errors import UserError
from lora_core.events import Emit, Phase, Warned

if TYPE_CHECKING:
    import torch

    from lora_core.captioners.inputs import Describe

DEFAULT_THRESHOLD = 0.35  # of the tagger's authors


@dataclass(frozen=True)
class Captioner:
    """A model that describes pictures.

    `load` makes it ready on a device from the folder that holds `files`. Raises UserError for files it cannot use.
    """

    name: str
    repo: str  # its id on the hub
    files: tuple[str, ...]  # what of it is needed, the small ones first
    megabytes: int  # of all files together, roughly
    load: Callable[[Path, torch.device], Describe]


def _load_sentences(folder: Path, device: torch.device) -> Describe:
    from lora_core.captioners import sentences

    return sentences.load(folder, device)


def _load_tags(folder: Path, device: torch.device) -> Describe:
    from lora_core.captioners import tags

    return tags.load(folder, device)


CAPTIONERS: dict[str, Captioner] = {
    captioner.name: captioner
    for captioner in (
        Captioner(
            "sentences", "Salesforce/blip-image-captioning-large",
            ("config.json", "preprocessor_config.json", "tokenizer.json", "model.safetensors"), 1880, _load_sentences,
        ),
        Captioner(
            "tags", "SmilingWolf/wd-vit-tagger-v3",
            ("config.json", "selected_tags.csv", "model.safetensors"), 379, _load_tags,
        ),
    )
}  # fmt: skip


def is_here(name: str) -> bool:
    """Whether the captioner needs no download any more. No network."""
    from lora_core.models.hub import client

    captioner = CAPTIONERS[name]
    return client.cached_files(captioner.repo, captioner.files) is not None


def to_describe(captions: Mapping[Path, str], replace: bool) -> list[Path]:
    """The pictures of a dataset to caption: those without one, or with `replace` all.

    Of pictures that share a caption file the first stands for the others. What cannot be read, so that nobody knows
    what would be lost, is left alone.
    """
    first: dict[Path, Path] = {}
    for picture, caption in captions.items():
        if (replace or not caption) and _may_be_written(caption_path(picture)):
            first.setdefault(caption_path(picture), picture)
    return list(first.values())


def describe(
    name: str, pictures: Sequence[Path], emit: Emit, threshold: float = DEFAULT_THRESHOLD
) -> Iterator[tuple[Path, str]]:
    """The pictures with captions by the captioner `name`, one after the other, each as soon as it is known.

    It is downloaded first, as far as the cache lacks it. A picture that cannot be read is told and left out. To cancel,
    let `emit` raise, or close the generator: the captioner's memory is given back in any case.

    Raises:
        UserError: no connection, no space, files that are no such captioner, not enough memory, or a card that is lost.
    """
    assert 0 <= threshold <= 1, threshold
    from lora_core.models.device import choose, in_turn
    from lora_core.models.hub import client
    from lora_core.models.weights import free_device_memory

    captioner, answer = CAPTIONERS[name], None
    folder = client.fetch_files(captioner.repo, captioner.files, emit)
    try:
        emit(Phase("captioner", detail=captioner.repo))
        with _explaining_memory():
            answer = captioner.load(folder, choose("auto", "no").device)
        for done, picture in enumerate(pictures):
            emit(Phase("describe", done, len(pictures), picture.name))
            try:
                image = load_picture(picture)
            except PictureError as unreadable:
                emit(Warned(unreadable.message))
                continue
            with in_turn, _explaining_memory():
                caption = answer(image, threshold)
            yield picture, caption
        emit(Phase("describe", len(pictures), len(pictures)))
    finally:
        answer = None
        gc.collect()  # models refer to themselves in circles
        free_device_memory()


@contextmanager
def _explaining_memory() -> Iterator[None]:
    """Memory that runs out within the block, of the card or of the computer, and a lost card become a UserError."""
    from lora_core.models.device import is_full_card, is_full_computer, is_lost_card, why_lost

    try:
        yield
    except (RuntimeError, MemoryError) as error:
        if is_full_card(error):
            raise UserError("captioners.card_full") from error
        if is_lost_card(error):
            raise UserError("captioners.card_lost", why=why_lost(error)) from error
        if is_full_computer(error):
            raise UserError("captioners.computer_full") from error
        raise


def _may_be_written(caption_file: Path) -> bool:
    try:
        caption_bytes(caption_file)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True
