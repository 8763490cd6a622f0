"""Names: every one that passes can be a file on Windows, macOS and Linux and be called in a prompt."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lora_core.errors import UserError
from lora_core.system.file_names import check_name, next_free, plain


@pytest.mark.parametrize("name", ["zebu", "Meu LoRA v1.5", "coração", "猫", "a-b_c (2)", "console", "com10", "a" * 200])
def test_good_names_pass(name: str, tmp_path: Path) -> None:
    check_name(name, tmp_path, is_windows=False)
    (tmp_path / f"{name}.safetensors").write_bytes(b"")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("", "empty"), ("   ", "empty"), ("a:b", "':' is not allowed"), ("a/b", "'/' is not allowed"),
        ("a\\b", "not allowed"), ("..", "dots at the end"), ("name.", "dots at the end"), ("name ", "spaces"),
        (" name", "spaces"), ("CON", "keeps CON for a device"), ("con", "device"), ("nul.backup", "device"),
        ("COM1", "device"), ("lpt9.x.y", "device"), ("a?b", "not allowed"), ("a\nb", "not allowed"),
        ("<lora>", "not allowed"), ("a\x7f", "not allowed"), ("a\ud800", "not allowed"),
        ("\x85", "not allowed"), ("猫" * 67, "too long"),
    ],
)  # fmt: skip
def test_bad_names_are_told_with_the_reason(name: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        check_name(name, tmp_path, is_windows=False)


def test_a_path_too_long_for_windows_is_told_there_only(tmp_path: Path) -> None:
    folder = tmp_path / ("deep" * 12) / ("deep" * 12) / ("deep" * 12)
    check_name("n" * 120, folder, is_windows=False)
    with pytest.raises(UserError, match="too long for Windows"):
        check_name("n" * 120, folder, is_windows=True)


@given(st.text(max_size=300))
def test_anything_becomes_a_name_or_nothing(text: str) -> None:
    name = plain(text)
    if name:
        check_name(name, Path("folder"), is_windows=False)


@pytest.mark.parametrize(
    ("text", "name"), [("a zebu", "a zebu"), ("a:b", "a_b"), ("CON", "CON_"), ("...", ""), ("x. ", "x")]
)
def test_examples_of_names_made(text: str, name: str) -> None:
    assert plain(text) == name


def test_the_first_number_that_is_free_goes_behind_the_stem() -> None:
    assert next_free("a", lambda name: False) == "a"
    assert next_free("a", {"a", "a 2"}.__contains__) == "a 3"
    assert next_free("a", {"a.png", "a_2.png"}.__contains__, ".png", "_") == "a_3.png"
