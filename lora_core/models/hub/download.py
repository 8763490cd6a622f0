"""One file from the hub into its cache: resumed after a kill, verified, whole or absent.

huggingface_hub (2.4) begins a file anew after every interruption and does not compare checksums, so the bytes are
fetched here, over its session, login and lock files and into its documented cache layout
(https://huggingface.co/docs/huggingface_hub/guides/manage-cache): `blobs/<checksum>` holds the content and
`snapshots/<commit>/<path>` points at it, or is the file itself where there are no symbolic links. Plain HTTP is used,
never Xet: Xet goes past proxies' and mirrors' addresses and keeps no partial file.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx2
from filelock import Timeout
from huggingface_hub import constants, get_session
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.file_download import are_symlinks_supported
from huggingface_hub.utils import (  # type: ignore[attr-defined]  # public, but exported in a way mypy does not see
    WeakFileLock,
    build_hf_headers,
    hf_raise_for_status,
)

from lora_core.errors import UserError
from lora_core.events import Emit, Phase
from lora_core.messages import Message
from lora_core.models.hub.errors import NotAHub, host
from lora_core.system import files
from lora_core.system.units import rough_duration

WAITS_S = (1.0, 2.0, 4.0, 8.0, 15.0)  # between attempts that brought nothing; any new byte starts the row again
LONGEST_WAIT_S = 300.0  # that a busy hub may ask for
REPORT_EVERY_S = 0.5
SPEED_OVER_S = 10.0


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model at one commit. `checksum` is the name of its blob in the cache.

    `algorithm` says what the checksum is: "sha256" for large files (Git LFS), "git-sha1" for small ones, "" when the
    server (a mirror) does not tell.
    """

    path: str
    size: int  # bytes
    checksum: str
    algorithm: str


@dataclass(frozen=True)
class Target:
    """Where a model lies in the cache: `cache` is the cache, `repo` its folder in it, `snapshot` the commit's folder."""

    cache: Path
    repo: Path
    snapshot: Path

    def partial(self, file: RemoteFile) -> Path:
        return self.repo / "blobs" / f"{file.checksum}.incomplete"

    def blob(self, file: RemoteFile) -> Path:
        return self.repo / "blobs" / file.checksum

    def bytes_there(self, file: RemoteFile) -> int:
        """Of the file's bytes, how many need no download any more."""
        if (self.snapshot / file.path).is_file() or self.blob(file).is_file():
            return file.size
        return min(_size(self.partial(file)), file.size)


class Meter:
    """Bytes done of all files together, told at most twice a second, with the speed of the last ten seconds.

    With a `total` of 0 only what is said is told.
    """

    def __init__(self, emit: Emit, done: int, total: int) -> None:
        self._emit, self._done, self._total = emit, done, total
        self._told = time.monotonic()
        self._times: deque[tuple[float, int]] = deque([(self._told, done)])

    def add(self, count: int) -> None:
        """`count` more bytes are on disk; negative when some had to be thrown away."""
        self._done += count
        now = time.monotonic()
        if count < 0:
            self._times.clear()
        self._times.append((now, self._done))
        while now - self._times[0][0] > SPEED_OVER_S:
            self._times.popleft()
        if self._total and (now - self._told >= REPORT_EVERY_S or self._done == self._total):
            self._told = now
            self._emit(Phase("download", self._done, self._total, self._speed()))

    def say(self, text: Message) -> None:
        self._emit(Phase("download", self._done, self._total, text))

    def _speed(self) -> Message | str:
        (then, before), (now, done) = self._times[0], self._times[-1]
        if now <= then or done <= before:
            return ""
        speed = (done - before) / (now - then)  # bytes per second
        return Message("models.hub_speed", speed=speed / 1e6, left=rough_duration((self._total - done) / speed))


def download(file: RemoteFile, url: str, target: Target, meter: Meter) -> None:
    """Put a file into the snapshot, from the cache where its content is there already.

    Raises:
        UserError: the content is wrong twice. NotAHub, HfHubHTTPError, httpx2.HTTPError, OSError: see errors.py.
    """
    pointer = target.snapshot / file.path
    pointer.parent.mkdir(parents=True, exist_ok=True)
    target.blob(file).parent.mkdir(parents=True, exist_ok=True)
    with _lock(file, target, meter):
        if pointer.is_file():
            return
        if not target.blob(file).is_file():
            _fetch_verified(file, url, target, meter)
            files.replace_with_retry(target.partial(file), target.blob(file))
            files.fsync_folder(target.blob(file).parent)
        _point(pointer, target.blob(file), target.cache)


def alias(snapshot: Path, file: str, name: str) -> None:
    """Let `file` of a snapshot be found as `name` too, at no cost in disk space where the file system allows it."""
    source, also = snapshot / file, snapshot / name
    if also.is_file():
        return
    with contextlib.suppress(OSError):  # Windows makes symbolic links for developers only
        os.symlink(source.name, also)
        return
    with contextlib.suppress(OSError):  # FAT has no hard links either
        os.link(source, also)
        return
    with files.whole_file(also) as temporary:
        shutil.copyfile(source, temporary)


def _fetch_verified(file: RemoteFile, url: str, target: Target, meter: Meter) -> None:
    """Leave the whole, verified content in the partial file; a wrong one is fetched once more from the start."""
    partial = target.partial(file)
    for last in (False, True):
        _fetch(file, url, partial, meter)
        if _is_right(file, partial):
            return
        meter.add(-_size(partial))
        partial.unlink()
        if not last:
            meter.say(Message("models.hub_fetching_again", file=file.path))
    raise UserError("models.hub_damaged", file=file.path, host=host())


def _fetch(file: RemoteFile, url: str, partial: Path, meter: Meter) -> None:
    """Fill the partial file to its size, going on where it ends and trying again while that brings new bytes."""
    if _size(partial) > file.size:
        partial.unlink()
    misses = 0
    while not partial.exists() or _size(partial) < file.size:
        before = _size(partial)
        error: Exception = NotAHub(f"{url} is shorter than the hub says")
        try:
            _stream(url, partial, file.size, meter)
        except (httpx2.TransportError, HfHubHTTPError) as cause:
            if not may_pass(cause):
                raise
            error = cause
        if _size(partial) > before or (partial.exists() and file.size == 0):
            misses = 0
            continue
        misses += 1
        if misses > len(WAITS_S):
            raise error
        meter.say(Message("models.hub_trying_again", count=misses, most=len(WAITS_S)))
        time.sleep(wait_s(error, WAITS_S[misses - 1]))


def _stream(url: str, partial: Path, size: int, meter: Meter) -> None:
    """One request: append what the partial file lacks, or write it anew when the server does not resume."""
    have = _size(partial)
    headers = build_hf_headers(library_name="treino") | {"Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
    timeout_s = constants.HF_HUB_DOWNLOAD_TIMEOUT  # for each packet, not for the file
    with get_session().stream("GET", url, headers=headers, timeout=timeout_s) as response:
        if response.status_code == 416:  # nothing there to go on with: the partial file is of something else
            meter.add(-have)
            partial.unlink()
        hf_raise_for_status(response)
        resumes = response.status_code == 206 and _starts_at(response, have)
        if have and not resumes:
            meter.add(-have)
        with open(partial, "ab" if resumes else "wb") as out:
            lacking = size - (have if resumes else 0)
            for chunk in response.iter_bytes():
                kept = chunk[:lacking]  # never more than the disk was checked for, whatever the server sends
                out.write(kept)
                lacking -= len(kept)
                meter.add(len(kept))
                if len(kept) < len(chunk):
                    break
            out.flush()
            os.fsync(out.fileno())


def _starts_at(response: httpx2.Response, position: int) -> bool:
    found = re.match(r"bytes (\d+)-", response.headers.get("Content-Range", ""))
    return found is not None and int(found[1]) == position


def may_pass(error: Exception) -> bool:
    """Whether the same request may well succeed in a moment."""
    if isinstance(error, HfHubHTTPError):
        return error.response.status_code in (408, 416, 429, 500, 502, 503, 504)
    return not isinstance(error, (httpx2.ProxyError, httpx2.UnsupportedProtocol))


def wait_s(error: Exception, usual_s: float) -> float:
    """Seconds to wait after `error`: what a busy hub asks for, within reason, or else the usual."""
    asked = error.response.headers.get("Retry-After", "") if isinstance(error, HfHubHTTPError) else ""
    return min(max(float(asked), usual_s), LONGEST_WAIT_S) if asked.isdigit() else usual_s


def _is_right(file: RemoteFile, path: Path) -> bool:
    if _size(path) != file.size:
        return False
    if not file.algorithm:
        return True
    digest = hashlib.sha256()
    if file.algorithm == "git-sha1":
        digest = hashlib.sha1(b"blob %d\0" % file.size, usedforsecurity=False)
    with open(path, "rb") as content:
        while chunk := content.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest() == file.checksum


def _point(pointer: Path, blob: Path, cache: Path) -> None:
    """Make the snapshot's file: a relative link to the blob, or the blob itself as the hub's cache does on Windows."""
    if are_symlinks_supported(cache):
        pointer.unlink(missing_ok=True)  # a link to a blob that has been deleted
        os.symlink(os.path.relpath(blob, pointer.parent), pointer)
    else:
        files.replace_with_retry(blob, pointer)


@contextlib.contextmanager
def _lock(file: RemoteFile, target: Target, meter: Meter) -> Iterator[None]:
    """The lock that huggingface_hub takes for the same blob, so that no two programs write one partial file."""
    path = target.cache / ".locks" / target.repo.name / f"{file.checksum}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(WeakFileLock(path, timeout=0.2))
        except Timeout:
            meter.say(Message("models.hub_waiting", file=file.path))
            stack.enter_context(WeakFileLock(path))
        yield


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
