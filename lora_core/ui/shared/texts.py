"""What the window says, in the languages it speaks: `locale/<language>/<file>.toml`, called by "file.name"."""

from __future__ import annotations

import functools
import tomllib
from collections.abc import Sequence
from pathlib import Path

from lora_core import messages
from lora_core.messages import LANGUAGES, Message

NAMES = {"en": "English", "pt-BR": "Português"}
LOCALE = Path(__file__).parents[1] / "locale"


class Texts:
    """The texts of one language. Calling it with a key gives the text, with `{name}` filled in from `values`."""

    def __init__(self, language: str) -> None:
        assert language in LANGUAGES, language
        self.language = language
        self._texts = load(language)

    def __call__(self, key: str, **values: object) -> str:
        return self._texts[key].format(**values) if values else self._texts[key]

    def say(self, message: Message) -> str:
        """A sentence of the core."""
        return messages.say(message, self.language)

    def number(self, figure: object) -> str:
        """A figure as the language writes it: 1.5 is 1,5 in Portuguese, and 1,000 is 1.000."""
        return messages.localized(str(figure), self.language)

    def size(self, count: float) -> str:
        """Bytes as people read them."""
        for unit, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
            if count >= unit:
                return self.number(f"{count / unit:.1f} {name}")
        return f"{count:.0f} B"

    def __contains__(self, key: str) -> bool:
        return key in self._texts


@functools.cache
def load(language: str) -> dict[str, str]:
    """Every text of a language by its key."""
    texts = {}
    for path in sorted((LOCALE / language).glob("*.toml")):
        for name, text in tomllib.loads(path.read_text(encoding="utf-8")).items():
            texts[f"{path.stem}.{name}"] = str(text)
    return texts


def preferred(accept: str, chosen: str = "") -> str:
    """The language to greet in: the chosen one, else the first that a browser's Accept-Language asks for, else English."""
    if chosen in LANGUAGES:
        return chosen
    for wanted in _asked(accept):
        for language in LANGUAGES:
            if wanted.lower().split("-")[0] == language.lower().split("-")[0]:
                return language
    return LANGUAGES[0]


def _asked(accept: str) -> Sequence[str]:
    """The languages of an Accept-Language header, the most wanted first."""
    weighed = []
    for position, part in enumerate(accept.split(",")[:20]):
        name, _, weight = part.strip().partition(";q=")
        try:
            weighed.append((-float(weight or 1), position, name))
        except ValueError:
            continue
    return [name for *_, name in sorted(weighed)]
