"""Pictures as they should look: upright, RGB, 8 bits per channel, sRGB, nothing transparent, one frame.

Everything Treino reads from a picture file passes through `opened`, which refuses bombs, keeps Pillow to formats that
are pictures (its PostScript reader would start another program) and turns every way a file can be broken into
a PictureError with a sentence.
"""

from __future__ import annotations

import io
import math
import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageColor, UnidentifiedImageError

from lora_core.dataset.items import Problem, problem
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system import windows

# The largest cameras sold have 150 million pixels; decoded as RGBA that is 600 MB, the most one thread may take.
MAX_PIXELS = 150_000_000
Image.MAX_IMAGE_PIXELS = MAX_PIXELS  # Pillow asks this before it decodes; files lie about their sizes later, too
# What Pillow mutters on stderr about odd files is told by the quality report, in words.
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
LARGE_PIXELS = 2_000_000  # smaller pictures are decoded quickly enough
FORMATS = ("PNG", "JPEG", "WEBP", "BMP", "DIB", "GIF", "TIFF", "AVIF", "JPEG2000")
_ORIENTATION = 0x0112  # Exif 2.32, table 4: tag 274
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class PictureError(UserError):
    """A file that cannot be used as a picture; `problem` says the same for the quality report."""

    def __init__(self, told: Problem) -> None:
        super().__init__(told.message)
        self.problem = told


def load_picture(path: Path, background: str = "#ffffff", enough: float = 1.0) -> Image.Image:
    """The picture as RGB, upright, its transparent places filled with `background`; by default in full size.

    enough: the share of its width and height that will do. Large JPEG files are then decoded at a half, a quarter or an
    eighth where that leaves more: several times quicker, in a fraction of the memory.
    Animations give their first frame; CMYK, 16-bit, palette and other colour spaces are converted to 8-bit sRGB.
    Raises PictureError for what is no whole picture and UserError for an unknown colour.
    """
    fill = _colour(background)
    with opened(path) as image:
        turn = orientation(image)
        if image.width * image.height >= LARGE_PIXELS and enough < 1:
            image.draft(None, (math.ceil(image.width * enough), math.ceil(image.height * enough)))
        return upright(flattened(image, fill), turn)


def thumbnail(path: Path, side: int) -> Image.Image:
    """The picture as RGB with its longer side at most `side` pixels, upright, on white. Raises PictureError.

    JPEG files are decoded at the smallest scale that is enough, which is several times faster.
    """
    with opened(path) as image:
        shrink_decoder(image, side)
        small = flattened(image, (255, 255, 255))
        small.thumbnail((side, side), Image.Resampling.BICUBIC)
        return upright(small, orientation(image))


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file opened as a picture, nothing decoded yet; any failure inside the block becomes a PictureError."""
    place = windows.reachable(path)
    try:
        if windows.is_in_cloud(place):  # reading would wait for a download
            raise PictureError(problem(path, "in_cloud"))
        if place.exists() and not place.is_file():  # opening a pipe would wait for ever
            no_file = problem(path, "no_access", why=Message("dataset.value_no_file"))
            raise PictureError(problem(path, "folder") if place.is_dir() else no_file)
        with open(place, "rb") as file, Image.open(file, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise Image.DecompressionBombError
            yield image
    except PictureError:
        raise
    # Pillow's decoders raise a dozen kinds of errors on broken files, and new versions raise others.
    except Exception as error:
        raise PictureError(_diagnosis(path, place, error)) from error


def orientation(image: Image.Image) -> int:
    """The EXIF orientation, 1 (upright) to 8; 1 when it is absent or nonsense."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except (OSError, ValueError, SyntaxError, KeyError, TypeError, struct.error):
        return 1  # a broken EXIF block is no reason to refuse a good picture
    return value if isinstance(value, int) and value in _UPRIGHT else 1


def upright(image: Image.Image, turn: int) -> Image.Image:
    """`image` turned and mirrored as its EXIF orientation `turn` asks."""
    return image.transpose(_UPRIGHT[turn]) if turn in _UPRIGHT else image


def shrink_decoder(image: Image.Image, side: int) -> None:
    """Let the JPEG decoder scale while it decodes, to no less than `side` on the longer side; before loading."""
    longer = max(image.size)
    image.draft(None, (max(1, image.width * side // longer), max(1, image.height * side // longer)))


def is_sixteen_bit(image: Image.Image) -> bool:
    """Whether the file holds more than 8 bits per channel; asked before loading, as loading forgets it."""
    raw_modes = [str(tile[3]) for tile in getattr(image, "tile", [])]
    return image.mode.startswith(("I", "F")) or any(";16" in raw for raw in raw_modes)


def flattened(image: Image.Image, fill: tuple[int, int, int]) -> Image.Image:
    """Decode the first frame and convert it to 8-bit sRGB on `fill`."""
    image.load()
    if image.mode.startswith(("I", "F")):
        image = _eight_bit(image)
    if image.has_transparency_data:
        over = image.convert("RGBA")
        canvas = Image.new("RGBA", over.size, (*fill, 255))
        rgb = Image.alpha_composite(canvas, over).convert("RGB")
        return _in_srgb(rgb, image.info.get("icc_profile"))
    if image.mode in ("RGB", "CMYK"):
        return _in_srgb(image, image.info.get("icc_profile"))
    return image.convert("RGB")


def sniff(head: bytes) -> Message:
    """What a file that is no picture seems to be, from its first bytes: an HTML page, a video, ..."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if head[4:8] == b"ftyp":
        return Message("dataset.value_heic" if head[8:12] in _HEIC_BRANDS else "dataset.value_video")
    if b"<svg" in text:
        return Message("dataset.value_svg")
    if text.startswith((b"<!doctype html", b"<html", b"<head", b"<body")):
        return Message("dataset.value_html")
    for signature, what in _SIGNATURES:
        if head.startswith(signature):
            return Message(what)
    if head and b"\0" not in head and all(byte >= 9 for byte in head):
        return Message("dataset.value_text")
    return Message("dataset.value_unknown")


_HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_PICTURES = (b"\x89PNG", b"\xff\xd8\xff", b"BM", b"GIF8", b"II*\0", b"MM\0*", b"RIFF", b"\0\0\0\x0cjP  ")
_SIGNATURES = (
    (b"%PDF", "dataset.value_pdf"),
    (b"PK\x03\x04", "dataset.value_zip"),
    (b"8BPS", "dataset.value_photoshop"),
    (b"%!PS", "dataset.value_postscript"),
    (b"gimp xcf", "dataset.value_gimp"),
    (b"\x1aE\xdf\xa3", "dataset.value_video"),
)


def _diagnosis(path: Path, place: Path, error: Exception) -> Problem:
    """The problem that a failure to open or decode `path`, opened as `place`, comes from."""
    if isinstance(error, (Image.DecompressionBombError, Image.DecompressionBombWarning)):
        return problem(path, "too_large", limit=MAX_PIXELS // 10**6)
    if isinstance(error, MemoryError):
        return problem(path, "damaged", why=Message("dataset.value_memory"))
    if isinstance(error, OSError) and error.errno is not None:
        return problem(path, "no_access", why=error.strerror or str(error))
    try:
        with open(place, "rb") as file:
            head = file.read(1024)
    except OSError as gone:
        return problem(path, "no_access", why=gone.strerror or str(gone))
    if not head:
        return problem(path, "empty_file")
    if isinstance(error, UnidentifiedImageError):
        if head.startswith(_PICTURES):
            return problem(path, "damaged", why=Message("dataset.value_first_bytes"))
        return problem(path, "not_a_picture", what=sniff(head))
    why = " ".join(str(error).split())[:80] or type(error).__name__
    if isinstance(error, EOFError) or re.search("truncated|unexpected end|broken data stream", why):
        return problem(path, "truncated")
    return problem(path, "damaged", why=why)


def _eight_bit(image: Image.Image) -> Image.Image:
    """Grey of 16 or 32 bits, or of fractions, as 8-bit grey; Pillow's own conversion cuts it off at 255."""
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    top = float(values.max(initial=0.0))
    if image.mode.startswith("I;16") or 255 < top <= 65535:
        values = values / 257
    elif top > 65535 or (image.mode == "F" and 0 < top <= 1):
        values = values * (255 / (top if top > 1 else 1.0))
    return Image.fromarray(np.rint(values).clip(0, 255).astype(np.uint8))


def _in_srgb(image: Image.Image, icc_profile: bytes | None) -> Image.Image:
    """RGB or CMYK with an embedded profile (Adobe RGB, Display P3, a printer's) as sRGB, what models know."""
    if icc_profile:
        try:
            profile = ImageCms.ImageCmsProfile(io.BytesIO(icc_profile))
            if image.mode == "CMYK" or "sRGB" not in ImageCms.getProfileDescription(profile):
                turned = ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
                return image.convert("RGB") if turned is None else turned
        except (ImageCms.PyCMSError, OSError, ValueError, TypeError):
            pass  # viewers ignore a broken profile or one for another colour space, and so does this
    return image.convert("RGB")


def _colour(text: str) -> tuple[int, int, int]:
    try:
        red, green, blue = ImageColor.getrgb(text)[:3]
    except ValueError as error:
        raise UserError("dataset.no_colour", colour=repr(text)) from error
    return red, green, blue
