"""The Dataset tab: pictures and captions, seen and mended. What it shows is drawn by assets/dataset.js."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.captioners import DEFAULT_THRESHOLD
from lora_core.errors import UserError
from lora_core.install.bootstrap import ROOT
from lora_core.ui.shared.file_dialog import has_dialogs
from lora_core.ui.shared.signed_urls import display_name
from lora_core.ui.state.app import App
from lora_core.ui.tabs.page import Page, bridge, on_load

# What the script says itself; the rest of the tab's texts stand in the markup.
_SPOKEN = (
    "count", "count_one", "count_shown", "filter_tag", "reading", "gone", "saved", "saving", "typing", "not_saved",
    "no_caption", "tokens", "tokens_over", "position", "undo", "redo", "undo_what", "redo_what", "drop_title",
    "dropping", "dropped", "crop_size", "crop_all", "many_find", "many_text", "many_text_help", "many_word",
    "many_word_help", "many_tag", "many_shown", "many_apply", "many_apply_one", "many_nothing", "many_done",
    "many_done_one", "many_more", "tags_none", "tag_remove", "check_good", "check_wait", "level_left_out",
    "level_warning", "level_note", "more", "fix_all", "fix_leave_out", "fix_upright", "fix_to_utf8", "fix_rename",
    "fix_to_png", "fix_keep_caption", "fix_separate", "offline", "no_pictures", "none_found", "describe_bare",
    "describe_shown", "describe_go", "describe_go_one", "describe_take", "describe_take_one", "describe_here",
    "describe_download", "describe_loading", "describe_downloading", "describe_describing", "describe_left_min",
    "describe_left_s", "describe_cancelled", "describe_nothing", "describe_slow",
)  # fmt: skip
ASSETS = Path(__file__).parents[2] / "assets"
SAMPLE = ROOT / "Training"
_EDITS = ("replace", "prefix", "suffix", "trigger", "remove_tag")
_SIZES = (64, 256, 512, 640, 768, 1024)


def build(page: Page) -> None:
    """Put the tab's components on the page and connect them."""
    dataset = page.app.dataset
    open_last(page.app)
    gr.HTML(_markup(page), elem_id="dataset", js_on_load=on_load("dataset", "start"))
    to_server = bridge("dataset")
    message = page.inbox["dataset"]

    def to_train(pressed: str) -> tuple[Any, dict[str, str]]:
        return gr.Tabs(selected="train"), {"train_data_dir": str(dataset.opened().folder)}

    def receive(told: dict[str, str] | None) -> None:
        if told and told.get("folder"):
            dataset.open(Path(told["folder"]))

    page.on(to_server.input, to_train, [to_server], [page.tabs, page.inbox["train"]])
    page.on(message.change, receive, [message])


def open_last(app: App) -> None:
    """Open the folder that was open last, where it can still be."""
    last = app.recall("dataset.folder")
    if app.dataset.folder is None and isinstance(last, str) and Path(last).is_dir():
        try:
            app.dataset.open(Path(last))
        except UserError:
            return  # the page greets as on the first day


def _markup(page: Page) -> str:
    """The tab as HTML: assets/dataset.html with its texts filled in; the words of its script go along as JSON."""

    def t(name: str) -> str:
        return escape(page.text(f"dataset.{name}"))

    words = {name: page.text(f"dataset.{name}") for name in _SPOKEN}
    facts = {"language": page.text.language, "words": words, "sample": str(SAMPLE)}
    new_place = escape(display_name(Path.home() / "Treino"))
    parts = {
        "hello": " hidden" * (page.app.dataset.folder is not None),
        "facts": escape(json.dumps(facts, ensure_ascii=False)),
        "browse": f'<button type="button" id="dataset-browse" class="ds-button">{t("browse")}</button>' * has_dialogs(),
        "sizes": "".join(f"<option>{size}</option>" for size in _SIZES),
        "kinds": "".join(f'<option value="{kind}">{t(f"many_{kind}")}</option>' for kind in _EDITS),
        "threshold": str(DEFAULT_THRESHOLD),
        "new_place": escape(page.text("dataset.drop_name_help", place=new_place)),
    }
    markup = (ASSETS / "dataset.html").read_text(encoding="utf-8")
    return re.sub(r"\[\[(!?)(\w+)\]\]", lambda found: parts[found[2]] if found[1] else t(found[2]), markup)
