"""The core's English sentences in the language of the page.

The core tells notices and errors as whole sentences. Their English templates stand in `locale/en/events.toml`, word for
word; a sentence that fits one is said with the same entry of the page's language, anything else stays as it is.
"""

from __future__ import annotations

import functools
import re
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lora_core.ui.texts import Texts

ENGLISH = Path(__file__).parent / "locale" / "en"
FILES = ("events", "problems")  # of the training; of the pictures


def translated(sentence: str, text: Texts) -> str:
    """A sentence of the core in the language of `text`."""
    if text.language == "en":
        return sentence
    for key, pattern in _patterns():
        if match := pattern.fullmatch(sentence):
            return text(key, **match.groupdict())
    return sentence


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each English template as a pattern, the most specific first."""
    found = []
    for file in FILES:
        path = ENGLISH / f"{file}.toml"
        if path.is_file():
            entries = tomllib.loads(path.read_text(encoding="utf-8"))
            found += [(f"{file}.{key}", value) for key, value in entries.items() if isinstance(value, str)]
    found.sort(key=lambda entry: -len(re.sub(r"\{\w+\}", "", entry[1])))
    return tuple((key, _pattern(template)) for key, template in found)


def _pattern(template: str) -> re.Pattern[str]:
    seen: set[str] = set()
    parts = []
    for part in re.split(r"(\{\w+\})", template):
        name = part[1:-1]
        if not re.fullmatch(r"\{\w+\}", part):
            parts.append(re.escape(part))
        elif name in seen:
            parts.append(f"(?P={name})")
        else:
            seen.add(name)
            parts.append(f"(?P<{name}>.+?)")
    return re.compile("".join(parts), re.DOTALL)
