"""Whole and odd files of every kind, made here, for `readers` to be damaged."""

from __future__ import annotations

import functools
import io
import json
import pickle
import struct
import zlib
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save

from lora_core.config import PRESETS, TrainConfig
from lora_core.events import Failed, Finished, Sample, Saved, Step, Validation, Warned, to_line
from lora_core.lora.file import serialise
from lora_core.messages import plain
from tests.support.lora_values import random_lora

OPENED = "a-pickle-ran"  # the file that a pickle would make if its code ran


def _encoded(image: Image.Image, kind: str, **more: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **more)  # type: ignore[arg-type]
    return buffer.getvalue()


def _png_header(width: int, height: int) -> bytes:
    """A PNG that claims a size and holds next to nothing: a bomb, or a cut download."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    rows = zlib.compress(b"\0" * 10_000)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@functools.cache
def pictures() -> tuple[bytes, ...]:
    rng = np.random.default_rng(0)
    image = Image.fromarray(rng.integers(0, 256, (40, 56, 3), np.uint8))
    turned = []
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[274] = orientation
        turned.append(_encoded(image, "JPEG", exif=exif))
    deep = Image.fromarray(rng.integers(0, 65536, (40, 56), np.uint16))
    frames = [image.rotate(angle) for angle in (90, 180)]
    return (
        *turned, _encoded(image, "PNG"), _encoded(image.convert("P"), "PNG"), _encoded(image.convert("RGBA"), "PNG"),
        _encoded(image.convert("CMYK"), "JPEG"), _encoded(deep, "PNG"), _encoded(deep, "TIFF"), _encoded(image, "BMP"),
        _encoded(image, "WEBP"), _encoded(image, "GIF", save_all=True, append_images=frames),
        _encoded(image.resize((1, 1)), "PNG"), _encoded(image.resize((30000, 10)), "PNG"),
        _png_header(60_000, 60_000), _png_header(0, 0), b"", b"<html><body>404</body></html>",
        b"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'/>", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" * 9,
    )  # fmt: skip


def captions() -> tuple[bytes, ...]:
    text = "um relógio, 画像, עברית \u202e, tag, ação"
    codings = ("utf-8", "utf-8-sig", "utf-16", "utf-16-be", "utf-32")
    return (
        *(text.encode(coding) for coding in codings), "ação, café".encode("cp1252"), "画像, タグ".encode("cp932"),
        b"", b"\0" * 500, bytes(range(256)), b"tag, " * 200_000, b"\xff\xfe", b"\xef\xbb\xbf", b"a\r\n\rb\x1b[31m\x07",
    )  # fmt: skip


def tables() -> tuple[bytes, ...]:
    shipped = [path.read_bytes() for path in sorted(PRESETS.glob("*.toml"))]
    odd = ["learning_rate = nan", "max_train_steps = 1e400", "resolution = [[[[1]]]]", "x = " + "[" * 2000,
           "lora_rank = ''", "seed = -1", "schema = 99", "train_batch_size = 999999999999999999999", "[a.b.c.d]\ne = 1",
           "= =", "sample_prompts = [1, 'a', {b = 2}]", "output_name = '../../x'",
           "learning_rate = 1979-05-27"]  # fmt: skip
    return (TrainConfig().to_toml().encode(), *shipped, *(text.encode() for text in odd))


@functools.cache
def loras() -> tuple[bytes, ...]:
    shapes = {f"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_{k}": (320, 768) for k in "kv"}
    lora = random_lora(shapes, torch.float16)
    whole = serialise(lora, "sd1", {"treino.config": TrainConfig().to_toml(), "ss_network_dim": "2"}, "fp16")
    lying = [len(whole).to_bytes(8, "little") + whole[8:], (2**63).to_bytes(8, "little") + whole[8:]]

    def with_table(table: object) -> bytes:
        text = json.dumps(table).encode()
        return len(text).to_bytes(8, "little") + text + b"\0" * 64

    def tensor(start: int, end: int, shape: int = 4, dtype: str = "F32") -> dict[str, object]:
        return {"dtype": dtype, "shape": [shape], "data_offsets": [start, end]}

    odd = [
        {"a": tensor(0, 16), "b": tensor(8, 24)}, {"a": tensor(0, 16, -4)}, {"a": tensor(0, 16, 4, "F33")},
        {"a": tensor(0, 2**42, 2**40)}, {"a": 1}, [], None, {"__metadata__": {"a": 1}},
        {"lora_unet_x.lora_down.weight": tensor(0, 16)},
    ]  # fmt: skip
    other_kinds = (
        {"hada_w1_a": (8, 2), "hada_w1_b": (2, 6), "hada_w2_a": (8, 2), "hada_w2_b": (2, 6), "alpha": ()},
        {"lokr_w1": (2, 2), "lokr_t2": (2, 2, 3, 3), "lokr_w2_a": (2, 4), "lokr_w2_b": (2, 3), "alpha": ()},
    )
    stem = "lora_unet_mid_block_resnets_0_conv1"
    lycoris = [save({f"{stem}.{part}": torch.ones(shape) for part, shape in kind.items()}) for kind in other_kinds]
    return (whole, *lycoris, *lying, *(with_table(table) for table in odd), save({"x": torch.zeros(3)}), b"", b"\0" * 8)


@functools.cache
def pickles() -> tuple[bytes, ...]:
    class Evil:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (Path(OPENED),))

    def torch_bytes(content: object, zipped: bool = True) -> bytes:
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=zipped)
        return buffer.getvalue()

    weights = {"state_dict": {"model.diffusion_model.input_blocks.0.0.weight": torch.zeros(4, 4, 3, 3)}}
    state = {"step": 3, "identity": {}, "adapters": {"w": torch.ones(3)}, "optimizer": {}, "scaler": {},
             "best_step": 0, "best_loss": 1.0}  # fmt: skip
    return (
        torch_bytes(state), torch_bytes(weights), torch_bytes(weights, False), pickle.dumps(Evil()),
        torch_bytes({"state_dict": Evil()}), torch_bytes([1]), torch_bytes({"state_dict": 3}), b"PK\3\4", b"",
    )  # fmt: skip


def events() -> bytes:
    told = [
        Warned(plain("ação")), Validation(0, 0.5, 0.5, True), Step(1, 9, 0.5, 1e-4),
        Sample(4, "samples/a.png", "a zebu", 1),
        Saved(4, "checkpoints/step_0000004"), Step(5, 9, float("nan"), 1e-4), Failed(plain("x"), "Traceback"),
        Finished(9, "a.safetensors", 4),
    ]  # fmt: skip
    return b"".join(to_line(event, 1.0).encode() + b"\n" for event in told)
