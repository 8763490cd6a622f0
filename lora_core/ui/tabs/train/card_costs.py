"""What each card comes to with what stands in the form: counted beside, for as many estimates as cards take a while."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from typing import TYPE_CHECKING, ClassVar

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.ui.state.background import has_ended, in_background
from lora_core.ui.tabs.train import form
from lora_core.ui.tabs.train.cost import card_line
from lora_core.ui.tabs.train.going_on import GoingOn
from lora_core.ui.tabs.train.preset_cards import FREE, Cards
from lora_core.ui.tabs.train.recipes import recipe_of

if TYPE_CHECKING:
    from lora_core.config import Preset
    from lora_core.dataset import Dataset
    from lora_core.ui.shared.texts import Texts
    from lora_core.ui.state.app import App

MOST_KNOWN = 16
PATIENCE_S = 0.15  # so long an answer waits for them; most are there by then


class CardCosts:
    """Of one page; what was counted is shared by all."""

    _counted: ClassVar[dict[str, Future[dict[str, str]]]] = {}
    _lock: ClassVar[threading.Lock] = threading.Lock()

    def __init__(
        self, app: App, cards: Cards, text: Texts, dataset_of: Callable[[Mapping[str, object]], Dataset | None]
    ) -> None:
        """dataset_of: the pictures that settings name, as far as they are known."""
        self.app, self.cards, self.text, self.dataset_of = app, cards, text, dataset_of

    def key(self, right: Mapping[str, object]) -> str:
        """Another one where the cards may come to something else."""
        dataset = self.dataset_of(right)
        about = (
            [right.get(name) for name in FREE], dataset and hash(dataset.items), [*self.cards.all()],
            id(self.app.check.state.report), self.app.training.serial, self.text.language, id(self.app),
        )  # fmt: skip
        return f"{hash(repr(about)):x}"

    def lines(self, key: str, right: Mapping[str, object]) -> dict[str, str] | None:
        """By card; None while they are counted. Needs torch."""
        with self._lock:
            if key not in self._counted:
                while len(self._counted) >= MOST_KNOWN:
                    del self._counted[next(iter(self._counted))]
                self._counted[key] = in_background(lambda: self._count(dict(right)), "counting the cards")
            counting = self._counted[key]
        return counting.result() if has_ended(counting, PATIENCE_S) else None

    def _count(self, right: Mapping[str, object]) -> dict[str, str]:
        from lora_core.training.estimate.cost import estimate

        lines: dict[str, str] = {}
        try:
            for name, preset in self.cards.all().items():
                with contextlib.suppress(UserError):  # of settings that are wrong it is told when the card is chosen
                    config = TrainConfig.of(self._chosen(name, preset, right))
                    lines[name] = card_line(config, estimate(config), self.text)
        except Exception as error:  # noqa: BLE001  told on the pages
            self.app.note_crash("counting the cards", error)
        return lines

    def _chosen(self, name: str, preset: Preset, right: Mapping[str, object]) -> dict[str, object]:
        """What would stand in the form if the card were chosen: the toy model, say, gives way to another base model."""
        values = form.typed_values(form.boxes(self.cards.values(name, right)))
        taken = GoingOn.of(values).values
        recipe = recipe_of(preset, values, self.dataset_of(values), taken=taken)
        return {**values, **(recipe.values() if recipe else taken)}
