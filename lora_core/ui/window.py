"""The window: header, tabs and error panel, built once per language."""

from __future__ import annotations

import importlib
import importlib.util
import json
from html import escape
from pathlib import Path

import gradio as gr

from lora_core import __version__
from lora_core.ui.app import App
from lora_core.ui.page import TABS, Page
from lora_core.ui.report import trouble_panel
from lora_core.ui.texts import LANGUAGES, NAMES, Texts

ASSETS = Path(__file__).parent / "assets"


def build(app: App, language: str) -> gr.Blocks:
    """The page of one language."""
    text = Texts(language)
    with gr.Blocks(title=text("frame.title"), analytics_enabled=False, fill_width=True) as blocks:
        gr.HTML(_header(text), elem_id="header")
        tick = gr.Timer(1.0)
        trouble, seen = gr.HTML("", elem_id="trouble"), gr.State(0)
        letters = {name: gr.State() for name in TABS}  # not within the Tabs, which would take each for a tab
        with gr.Tabs(elem_id="tabs", selected=TABS[0]) as tabs:
            page = Page(app, text, tabs, tick, letters)
            for name in (name for name in TABS if importlib.util.find_spec(f"lora_core.ui.{name}_tab")):
                with gr.Tab(text(f"frame.{name}"), id=name, elem_id=f"tab-{name}"):
                    importlib.import_module(f"lora_core.ui.{name}_tab").build(page)
        gr.HTML(f"<p>{escape(text('frame.title'))} {__version__}</p>", elem_id="footer")

        def tell_trouble(last: int) -> tuple[object, int]:
            new = [t for t in app.troubles if t.serial > last]
            return (trouble_panel(new[-1], text), new[-1].serial) if new else (gr.skip(), last)

        page.on(tick.tick, tell_trouble, [seen], [trouble, seen], queue=False)
    return blocks


def head(app: App, language: str) -> str:
    """What goes into <head>: icon, and the pages' own scripts with the few words they say."""
    words = {name: Texts(language)(f"frame.{name}") for name in ("leave", "trouble_copied", "signed_out")}
    scripts = "".join(f'<script defer src="/assets/{path.name}"></script>' for path in sorted(ASSETS.glob("*.js")))
    return (
        f'<link rel="icon" href="/assets/icon.svg" type="image/svg+xml">'
        f"<script>window.treino = {json.dumps(words, ensure_ascii=False)}; "
        f"document.documentElement.lang = {json.dumps(language)};</script>{scripts}"
    )


def _header(text: Texts) -> str:
    here = {text.language: ' aria-current="true"'}
    links = "".join(
        f'<a href="/{language}/" lang="{language}" hreflang="{language}"{here.get(language, "")}>{NAMES[language]}</a>'
        for language in LANGUAGES
    )
    return (
        f'<div class="treino-header"><img src="/assets/icon.svg" alt="" width="36" height="36">'
        f"<h1>{escape(text('frame.title'))}</h1><p>{escape(text('frame.tagline'))}</p>"
        f'<nav aria-label="{escape(text("frame.language"))}">{links}</nav>'
        f'<button type="button" id="appearance" aria-label="{escape(text("frame.appearance"))}" '
        f'title="{escape(text("frame.appearance"))}">◐</button></div>'
    )
