"""URLs of files: only what was signed is served, and only from folders that were allowed."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from lora_core.ui.shared import signed_urls as ui_files
from lora_core.ui.shared.signed_urls import ROUTE, Files, Refused, display_name


@pytest.fixture
def files(tmp_path: Path) -> Files:
    files = Files(tmp_path / "thumbnails")
    (tmp_path / "ação 写真").mkdir()
    files.allow(tmp_path / "ação 写真")
    return files


def picture(path: Path, size: tuple[int, int] = (400, 300)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, "#b84a00").save(path)
    return path


def token(url: str) -> str:
    return url.removeprefix(ROUTE)


def signed(files: Files, name: str, side: int = 0) -> str:
    """A token for any name at all, as if the window had asked for it."""
    body = base64.urlsafe_b64encode(json.dumps([name, side, 0]).encode()).decode().rstrip("=")
    return f"{body}.{files._signature(body)}"


def test_a_file_and_its_thumbnail(files: Files, tmp_path: Path) -> None:
    path = picture(tmp_path / "ação 写真" / "ö&'\".png")
    assert files.open(token(files.url(path))) == path
    small = files.open(token(files.url(path, 100)))
    with Image.open(small) as opened:
        assert (opened.format, opened.size) == ("WEBP", (100, 75))
    before = small.stat().st_mtime_ns
    assert files.open(token(files.url(path, 100))) == small and small.stat().st_mtime_ns == before
    old = files.url(path, 100)
    picture(path, (300, 400))
    os.utime(path, ns=(1, 1))
    assert files.url(path, 100) != old  # so that no browser shows the old one
    with Image.open(files.open(token(files.url(path, 100)))) as opened:
        assert opened.size == (75, 100)


def test_what_is_no_picture_is_served_as_it_is(files: Files, tmp_path: Path) -> None:
    path = tmp_path / "ação 写真" / "broken.png"
    path.write_bytes(b"no picture")
    assert files.open(token(files.url(path, 100))) == path
    with pytest.raises(FileNotFoundError):
        files.open(token(files.url(path.with_name("gone.png"))))
    with pytest.raises(FileNotFoundError):
        files.open(token(files.url(path.parent)))


def test_only_what_was_signed_is_served(files: Files, tmp_path: Path) -> None:
    path = picture(tmp_path / "ação 写真" / "a.png")
    good = token(files.url(path))
    body, _, signature = good.rpartition(".")
    other = token(Files(tmp_path).url(path))
    for bad in (
        "",
        ".",
        good[:-1],
        f"{body}.",
        f"{body}x.{signature}",
        f".{signature}",
        other,
        "a.png",
        "../a.png",
        "ö.é",
        good * 2,
    ):
        with pytest.raises(Refused):
            files.open(bad)


def test_even_signed_names_stay_in_their_folders(files: Files, tmp_path: Path) -> None:
    folder, secret = tmp_path / "ação 写真", picture(tmp_path / "secret.png")
    beside = picture(tmp_path / "ação 写真2" / "a.png")  # a name that only begins like the folder's
    (folder / "link.png").symlink_to(secret)
    (folder / "up").symlink_to(tmp_path, target_is_directory=True)
    names = [
        secret, beside, folder / ".." / "secret.png", folder / "link.png", folder / "up" / "secret.png", "/etc/passwd",
        "etc/passwd", "../secret.png", f"{folder}/%2e%2e/secret.png", r"\\server\share\a.png", "//server/share/a.png",
        f"{folder}\0/a.png", "",
    ]  # fmt: skip
    for name in names:
        for side in (0, 64):
            with pytest.raises((Refused, FileNotFoundError)):
                files.open(signed(files, str(name), side))
    with pytest.raises(Refused):
        files.open(token(files.url(secret)))


def test_a_link_into_an_allowed_folder_is_served(files: Files, tmp_path: Path) -> None:
    path = picture(tmp_path / "ação 写真" / "a.png")
    (tmp_path / "short").symlink_to(path.parent, target_is_directory=True)
    assert files.open(token(files.url(tmp_path / "short" / "a.png"))) == path


def test_thumbnails_do_not_fill_the_disk(files: Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for n in range(6):
        small = files.open(token(files.url(picture(tmp_path / "ação 写真" / f"{n}.png", (60 + n, 60)), 50)))
        os.utime(small, (1000 + n, 1000 + n))
        made.append(small)
    files.prune()
    assert all(path.exists() for path in made)
    monkeypatch.setattr(ui_files, "MOST_KEPT", sum(path.stat().st_size for path in made) - 1)
    files.prune()
    left = [path for path in made if path.exists()]
    assert 0 < len(left) <= 3 and left == made[-len(left) :]


def test_the_home_folder_is_not_spelled_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "home", lambda: tmp_path)
    assert display_name(tmp_path / "a" / "b") == os.path.join("~", "a", "b")
    assert display_name(tmp_path.parent / "other") == str(tmp_path.parent / "other")
