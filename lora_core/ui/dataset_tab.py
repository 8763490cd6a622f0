"""The Dataset tab: pictures and captions, seen and mended. What it shows is drawn by assets/dataset.js."""

from __future__ import annotations

import json
import re
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.ui.app import ROOT
from lora_core.ui.dataset_routes import can_browse, first_folder
from lora_core.ui.page import Page

# What the script says itself; the rest of the tab's texts stand in the markup.
_SPOKEN = (
    "count", "count_shown", "reading", "saved", "saving", "not_saved", "tokens", "tokens_over", "undo", "redo",
    "undo_what", "redo_what", "dropping", "crop_size", "batch_apply", "batch_nothing", "batch_done", "batch_more",
    "report_good", "report_counts", "level_left_out", "level_warning", "level_note", "fix_leave_out", "fix_to_utf8",
    "fix_rename", "offline", "tags_none", "empty", "batch_find", "batch_text",
)  # fmt: skip
ASSETS = Path(__file__).parent / "assets"
_EDITS = ("replace", "prefix", "suffix", "trigger", "remove_tag")
_SIZES = (512, 640, 768, 1024)
_START = "const go = () => window.treinoDataset ? treinoDataset.start(element) : setTimeout(go, 30); go();"


def build(page: Page) -> None:
    """Put the tab's components on the page and connect them."""
    desk, text = page.app.dataset, page.text
    if desk.folder is None:
        first_folder(desk, page.app.recall("dataset.folder"))
    gr.HTML(_markup(page), elem_id="dataset", js_on_load=_START)
    train = gr.Button(text("dataset.train"), variant="primary", elem_id="dataset-train")
    letter = page.letters["dataset"]

    def to_train() -> tuple[Any, dict[str, str]]:
        desk.opened()
        return gr.Tabs(selected="train"), {"train_data_dir": str(desk.folder)}

    def receive(told: dict[str, str] | None) -> None:
        if told and told.get("folder"):
            desk.open(Path(told["folder"]))

    page.on(train.click, to_train, [], [page.tabs, page.letters["train"]])
    page.on(letter.change, receive, [letter])


def _markup(page: Page) -> str:
    """The tab as HTML: assets/dataset.html with its texts filled in; the words of its script go along as JSON."""

    def t(name: str) -> str:
        return escape(page.text(f"dataset.{name}"))

    words = {name: page.text(f"dataset.{name}") for name in _SPOKEN}
    facts = {"language": page.text.language, "words": words, "sample": str(ROOT / "Training")}
    parts = {
        "facts": escape(json.dumps(facts, ensure_ascii=False)),
        "browse": f'<button type="button" id="dataset-browse">{t("browse")}</button>' if can_browse() else "",
        "sizes": "".join(f"<option>{size}</option>" for size in _SIZES),
        "kinds": "".join(f'<option value="{kind}">{t(f"batch_{kind}")}</option>' for kind in _EDITS),
    }
    markup = (ASSETS / "dataset.html").read_text(encoding="utf-8")
    return re.sub(r"\[\[(!?)(\w+)\]\]", lambda found: parts[found[2]] if found[1] else t(found[2]), markup)
