"""The window: header, tabs and footer, built once per language."""

from __future__ import annotations

import functools
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core import __version__
from lora_core.messages import LANGUAGES
from lora_core.ui.shared.texts import NAMES, Texts
from lora_core.ui.shared.upload_check import refuse_strange_files
from lora_core.ui.state.app import App
from lora_core.ui.tabs.dataset import tab as dataset
from lora_core.ui.tabs.export import tab as export
from lora_core.ui.tabs.page import TABS, Page
from lora_core.ui.tabs.playground import tab as playground
from lora_core.ui.tabs.runs import tab as runs
from lora_core.ui.tabs.train import tab as train

ASSETS = Path(__file__).parent / "assets"
BUILD = {
    "dataset": dataset.build,
    "train": train.build,
    "test": playground.build,
    "export": export.build,
    "runs": runs.build,
}
APPEARANCES = ("system", "light", "dark")


def build(app: App, language: str) -> gr.Blocks:
    """The page of one language."""
    text = Texts(language)
    options = {"analytics_enabled": False, "fill_width": True, "delete_cache": (3600, 86400)}  # seconds: look, and age
    with gr.Blocks(title=text("frame.title"), **options) as blocks:
        gr.HTML(_header(text), elem_id="header")
        # Filled by frame.js, which asks for them: a page that is only open costs no event of Gradio's.
        gr.HTML('<div id="crash"></div><p id="gone" role="alert"></p>', elem_id="told")
        with gr.Tabs(elem_id="tabs", selected=TABS[0]) as tabs:
            pass  # what else the page holds must not lie between the tabs: Gradio counts it as one
        page = Page(app, text, tabs)
        with tabs:
            for name in TABS:
                with gr.Tab(text(f"frame.{name}"), id=name, elem_id=f"tab-{name}"):
                    BUILD[name](page)
        gr.HTML(_footer(text), elem_id="footer")
        gr.HTML('<div id="say" role="status" aria-live="polite"></div>', elem_id="spoken")
    _take_only_uploads(blocks, app.uploads)
    return blocks


def _take_only_uploads(blocks: gr.Blocks, uploads: Path) -> None:
    """Look through the data of every event before Gradio does."""
    prepare = blocks.preprocess_data

    async def checked(block_fn: Any, inputs: list[Any], *more: Any, **options: Any) -> Any:
        refuse_strange_files(inputs, uploads)
        return await prepare(block_fn, inputs, *more, **options)

    blocks.preprocess_data = checked


@functools.cache
def asset_names() -> frozenset[str]:
    """What the page may ask for under /assets/."""
    return frozenset(path.name for path in ASSETS.iterdir() if path.suffix in (".js", ".css", ".svg", ".png", ".ico"))


def scripts() -> list[Path]:
    """The pages' own scripts."""
    return sorted(ASSETS.glob("*.js"))


def _header(text: Texts) -> str:
    here = {text.language: ' aria-current="true"'}
    links = "".join(
        f'<a href="/{language}/" lang="{language}" hreflang="{language}"{here.get(language, "")}>{NAMES[language]}</a>'
        for language in LANGUAGES
    )
    choices = "".join(f'<option value="{name}">{escape(text(f"frame.appearance_{name}"))}</option>' for name in APPEARANCES)
    stop = escape(text("train.check_stop"))
    return (
        f'<div class="treino-header"><img src="/assets/icon.svg" alt="" width="36" height="36">'
        f"<h1>{escape(text('frame.title'))}</h1><p>{escape(text('frame.tagline'))}</p>"
        f'<span id="core" role="status"></span>'
        f'<span id="checking" hidden><span role="status"></span>'
        f'<button type="button" data-check="stop">{stop}</button></span>'
        f'<label class="treino-appearance"><span>{escape(text("frame.appearance"))}</span>'
        f'<select id="appearance">{choices}</select></label>'
        f'<nav aria-label="{escape(text("frame.language"))}">{links}</nav></div>'
    )


def _footer(text: Texts) -> str:
    return f"<p>{escape(text('frame.title'))} {__version__}</p>"
