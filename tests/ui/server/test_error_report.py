"""The report of an error: versions and settings for who helps, nothing private unless asked."""

from __future__ import annotations

from pathlib import Path

import pytest

from lora_core.config import TrainConfig, read_values
from lora_core.errors import UserError
from lora_core.runs.run import Run
from lora_core.ui.server.error_report import crash_panel, report, settings_line
from lora_core.ui.shared.crash import CrashReport, public, shortened
from lora_core.ui.shared.texts import Texts
from lora_core.ui.state.app import App


@pytest.fixture
def crash(tmp_path: Path) -> CrashReport:
    def fail(prompt: str) -> None:
        raise ValueError(f"no such word: {prompt} in {Path.home() / 'Maria' / 'cat.png'}")

    try:
        fail("a photo of Maria")
    except ValueError as error:
        return App(tmp_path, tmp_path).note_crash("tests.fail", error)
    raise AssertionError


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "Maria")
    config = TrainConfig(
        train_data_dir=str(tmp_path / "Maria"), trigger_word="maria", sample_prompts=("Maria <b>",), lora_rank=7,
        pretrained_model_name_or_path="starter", output_dir=str(run.folder), optimizer="adafactor",
    )  # fmt: skip
    run.begin(config)
    return run


def test_what_helps_is_told(crash: CrashReport, run: Run) -> None:
    told = report(crash, run, private=False)
    assert "Python 3." in told and "torch " in told and "gradio " in told and "While: tests.fail" in told
    assert "lora_rank = 7" in told and "optimizer = adafactor" in told and "ValueError: …" in told
    assert "trigger_word = …" in told and "test_ui_report.py" not in told.split("File ")[0]


def test_what_is_private_is_not_unless_asked(crash: CrashReport, run: Run) -> None:
    told, all_of_it = report(crash, run, private=False), report(crash, run, private=True)
    for secret in ("Maria", "maria", str(Path.home()), str(run.folder), "starter"):
        assert secret not in told, secret
    for secret in ("a photo of Maria", "trigger_word = maria", str(run.folder)):
        assert secret in all_of_it, secret


@pytest.mark.parametrize(
    ("path", "left"),
    [
        ("/home/maria/treino/lora_core/training/job.py", "lora_core/training/job.py"),
        ("/home/maria/lora_core/treino/lora_core/ui/state/app.py", "lora_core/ui/state/app.py"),
        ("/home/maria/lib/treino/.venv/lib/python3.11/site-packages/torch/lib/x.py", "site-packages/torch/lib/x.py"),
        ("/usr/lib/python3.12/threading.py", "lib/python3.12/threading.py"),
        ("C:\\Users\\Maria\\site-packages\\torch\\x.py", "site-packages\\torch\\x.py"),
        ("C:\\Users\\Maria\\Python311\\Lib\\json\\decoder.py", "Lib\\json\\decoder.py"),
        ("C:\\Users\\Maria\\other\\x.py", "<path>"),
        ("\\\\server\\Maria\\x.py", "<path>"),
        ("<frozen importlib._bootstrap>", "<frozen importlib._bootstrap>"),
        ("<Maria>", "<path>"),
    ],
)
def test_a_path(path: str, left: str) -> None:
    assert shortened(path) == left


def test_all_that_led_to_it_is_told_and_none_of_its_words() -> None:
    try:
        try:
            read_values(Path("Maria"))  # a file of ours, whose source may be shown
        except UserError as error:
            raise ExceptionGroup("Maria", [ValueError('one\nMaria two\n\n  File "Maria", line 3'), error]) from error
    except ExceptionGroup as error:
        told = public(error)
    assert "Maria" not in told and "aria two" not in told
    for name in ("builtins.ExceptionGroup: …", "builtins.ValueError: …", "UserError: …", 'File "lora_core/', "raise "):
        assert name in told, name


def test_errors_in_a_circle_are_told_once() -> None:
    error, other = ValueError(), KeyError()
    error.__context__, other.__context__ = other, error
    assert public(error).splitlines() == ["builtins.ValueError: …", "", "Before, or within:", "builtins.KeyError: …"]


def test_a_run_without_settings(tmp_path: Path, crash: CrashReport) -> None:
    assert settings_line(Run(tmp_path / "none"), private=False) == "unknown"
    assert "Settings" not in report(crash, None, private=False)


@pytest.mark.parametrize("language", ["en", "pt-BR"])
def test_the_panel(crash: CrashReport, run: Run, language: str) -> None:
    panel = crash_panel(crash, run, Texts(language))
    assert panel.count("<details>") == 1 and "<details open" not in panel
    assert "<b>" not in panel and "&lt;b&gt;" in panel
    assert panel.count('data-crash="') == 3
