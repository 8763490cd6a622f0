"""What went wrong with the hub, as one sentence with the fix. Used by hub.py and hub_transfer.py only."""

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
from lora_core.system import files
from lora_core.system.redact import redact

LATER = "What is already downloaded is kept: start again and it goes on from there."
BAD_CREDENTIALS = "Invalid credentials"  # the start of what the hub says to an expired or mistyped token


class Unreachable(UserError):
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
    """Make huggingface_hub's session, which fails for proxies that cannot be used. Raises Unreachable."""
    try:
        get_session()
    except (ValueError, ImportError, httpx2.InvalidURL) as error:  # ImportError: SOCKS needs another package
        raise Unreachable(
            f"The proxy of your settings cannot be used ({redact(str(error))}): "
            "set HTTPS_PROXY to http://host:port, or unset it."
        ) from error


def explain(error: Exception, repo: str) -> UserError:
    """The sentence for an error of huggingface_hub, of the network or of the disk while `repo` was fetched."""
    if isinstance(error, UserError):
        return error
    if isinstance(error, OfflineModeIsEnabled):
        return Unreachable(
            f"{repo} is not complete in the cache, and HF_HUB_OFFLINE forbids to download it: "
            "unset HF_HUB_OFFLINE, or give the folder of a model."
        )
    if isinstance(error, HfHubHTTPError):
        return _refusal(error, repo)
    if isinstance(error, (httpx2.UnsupportedProtocol, httpx2.InvalidURL)):
        return UserError(
            f"The hub's address {endpoint()!r} cannot be used: "
            "set HF_ENDPOINT to an address that begins with https://, or unset it."
        )
    if isinstance(error, httpx2.HTTPError):
        return _broken_line(error)
    if isinstance(error, OSError):
        return files.WriteError(files.explain(error, Path(error.filename or constants.HF_HUB_CACHE)))
    return Unreachable(
        f"{host()} answered, but not as a hub does: a network's login page may be in between, or HF_ENDPOINT is wrong. "
        "Open it in a browser, then try again."
    )


def _refusal(error: HfHubHTTPError, repo: str) -> UserError:
    status, page = error.response.status_code, f"{endpoint()}/{repo}"
    said = (error.server_message or "").strip().split("\n")[0]
    if isinstance(error, GatedRepoError):
        if get_token() is None:
            return UserError(
                f"{repo} is gated: accept its terms at {page}, log in with `hf auth login` (or set HF_TOKEN), try again."
            )
        return UserError(
            f"{repo} is gated, and your account has no access yet: accept its terms at {page} and wait for the "
            "approval; a fine-grained token also needs the right to read gated repositories."
        )
    if isinstance(error, DisabledRepoError):
        return UserError(f"{repo} has been disabled on {host()}: choose another copy of the model.")
    if status == 401 and said.startswith(BAD_CREDENTIALS):
        return UserError(
            f"{host()} does not accept your token: log in again with `hf auth login`, or unset HF_TOKEN for public models."
        )
    if isinstance(error, RemoteEntryNotFoundError):
        return UserError(f"A file of {repo} is gone from {host()} while it was being fetched: start again.")
    if isinstance(error, RepositoryNotFoundError) or status in (401, 404):
        return UserError(
            f"There is no model {repo} on {host()} (and no such folder here), or it is private: check the spelling; "
            "for a private one log in with `hf auth login` first."
        )
    if status == 403:
        return UserError(
            f"{host()} refuses {repo}: {said or 'forbidden'}. Check the rights of your token and try again."
        )
    if status == 407:
        return Unreachable(f"The proxy {_proxy()} asks for a login: set HTTPS_PROXY to http://user:password@host:port.")
    if status == 429:
        return Unreachable(f"{host()} has had too many requests from here: wait some minutes, or log in. {LATER}")
    return Unreachable(f"{host()} has trouble of its own (error {status}): try again later. {LATER}")


def _broken_line(error: httpx2.HTTPError) -> UserError:
    causes = list(_chain(error))
    if isinstance(error, httpx2.ProxyError):
        return Unreachable(
            f"The proxy {_proxy()} does not let Treino through to {host()} ({redact(str(error))}): "
            "correct HTTPS_PROXY, or unset it."
        )
    through = f" through the proxy {_proxy()}" if _proxy() else ""
    if any(isinstance(cause, socket.gaierror) for cause in causes):
        return Unreachable(
            f"{host()} is not found{through}: there is no internet, or its name service (DNS) fails. Connect and try "
            "again, or set HF_ENDPOINT to a mirror, or give the folder of a model."
        )
    if any(isinstance(cause, ssl.SSLError) for cause in causes):
        return Unreachable(
            f"No secure connection to {host()}{through}: a virus scanner or company proxy reads along, or the clock is "
            "wrong. Set SSL_CERT_FILE to your company's certificate, or correct the clock."
        )
    if isinstance(error, httpx2.TimeoutException):
        return Unreachable(f"{host()} does not answer{through}: check the connection and try again. {LATER}")
    if isinstance(error, httpx2.TooManyRedirects):
        return Unreachable(f"{host()} sends Treino round in circles: check HF_ENDPOINT, or try again later.")
    if isinstance(error, httpx2.ConnectError):
        return Unreachable(f"{host()} cannot be reached{through}: check the connection, firewall and HF_ENDPOINT.")
    return Unreachable(f"The connection to {host()} keeps breaking{through}: check it and try again. {LATER}")


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
