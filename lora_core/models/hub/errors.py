"""What went wrong with the hub, as one sentence with the fix. Used by client.py and download.py only."""

from __future__ import annotations

import socket
import ssl
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx2
from huggingface_hub import constants, get_session, get_token
from huggingface_hub.errors import (
    DisabledRepoError,
    GatedRepoError,
    HfHubHTTPError,
    OfflineModeIsEnabled,
    RemoteEntryNotFoundError,
    RepositoryNotFoundError,
)

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system import files
from lora_core.system.redact import redact

BAD_CREDENTIALS = "Invalid credentials"  # the start of what the hub says to an expired or mistyped token


class UnreachableError(UserError):
    """No answer from the hub, for a reason on the way; what is in the cache may still do."""


class NotAHub(ValueError):
    """An answer that no hub gives: the login page of a network, or a wrong HF_ENDPOINT."""


def host() -> str:
    """The hub's host as people know it: huggingface.co, or the mirror of HF_ENDPOINT."""
    return urlsplit(endpoint()).netloc or endpoint()


def endpoint() -> str:
    """The hub's address as it may be told: without the user and the password that HF_ENDPOINT may hold."""
    return redact(constants.ENDPOINT)


def session() -> None:
    """Make huggingface_hub's session, which fails for proxies that cannot be used. Raises UnreachableError."""
    try:
        get_session()
    except (ValueError, ImportError, httpx2.InvalidURL) as error:  # ImportError: SOCKS needs another package
        raise UnreachableError("models.proxy_wrong", why=redact(str(error))) from error


def explain(error: Exception, repo: str) -> UserError:
    """The sentence for an error of huggingface_hub, of the network or of the disk while `repo` was fetched."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return UnreachableError("models.hub_offline", repo=repo)
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repo)
    if isinstance(error, (httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
        return UserError("models.hub_address", address=endpoint())
    if isinstance(error, httpx2.HTTPError):
        return _broken_line(error)
    if isinstance(error, OSError):
        return files.WriteError(files.explain(error, Path(error.filename or constants.HF_HUB_CACHE)))
    return UnreachableError("models.not_a_hub", host=host())


def _refusal(error: HfHubHTTPError, repo: str) -> UserError:
    status, page, here = error.response.status_code, f"{endpoint()}/{repo}", host()
    said = (error.server_message or "").strip().split("\n")[0]
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return UserError("models.gated", repo=repo, page=page)
        return UserError("models.gated_waiting", repo=repo, page=page)
    if isinstance(error, DisabledRepoError):
        return UserError("models.hub_disabled", repo=repo, host=here)
    if status == 401 and said.startswith(BAD_CREDENTIALS):
        return UserError("models.bad_token", host=here)
    if isinstance(error, RemoteEntryNotFoundError):
        return UserError("models.hub_file_gone", repo=repo, host=here)
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return UserError("models.hub_no_model", repo=repo, host=here)
    if status == 403:
        return UserError("models.hub_refuses", host=here, repo=repo, why=said or Message("models.hub_forbidden"))
    if status == 407:
        return UnreachableError("models.proxy_login", proxy=_proxy())
    later = Message("models.download_kept")
    if status == 429:
        return UnreachableError("models.hub_too_many", host=here, later=later)
    return UnreachableError("models.hub_trouble", host=here, status=status, later=later)


def _broken_line(error: httpx2.HTTPError) -> UserError:
    causes, here, proxy = list(_chain(error)), host(), _proxy()
    if isinstance(error, httpx2.ProxyError):
        return UnreachableError("models.proxy_shut", proxy=proxy, host=here, why=redact(str(error)))
    through = Message("models.through_proxy", proxy=proxy) if proxy else ""
    later = Message("models.download_kept")
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return UnreachableError("models.no_internet", host=here, through=through)
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return UnreachableError("models.not_secure", host=here, through=through)
    if isinstance(error, httpx2.TimeoutException):
        return UnreachableError("models.hub_silent", host=here, through=through, later=later)
    if isinstance(error, httpx2.TooManyRedirects):
        return UnreachableError("models.hub_circles", host=here)
    if isinstance(error, httpx2.ConnectError):
        return UnreachableError("models.hub_unreachable", host=here, through=through)
    return UnreachableError("models.hub_breaks", host=here, through=through, later=later)


def _chain(error: BaseException) -> Iterator[BaseException]:
    """The error and what caused it, nearest first."""
    current: BaseException | None = error
    seen: set[int] = set()
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        yield current
        current = current.__cause__ or current.__context__


def _proxy() -> str:
    """Host and port of the proxy in use; never its user and password. Empty: none."""
    parts = urlsplit(endpoint())
    proxies = urllib.request.getproxies()
    address = proxies.get(parts.scheme or "https") or proxies.get("all", "")
    if not address or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    there = urlsplit(redact(address if "://" in address else f"//{address}"))
    return f"{there.hostname}:{there.port}" if there.port else str(there.hostname)
