"""What the Dataset tab says of problems and edits, in the language of the page."""

from __future__ import annotations

from typing import TYPE_CHECKING

from lora_core import captioners
from lora_core.dataset import Problem, caption_editor, edit_log
from lora_core.ui.shared.translate import translated

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

_SIGN = "@"
# Values of a problem that are words of ours, and not of the person or the system.
_VALUES = {
    "an empty caption": "problems.value_empty_caption",
    "an HTML page": "problems.value_html",
    "a text file": "problems.value_text",
    "an unknown file": "problems.value_unknown",
    "a video": "problems.value_video",
    "a HEIC photo": "problems.value_heic",
    "an SVG drawing": "problems.value_svg",
    "a PDF document": "problems.value_pdf",
    "a zip archive": "problems.value_zip",
    "a Photoshop file": "problems.value_photoshop",
    "a PostScript file": "problems.value_postscript",
    "a GIMP file": "problems.value_gimp",
    "its first bytes make no sense": "problems.value_first_bytes",
    "it needs more memory than there is": "problems.value_memory",
    "not a file": "problems.value_no_file",
    "it is only in the cloud": "problems.value_in_cloud",
}
_LABELS = {
    caption_editor.OUTSIDE: "dataset.did_outside",
    edit_log.EARLIER: "dataset.did_earlier",
    captioners.LABEL: "dataset.did_described",
}


def said(problem: Problem, text: Texts) -> str:
    """The sentence of a problem."""
    values = {name: text(_VALUES[value]) if value in _VALUES else value for name, value in problem.values}
    return text(f"problems.{problem.kind}", **values)


def label(kind: str, *values: str) -> str:
    """How an edit is kept in the history of a dataset: in no language, so that `spoken` can say it in each."""
    return _SIGN + "\t".join((kind, *(value.replace("\t", " ") for value in values)))


def spoken(kept: str, text: Texts) -> str:
    """What an edit was, from its label; labels of other programs are said as they are."""
    if kept in _LABELS:
        return text(_LABELS[kept])
    kind, *values = kept.removeprefix(_SIGN).split("\t")
    key = f"dataset.did_{kind}"
    if not kept.startswith(_SIGN) or key not in text:
        return kept
    given = {name: value if len(value) <= 40 else f"{value[:39]}…" for name, value in zip("ab", values, strict=False)}
    return text(key, **{"a": "", "b": "", **given})


def complaint(error: Exception, text: Texts) -> str:
    """An error for people, in the language of the page as far as it is known."""
    return translated(str(error), text)
