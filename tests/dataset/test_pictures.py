"""lora_core.dataset.pictures and inspection: real files of every kind, made here, read back."""

from __future__ import annotations

import io
import os
import struct
import zlib
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, ImageFilter

from lora_core.dataset import fit, pictures
from lora_core.dataset.inspection import dhash, inspect, sharpness
from lora_core.dataset.pictures import PictureError, load_picture, thumbnail
from lora_core.errors import UserError

# A picture whose corners tell how it lies: red top left, green top right, blue bottom left, white bottom right.
CORNERS = {(0, 0): (255, 0, 0), (1, 0): (0, 255, 0), (0, 1): (0, 0, 255), (1, 1): (255, 255, 255)}


def cornered(width: int = 64, height: int = 32) -> Image.Image:
    image = Image.new("RGB", (width, height))
    for (x, y), colour in CORNERS.items():
        image.paste(colour, (x * width // 2, y * height // 2, (x + 1) * width // 2, (y + 1) * height // 2))
    return image


def assert_upright(image: Image.Image) -> None:
    for (x, y), colour in CORNERS.items():
        seen = image.getpixel((image.width // 4 + x * image.width // 2, image.height // 4 + y * image.height // 2))
        assert np.abs(np.array(seen, int) - np.array(colour)).max() < 30, (x, y, seen)


def stored(upright: Image.Image, orientation: int) -> Image.Image:
    """The picture as a camera that writes this orientation stores it (the inverse of EXIF's table)."""
    turn = Image.Transpose
    inverse = {2: turn.FLIP_LEFT_RIGHT, 3: turn.ROTATE_180, 4: turn.FLIP_TOP_BOTTOM, 5: turn.TRANSPOSE}
    inverse |= {6: turn.ROTATE_90, 7: turn.TRANSVERSE, 8: turn.ROTATE_270}
    return upright.transpose(inverse[orientation]) if orientation in inverse else upright


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_comes_out_upright(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"foto ção{suffix}"
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored(cornered(), orientation).save(path, exif=exif, quality=95)
    for image in (load_picture(path), thumbnail(path, 32)):
        assert image.mode == "RGB"
        assert image.width == 2 * image.height
        assert_upright(image)
    seen = inspect(path)
    assert (seen.width, seen.height, seen.orientation) == (64, 32, orientation)


@pytest.mark.parametrize("value", [0, 9, 65535])
def test_nonsense_orientations_are_ignored(tmp_path: Path, value: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = value
    cornered().save(tmp_path / "a.jpg", exif=exif, quality=95)
    assert_upright(load_picture(tmp_path / "a.jpg"))


@pytest.mark.filterwarnings("ignore:.*EXIF")
def test_a_broken_exif_block_does_not_cost_the_picture(tmp_path: Path) -> None:
    cornered().save(tmp_path / "a.jpg", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff", quality=95)
    assert_upright(load_picture(tmp_path / "a.jpg"))


def test_transparency_is_filled_with_the_chosen_colour(tmp_path: Path) -> None:
    image = Image.new("RGBA", (40, 40), (255, 0, 0, 0))
    image.paste((0, 0, 255, 255), (0, 0, 20, 40))
    image.paste((0, 0, 0, 128), (20, 20, 40, 40))
    image.save(tmp_path / "a.png")
    white, green = load_picture(tmp_path / "a.png"), load_picture(tmp_path / "a.png", "#00ff00")
    assert white.getpixel((30, 10)) == (255, 255, 255)
    assert green.getpixel((30, 10)) == (0, 255, 0)
    assert green.getpixel((5, 5)) == (0, 0, 255)
    assert green.getpixel((30, 30)) == (0, 127, 0)
    assert inspect(tmp_path / "a.png").transparent
    with pytest.raises(UserError, match="no colour"):
        load_picture(tmp_path / "a.png", "#nonsense")


@pytest.mark.parametrize("mode", ["RGB", "L", "P"])
def test_a_transparent_colour_without_alpha_channel_is_filled(tmp_path: Path, mode: str) -> None:
    image = Image.new("RGB", (20, 20), (255, 0, 0))
    image.paste((0, 0, 255), (0, 0, 10, 20))
    image = image.convert(mode)
    hidden = image.getpixel((15, 5))
    image.save(tmp_path / "a.png", transparency=hidden)
    assert load_picture(tmp_path / "a.png", "#00ff00").getpixel((15, 5)) == (0, 255, 0)


def test_an_opaque_alpha_channel_is_not_called_transparent(tmp_path: Path) -> None:
    cornered().convert("RGBA").save(tmp_path / "a.png")
    assert not inspect(tmp_path / "a.png").transparent


def test_cmyk_is_converted(tmp_path: Path) -> None:
    cornered().convert("CMYK").save(tmp_path / "a.jpg", quality=98)
    assert_upright(load_picture(tmp_path / "a.jpg"))
    assert_upright(thumbnail(tmp_path / "a.jpg", 32))
    assert inspect(tmp_path / "a.jpg").mode == "CMYK"


def test_sixteen_bit_grey_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "a.png")
    seen = np.asarray(load_picture(tmp_path / "a.png"))[0, :, 0]
    assert np.abs(seen.astype(int) - np.arange(256)).max() <= 1
    assert inspect(tmp_path / "a.png").sixteen_bit


def test_sixteen_bit_colour_keeps_its_shades(tmp_path: Path) -> None:
    ramp = np.tile(np.linspace(0, 65535, 256).astype(np.uint16)[None, :, None], (16, 1, 3))
    (tmp_path / "a.png").write_bytes(cv2.imencode(".png", ramp)[1].tobytes())
    seen = np.asarray(load_picture(tmp_path / "a.png"))[0, :, 1]
    assert np.abs(seen.astype(int) - np.arange(256)).max() <= 1
    assert inspect(tmp_path / "a.png").sixteen_bit
    cornered().save(tmp_path / "b.png")
    assert not inspect(tmp_path / "b.png").sixteen_bit


@pytest.mark.parametrize(
    ("top", "dtype"), [(1.0, np.float32), (255.0, np.float32), (1000.0, np.float32), (10**6, np.int32)]
)
def test_grey_beyond_sixteen_bits_spans_black_to_white(tmp_path: Path, top: float, dtype: type) -> None:
    ramp: np.ndarray = np.tile(np.linspace(0, top, 64).astype(dtype), (16, 1))
    Image.fromarray(ramp).save(tmp_path / "a.tif")
    os.replace(tmp_path / "a.tif", tmp_path / "a.png")
    grey = np.asarray(load_picture(tmp_path / "a.png"))[0, :, 0].astype(int)
    expected = np.linspace(0, 255, 64) if top != 1000 else np.linspace(0, 1000 / 257, 64)
    assert np.abs(grey - expected).max() <= 1.5


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_becomes_rgb(tmp_path: Path, mode: str) -> None:
    image = cornered().convert("L").convert("I;16") if mode == "I;16" else cornered().convert(mode)
    image.save(tmp_path / "a.png")
    assert load_picture(tmp_path / "a.png").mode == "RGB"
    assert thumbnail(tmp_path / "a.png", 8).size == (8, 4)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP"])
def test_animations_give_their_first_frame(tmp_path: Path, kind: str) -> None:
    frames = [Image.new("RGB", (20, 20), colour) for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255))]
    frames[0].save(tmp_path / "a.png", kind, save_all=True, append_images=frames[1:], lossless=True)
    assert load_picture(tmp_path / "a.png").getpixel((5, 5)) == (255, 0, 0)
    assert inspect(tmp_path / "a.png").animated


def test_the_second_view_of_a_phone_photo_is_no_animation(tmp_path: Path) -> None:
    cornered().save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[cornered()])
    assert_upright(load_picture(tmp_path / "a.jpg"))
    assert not inspect(tmp_path / "a.jpg").animated


def swapped_profile() -> bytes:
    """An ICC profile (v2, matrix and curves) whose "red" is sRGB's green and whose "green" is sRGB's red."""

    def fixed(*values: float) -> bytes:
        return b"".join(struct.pack(">i", round(value * 65536)) for value in values)

    red, green, blue = (0.4360, 0.2225, 0.0139), (0.3851, 0.7169, 0.0971), (0.1431, 0.0606, 0.7139)
    curve = b"curv\0\0\0\0" + struct.pack(">IHH", 1, round(2.2 * 256), 0)
    tags = {b"rXYZ": green, b"gXYZ": red, b"bXYZ": blue, b"wtpt": (0.9642, 1.0, 0.8249)}
    blocks = {name: b"XYZ \0\0\0\0" + fixed(*xyz) for name, xyz in tags.items()}
    blocks |= {b"rTRC": curve, b"gTRC": curve, b"bTRC": curve}
    name = b"swapped\0"
    blocks[b"desc"] = b"desc\0\0\0\0" + struct.pack(">I", len(name)) + name + b"\0" * 79
    blocks[b"cprt"] = b"text\0\0\0\0none\0"
    table, body, place = b"", b"", 128 + 4 + 12 * len(blocks)
    for tag, block in blocks.items():
        padded = block + b"\0" * (-len(block) % 4)
        table += tag + struct.pack(">II", place + len(body), len(block))
        body += padded
    head = struct.pack(">I4sI4s4s4s", place + len(body), b"none", 0x02400000, b"mntr", b"RGB ", b"XYZ ")
    head += b"\0" * 12 + b"acsp" + b"\0" * 28 + fixed(0.9642, 1.0, 0.8249)
    return head.ljust(128, b"\0") + struct.pack(">I", len(blocks)) + table + body


@pytest.mark.parametrize("suffix", [".png", ".jpg"])
def test_a_colour_profile_is_applied(tmp_path: Path, suffix: str) -> None:
    red, green, blue = cornered().split()
    path = tmp_path / f"a{suffix}"
    Image.merge("RGB", (green, red, blue)).save(path, icc_profile=swapped_profile(), quality=95)
    assert_upright(load_picture(path))
    assert_upright(thumbnail(path, 32))


@pytest.mark.parametrize("profile", ["sRGB", "broken", "LAB"])
def test_a_useless_colour_profile_is_ignored(tmp_path: Path, profile: str) -> None:
    data = b"no profile at all"
    if profile != "broken":
        data = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB" if profile == "LAB" else "sRGB")).tobytes()
    cornered().save(tmp_path / "a.png", icc_profile=data)
    assert_upright(load_picture(tmp_path / "a.png"))


def not_pictures() -> dict[str, tuple[bytes, str, str]]:
    """name -> (content, kind of problem, words in the sentence)"""
    buffer = io.BytesIO()
    cornered(200, 200).save(buffer, "PNG")
    png = buffer.getvalue()
    noisy = Image.fromarray(np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8))
    noise = io.BytesIO()
    noisy.save(noise, "JPEG")
    return {
        "zero.png": (b"", "empty_file", "empty"),
        "page.png": (b"<!DOCTYPE html><html><body>404</body></html>", "not_a_picture", "an HTML page"),
        "vector.png": (b'<?xml version="1.0"?>\n<svg xmlns="http://www.w3.org/2000/svg"/>', "not_a_picture", "an SVG"),
        "phone.png": (b"\0\0\0\x24ftypheic\0\0\0\0mif1heic" + b"\0" * 64, "not_a_picture", "HEIC"),
        "film.png": (b"\0\0\0\x20ftypisom" + b"\0" * 64, "not_a_picture", "a video"),
        "doc.png": (b"%PDF-1.7 ...", "not_a_picture", "a PDF"),
        "script.png": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not_a_picture", "PostScript"),
        "pack.png": (b"PK\x03\x04" + b"\0" * 30, "not_a_picture", "zip"),
        "layers.png": (b"8BPS\0\1" + b"\0" * 30, "not_a_picture", "Photoshop"),
        "words.png": (b"just some text", "not_a_picture", "a text file"),
        "noise.png": (bytes(range(256)), "not_a_picture", "an unknown file"),
        "head.png": (png[:12], "damaged", "damaged"),
        "cut.png": (png[: len(png) * 2 // 3], "truncated", "breaks off"),
        "cut.jpg": (noise.getvalue()[: len(noise.getvalue()) // 2], "truncated", "breaks off"),
    }


@pytest.mark.parametrize("name", not_pictures())
def test_what_is_no_picture_is_told_in_a_sentence(tmp_path: Path, name: str) -> None:
    content, kind, words = not_pictures()[name]
    path = tmp_path / name
    path.write_bytes(content)
    for read in (load_picture, lambda p: thumbnail(p, 64), inspect):
        with pytest.raises(PictureError, match=words) as told:
            read(path)
        assert told.value.problem.kind == kind
        assert told.value.problem.excluded
        assert str(told.value).startswith(name)


def test_folders_pipes_and_missing_files_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.png").mkdir()
    with pytest.raises(PictureError, match="is a folder"):
        load_picture(tmp_path / "a.png")
    with pytest.raises(PictureError, match="cannot be opened"):
        inspect(tmp_path / "gone.png")
    if hasattr(os, "mkfifo"):
        os.mkfifo(tmp_path / "pipe.png")
        with pytest.raises(PictureError, match="not a file"):
            inspect(tmp_path / "pipe.png")


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header promises width x height pixels."""
    buffer = io.BytesIO()
    Image.new("1", (1, 1)).save(buffer, "PNG")
    data = bytearray(buffer.getvalue())
    data[16:24] = width.to_bytes(4, "big") + height.to_bytes(4, "big")
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    return bytes(data)


@pytest.mark.parametrize("side", [12_300, 20_000, 60_000])
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_bombs_are_refused_before_they_are_decoded(tmp_path: Path, side: int) -> None:
    (tmp_path / "bomb.png").write_bytes(bomb(side, side))
    with pytest.raises(PictureError, match="150 million pixels"):
        load_picture(tmp_path / "bomb.png")


def test_large_but_honest_pictures_are_not_warned_about(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    Image.new("1", (10_000, 9_000)).save(tmp_path / "a.png")
    assert thumbnail(tmp_path / "a.png", 100).size == (100, 90)
    assert not recwarn.list


@pytest.mark.filterwarnings("ignore::UserWarning")
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.data())
def test_pictures_cut_or_garbled_anywhere_give_a_picture_or_a_sentence(tmp_path: Path, data: st.DataObject) -> None:
    kind = data.draw(st.sampled_from(["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF"]))
    buffer = io.BytesIO()
    cornered().save(buffer, kind)
    content = bytearray(buffer.getvalue())
    for _ in range(data.draw(st.integers(0, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path / "a.png"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    said = ""
    try:
        said = f"a.png is {load_picture(path).mode}"
    except PictureError as told:
        said = str(told)
    assert said.startswith("a.png")
    assert "\n" not in said


def test_thumbnails_never_enlarge_and_survive_strips(tmp_path: Path) -> None:
    for size, expected in {(1, 1): (1, 1), (30_000, 10): (64, 1), (10, 3_000): (1, 64), (40, 20): (40, 20)}.items():
        for suffix in (".png", ".jpg"):
            Image.new("RGB", size, (200, 10, 10)).save(tmp_path / f"a{suffix}")
            assert thumbnail(tmp_path / f"a{suffix}", 64).size == expected
            seen = inspect(tmp_path / f"a{suffix}")
            assert (seen.width, seen.height) == size


def test_a_second_look_is_free_until_the_file_changes(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    cornered().save(path)
    first = inspect(path)
    assert inspect(path) is first
    cornered(100, 100).save(path)
    os.utime(path, ns=(1, 1))
    assert inspect(path).width == 100


def textured(seed: int = 0) -> Image.Image:
    """Discs of all sizes and shades: edges everywhere, as in a photo."""
    rng = np.random.default_rng(seed)
    canvas = np.full((512, 512, 3), 128, np.uint8)
    for _ in range(150):
        centre, colour = rng.integers(0, 512, 2).tolist(), rng.integers(0, 256, 3).tolist()
        cv2.circle(canvas, centre, int(rng.integers(4, 60)), colour, -1, cv2.LINE_AA)
    return Image.fromarray(canvas)


@pytest.mark.parametrize("contrast", [1.0, 0.3])
def test_sharpness_falls_with_blur_and_not_with_contrast(contrast: float) -> None:
    base = textured().convert("L").point(lambda v: int(128 + (v - 128) * contrast))
    measured = [sharpness(np.asarray(base.filter(ImageFilter.GaussianBlur(s)))) for s in (0, 1, 2, 4, 8)]
    assert measured == sorted(measured, reverse=True)
    assert measured[0] > 1
    assert measured[2] < 0.45


def test_a_picture_without_edges_is_not_called_blurred() -> None:
    assert sharpness(np.full((64, 64), 90, np.uint8)) == float("inf")


def test_fingerprints_survive_scaling_and_recompression() -> None:
    image = textured()
    buffer = io.BytesIO()
    image.resize((200, 200)).save(buffer, "JPEG", quality=50)
    copy = Image.open(buffer).convert("RGB")
    assert (dhash(image) ^ dhash(copy)).bit_count() <= 4
    assert (dhash(image) ^ dhash(textured(1))).bit_count() > 12


def test_pillow_is_kept_to_picture_formats() -> None:
    assert "EPS" not in pictures.FORMATS


def photo(path: Path, width: int, height: int, orientation: int = 1) -> Path:
    colours = np.random.default_rng(0).integers(0, 256, (height // 50, width // 50, 3), np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(colours).resize((width, height), Image.Resampling.BICUBIC).save(path, exif=exif, quality=92)
    return path


def test_a_large_photo_is_decoded_no_larger_than_it_is_needed_and_looks_the_same(tmp_path: Path) -> None:
    path = photo(tmp_path / "a.jpg", 2400, 1600, orientation=6)
    whole, half, quarter = (load_picture(path, enough=share) for share in (1.0, 0.5, 0.13))
    assert (whole.size, half.size, quarter.size) == ((1600, 2400), (800, 1200), (400, 600))
    difference = np.abs(fit(whole, (192, 256)).astype(int) - fit(half, (192, 256)))
    assert difference.mean() < 1 and difference.max() < 12  # of 255, on patches of the strongest colours


def test_small_photos_and_other_formats_are_decoded_whole(tmp_path: Path) -> None:
    assert load_picture(photo(tmp_path / "a.jpg", 1200, 800), enough=0.1).size == (1200, 800)
    assert load_picture(photo(tmp_path / "a.png", 2400, 1600), enough=0.1).size == (2400, 1600)
