"""What the window says: every text that is asked for is there in both languages, and no text is left over."""

from __future__ import annotations

import ast
import functools
import re
import string
import tomllib
from pathlib import Path

import pytest

from lora_core.messages import LANGUAGES
from lora_core.ui.shared import texts
from lora_core.ui.shared.texts import LOCALE, NAMES, Texts, load, preferred

UI = LOCALE.parent
FILES = sorted(path.stem for path in (LOCALE / "en").glob("*.toml"))
# What the core says in English by itself: its help and its presets; only the other language needs texts.
TRANSLATED = ("settings.help_", "train.preset_")
_KEY = re.compile(rf"(?:{'|'.join(FILES)})\.(?!html$|json$|css$|js$)\w+")
_NOTHING = string.Formatter()


def fields(text: str) -> set[str]:
    return {name for _, name, _, _ in _NOTHING.parse(text) if name is not None}


def spoken() -> tuple[set[str], set[str]]:
    """Keys that the code names in full, and patterns of those that it puts together; with a word for each hole."""
    keys, patterns = set(), set()
    for path in UI.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        other = {id(part) for node in ast.walk(tree) if _is_no_text(node) for part in ast.iter_child_nodes(node)}
        for node in ast.walk(tree):
            if id(node) in other:
                continue
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and _KEY.fullmatch(node.value):
                keys.add(node.value)
            elif isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else None for p in node.values]
                begins = isinstance(parts[0], str) and re.match(rf"(?:{'|'.join(FILES)})\.\w*", parts[0])
                if begins and all(p is None or re.fullmatch(r"[\w.]+", str(p)) for p in parts):
                    patterns.add("".join(r"\w+" if p is None else re.escape(str(p)) for p in parts))
    return keys, patterns


def _is_no_text(node: ast.AST) -> bool:
    """Pieces of a text that is put together, and names of what is remembered."""
    called = node.func.attr if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) else ""
    return isinstance(node, ast.JoinedStr) or called.lstrip("_") in ("recall", "remember")


@functools.cache
def words() -> tuple[set[str], set[re.Pattern[str]]]:
    """Every name that is a string somewhere in the window or in the core, and patterns of those that are put together."""
    found: set[str] = set()
    made: set[re.Pattern[str]] = set()
    for path in UI.parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                found |= set(re.findall(r"\w+", f"{node.value} {node.value.lower()}"))
            elif isinstance(node, ast.JoinedStr):
                parts = [str(p.value) if isinstance(p, ast.Constant) else r"(\w+)" for p in node.values]
                if re.fullmatch(r"\w+", "".join(p for p in parts if p != r"(\w+)")):
                    made.add(re.compile("".join(parts)))
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                found.add(node.target.id)  # a field of the settings
            elif isinstance(node, ast.ClassDef | ast.FunctionDef):
                found |= {node.name, node.name.lower()}
    for path in (*UI.glob("assets/*.js"), *UI.glob("assets/*.html")):
        found |= set(re.findall(r"\w+", path.read_text(encoding="utf-8")))
    return found, made


def test_no_text_is_missing() -> None:
    keys, patterns = spoken()
    for language in LANGUAGES:
        known = [*load(language), *(TRANSLATED if language == "en" else ())]
        assert sorted(keys - set(known)) == [], language
        assert [p for p in sorted(patterns) if not any(re.fullmatch(p, key) for key in known)] == [], language


def test_no_text_is_left_over() -> None:
    keys, patterns = spoken()
    said, made = words()

    def is_said(word: str) -> bool:
        return word in said or any((found := p.fullmatch(word)) and said.issuperset(found.groups()) for p in made)

    for language in LANGUAGES:
        asked = [re.compile(p.replace(r"\w+", r"(\w+)")) for p in patterns]
        # What fills a hole must be a word that something can say.
        left = {
            key
            for key in load(language).keys() - keys
            if not any((found := p.fullmatch(key)) and all(is_said(word) for word in found.groups()) for p in asked)
        }
        assert left == set(), language


@pytest.mark.parametrize("file", FILES)
def test_both_languages_say_the_same(file: str) -> None:
    """The same keys, with the same things to fill in. The English help of settings stands beside them, in config.py."""
    english, portuguese = (
        {key: text for key, text in load(language).items() if key.startswith(f"{file}.")} for language in ("en", "pt-BR")
    )
    assert {key for key in portuguese.keys() - english.keys() if not key.startswith(TRANSLATED)} == set()
    assert english.keys() - portuguese.keys() == set()
    assert {k: fields(english[k]) for k in english} == {k: fields(portuguese[k]) for k in english}
    assert all(text.strip() for text in (*english.values(), *portuguese.values()))


def test_the_languages_have_the_same_files() -> None:
    assert sorted(path.stem for path in (LOCALE / "pt-BR").glob("*.toml")) == FILES
    assert set(NAMES) == set(LANGUAGES) == {path.name for path in LOCALE.iterdir()}


@pytest.mark.parametrize("path", sorted(LOCALE.glob("*/*.toml")), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_texts_are_flat(path: Path) -> None:
    assert all(isinstance(text, str) for text in tomllib.loads(path.read_text(encoding="utf-8")).values())


def test_a_text_is_filled_in() -> None:
    text = Texts("pt-BR")
    assert text("frame.title") == "Treino" and "frame.title" in text and "frame.nothing" not in text
    with pytest.raises(KeyError):
        text("frame.nothing")
    with pytest.raises(AssertionError):
        Texts("xx")


@pytest.mark.parametrize(
    ("accept", "chosen", "language"),
    [
        ("", "", "en"),
        ("pt-BR,pt;q=0.9,en;q=0.8", "", "pt-BR"),
        ("pt-PT", "", "pt-BR"),
        ("fr, en;q=0.5, pt;q=0.7", "", "pt-BR"),
        ("de", "", "en"),
        ("pt", "en", "en"),
        ("pt", "xx", "pt-BR"),
        ("pt;q=oops, *", "", "en"),
        ("en-US,en", "pt-BR", "pt-BR"),
    ],
)
def test_greeted_in(accept: str, chosen: str, language: str) -> None:
    assert preferred(accept, chosen) == language


def test_texts_are_read_once() -> None:
    assert texts.load("en") is texts.load("en")
