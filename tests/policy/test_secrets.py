"""Passwords and tokens a person has about them: in no run folder, no event, no sentence, no report."""

from __future__ import annotations

import base64
import io
import json
import os
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import close_session, constants

from lora_core.cli import main as cli
from lora_core.cli.terminal import Terminal
from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Event
from lora_core.install import pip
from lora_core.install.environment import SetupError
from lora_core.models.hub import download
from lora_core.models.hub.client import fetch
from lora_core.settings import ConfigError
from lora_core.system import files
from lora_core.system.redact import redact
from lora_core.ui import main as door
from lora_core.ui.server import instance
from lora_core.ui.server.error_report import report
from lora_core.ui.shared.crash import CrashReport
from lora_core.webuis.export import CANCEL, Sidecar, export_lora
from tests import ROOT
from tests.e2e.conftest import start_window
from tests.models.hub.test_client import use_endpoint
from tests.support.hub_server import HubServer, Repo
from tests.support.training import config_for, run
from tests.support.web_page import ask

PASSWORD, TOKEN, FILED = "geheim-und-lang", "hf_AbCdEfGhIjKlMnOp", "hf_QrStUvWxYz123456"
SECRETS = (PASSWORD, TOKEN, FILED)
ID = "painter/tiny-sd"
# Passwords whose letters belong encoded in an address, as people write them nevertheless.
ODD = [f"gehe{odd}imnis" for odd in ("@", "/", "#", "?", ":", "'", '"', " ", "[", "\\", "%2F")]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub behind a password, for somebody who is logged in twice over."""
    home = tmp_path / "home"
    (home / "hub").mkdir(parents=True)
    (home / "token").write_text(FILED, encoding="utf-8")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home / "hub"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(home / "token"))
    monkeypatch.setattr(download, "WAITS_S", (0.01,) * 3)
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
    crash = CrashReport.of(1, "a test", error)
    assert leaks(*(report(crash, None, private) for private in (True, False))) == []


def test_a_finished_run_of_a_model_from_the_hub_holds_none(
    hub: HubServer, tiny_sd1: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TREINO_CACHE", str(tmp_path / "cache"))
    model = {path.relative_to(tiny_sd1).as_posix(): path.read_bytes() for path in tiny_sd1.rglob("*") if path.is_file()}
    hub.repos[ID] = Repo(model)
    out, webui = tmp_path / "out", tmp_path / "webui" / "models" / "Lora"
    error, told = trained(config_for(ID, pictures, out, max_train_steps=2, save_steps=2, sample_count=1))
    assert error is None and leaks(told) == []
    webui.mkdir(parents=True)
    exported = export_lora(out / "pytorch_lora_weights.safetensors", webui, "mine", CANCEL, Sidecar())
    assert exported.lora.is_file()
    (tmp_path / "home" / "token").unlink()  # where it belongs
    assert leaks(tmp_path) == []
    elsewhere = [request for request in hub.requests if request.path.startswith("/cdn/")]
    assert elsewhere and not any(request.token for request in elsewhere), "the hub's own login goes to the hub alone"


def told_of_refusal() -> str:
    """What is said, and kept, when the model is asked for."""
    close_session()
    with pytest.raises(UserError) as refused:
        fetch(ID, lambda event: None)
    return str(refused.value) + redact("".join(traceback.format_exception(refused.value)))


@pytest.mark.parametrize("password", ODD)
def test_passwords_with_odd_letters_are_not_told(password: str, hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "")
    address = f"http://anna:{password}@127.0.0.1:9"
    monkeypatch.setenv("HF_ENDPOINT", address)
    use_endpoint(address, monkeypatch)
    told = told_of_refusal()
    monkeypatch.setenv("HF_ENDPOINT", "https://hub.test")
    use_endpoint("https://hub.test", monkeypatch)
    for proxy in (address, address.removeprefix("http://"), address.replace("http", "what")):
        monkeypatch.setenv("https_proxy", proxy)
        told += told_of_refusal()
    assert not [part for part in ("gehe", "imnis", "anna") if part in told], told


def test_an_unforeseen_error_tells_none(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: HubServer, tiny_sd1: Path
) -> None:
    def fail(*_: object) -> None:
        raise ValueError(f"{TOKEN} at https://anna:{PASSWORD}@mirror/x?token={FILED}&x=1")

    monkeypatch.setattr("lora_core.training.job.prepare", fail)
    error, told = trained(config_for(tiny_sd1, pictures, tmp_path / "out"))
    assert isinstance(error, ValueError) and "https://mirror/x?token=…&x=1" in told
    assert leaks(tmp_path / "out", told.replace(str(error), "")) == []


@pytest.mark.parametrize(
    "address",
    [
        f"https://anna:{PASSWORD}@mirror/{ID}",
        f"https://anna:ge/{PASSWORD}@mirror/{ID}",
        f"https://mirror/{ID}?token={TOKEN}",
        f"huggingface.co/{ID}?download=true&token={PASSWORD}",
        f"https://huggingface.co/{ID}#access_token={PASSWORD}",
        f"hf://{TOKEN}@{ID}",
    ],
)
def test_a_base_model_with_a_secret_in_it_is_refused(address: str) -> None:
    with pytest.raises(ConfigError, match="hf auth login") as refused:
        TrainConfig.of({"pretrained_model_name_or_path": address})
    assert leaks(str(refused.value)) == []


def test_a_base_model_without_one_is_not(tmp_path: Path) -> None:
    for name in (f"https://huggingface.co/{ID}/tree/main?x=1", f"hf://{ID}@main", str(tmp_path / "hf_downloads1 a@b")):
        TrainConfig.of({"pretrained_model_name_or_path": name})


def test_the_terminal_does_not_quote_it(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    address = f"https://anna:{PASSWORD}@mirror/{ID}?token={TOKEN}"
    words = ["--pretrained_model_name_or_path", address, "--train_data_dir", str(tmp_path), "--verbose"]
    done = subprocess.run(
        [sys.executable, str(ROOT / "treino.py"), *words], capture_output=True, text=True, encoding="utf-8", timeout=200
    )
    assert done.returncode == 2 and done.stderr and leaks(done.stdout + done.stderr) == []
    assert cli.main(["info", address]) == 2
    said = capfd.readouterr()
    assert said.err.count("treino: ") == 1 and leaks(said.out + said.err) == []


def test_the_set_up_s_log_holds_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", f"http://anna:ge/{PASSWORD}@127.0.0.1:9")
    monkeypatch.setenv("PIP_EXTRA_INDEX_URL", f"https://one.test/simple https://anna:ge#{PASSWORD}@two.test/simple")
    script = (
        "import os; print('Looking in indexes:', os.environ['PIP_EXTRA_INDEX_URL']);"
        "raise SystemExit('InvalidURL: Failed to parse: ' + os.environ['https_proxy'])"
    )
    with open(tmp_path / "lock", "wb") as lock, pytest.raises(SetupError) as told:
        pip.run([sys.executable, "-c", script], tmp_path / "pip.log", lock.fileno(), print)
    log = (tmp_path / "pip.log").read_text(encoding="utf-8")
    assert "https://one.test/simple https://two.test/simple" in log and "parse: http://127.0.0.1:9" in str(told.value)
    assert leaks(log + str(told.value)) == []


def test_the_window_keeps_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TREINO_PASSWORD", PASSWORD)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    window = start_window(tmp_path, "--listen", "0.0.0.0")
    try:
        note = window.home / "running.json"
        proof = json.loads(note.read_text(encoding="utf-8"))["secret"]
        local, form = window.url.replace("0.0.0.0", "127.0.0.1"), {"Content-Type": "application/x-www-form-urlencoded"}
        answers = [ask(local, "GET", path) for path in ("/", "/en/", "/who?challenge=1", "/ping")]
        answers.append(ask(local, "POST", "/login", b"password=wrong", form))
        entered = ask(local, "POST", "/login", f"password={PASSWORD}".encode(), form)
        cookie = entered.headers["set-cookie"].split(";")[0]
        answers += [ask(local, "GET", path, headers={"Cookie": cookie}) for path in ("/ping", "/en/", "/en/config")]
        assert [answer.status for answer in answers[-3:]] == [200] * 3
        assert os.name == "nt" or note.stat().st_mode & 0o077 == 0
    finally:
        window.stop()
    said = "".join(f"{answer.headers}{answer.body.decode('utf-8', 'replace')}" for answer in answers)
    assert leaks(tmp_path, said) == [] and proof not in said
    kept = b"".join(path.read_bytes() for path in tmp_path.rglob("*") if path.is_file())
    assert proof.encode() not in kept and cookie.partition("=")[2].encode() not in kept


def test_the_window_s_own_secret_is_never_open_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    modes, move = [], files.replace_with_retry

    def watch(src: Path, dst: Path) -> None:
        modes.append(src.stat().st_mode & 0o777)
        move(src, dst)

    monkeypatch.setattr(files, "replace_with_retry", watch)
    instance.note(tmp_path, instance.Running("http://127.0.0.1:1/", os.getpid(), "s" * 64))
    assert (tmp_path / "running.json").is_file() and (os.name == "nt" or modes == [0o600])


def test_a_window_that_cannot_start_tells_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)

    class Broken:
        check = SimpleNamespace(make_way=lambda seconds: True)

        @property
        def uploads(self) -> Path:
            raise ValueError(f"{TOKEN} at https://anna:{PASSWORD}@mirror")

    app: Any = Broken()
    server = door.Server(app, door.parse(["--no-window"]), "", instance.Running("", 0, ""))
    with socket.socket() as listener:
        server.serve(listener)
    said = capfd.readouterr().err
    assert "Traceback" in said and leaks(said) == []


def test_headers_and_lone_tokens_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", f"http://{PASSWORD}@proxy:8080")
    monkeypatch.setenv("HF_ENDPOINT", "https://anna:p%40ss@mirror")
    basic = base64.b64encode(b"anna:p@ss").decode()
    said = f"b'Bearer {FILED[3:]}', Basic {basic}, {PASSWORD}, https://{FILED}@mirror, ('{PASSWORD}', '')"
    assert redact(said) == "b'Bearer …', Basic …, …, https://mirror, ('…', '')"


def test_what_is_no_secret_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://host:8080")
    plain = (
        "C:\\Users\\anna@home, a@b, https://mirror/x?page=2, https://mirror:8443/a@b, hf_hub, //server/share, token ids, "
        "key=1, Basic settings, Bearer of news, 'x', invalid literal for int() with base 10: '3.5'"
    )
    assert redact(plain) == plain
