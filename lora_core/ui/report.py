"""The error panel, and the report a person can copy from it: versions and settings, no private paths or prompts."""

from __future__ import annotations

import importlib.metadata
import platform
import re
from html import escape
from pathlib import Path

from lora_core import __version__
from lora_core.ui.app import Trouble
from lora_core.ui.texts import Texts

PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "gradio")
# Windows and POSIX paths of two parts and more, in quotes or not.
_PATH = re.compile(r"(?:[A-Za-z]:[\\/]|\\\\|/)(?:[^\s\"'<>|:*?\\/]+[\\/])+[^\s\"'<>|:*?]*")
_OURS = re.compile(r"(?:lora_core|site-packages|lib)[\\/].*")


def trouble_panel(trouble: Trouble, text: Texts) -> str:
    """The panel as HTML: what happened, what to do, the details folded, and a button that copies the report."""
    public, private = report(trouble, False), report(trouble, True)
    return (
        f'<section class="trouble" role="alert" aria-label="{escape(text("frame.trouble"))}">'
        f"<h2>{escape(text('frame.trouble'))}</h2><p>{escape(text('frame.trouble_what'))}</p>"
        f"<details><summary>{escape(text('frame.trouble_details'))}</summary>"
        f'<pre class="public">{escape(public)}</pre><pre class="private" hidden>{escape(private)}</pre></details>'
        f'<label><input type="checkbox" data-trouble="private"> {escape(text("frame.trouble_private"))}</label> '
        f'<button type="button" data-trouble="copy">{escape(text("frame.trouble_copy"))}</button> '
        f'<button type="button" data-trouble="close">{escape(text("frame.trouble_close"))}</button></section>'
    )


def report(trouble: Trouble, private: bool) -> str:
    """Versions and traceback; unless `private`, paths are cut to what is ours and the error's own words are left out."""
    lines = [
        f"Treino {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        f"While: {trouble.what}",
        "",
        trouble.report if private else public(trouble.report),
    ]
    return "\n".join(lines)


def public(traceback: str) -> str:
    """A traceback without private paths, and without the messages of errors, which quote prompts and captions."""
    lines = []
    for line in traceback.splitlines():
        if not line.startswith(" ") and re.match(r"[\w.]+(Error|Exception|Interrupt|Exit|Warning)?: ", line):
            line = line.split(": ", 1)[0] + ": …"
        lines.append(_PATH.sub(lambda found: _shortened(found[0]), line))
    return "\n".join(lines).replace(str(Path.home()), "~")


def _shortened(path: str) -> str:
    """The part of a path that lies in Treino or in a package, or a placeholder."""
    ours = _OURS.search(path)
    return ours[0] if ours else "<path>"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
