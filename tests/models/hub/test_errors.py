"""lora_core.models.hub.errors: what goes wrong on the way is a sentence, in every language."""

from __future__ import annotations

import socket
import ssl

import httpx2
import pytest
from huggingface_hub.errors import OfflineModeIsEnabled

from lora_core.messages import say
from lora_core.models.hub import errors


@pytest.mark.parametrize("proxy", ["", "http://proxy.studio:8080"])
def test_every_error_is_a_sentence_of_each_language(proxy: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", proxy)
    unknown = httpx2.ConnectError("x")
    unknown.__cause__ = socket.gaierror()
    shut = httpx2.ConnectError("x")
    shut.__cause__ = ssl.SSLError()
    broken = [
        unknown, shut, httpx2.ConnectError("x"), httpx2.ConnectTimeout("x"), httpx2.ReadError("x"),
        httpx2.TooManyRedirects("x"), httpx2.UnsupportedProtocol("x"), errors.NotAHub(), OfflineModeIsEnabled(),
        *([httpx2.ProxyError("x")] if proxy else []),
    ]  # fmt: skip
    for error in broken:
        message = errors.explain(error, "owner/name").message
        english, told = str(message), say(message, "pt-BR")
        assert told != english and " the " not in told and "{" not in told, told
        assert ("proxy.studio:8080" in told) == ("proxy.studio:8080" in english)
