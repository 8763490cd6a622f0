"""Passwords and tokens a person has about them: in no run folder, no event, no sentence, no report."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub import close_session, constants

from lora_core import hub_transfer
from lora_core.config import TrainConfig
from lora_core.discreet import discreet
from lora_core.events import Event
from lora_core.settings import ConfigError
from lora_core.terminal import Terminal
from lora_core.ui.report import report
from lora_core.ui.trouble import Trouble
from tests.e2e.conftest import start_window
from tests.hub_server import HubServer, Repo
from tests.test_hub import use_endpoint
from tests.training import config_for, run
from tests.web_page import ask

ROOT = Path(__file__).parent.parent
PASSWORD, TOKEN, FILED = "geheim-und-lang", "hf_AbCdEfGhIjKlMnOp", "hf_QrStUvWxYz123456"
SECRETS = (PASSWORD, TOKEN, FILED)
ID = "painter/tiny-sd"


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub behind a password, for somebody who is logged in twice over."""
    home = tmp_path / "home"
    (home / "hub").mkdir(parents=True)
    (home / "token").write_text(FILED, encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(hub_transfer, "WAITS_S", (0.01,) * 3)
    monkeypatch.setenv("TREINO_PASSWORD", PASSWORD)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    close_session()
    with HubServer({ID: Repo({"model_index.json": b"{}", "README.md": b"x"})}) as running:
        use_endpoint(running.endpoint.replace("//", f"//anna:{PASSWORD}@"), monkeypatch)
        yield running
    close_session()


def leaks(*places: Path | str) -> list[str]:
    """Where a secret stands: files below the folders, and texts."""
    found = []
    for place in places:
        texts = {"a text": place.encode()} if isinstance(place, str) else {
            str(path): path.read_bytes() for path in place.rglob("*") if path.is_file()
        }  # fmt: skip
        found += [f"{secret} in {name}" for name, text in texts.items() for secret in SECRETS if secret.encode() in text]
    return found


def trained(config: TrainConfig) -> tuple[Exception | None, str]:
    """A training's error, and all that a terminal and a listener hear of it."""
    out = io.StringIO()
    terminal, heard = Terminal(out), list[Event]()

    def listen(_: object, event: Event) -> None:
        terminal(event)
        heard.append(event)

    job, _ = run(config, on_event=listen)
    terminal.close()
    return job.error, out.getvalue() + repr(heard) + str(job.error)


def spoil(hub: HubServer, how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the hub refuse, each in its way."""
    repo = hub.repos[ID]
    if how == "gated":
        repo.gated = True
    elif how == "private":
        repo.private = True
    elif how == "broken":
        hub.api_status, hub.api_body = 200, b"<html>"
    elif how.isdigit():
        hub.api_status = int(how)
    elif how == "nobody":
        use_endpoint(f"http://anna:{PASSWORD}@127.0.0.1:9", monkeypatch)
    elif how == "no address":
        use_endpoint(f"ftp://anna:{PASSWORD}@mirror", monkeypatch)
    elif how == "proxy":
        use_endpoint(f"https://anna:{PASSWORD}@hub.test", monkeypatch)
        monkeypatch.setenv("https_proxy", f"http://anna:{PASSWORD}@127.0.0.1:{hub.port}")
        monkeypatch.setenv("no_proxy", "")
    elif how == "no proxy":
        monkeypatch.setenv("http_proxy", f"what://anna:{PASSWORD}@is.this")
        monkeypatch.setenv("no_proxy", "")
    close_session()


@pytest.mark.parametrize(
    "how",
    ["gated", "private", "broken", "401", "403", "404", "429", "500", "nobody", "no address", "proxy", "no proxy", "as is"],
)
def test_no_refusal_of_the_hub_tells_a_secret(
    how: str, hub: HubServer, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(hub, how, monkeypatch)
    error, told = trained(config_for(ID, pictures, tmp_path / "out"))
    assert error is not None and (tmp_path / "out" / "events.jsonl").is_file()
    assert leaks(tmp_path / "out", told) == []
    trouble = Trouble.of(1, "a test", error)
    assert leaks(*(report(trouble, None, private) for private in (True, False))) == []


def test_a_finished_run_holds_none(hub: HubServer, tiny_sd1: Path, pictures: Path, tmp_path: Path) -> None:
    config = config_for(tiny_sd1, pictures, tmp_path / "out", max_train_steps=2, save_steps=2, sample_count=1)
    error, told = trained(config)
    assert error is None and leaks(tmp_path / "out", told) == []


def test_an_unforeseen_error_tells_none(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer, tiny_sd1: Path
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"{TOKEN} at https://anna:{PASSWORD}@mirror/x?token={FILED}&x=1")

    monkeypatch.setattr("lora_core.job.prepare", fail)
    error, told = trained(config_for(tiny_sd1, pictures, tmp_path / "out"))
    assert isinstance(error, ValueError) and "https://mirror/x?token=…&x=1" in told
    assert leaks(tmp_path / "out", told.replace(str(error), "")) == []


@pytest.mark.parametrize("address", [f"https://anna:{PASSWORD}@mirror/{ID}", f"https://mirror/{ID}?token={TOKEN}"])
def test_a_base_model_with_a_secret_in_it_is_refused(address: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="hf auth login") as refused:
        TrainConfig.of({"pretrained_model_name_or_path": address, "output_dir": str(tmp_path)})
    assert leaks(str(refused.value)) == []
    words = ["--pretrained_model_name_or_path", address, "--train_data_dir", str(tmp_path), "--verbose"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "treino.py"), *words], capture_output=True, text=True, encoding="utf-8", timeout=200
    )
    assert done.returncode == 2 and leaks(done.stdout + done.stderr) == []
    TrainConfig.of({"pretrained_model_name_or_path": f"https://huggingface.co/{ID}/tree/main?x=1"})


def test_the_window_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_PASSWORD", PASSWORD)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    window = start_window(tmp_path, "--listen", "0.0.0.0")
    try:
        local = window.url.replace("0.0.0.0", "127.0.0.1")
        said = "".join(ask(local, "GET", path).body.decode("utf-8", "replace") for path in ("/", "/en/", "/who", "/ping"))
        given = ask(local, "POST", "/login", b"password=wrong", {"Content-Type": "application/x-www-form-urlencoded"})
    finally:
        window.stop()
    assert leaks(tmp_path, said + given.body.decode("utf-8", "replace")) == []
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and "secret" in path.name.lower()]
    if os.name != "nt":
        assert all(path.stat().st_mode & 0o077 == 0 for path in kept)


def test_what_is_no_secret_stays() -> None:
    plain = "C:\\Users\\anna@home, a@b, https://mirror/x?page=2, hf_hub, //server/share, token ids, key=1"
    assert discreet(plain) == plain
