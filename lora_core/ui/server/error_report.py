"""The error panel, and the report a person can copy from it: versions and settings, no private paths or prompts."""

from __future__ import annotations

import importlib.metadata
import platform
from html import escape

from lora_core import __version__
from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.runs.run import Run
from lora_core.settings import settings_of
from lora_core.ui.shared.crash import Trouble
from lora_core.ui.shared.texts import Texts

PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "gradio")


def trouble_panel(trouble: Trouble, run: Run | None, text: Texts) -> str:
    """The panel as HTML: what happened, what to do, the details folded, and a button that copies the report.

    run: the one that the window shows; its settings go into the report.
    """
    public, private = report(trouble, run, False), report(trouble, run, True)

    def say(name: str) -> str:
        return escape(text(f"frame.{name}"))

    return (
        f'<section class="trouble" role="alert" aria-label="{say("trouble")}">'
        f"<h2>{say('trouble')}</h2><p>{say('trouble_what')}</p>"
        f"<details><summary>{say('trouble_details')}</summary>"
        f'<pre class="public">{escape(public)}</pre><pre class="private" hidden>{escape(private)}</pre></details>'
        f'<div class="trouble-foot"><label><input type="checkbox" data-trouble="private"> {say("trouble_private")}</label> '
        f'<button type="button" data-trouble="copy">{say("trouble_copy")}</button> '
        f'<button type="button" data-trouble="close">{say("trouble_close")}</button></div></section>'
    )


def report(trouble: Trouble, run: Run | None, private: bool) -> str:
    """Versions, settings and traceback.

    Unless `private`, paths are cut to what is ours, and everything a person has typed is left out: the errors' own
    words, which quote it, and the settings that are free text.
    """
    lines = [
        f"Treino {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        *([f"Settings: {settings_line(run, private)}"] if run else []),
        f"While: {trouble.what}",
        "",
        trouble.report if private else trouble.public,
    ]
    return "\n".join(lines)


def settings_line(run: Run, private: bool) -> str:
    """The settings of a run that are not as they come, in one line."""
    try:
        config = run.config()
    except UserError:  # not written yet, or damaged
        return "unknown"
    told = []
    for name, known in settings_of(TrainConfig).items():
        value = getattr(config, name)
        if value != known.default:
            is_free_text = known.kind not in (bool, int, float) and not known.choices
            told.append(f"{name} = {'…' if is_free_text and not private else value}")
    return ", ".join(told)


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "missing"
