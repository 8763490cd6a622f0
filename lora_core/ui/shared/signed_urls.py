"""URLs of files on this computer: signed, so that a page can show only what the window itself has named."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path

from lora_core.dataset import thumbnail
from lora_core.system.files import WriteError, write_bytes_whole

ROUTE = "/files/"
LARGEST_SIDE = 2048  # pixels of a thumbnail
MOST_KEPT = 512 * 2**20  # bytes of thumbnails


class Refused(Exception):
    """A token that is not ours, or a file that lies outside the folders that may be served."""


class Files:
    """Signs URLs for files below the folders it was allowed, and opens what it has signed."""

    def __init__(self, thumbnails: Path) -> None:
        self._thumbnails = thumbnails
        self._secret = secrets.token_bytes(32)
        self._allowed: set[Path] = set()

    def allow(self, folder: Path) -> None:
        """Let files below `folder` be shown; what its links point to is another matter."""
        self._allowed.add(folder.resolve())

    def url(self, path: Path, side: int = 0) -> str:
        """A URL for a file; with `side`, for its picture scaled down to at most that many pixels.

        A file that is not there has a URL as well: the page shows a broken picture, and nothing breaks.
        """
        assert 0 <= side <= LARGEST_SIDE, side
        absolute = path.absolute()
        try:
            stamp = absolute.stat().st_mtime_ns
        except OSError:
            stamp = 0
        payload = json.dumps([str(absolute), side, stamp], ensure_ascii=False).encode("utf-8", "surrogatepass")
        token = base64.urlsafe_b64encode(payload).decode("ascii").rstrip("=")
        return f"{ROUTE}{token}.{self._signature(token)}"

    def open(self, token: str) -> Path:
        """The file behind a URL, which changes when the file does.

        Raises:
            Refused: not one of our URLs, or the file lies outside the allowed folders.
            FileNotFoundError: it is gone.
        """
        body, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(body).encode()):
            raise Refused
        try:
            name, side, _ = json.loads(base64.urlsafe_b64decode(body + "=" * (-len(body) % 4)))
        except (ValueError, binascii.Error) as cause:
            raise Refused from cause
        try:
            path = Path(name).resolve()  # follows links: one that leads out of the folder is refused
        except (ValueError, OSError, RuntimeError) as cause:  # no name of a file, or links in a circle
            raise Refused(name) from cause
        if not any(path.is_relative_to(folder) for folder in self._allowed):
            raise Refused(name)
        if not path.is_file():
            raise FileNotFoundError(name)
        return self._small(path, side) if side else path

    def prune(self) -> None:
        """Remove the thumbnails that were made longest ago until what is left is half of what may be kept."""
        found = sorted((path.stat().st_mtime, path) for path in self._thumbnails.glob("*/*.webp"))
        total = sum(path.stat().st_size for _, path in found)
        if total <= MOST_KEPT:
            return
        for _, path in found:
            total -= path.stat().st_size
            path.unlink()
            if total <= MOST_KEPT // 2:
                return

    def _signature(self, token: str) -> str:
        return hmac.new(self._secret, token.encode(), hashlib.sha256).hexdigest()[:32]

    def _small(self, path: Path, side: int) -> Path:
        """A cached thumbnail, or the picture itself where none can be made or kept."""
        stat = path.stat()
        key = hashlib.sha256(f"{path}\0{stat.st_mtime_ns}\0{stat.st_size}\0{side}".encode("utf-8", "replace")).hexdigest()
        target = self._thumbnails / key[:2] / f"{key}.webp"
        if target.is_file():
            return target
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            write_bytes_whole(target, _webp(path, side))
        except (OSError, ValueError, WriteError):
            return path
        return target


def _webp(path: Path, side: int) -> bytes:
    import io

    buffer = io.BytesIO()
    thumbnail(path, side).save(buffer, "WEBP", quality=82, method=2)
    return buffer.getvalue()


def display_name(path: Path) -> str:
    """A path as a person knows it: below the home folder it begins with "~"."""
    home = os.path.join(str(Path.home()), "")
    return f"~{os.sep}{str(path)[len(home):]}" if str(path).startswith(home) else str(path)
