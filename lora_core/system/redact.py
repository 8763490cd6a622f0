"""Texts that are kept or shown, without the passwords and tokens that addresses and libraries' errors quote."""

from __future__ import annotations

import base64
import os
import re
import traceback
from collections.abc import Iterator
from urllib.parse import unquote

_HIDDEN = "…"
_LEAST = 6  # letters; a shorter secret would be found in ordinary words
_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TREINO_PASSWORD")  # of variables that hold a secret
_ADDRESSES = re.compile(r"(?i).*_proxy|hf_endpoint|pip_(?:extra_)?index_url|pip_find_links")  # and of those that may
# "anna:password@" of an address. A password may hold what belongs encoded, "/" for one, and may look like no port.
_USER = re.compile(r"(?<=[:/]/)(?:[^/\s'\"]+@|[^/@:\s]+:(?!\d+/)\S+@)")
_QUERY = re.compile(r"(?i)(?<=[?&#])(token|access_token|api_key|apikey|key|password|signature|sig)=[^&#\s'\"]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{16,}")
_BEARER = re.compile(r"(?i)\b(bearer) [^\s'\"]{16,}")
_PARTS = re.compile(r"[^\w.~%!$&*+-]+")  # what parts an address


def redact(text: str) -> str:
    """The text with a mark in the place of each secret; addresses lose their user too."""
    logins = list(_logins())
    for login in logins:
        text = text.replace(f"{login}@", "")
    text = _QUERY.sub(rf"\1={_HIDDEN}", _USER.sub("", text))
    text = _BEARER.sub(rf"\1 {_HIDDEN}", _TOKEN.sub(_HIDDEN, text))
    secrets = [os.environ.get(name, "") for name in _NAMES]
    for login in logins:
        password = login.partition(":")[2] or login  # a token may stand alone
        parts = [part for part in _PARTS.split(password) if part]
        secrets += [password, unquote(password), *parts, base64.b64encode(unquote(login).encode()).decode()]
        for part in parts:  # "Invalid port: 'pass'", where "pass/word" was not encoded
            text = text.replace(f"'{part}'", f"'{_HIDDEN}'")
    for secret in (secret for secret in secrets if len(secret) >= _LEAST):
        text = text.replace(secret, _HIDDEN)
    return text


def traceback_of(error: BaseException) -> str:
    """All that led to an error, in lines."""
    return redact("".join(traceback.format_exception(error)))


def holds_secret(model: str) -> bool:
    """Whether the name of a base model is an address with a secret in it."""
    return ("://" in model or "?" in model) and redact(model) != model


def _logins() -> Iterator[str]:
    """ "user:password" of each address in the environment that has it."""
    for name, value in list(os.environ.items()):
        if _ADDRESSES.fullmatch(name):
            addresses = value.split() if name.upper().startswith("PIP_") else [value]
            found = (address.rpartition("@")[0] for address in addresses)
            logins = (each.rpartition("://" if "://" in each else "//")[2] for each in found)
            yield from (login for login in logins if login)
