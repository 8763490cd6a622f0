"""The export tab's parts as HTML: places to export to, pictures to choose, what a LoRA is, what was written."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.models.families.specs import FAMILIES
from lora_core.ui.shared.signed_urls import display_name
from lora_core.ui.tabs.export.choices import OTHER
from lora_core.webuis.detect import PLAIN, WebUI

if TYPE_CHECKING:
    from lora_core.lora.convert import Converted
    from lora_core.lora.summary import LoraSummary
    from lora_core.messages import Message
    from lora_core.ui.shared.texts import Texts
    from lora_core.webuis.card import Overfit
    from lora_core.webuis.export import Exported

THUMBNAIL = 192  # pixels
DIALECTS = {
    "webui": "export.dialect_webui", "attn_procs": "export.dialect_attn_procs", "onetrainer": "export.dialect_onetrainer",
    "peft": "export.dialect_peft",
}  # fmt: skip


@dataclass(frozen=True)
class Views:
    """Makes HTML in one language; `url(path, side)` is a picture's address."""

    text: Texts
    url: Callable[[Path, int], str]

    def say(self, key: str, **values: object) -> str:
        return escape(self.text(key, **values))

    # --- where --------------------------------------------------------------------------------------------------

    def places(self, found: Sequence[WebUI], chosen: str) -> str:
        """The webuis as cards to choose from, and a card for any other folder."""
        cards = "".join(
            self._place(str(index), webui.kind, webui.folder, webui.lora_folder, str(webui.folder) == chosen)
            for index, webui in enumerate(found)
        )
        other = (
            f'<label class="card export-place"><input type="radio" name="export-place" value="{OTHER}"'
            f"{' checked' if chosen == OTHER else ''}><strong>{self.say('export.place_other')}</strong>"
            f'<span class="card-for">{self.say("export.place_other_help")}</span></label>'
        )
        none = "" if found else f'<p class="export-note" role="status">{self.say("export.place_none")}</p>'
        return f'{none}<div class="cards" role="radiogroup" aria-label="{self.say("export.where")}">{cards}{other}</div>'

    def _place(self, value: str, kind: str, folder: Path, loras: Path, is_chosen: bool) -> str:
        return (
            f'<label class="card export-place" title="{escape(str(loras))}"><input type="radio" name="export-place" '
            f'value="{value}"{" checked" if is_chosen else ""}><strong>{escape(kind)}</strong>'
            f'<span class="card-for">{escape(display_name(folder))}</span>'
            f'<span class="card-for">{self.say("export.place_loras", folder=display_name(loras))}</span></label>'
        )

    def other_note(self, webui: WebUI) -> str:
        """What the folder a person named was found to be."""
        key = "export.other_folder" if webui.kind == PLAIN else "export.other_webui"
        said = self.say(key, kind=webui.kind, folder=display_name(webui.lora_folder))
        return f'<p class="export-note" role="status">{said}</p>'

    # --- what ---------------------------------------------------------------------------------------------------

    def pictures(self, offered: Sequence[Path], chosen: Path | None) -> str:
        """Sample pictures to choose the card's from, and none."""
        shots = "".join(
            f'<label class="export-picture" title="{escape(path.name)}"><input type="radio" name="export-picture" '
            f'value="{index}"{" checked" if path == chosen else ""}>'
            f'<img src="{escape(self.url(path, THUMBNAIL))}" alt="{escape(path.stem)}" loading="lazy"></label>'
            for index, path in enumerate(offered)
        )
        empty = (
            f'<label class="export-picture export-no-picture"><input type="radio" name="export-picture" value="none"'
            f"{'' if chosen else ' checked'}><span>{self.say('export.picture_none')}</span></label>"
        )
        note = "" if offered else f'<p class="export-note">{self.say("export.picture_empty")}</p>'
        return (
            f'<p class="export-label" id="export-picture-label">{self.say("export.picture")}</p>{note}'
            f'<div class="export-pictures" role="radiogroup" aria-labelledby="export-picture-label">{shots}{empty}</div>'
        )

    def summary(self, summary: LoraSummary, overfit: Overfit | None = None) -> str:
        """What a LoRA file is, and what is worth a look before it is used."""
        family = FAMILIES[summary.family].label if summary.family else self.text("export.family_unknown")
        ranks = ", ".join(map(str, summary.ranks[:6])) + ("…" if len(summary.ranks) > 6 else "")
        parts = {
            "export.fact_family": family,
            "export.fact_dialect": " + ".join(self.text(DIALECTS[dialect]) for dialect in summary.dialects),
            "export.fact_rank": f"{ranks} ({', '.join(summary.kinds)})" if summary.kinds else ranks,
            "export.fact_layers": self.text("export.layers_text" if summary.has_text_encoder else "export.layers",
                                            n=summary.modules),
            "export.fact_precision": summary.dtype, "export.fact_size": self.text.size(summary.size),
            "export.fact_base": summary.base_model if summary.base_model != "None" else "",
        }  # fmt: skip
        shown = "".join(
            f"<div><dt>{self.say(key)}</dt><dd>{escape(value)}</dd></div>" for key, value in parts.items() if value
        )
        return f'<dl class="export-facts">{shown}</dl>{self.warnings(summary.warnings)}{self.overfit(overfit)}'

    def overfit(self, found: Overfit | None) -> str:
        if found is None:
            return ""
        said = escape(self.text.say(found.message))
        instead = f" {self.say('export.overfit_instead', best=found.best_step)}" if found.better else ""
        return f'<p class="export-warning" role="alert">{said}{instead}</p>'

    def warnings(self, messages: Sequence[Message]) -> str:
        return "".join(f'<p class="export-warning" role="alert">{escape(self.text.say(each))}</p>' for each in messages)

    def wrong(self, sentence: str) -> str:
        """What is wrong with a field, below it."""
        return f'<p class="export-wrong" role="alert">{escape(sentence)}</p>' if sentence else ""

    # --- afterwards ---------------------------------------------------------------------------------------------

    def done(self, done: Exported) -> str:
        """What was written, what to do next in that webui, and what to paste."""
        written = [path for path in (done.lora, done.picture, done.sidecar) if path is not None]
        files = "".join(f"<li><code>{escape(path.name)}</code></li>" for path in written)
        head = self.say("export.done", name=done.name, kind=done.webui)
        return (
            f'<section class="export-done" role="status"><h3>✓ {head}</h3>'
            f"{self.warnings(done.warnings)}"
            f"<h4>{self.say('export.next')}</h4><p>{escape(self.text.say(done.next_step))}</p>{self.paste(done.prompt)}"
            f"<details><summary>{self.say('export.written', n=len(written))}</summary>"
            f"<p><code>{escape(str(done.lora.parent))}</code></p><ul>{files}</ul></details></section>"
        )

    def paste(self, words: str) -> str:
        """Words with a button that copies them."""
        if not words:
            return ""
        return (
            f'<div class="export-paste"><span>{self.say("export.paste")}</span><code>{escape(words)}</code>'
            f'<button type="button" data-copy="{escape(words)}" data-copied="{self.say("export.copied")}">'
            f"{self.say('export.copy')}</button></div>"
        )

    def converted(self, done: Converted) -> str:
        family = FAMILIES[done.family].label
        said = self.say("export.converted", n=done.modules, family=family, dtype=done.dtype)
        left = f"<p>{self.say('export.converted_left', n=len(done.left_out))}</p>" if done.left_out else ""
        return (
            f'<section class="export-done" role="status"><h3>✓ {escape(done.path.name)}</h3><p>{said}</p>{left}'
            f"{self.warnings(done.warnings)}<p><code>{escape(str(done.path))}</code></p></section>"
        )


def heard(message: str) -> dict[str, str]:
    """What the page's script says; anything else is no message."""
    try:
        said = json.loads(message)
    except (ValueError, TypeError):
        return {}
    return {str(key): str(value) for key, value in said.items()} if isinstance(said, dict) else {}
