"""What each card comes to with what stands in the form: counted beside, for as many estimates as cards take a while."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, ClassVar

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.ui.state.background import has_ended, in_background
from lora_core.ui.tabs.train.cost import card_line
from lora_core.ui.tabs.train.preset_cards import FREE, Cards
from lora_core.ui.tabs.train.recipes import Facts, recipe_of

if TYPE_CHECKING:
    from lora_core.dataset import Dataset
    from lora_core.ui.shared.texts import Texts
    from lora_core.ui.state.app import App

MOST_KNOWN = 16
LOOKED_AT = ("device", "validation_split", "seed", *FREE)  # settings that a card leaves as they are
PATIENCE_S = 0.15  # so long an answer waits for them; most are there by then


class CardCosts:
    """Of one page; what was counted is shared by all."""

    _counted: ClassVar[dict[str, Future[dict[str, str]]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, app: App, cards: Cards, text: Texts) -> None:
        self.app, self.cards, self.text = app, cards, text

    def key(self, right: Mapping[str, object], dataset: Dataset | None) -> str:
        """Another one where the cards may come to something else."""
        about = (
            [right.get(name) for name in LOOKED_AT], dataset and hash(dataset.items), [*self.cards.all()],
            id(self.app.check.state.report), self.app.training.serial, self.text.language, id(self.app),
        )  # fmt: skip
        return f"{hash(repr(about)):x}"

    def lines(self, key: str, right: Mapping[str, object], dataset: Dataset | None) -> dict[str, str] | None:
        """By card; None while they are counted. Needs torch."""
        with self._lock:
            if key not in self._counted:
                while len(self._counted) >= MOST_KNOWN:
                    del self._counted[next(iter(self._counted))]
                self._counted[key] = in_background(lambda: self._count(dict(right), dataset), "counting the cards")
            counting = self._counted[key]
        return counting.result() if has_ended(counting, PATIENCE_S) else None

    def _count(self, right: Mapping[str, object], dataset: Dataset | None) -> dict[str, str]:
        from lora_core.training.estimate.cost import estimate

        lines: dict[str, str] = {}
        try:
            facts = Facts.of(right, dataset)
            for name, preset in self.cards.all().items():
                recipe = recipe_of(preset, facts, right) if facts else None
                values = {**self.cards.values(name, right), **(recipe.values() if recipe else {})}
                with contextlib.suppress(UserError):  # of settings that are wrong it is told when the card is chosen
                    config = TrainConfig.of(values)
                    lines[name] = card_line(config, estimate(config), self.text)
        except Exception as error:  # noqa: BLE001  told on the pages
            self.app.note_crash("counting the cards", error)
        return lines
