"""Pictures to latents and captions to embeddings, computed once and kept on disk by content (store.py).

The key of a file names everything it depends on, so a changed picture, caption, size or model is a new file, an old one
is never wrong, and a changed caption costs that caption alone. Threads read, decode and scale the next pictures and
write the last ones while the VAE works; how many are on the way is bounded, so memory does not grow with the dataset.
"""

from __future__ import annotations

import hashlib
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from lora_core.config import TrainConfig
from lora_core.dataset import Item, fit, load_picture
from lora_core.dataset.buckets import crop_box
from lora_core.dataset.quality import workers
from lora_core.errors import UserError
from lora_core.events import Emit, Phase, Warned
from lora_core.messages import Message
from lora_core.models.device import free_bytes, is_full_card
from lora_core.models.families.base import BaseModel, Conditioning, Frame, Tensors
from lora_core.models.families.text import side_by_side
from lora_core.models.load import fingerprint
from lora_core.models.vae_tiling import in_tiles
from lora_core.models.weights import free_device_memory, on_device
from lora_core.training.data import tensor_store
from lora_core.training.data.plan import Plan, Size

AHEAD = 16  # pictures that are read, decoded and scaled before the VAE asks for them
# Pixels of a decoded JPEG for one of the model's, each way. Measured on photos of 12 megapixels for 512 pixels: decoding a
# half differs from decoding the whole by 0.2 levels of 255 in the mean, by 2 at most, and takes less than half the time.
DETAIL = 3.0
PIXELS_AT_ONCE = 4 * 512 * 512  # of a batch for the VAE on a card, where there is room
CAPTIONS_AT_ONCE = 32
ENCODED_BYTES = 2572  # of a device, for each pixel that Stable Diffusion's VAE encodes in fp32 (tests/benchmarks/counting)


@dataclass(frozen=True)
class Example:
    """A picture as the training step sees it: the VAE's posterior, unscaled, for each mirroring; caption and frame."""

    caption: str
    views: tuple[tuple[Tensor, Tensor], ...]  # (mean_CHW, std_CHW), plain and, with random_flip, mirrored
    frame: Frame


@dataclass
class _Picture:
    """A picture on its way to latents: for each view its file, what was in it, and the pixels where nothing was."""

    item: Item
    size: Size
    paths: list[Path]
    views: list[dict[str, Tensor] | None]
    pixels: dict[int, np.ndarray]

    def example(self) -> Example:
        views = tuple((view["mean"], view["std"]) for view in self.views if view)
        assert len(views) == len(self.paths), "it has been encoded"
        return Example(self.item.caption, views, frame_of(self.item, self.size))


def encode_pictures(
    model: BaseModel, plan: Plan, items: Sequence[Item], config: TrainConfig, device: torch.device, emit: Emit
) -> list[Example]:
    """Latents of `items` at their bucket's size, from the store where they are; the VAE is on `device` meanwhile."""
    with on_device([model.vae], device), _helpers() as pool:
        key = f"{fingerprint(model, 'vae')} {config.transparent_color}"

        def look_up(item: Item) -> _Picture:
            return _looked_up(item, plan.size_of[item.path], key, config)

        encoder, pictures = _Encoder(model, device, pool, emit), []
        for done, picture in enumerate(_ahead(pool, look_up, items)):
            emit(Phase("cache", done, len(items), picture.item.path.name))
            encoder.add(picture)
            pictures.append(picture)
        encoder.finish()
    emit(Phase("cache", len(items), len(items)))
    return [picture.example() for picture in pictures]


@contextmanager
def _helpers() -> Iterator[ThreadPoolExecutor]:
    """Threads that end with the block, what was not begun left undone."""
    pool = ThreadPoolExecutor(workers(), "pictures")
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _ahead(pool: ThreadPoolExecutor, look_up: Callable[[Item], _Picture], items: Iterable[Item]) -> Iterator[_Picture]:
    """The items looked up in the pool, in their order, a few ahead of who takes them."""
    waiting: deque[Future[_Picture]] = deque()
    for item in items:
        waiting.append(pool.submit(look_up, item))
        if len(waiting) > AHEAD:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _looked_up(item: Item, size: Size, key: str, config: TrainConfig) -> _Picture:
    content = hashlib.sha256(_bytes_of(item)).hexdigest()
    mirrorings = (False, True) if config.random_flip else (False,)
    paths = [tensor_store.place_of(f"{key} {content} {size[0]}x{size[1]} {mirrored}") for mirrored in mirrorings]
    views = [tensor_store.read(path) for path in paths]
    pixels: dict[int, np.ndarray] = {}
    if None in views:
        plain_HW3 = fit(load_picture(item.path, config.transparent_color, DETAIL * _scale(item, size)), size)
        both = (plain_HW3, plain_HW3[:, ::-1])
        pixels = {number: both[number] for number, view in enumerate(views) if view is None}
    return _Picture(item, size, paths, views, pixels)


def _scale(item: Item, size: Size) -> float:
    """How much smaller a picture becomes."""
    left, top, right, bottom = crop_box(item.width, item.height, size)
    return max(size[0] / (right - left), size[1] / (bottom - top))


class _Encoder:
    """Collects pictures of a size until the device has a batch of them, and hands what it made to the writers."""

    def __init__(self, model: BaseModel, device: torch.device, pool: ThreadPoolExecutor, emit: Emit):
        self.model, self.device, self.pool, self.emit = model, device, pool, emit
        self._waiting: dict[Size, list[tuple[_Picture, int]]] = {}
        self._written: deque[Future[Message | None]] = deque()
        self._has_written = False

    def add(self, picture: _Picture) -> None:
        waiting = self._waiting.setdefault(picture.size, [])
        for number in list(picture.pixels):
            waiting.append((picture, number))
            if len(waiting) >= pictures_at_once(self.device, picture.size):
                self._encode(waiting)

    def finish(self) -> None:
        for waiting in self._waiting.values():
            if waiting:
                self._encode(waiting)
        self._tell(0)
        if self._has_written:
            tensor_store.make_room(self.emit)

    def _encode(self, waiting: list[tuple[_Picture, int]]) -> None:
        posteriors = _posteriors(self.model, [picture.pixels[number] for picture, number in waiting], self.emit)
        for (picture, number), tensors in zip(waiting, posteriors, strict=True):
            picture.views[number] = tensors
            del picture.pixels[number]
            self._written.append(self.pool.submit(tensor_store.write, picture.paths[number], tensors))
        waiting.clear()
        self._tell(AHEAD)

    def _tell(self, most: int) -> None:
        """Wait until at most so many writes are under way, and tell what went wrong with the others."""
        while len(self._written) > most:
            notice = self._written.popleft().result()
            self._has_written = self._has_written or not notice
            if notice:
                self.emit(Warned(notice))


def pictures_at_once(device: torch.device, size: Size) -> int:
    """How many pictures the VAE encodes together.

    One on a processor: more were no faster, and what is in a file must not depend, in its last bit, on its neighbours,
    or a resumed training would not be bit-equal. On a card several, where a quarter of its free memory holds them.
    """
    if device.type == "cpu":
        return 1
    pixels = size[0] * size[1]
    return int(max(1, min(PIXELS_AT_ONCE // pixels, free_bytes(device) / 4 // (pixels * ENCODED_BYTES), 64)))


def _bytes_of(item: Item) -> bytes:
    try:
        return item.path.read_bytes()
    except OSError as cause:
        why = cause.strerror or cause
        raise UserError("training.picture_gone", path=item.path, why=why) from cause


def frame_of(item: Item, size: Size) -> Frame:
    """How a picture is cut for a bucket of `size` (width, height)."""
    left, top, right, bottom = crop_box(item.width, item.height, size)
    across, down = size[0] / (right - left), size[1] / (bottom - top)
    return item.height, item.width, round(top * down), round(left * across), size[1], size[0]


@torch.no_grad()
def _posteriors(model: BaseModel, pictures: Sequence[np.ndarray], emit: Emit) -> list[dict[str, Tensor]]:
    """What the VAE makes of RGB pictures of one size; fewer at once, in tiles, and in fp32, where the device cannot
    otherwise.
    """
    vae = model.vae
    if (found := _encoded_at_once(vae, pictures)) is None:
        free_device_memory()
        half = len(pictures) // 2
        return [*_posteriors(model, pictures[:half], emit), *_posteriors(model, pictures[half:], emit)]
    mean_BCHW, std_BCHW = found
    if torch.isfinite(mean_BCHW).all() and torch.isfinite(std_BCHW).all():
        return [{"mean": mean.clone(), "std": std.clone()} for mean, std in zip(mean_BCHW, std_BCHW, strict=True)]
    if vae.dtype == torch.float32:
        raise UserError("training.vae_damaged", name=model.name)
    emit(Warned(Message("training.vae_in_fp32", name=model.name)))
    in_fp32(vae)
    return _posteriors(model, pictures, emit)


def _encoded_at_once(vae: Any, pictures: Sequence[np.ndarray]) -> tuple[Tensor, Tensor] | None:
    """Means and deviations [B, C, H, W] on the CPU; None where the card has no memory for several pictures.

    A function of its own: whoever tries again within the `except` has all the tensors of the first try beside him, for the
    traceback holds them.
    """
    # Contiguous: convolutions turn what is strided, at every tensor.
    pixels_B3HW = torch.from_numpy(np.stack(pictures)).to(vae.device).permute(0, 3, 1, 2).contiguous()
    has_room = free_bytes(vae.device) >= ENCODED_BYTES * pixels_B3HW[:, 0].numel()
    try:
        with in_tiles(vae, wanted=not has_room):
            posterior = vae.encode((pixels_B3HW.float() / 127.5 - 1).to(vae.dtype)).latent_dist
        return posterior.mean.float().cpu(), posterior.std.float().cpu()
    except RuntimeError as error:
        if len(pictures) == 1 or not is_full_card(error):
            raise
        return None


def in_fp32(vae: Any) -> None:
    """Let a VAE compute in fp32 from here on, also when it is read from its files again."""
    if source := getattr(vae, "source", None):
        vae.source = replace(source, dtype=torch.float32)
    vae.float()


class Prompts:
    """Captions to conditioning: from memory where text encoders are fixed and captions known, else encoded anew.

    `live`: the text encoders are being trained, so nothing may be remembered.
    """

    def __init__(self, model: BaseModel, device: torch.device, live: bool):
        self.model, self.device, self.live = model, device, live
        self.known: dict[str, Conditioning] = {}

    def prepare(self, captions: Iterable[str], emit: Emit) -> None:
        """Encode captions ahead, with the base model's own encoders, from the store where they are there."""
        wanted = [caption for caption in dict.fromkeys(captions) if caption not in self.known]
        at_once = 1 if self.device.type == "cpu" else CAPTIONS_AT_ONCE  # as with pictures
        with on_device(self.model.text_encoders.values(), self.device):
            key = " ".join(fingerprint(self.model, name) for name in self.model.text_encoders)
            key += f" clip_skip={self.model.clip_skip}" if self.model.clip_skip != 1 else ""
            key += f" parts={self.model.max_chunks}" if self.model.max_chunks != 1 else ""
            missing: dict[str, Path] = {}
            for done, caption in enumerate(wanted, start=1):
                emit(Phase("cache", done - 1, len(wanted), "captions"))
                path = tensor_store.place_of(f"{key} {caption}")
                if (found := tensor_store.read(path)) is None:
                    missing[caption] = path
                else:
                    self.known[caption] = found
                if len(missing) >= at_once or done == len(wanted):
                    self._encode_missing(missing, emit)

    def _encode_missing(self, missing: dict[str, Path], emit: Emit) -> None:
        for (caption, path), made in zip(missing.items(), self._encoded(list(missing)), strict=True):
            self.known[caption] = made
            if notice := tensor_store.write(path, made):
                emit(Warned(notice))
        missing.clear()

    def __call__(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning:
        """Conditioning for a batch, on the device; gradients flow into trained text encoders."""
        inputs = self.text_inputs(captions, frames)
        return self.conditioning({name: rows.to(self.device) for name, rows in inputs.items()})

    def text_inputs(self, captions: Sequence[str], frames: Sequence[Frame]) -> Tensors:
        """What there is of a batch before trained text encoders are asked: their token ids; where they are fixed, all."""
        if not self.live:
            return self.base(captions, frames)
        return self._framed(self.model.family.tokenize(self.model, captions), frames)

    def conditioning(self, inputs: Tensors) -> Conditioning:
        """What `text_inputs` on the device are to the UNet."""
        if not self.live:
            return inputs
        tokens = {name: rows for name, rows in inputs.items() if name != "frames"}
        return {**self.model.family.encode_text(self.model, tokens), "frames": inputs["frames"]}

    def base(self, captions: Sequence[str], frames: Sequence[Frame]) -> Conditioning:
        """As the base model's own text encoders have it, not on the device; unknown captions are encoded and remembered."""
        for caption in captions:
            if caption not in self.known:
                assert not self.live, "an adapted encoder cannot answer for the base model"
                (self.known[caption],) = self._encoded([caption])
        rows = [self.known[caption] for caption in captions]
        return self._framed({name: side_by_side([row[name] for row in rows]) for name in rows[0]}, frames)

    def _framed(self, inputs: Tensors, frames: Sequence[Frame]) -> Tensors:
        return {**inputs, "frames": torch.tensor(list(frames))}

    @torch.no_grad()
    def _encoded(self, captions: Sequence[str]) -> list[Conditioning]:
        """Each in its own length: what is kept does not depend on its neighbours."""
        family, by_length = self.model.family, defaultdict[int, dict[str, Tensors]](dict)
        for caption in captions:
            tokens = family.tokenize(self.model, [caption])
            by_length[next(iter(tokens.values())).shape[1]][caption] = tokens
        found: dict[str, Conditioning] = {}
        with on_device(self.model.text_encoders.values(), self.device):
            for alike in by_length.values():
                ids = {name: torch.cat([tokens[name] for tokens in alike.values()]) for name in self.model.tokenizers}
                together = {name: rows.cpu() for name, rows in family.encode_text(self.model, ids).items()}
                for n, caption in enumerate(alike):
                    found[caption] = {name: rows[n].clone() for name, rows in together.items()}
        return [found[caption] for caption in captions]
