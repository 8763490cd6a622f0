"""Preset cards: the shipped ones and those a person saved, with what they are for and what they cost here."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.config import Preset, TrainConfig, presets, read_preset, settings
from lora_core.errors import UserError
from lora_core.system.file_names import plain
from lora_core.system.files import write_text_whole
from lora_core.ui.tabs.train.plan import preset_values

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

FIRST = "quickstart"  # what a window that knows nothing yet shows
REAL_WORK = "character"  # what a folder of one's own begins with
OWN = ("train_data_dir", "trigger_word", "output_name", "init_lora")  # belong to one's own work, not to a preset
BASE = "pretrained_model_name_or_path"  # stays where a preset names none
OF_BASE = (BASE, "prediction_type", "zero_terminal_snr", "vae")
FREE = (*OWN, *OF_BASE)  # no recipe sets them
OWN_PREFIX = "own:"  # so that a preset of one's own may be named like a shipped one
LOOKED_AT = 64  # captions read to learn whether a folder shows a preset's concept


@dataclass(frozen=True)
class Cards:
    """The presets to choose from; those saved in `folder` come after the shipped ones."""

    folder: Path

    def all(self) -> dict[str, Preset]:
        """By the name of the card. A file of one's own that is damaged is left out; loading it tells why."""
        found = {preset.name: preset for preset in _in_order(presets())}
        for path in sorted(self.folder.glob("*.toml")):
            try:
                found[OWN_PREFIX + path.stem] = read_preset(path)
            except UserError:
                continue
        return found

    def values(self, name: str, now: Mapping[str, object]) -> dict[str, object]:
        """A card's settings over the defaults; one's own pictures and words stay, but not those of another card.

        Raises:
            UserError: there is no such card any more.
        """
        known = self.all()
        if name not in known:
            raise UserError("ui.preset_gone", name=name)
        from_cards = [preset_values(preset.values) for preset in known.values()]
        kept = {
            key: now[key]
            for key in (*OWN, *(() if BASE in known[name].values else OF_BASE))
            if now.get(key) and now[key] != settings()[key].default and all(v.get(key) != now[key] for v in from_cards)
        }
        return {**preset_values(known[name].values), **kept}

    def save(self, title: str, config: TrainConfig) -> str:
        """Save settings as a preset of one's own, without the pictures' own; returns the name of its card.

        Raises:
            UserError: the title has no letter or digit, or the file cannot be written.
        """
        stem = plain(title.strip())
        if not stem:
            raise UserError("ui.preset_nameless")
        values = {name: value for name, value in config.values().items() if name not in (*OWN, "output_dir")}
        kept = TrainConfig.of(values).to_toml().splitlines(keepends=True)
        lines = [line for line in kept if line.split(" = ")[0] in {*values, "schema"}]
        self.folder.mkdir(parents=True, exist_ok=True)
        path = self.folder / f"{stem}.toml"
        quoted = '"' + re.sub(r'(["\\])', r"\\\1", title.strip()) + '"'
        table = f"\n[preset]\ntitle = {quoted}\n"
        tomllib.loads(table)
        write_text_whole(path, "".join(lines) + table)
        return OWN_PREFIX + stem


def beginning(cards: Cards, folder: str) -> str:
    """The card a folder of pictures begins with: that of the toy model only for the concept it was made for."""
    toy = preset_values(cards.all()[FIRST].values)
    if Path(folder) == Path(str(toy.get("train_data_dir"))) or _speaks_of(Path(folder), str(toy["trigger_word"])):
        return FIRST
    return REAL_WORK


def cards_html(cards: Cards, text: Texts, chosen: str = "") -> str:
    """The cards as one group of radio buttons, with room for what each comes to here, which the page fills in."""
    parts = []
    for name, preset in cards.all().items():
        title, short, description = _words(name, preset, text)
        checked = " checked" if name == chosen else ""
        parts.append(
            f'<label class="card" data-card="{escape(name)}" title="{escape(description)}">'
            f'<input type="radio" name="train-card" value="{escape(name)}"{checked}>'
            f'<strong>{escape(title)}</strong><span class="card-for">{escape(short)}</span>'
            f'<span class="card-cost"></span></label>'
        )
    return f'<div class="cards" role="radiogroup" aria-label="{escape(text("train.cards"))}">{"".join(parts)}</div>'


def _words(name: str, preset: Preset, text: Texts) -> tuple[str, str, str]:
    """Title, a few words for the card, and the description; the shipped presets' in the language of the page."""
    if name.startswith(OWN_PREFIX):
        description = preset.description or text("train.own_preset")
        return preset.title, description, description
    return text(f"train.preset_{name}"), text(f"train.preset_{name}_short"), text(f"train.preset_{name}_for")


def _in_order(shipped: list[Preset]) -> list[Preset]:
    """The one to begin with, those for real work, the others."""
    order = [FIRST, REAL_WORK, "style", "object", "concept", "first_look"]
    return sorted(shipped, key=lambda preset: order.index(preset.name) if preset.name in order else len(order))


def _speaks_of(folder: Path, word: str) -> bool:
    """Whether captions in the folder hold the word."""
    for path in sorted(folder.glob("*.txt"))[:LOOKED_AT]:
        try:
            if word in path.read_text(encoding="utf-8", errors="replace"):
                return True
        except OSError:
            continue
    return False
