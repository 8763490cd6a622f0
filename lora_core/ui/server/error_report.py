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
from lora_core.ui.shared.crash import CrashReport
from lora_core.ui.shared.texts import Texts

PACKAGES = ("torch", "diffusers", "transformers", "peft", "safetensors", "gradio")


def crash_panel(crash: CrashReport, run: Run | None, text: Texts) -> str:
    """The panel as HTML: what happened, what to do, the details folded, and a button that copies the report.

    run: the one that the window shows; its settings go into the report.
    """
    public, private = report(crash, run, False), report(crash, run, True)

    def say(name: str) -> str:
        return escape(text(f"frame.{name}"))

    return (
        f'<section class="crash" role="alert" aria-label="{say("crash")}">'
        f"<h2>{say('crash')}</h2><p>{say('crash_what')}</p>"
        f"<details><summary>{say('crash_details')}</summary>"
        f'<pre class="public">{escape(public)}</pre><pre class="private" hidden>{escape(private)}</pre></details>'
        f'<div class="crash-foot"><label><input type="checkbox" data-crash="private"> {say("crash_private")}</label> '
        f'<button type="button" data-crash="copy">{say("crash_copy")}</button> '
        f'<button type="button" data-crash="close">{say("crash_close")}</button></div></section>'
    )


def report(crash: CrashReport, run: Run | None, private: bool) -> str:
    """Versions, settings and traceback.

    Unless `private`, paths are cut to what is ours, and everything a person has typed is left out: the errors' own
    words, which quote it, and the settings that are free text.
    """
    lines = [
        f"Treino {__version__}, Python {platform.python_version()}, {platform.system()} {platform.machine()}",
        ", ".join(f"{name} {_version(name)}" for name in PACKAGES),
        *([f"Settings: {settings_line(run, private)}"] if run else []),
        f"While: {crash.what}",
        "",
        crash.report if private else crash.public,
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
