"""Captions: text files beside the pictures, in whatever encoding they come, and edits of many at once.

The edits are pure functions: they take the captions by path and return those that would change, for a preview.
`CaptionEditor` (caption_editor.py) writes them to disk and takes them back.
"""

from __future__ import annotations

import codecs
import re
import stat
import unicodedata
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.system import windows

UNKNOWN = "unknown"
MAX_BYTES = 4 << 20  # a text file larger than this is no caption
Captions = Mapping[Path, str]


def caption_path(picture: Path) -> Path:
    """The text file that belongs to a picture: the same name ending in .txt (or .TXT, where only that exists)."""
    usual = picture.with_suffix(".txt")
    shouting = picture.with_suffix(".TXT")
    return shouting if not usual.exists() and shouting.exists() else usual


class CaptionError(OSError):
    """A file that is no caption, or not on this computer; `message` says why."""

    def __init__(self, message: Message) -> None:
        super().__init__(str(message))
        self.message = message


@dataclass(frozen=True)
class Caption:
    """What a caption file says, cleaned (see `clean`), how it was encoded (see `decode`), and whether it held junk."""

    text: str
    encoding: str
    has_junk: bool


def read_caption(path: Path) -> Caption:
    """The caption in a text file. Raises OSError when it cannot be read."""
    raw, encoding = decode(caption_bytes(path))
    return Caption(clean(raw), encoding, has_junk(raw))


def why_unreadable(error: OSError) -> Message | str:
    """The reason for an OSError of `read_caption` or `caption_bytes`, as part of a sentence."""
    return error.message if isinstance(error, CaptionError) else error.strerror or str(error)


def caption_bytes(path: Path) -> bytes:
    """What a caption file holds. Raises OSError, also for files too large to be captions and for pipes."""
    path = windows.reachable(path)
    if windows.is_in_cloud(path):
        raise CaptionError(Message("dataset.value_in_cloud"))  # reading would wait for a download
    about = path.stat()
    if about.st_size > MAX_BYTES:
        raise CaptionError(Message("dataset.value_too_large", most=MAX_BYTES >> 20))
    if not stat.S_ISREG(about.st_mode):
        raise CaptionError(Message("dataset.value_no_file"))  # opening a pipe would wait for ever
    return path.read_bytes()


def decode(data: bytes) -> tuple[str, str]:
    """Text and encoding of a caption file: "utf-8", "utf-8-sig", "utf-16", "cp932", "cp1252" or "unknown".

    The order goes from what proves itself to what is guessed:
    1. a byte order mark says UTF-8 or UTF-16 (Notepad writes both);
    2. many NULs are UTF-16 without a mark;
    3. text that is valid UTF-8 and has other than ASCII letters is almost never anything else;
    4. of cp1252 (Western Windows) and cp932 (Japanese Windows) the one that can be decoded;
    5. when both can, cp932 if it gives kana, or if cp1252 gives signs no caption holds, else cp1252: Portuguese "ção"
       is also a valid pair of kanji, but no Western text spells hiragana;
    6. when neither can, cp1252 with a replacement character for each unknown byte, told as "unknown".
    """
    if data.startswith(codecs.BOM_UTF8):
        return data.decode("utf-8-sig", "replace"), "utf-8-sig"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return data.decode("utf-16", "replace"), "utf-16"
    if data.count(0) * 3 > len(data) and len(data) % 2 == 0:
        big_end = data[::2].count(0) > data[1::2].count(0)
        return data.decode("utf-16-be" if big_end else "utf-16-le", "replace"), "utf-16"
    if (text := _strictly(data, "utf-8")) is not None:
        return text, "utf-8"
    western, japanese = _strictly(data, "cp1252"), _strictly(data, "cp932")
    if japanese is not None and (western is None or _is_japanese(japanese, western)):
        return japanese, "cp932"
    if western is not None:
        return western, "cp1252"
    return data.decode("cp1252", "replace"), UNKNOWN


def clean(text: str) -> str:
    """`text` with \\n as line end and without control characters, byte order marks and outer white space."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    junk = {ord(c): None for c in set(text) if c not in "\n\t" and _is_junk(c)}  # few kinds, in up to a megabyte
    return (text.translate(junk) if junk else text).strip()


def has_junk(text: str) -> bool:
    """Whether `clean` would drop a control character."""
    return any(_is_junk(c) for c in set(text) if c not in "\r\n\t")


def find_replace(
    captions: Captions, find: str, replace: str, *, regex: bool = False, ignore_case: bool = False
) -> dict[Path, str]:
    """`replace` in place of each `find`; with `regex` both are Python's, groups included. Raises UserError."""
    if not find:
        raise UserError("dataset.nothing_to_find")
    try:
        pattern = re.compile(find if regex else re.escape(find), re.IGNORECASE if ignore_case else 0)
        return _changed(captions, lambda text: pattern.sub(replace if regex else lambda _: replace, text))
    except (re.error, IndexError, RecursionError, OverflowError) as error:
        raise UserError("dataset.bad_pattern", why=error) from error


def add_prefix(captions: Captions, prefix: str) -> dict[Path, str]:
    """`prefix`, taken literally, before every caption."""
    return _changed(captions, lambda text: prefix + text)


def add_suffix(captions: Captions, suffix: str) -> dict[Path, str]:
    """`suffix`, taken literally, after every caption."""
    return _changed(captions, lambda text: text + suffix)


def add_trigger(captions: Captions, trigger: str) -> dict[Path, str]:
    """ "trigger, caption" for every caption that does not hold the trigger word yet, in any case."""
    trigger = trigger.strip()
    if not trigger:
        raise UserError("dataset.no_trigger_word")
    held = re.compile(rf"(?<!\w){re.escape(trigger)}(?!\w)", re.IGNORECASE)
    return _changed(captions, lambda text: text if held.search(text) else f"{trigger}, {text}" if text else trigger)


def remove_tag(captions: Captions, tag: str) -> dict[Path, str]:
    """Captions without the comma-separated tag, in any case; the other tags keep their order."""
    unwanted = tag.strip().casefold()

    def without(text: str) -> str:
        kept = [each for each in tags(text) if each.casefold() != unwanted]
        return ", ".join(kept) if len(kept) < len(tags(text)) else text

    return _changed(captions, without)


def tags(text: str) -> list[str]:
    """The comma-separated parts of a caption; a sentence without commas is one."""
    return [part for part in (" ".join(piece.split()) for piece in text.split(",")) if part]


def tag_counts(captions: Captions) -> dict[str, int]:
    """How many captions hold each tag, in any case: the most frequent first, equals by name."""
    spellings: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for text in captions.values():
        for tag in tags(text):
            spellings.setdefault(tag.casefold(), tag)
        counts.update({tag.casefold() for tag in tags(text)})
    ordered = sorted(counts.items(), key=lambda pair: (-pair[1], pair[0]))
    return {spellings[tag]: count for tag, count in ordered}


def _changed(captions: Captions, edit: Callable[[str], str]) -> dict[Path, str]:
    edited = {path: clean(edit(text)) for path, text in captions.items()}
    return {path: text for path, text in edited.items() if text != captions[path]}


def _strictly(data: bytes, encoding: str) -> str | None:
    try:
        return data.decode(encoding)
    except UnicodeDecodeError:
        return None


def _is_japanese(japanese: str, western: str) -> bool:
    has_kana = any("\u3041" <= c <= "\u30ff" for c in japanese)
    return has_kana or _UNLIKELY.search(western) is not None


# What kanji look like in cp1252: signs nobody types, a closing mark stuck before a word, a capital inside one.
_UNLIKELY = re.compile("[‚ƒ„†‡ˆ‰‹›˜]|(?<!\\S)[”–—™]\\w|[a-zà-öø-ÿ][ŠŒŽŸ]")


def _is_junk(character: str) -> bool:
    # Cc: control characters, Cs: half a surrogate pair, which UTF-8 cannot hold; U+FEFF: a stray byte order mark.
    return character == "\ufeff" or unicodedata.category(character) in ("Cc", "Cs")
