"""Texts that are kept or shown, without the passwords and tokens that addresses and libraries' errors quote."""

from __future__ import annotations

import os
import re

_HIDDEN = "…"
_LEAST = 6  # letters; a shorter secret would be found in ordinary words
_NAMES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "TREINO_PASSWORD")  # of variables that hold a secret
_USER = re.compile(r"(?<=//)[^/@\s'\"]+@")  # "anna:password@" of an address
_QUERY = re.compile(r"(?i)(?<=[?&])(token|access_token|api_key|apikey|key|password|signature|sig)=[^&#\s'\"]+")
_TOKEN = re.compile(r"\bhf_[A-Za-z0-9]{8,}")


def discreet(text: str) -> str:
    """The text with a mark in the place of each secret; addresses lose their user too."""
    for secret in (os.environ.get(name, "") for name in _NAMES):
        if len(secret) >= _LEAST:
            text = text.replace(secret, _HIDDEN)
    text = _QUERY.sub(rf"\1={_HIDDEN}", _USER.sub("", text))
    return _TOKEN.sub(_HIDDEN, text)
