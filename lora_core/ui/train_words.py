"""The core's English sentences in the language of the page.

The core tells notices and errors as whole sentences. Their English templates stand in `locale/en/events.toml`, word for
word; a sentence that fits one is said with the same entry of the page's language, anything else stays as it is.
"""

from __future__ import annotations

import functools
import re
from typing import TYPE_CHECKING

from lora_core.ui.texts import load

if TYPE_CHECKING:
    from lora_core.ui.texts import Texts

SENTENCES = (
    "few_pictures", "one_save", "no_trigger", "cpu_format", "no_bf16", "dataset_changed", "no_cache", "more_like_it",
    "gpu_memory", "start_with", "memory", "diverged", "file_unusable", "unforeseen", "folder_missing",
    "folder_is_file", "folder_closed", "folder_empty", "folder_others", "none_readable", "picture_kinds", "base_missing",
    "base_unloadable", "base_no_index", "odd_size", "other_settings", "other_base", "no_space", "checkpoint_damaged",
    "no_checkpoint", "folder_unwritable", "no_such_layers", "disk_full", "busy", "nothing_going_on", "preset_gone",
    "preset_nameless", "file_missing", "file_no_settings", "file_not_toml",
)  # fmt: skip


def translated(sentence: str, text: Texts) -> str:
    """A sentence of the core in the language of `text`."""
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
    keys = [*(f"events.{name}" for name in SENTENCES), *(key for key in english if key.startswith("problems."))]
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
            parts.append(f"(?P<{name}>.+?)")
    return re.compile("".join(parts), re.DOTALL)
