"""The core's English sentences in the language of the page.

The core tells notices and errors as whole sentences. Their English templates stand in `locale/en/events.toml`, word for
word; a sentence that fits one is said with the same entry of the page's language, anything else stays as it is.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from lora_core.messages import PLAIN, Message
from lora_core.ui.shared.texts import load

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

# What is not always there, and would be taken for a part of what is before.
_ADDED = {"through": " through the proxy .+?|"}


def translated(sentence: str | Message, text: Texts) -> str:
    """A sentence of the core in the language of `text`."""
    if isinstance(sentence, Message):
        if sentence.key != PLAIN:
            return text.say(sentence)
        sentence = str(sentence)
    if text.language == "en":
        return sentence
    for key, pattern in _patterns():
        if match := pattern.fullmatch(sentence):
            return text(key, **{name: translated(part, text) for name, part in match.groupdict().items()})
    return sentence


@functools.cache
def _patterns() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Each English template as a pattern, the most specific first."""
    english = load("en")
    keys = [key for key in english if key.startswith(("events.", "problems."))]
    keys.sort(key=lambda key: -len(re.sub(r"\{\w+\}", "", english[key])))
    return tuple((key, _pattern(english[key])) for key in keys)


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
            parts.append(f"(?P<{name}>{_ADDED.get(name, '.+?')})")
    return re.compile("".join(parts), re.DOTALL)
