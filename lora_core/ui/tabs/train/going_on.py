"""The LoRA that stands in the form to go on from: what it says of its adapters, and why it cannot be gone on from."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig, settings
from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.models.families.specs import FAMILIES
from lora_core.settings import Value
from lora_core.system.files import stamp
from lora_core.ui.tabs.train import form
from lora_core.ui.tabs.train.recipes import base_of

if TYPE_CHECKING:
    from lora_core.config import Preset
    from lora_core.ui.shared.texts import Texts

SETTING = "init_lora"
_TAKEN = (
    "adapter", "lora_rank", "lora_alpha", "conv_rank", "conv_alpha", "target_modules", "target_blocks",
    "train_text_encoder",
)  # fmt: skip


@dataclass(frozen=True)
class GoingOn:
    """values: settings that are the LoRA's; family: "" where nothing in it tells; problem: why it cannot be.

    usual: what such settings are without it, by a card that has no recipe to tell.
    """

    values: Mapping[str, Value] = field(default_factory=dict)
    family: str = ""
    problem: Message | None = None
    usual: Mapping[str, object] = field(default_factory=dict)

    @classmethod
    def of(cls, values: Mapping[str, object]) -> GoingOn:
        """Of the settings in the form. Needs torch."""
        named = str(values.get(SETTING, "")).strip()
        if not named:
            return cls()
        from lora_core.lora.convert import file_in

        try:
            path = file_in(Path(named).expanduser())
            return _read(path, stamp(path))
        except UserError as wrong:
            return cls(problem=wrong.message)

    def beside(self, values: Mapping[str, object]) -> GoingOn:
        """The same, with what speaks against the base model in the form, as far as shows without loading that."""
        config = TrainConfig(**{name: value for name, value in values.items() if name in settings()})  # type: ignore[arg-type]
        if self.problem or not self.family:
            return self
        try:
            base = base_of(config.pretrained_model_name_or_path, config.prediction_type, config.zero_terminal_snr)
        except UserError:  # told at its field
            return self
        if base.spec.name == self.family:
            return self
        family, other = FAMILIES[self.family].title, base.spec.title
        said = {"lora": Path(config.init_lora).name, "base": Path(config.pretrained_model_name_or_path).name}
        return replace(self, problem=Message("sampling.other_family", **said, family=family, other=other))

    def order(self, own: frozenset[str], text: Texts) -> dict[str, object]:
        """For the page, where no recipe does it: what to put into the boxes, what to go back to, and why."""
        why = form.sentence(text.say(Message("recipes.of_init_lora")))
        return {
            "values": form.boxes_of(self.left(own)), "back": form.boxes_of(self.left(frozenset())),
            "reasons": dict.fromkeys(self.values, why),
        }  # fmt: skip

    def left(self, own: frozenset[str]) -> dict[str, object]:
        """What nobody has set by hand."""
        return {name: value for name, value in {**self.usual, **self.values}.items() if name not in own}

    def over(self, card: Preset | None) -> GoingOn:
        """The same over the values of a card."""
        if card is None or card.intent:
            return self
        values = {name: s.default for name, s in settings().items()} | card.values
        return replace(self, usual={name: values[name] for name in _TAKEN})


@functools.lru_cache(maxsize=8)  # a LoRA is as large as some hundred megabytes; with its stamp a changed one is another
def _read(path: Path, stamped: tuple[int, int]) -> GoingOn:
    from lora_core.lora.adapter_settings import adapter_settings, read_to_go_on
    from lora_core.lora.shapes import UnknownFamilyError, family_of

    lora, metadata = read_to_go_on(path)
    try:
        family = family_of(lora, metadata)
    except UnknownFamilyError:
        family = ""
    return GoingOn(adapter_settings(lora), family)
