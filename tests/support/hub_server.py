"""A hub on loopback: the model API, /resolve with HEAD, GET and Range, and every trouble a line or a hub can make.

The shapes are those of huggingface.co as huggingface_hub reads them: /api/models/ID?blobs=true, 307 for renamed
models, X-Error-Code for refusals, and for large files a redirect to another origin ("the CDN", on a port of its own)
with X-Linked-Etag, X-Linked-Size and X-Repo-Commit. `in_use` makes it the hub of this process.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import close_session, constants

from lora_core.models.hub import download

LFS_FROM = 10_000  # bytes; the real hub decides by file type
CHUNK = 16 * 1024


@dataclass
class Repo:
    """A model: its files, and how the hub treats those who ask for it."""

    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    disabled: bool = False
    readers: tuple[str, ...] = ()  # tokens with access

    @property
    def commit(self) -> str:
        digest = hashlib.sha1()
        for path, data in sorted(self.files.items()):
            digest.update(path.encode() + b"\0" + data)
        return digest.hexdigest()


@dataclass
class Request:
    method: str
    path: str
    range: str
    token: str
    user_agent: str
    sent: int = 0  # bytes of a file's content


@dataclass
class HubServer:
    """Use as a context manager. Troubles are set per file path in the repository, while the server runs."""

    repos: dict[str, Repo] = field(default_factory=dict)
    renamed: dict[str, str] = field(default_factory=dict)
    drop_after: dict[str, list[int]] = field(default_factory=dict)  # bytes after which each next answer is cut off
    corrupt: dict[str, int] = field(default_factory=dict)  # how many more answers carry a wrong byte
    errors: dict[str, list[int]] = field(default_factory=dict)  # statuses of the next answers
    api_errors: list[int] = field(default_factory=list)  # statuses of the next answers about models
    api_status: int = 200
    api_body: bytes | None = None  # instead of what a hub says
    bytes_per_second: int = 0  # 0: as fast as it goes
    ranges: bool = True
    lists_sizes: bool = True
    requests: list[Request] = field(default_factory=list)

    def __enter__(self) -> Self:
        self._servers = [ThreadingHTTPServer(("127.0.0.1", 0), _Handler) for _ in ("hub", "cdn")]
        self._threads = []
        for server in self._servers:
            server.daemon_threads = True
            server.hub = self  # type: ignore[attr-defined]
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
            self._threads.append(thread)
            thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for server, thread in zip(self._servers, self._threads, strict=True):
            server.shutdown()
            thread.join()
            server.server_close()

    @property
    def port(self) -> int:
        return int(self._servers[0].server_address[1])

    @property
    def cdn(self) -> str:
        return f"http://127.0.0.1:{self._servers[1].server_address[1]}/cdn"

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def sent(self, path: str = "") -> int:
        """Bytes of file content sent so far, of one file or of all."""
        return sum(request.sent for request in self.requests if request.path.endswith(path))

    def fetched(self) -> set[str]:
        """Paths of the files whose content was asked for."""
        found = (re.search(r"/resolve/[0-9a-f]+/(.+)", r.path) for r in self.requests if r.method == "GET")
        return {match[1] for match in found if match}


@contextmanager
def in_use(repos: dict[str, Repo], home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with these models that this process uses as its hub, with an empty cache in `home` and nobody logged in."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setattr(constants, "HF_HOME", str(home))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(download, "WAITS_S", (0.01,) * 3)
    close_session()
    with HubServer(repos) as running:
        use_endpoint(running.endpoint, monkeypatch)
        yield running
    close_session()


def use_endpoint(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # headers and body go in two writes; waiting between them makes the tests slow

    @property
    def hub(self) -> HubServer:
        return self.server.hub  # type: ignore[attr-defined, no-any-return]

    def log_message(self, *args: object) -> None:
        """Silence: the requests are kept in `HubServer.requests`."""

    def do_CONNECT(self) -> None:
        self._note()
        self._answer(407, {"Proxy-Authenticate": "Basic"}, b"")

    def do_HEAD(self) -> None:
        self._serve()

    def do_GET(self) -> None:
        self._serve()

    def _serve(self) -> None:
        request = self._note()
        path = unquote(urlsplit(self.path).path)
        if path.startswith("/api/models/"):
            self._api(path.removeprefix("/api/models/"), request)
        elif found := re.fullmatch(r"/cdn/([^/]+/[^/]+)/(.+)", path):
            self._content(self.hub.repos[found[1]].files[found[2]], found[2], request, {})
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._resolve(found[1], found[2], found[3], request)
        else:
            self._answer(404, {}, b"")

    def _note(self) -> Request:
        headers = self.headers
        token = headers.get("Authorization", "").removeprefix("Bearer ")
        agent = headers.get("User-Agent", "")
        request = Request(self.command, urlsplit(self.path).path, headers.get("Range", ""), token, agent)
        self.hub.requests.append(request)
        return request

    def _refused(self, repo: Repo | None, request: Request, listing: bool) -> bool:
        if request.token == "expired":
            self._error(401, "", "Invalid credentials in Authorization header")
        elif repo is None or (repo.private and request.token not in repo.readers):
            self._error(404 if request.token else 401, "RepoNotFound", "Repository not found")
        elif repo.disabled:
            self._error(403, "", "Access to this resource is disabled.")
        elif repo.gated and not listing and request.token not in repo.readers:
            self._error(403 if request.token else 401, "GatedRepo", "Access to this model is restricted.")
        else:
            return False
        return True

    def _api(self, path: str, request: Request) -> None:
        hub = self.hub
        name, _, tree = path.split("/revision/")[0].partition("/tree/")
        if hub.api_errors:
            self._answer(hub.api_errors.pop(0), {}, b"")
            return
        if name in hub.renamed:
            self._answer(307, {"Location": f"/api/models/{hub.renamed[name]}?{urlsplit(self.path).query}"}, b"")
            return
        if hub.api_body is not None or hub.api_status != 200:
            self._answer(hub.api_status, {"Content-Type": "text/html"}, hub.api_body or b"")
            return
        repo = hub.repos.get(name)
        if self._refused(repo, request, listing=True):
            return
        assert repo is not None
        if tree:
            self._answer(200, {"Content-Type": "application/json"}, json.dumps(_tree(repo)).encode())
            return
        siblings = [self._sibling(path, data) for path, data in sorted(repo.files.items())]
        body = {"id": name, "modelId": name, "sha": repo.commit, "private": repo.private, "siblings": siblings}
        self._answer(200, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _sibling(self, path: str, data: bytes) -> dict[str, object]:
        if not self.hub.lists_sizes:
            return {"rfilename": path}
        sibling: dict[str, object] = {"rfilename": path, "size": len(data), "blobId": git_sha1(data)}
        if len(data) >= LFS_FROM:
            sibling["lfs"] = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
        return sibling

    def _resolve(self, name: str, revision: str, path: str, request: Request) -> None:
        hub = self.hub
        if name in hub.renamed:
            self._answer(307, {"Location": f"/{hub.renamed[name]}/resolve/{revision}/{path}"}, b"")
            return
        repo = hub.repos.get(name)
        if self._refused(repo, request, listing=False):
            return
        assert repo is not None
        if revision not in ("main", repo.commit) or path not in repo.files:
            self._error(404, "EntryNotFound" if path not in repo.files else "RevisionNotFound", "not found")
            return
        data = repo.files[path]
        headers = {"X-Repo-Commit": repo.commit}
        if len(data) < LFS_FROM:
            self._content(data, path, request, {**headers, "ETag": f'"{git_sha1(data)}"'})
            return
        headers["X-Linked-Size"] = str(len(data))
        headers["X-Linked-Etag"] = f'"{hashlib.sha256(data).hexdigest()}"'
        headers["Location"] = f"{hub.cdn}/{name}/{path}?signature=1"
        self._answer(302, headers, b"")

    def _content(self, data: bytes, path: str, request: Request, headers: dict[str, str]) -> None:
        hub = self.hub
        if hub.errors.get(path):
            self._answer(hub.errors[path].pop(0), {"Retry-After": "0"}, b"")
            return
        start, status = 0, 200
        if hub.ranges and (found := re.fullmatch(r"bytes=(\d+)-", request.range)):
            start, status = int(found[1]), 206
            if start >= len(data):
                self._answer(416, {"Content-Range": f"bytes */{len(data)}"}, b"")
                return
            headers = {**headers, "Content-Range": f"bytes {start}-{len(data) - 1}/{len(data)}"}
        if hub.corrupt.get(path):
            hub.corrupt[path] -= 1
            data = data[:-1] + bytes([data[-1] ^ 1])
        stop = start + hub.drop_after[path].pop(0) if hub.drop_after.get(path) else len(data)
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data) - start)}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self._send(data[start:stop], request)
        if stop < len(data):
            self.close_connection = True

    def _send(self, data: bytes, request: Request) -> None:
        for at in range(0, len(data), CHUNK):
            chunk = data[at : at + CHUNK]
            try:
                self.wfile.write(chunk)
                self.wfile.flush()
            except OSError:  # the client has gone: killed, or stopped reading
                self.close_connection = True
                return
            request.sent += len(chunk)
            if self.hub.bytes_per_second:
                time.sleep(len(chunk) / self.hub.bytes_per_second)

    def _error(self, status: int, code: str, message: str) -> None:
        headers = {"X-Error-Message": message, "Content-Type": "application/json"}
        body = json.dumps({"error": message}).encode()
        self._answer(status, {**headers, "X-Error-Code": code} if code else headers, body)

    def _answer(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _tree(repo: Repo) -> list[dict[str, object]]:
    """The list of files as huggingface_hub's own snapshot_download asks for it."""
    entries: list[dict[str, object]] = []
    for path, data in sorted(repo.files.items()):
        entry: dict[str, object] = {"type": "file", "path": path, "size": len(data), "oid": git_sha1(data)}
        if len(data) >= LFS_FROM:
            entry["lfs"] = {"oid": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 135}
        entries.append(entry)
    return entries


def git_sha1(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
