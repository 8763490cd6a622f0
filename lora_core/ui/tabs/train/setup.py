"""Before Start: the form and the cards, what stands in them, and what it would come to on this machine."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from html import escape
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lora_core.config import TrainConfig, settings
from lora_core.errors import UserError
from lora_core.models.catalog import KNOWN, STARTER, KnownBase
from lora_core.runs.run import Run
from lora_core.ui.shared import file_dialog
from lora_core.ui.shared.signed_urls import display_name
from lora_core.ui.tabs.train import form
from lora_core.ui.tabs.train.card_costs import CardCosts
from lora_core.ui.tabs.train.cost import levels_html, memory_line, time_line
from lora_core.ui.tabs.train.going_on import SETTING, GoingOn
from lora_core.ui.tabs.train.plan import DryRun, Pictures, dry_run, new_folder, preset_values
from lora_core.ui.tabs.train.preset_cards import FIRST, Cards, beginning, cards_html
from lora_core.ui.tabs.train.recipes import FormRecipe, recipe_of
from lora_core.ui.tabs.train.usual_rate import usual_rate

if TYPE_CHECKING:
    from lora_core.dataset import Dataset
    from lora_core.training.data.plan import Plan
    from lora_core.training.estimate.cost import Estimate
    from lora_core.ui.shared.texts import Texts
    from lora_core.ui.state.app import App
    from lora_core.webuis.base_models import FoundModel

MOST_SIZES = 5


@dataclass(frozen=True)
class Found:
    """What the form comes to. `again`: when to ask again, "soon", at the "end" of the training that goes on, or "" with
    what is typed next; an empty `reason` means that Start is allowed. boxed: what stands in the form, with what its card's
    recipe, or the LoRA to go on from, makes of it; moved: of that, what to put into the boxes, what to go back to, and why.
    """

    problems: dict[str, str]
    plan: str
    reason: str
    again: str
    config: TrainConfig | None
    boxed: Mapping[str, object]
    moved: Mapping[str, object]

    @property
    def reason_html(self) -> str:
        return f'<p role="status">{escape(self.reason)}</p>' if self.reason else ""


@dataclass(frozen=True)
class Said:
    """What the page says of its form: what stands in the boxes, the chosen card, and the settings that were set by hand."""

    boxed: Mapping[str, object]
    card: str = ""
    own: tuple[str, ...] = ()

    @classmethod
    def of(cls, message: Mapping[str, Any]) -> Said:
        return cls(message["values"], str(message.get("card", "")), tuple(map(str, message.get("own", ()))))


class Setup:
    """One page's view of what is shared by all: the pictures read, the presets, the job."""

    _pictures = Pictures()
    _orders = count(1)

    def __init__(self, app: App, text: Texts):
        self.app, self.text = app, text
        self.cards = Cards(app.home / "presets")
        self._costs = CardCosts(app, self.cards, text, self._dataset)

    # --- what the page is built of ----------------------------------------------------------------------------

    def form_html(self) -> str:
        usual = {STARTER: self.text("train.starter_label")} | {base.id: self._label(base) for base in KNOWN}
        return form.form_html(self.text, usual, file_dialog.has_dialogs())

    def _label(self, base: KnownBase) -> str:
        return self.text("train.hub_label", about=self.text.say(base.label), gb=base.family.gigabytes)

    def cards_html(self, chosen: str = "") -> str:
        return cards_html(self.cards, self.text, chosen)

    def costs(self, said: Said, known: str) -> dict[str, object] | None:
        """What each card would come to with what stands in the form; empty while it is counted.

        known: the key of what the page has; None where that is it still.
        """
        if not self.app.core_ready():
            return None
        right = form.typed_values(said.boxed)
        if (key := self._costs.key(right)) == known:
            return None
        lines = self._costs.lines(key, right)
        return {} if lines is None else {"key": key, "lines": lines}

    def empty_plan(self, is_wrong: bool = False) -> str:
        key = "train.plan_wrong" if is_wrong else "train.plan_empty"
        return f'<div class="live-empty"><p>{escape(self.text(key))}</p></div>'

    def words_html(self) -> str:
        """What the page's script says by itself: in the title, and in a notification."""
        said = {
            "done": "done_title", "failed": "failed_title", "done-note": "done_note", "failed-note": "failed_note",
            "own": "set_by_you", "back": "back_to", "count": "set_by_you_n", "on": "why_on", "off": "why_off",
        }  # fmt: skip
        kept = {"name": "{name}", "value": "{value}", "n": "{n}"}  # which the page's script fills in
        data = "".join(f' data-{name}="{escape(self.text(f"train.{key}", **kept))}"' for name, key in said.items())
        return f'<span id="train-words"{data}></span>'

    # --- orders to the form -----------------------------------------------------------------------------------

    def hello(self) -> str:
        """What a new window begins with: the settings of the last start, else the quick start."""
        last = self.app.recall("train_form")
        if isinstance(last, dict):
            card, own = self.app.recall("train_card"), self.app.recall("train_own")
            boxed = form.boxes(form.typed_values(last))
            card = card if isinstance(card, str) else ""
            return self._order(boxed, card, first=True, own=own if isinstance(own, list) else ())
        return self._order(form.boxes(self.cards.values(FIRST, {})), FIRST, first=True)

    def choose(self, card: str, boxed: Mapping[str, object]) -> str:
        chosen = form.boxes(self.cards.values(card, form.read(boxed)))
        return self._order(self._resolved(Said(chosen, card))[0], card)

    def fill(self, values: Mapping[str, object]) -> str:
        """Fill the form with settings of a run or a file; what is wrong in them is told at its field."""
        known = {name: value for name, value in values.items() if name in settings()}
        own: list[str] = []
        if known.get(SETTING):
            self.app.wait_for_core()
            own = [n for n, value in GoingOn.of(known).values.items() if n in known and known[n] != value]
        return self._order(form.boxes(preset_values(known)), "", own=own)

    def take_lora(self, path: str, boxed: Mapping[str, object]) -> str:
        """Fill in a LoRA to go on from; into a form that is empty still, beside the preset it would begin with."""
        if boxed:
            return self._order({SETTING: path}, None)
        return self._order(form.boxes({**self.cards.values(FIRST, {}), SETTING: path}), FIRST)

    def with_usual_rate(self, run: Run) -> str:
        """Fill the form with the settings of a run that hardly changed the pictures, but for the rate that is usual."""
        return self.fill({**run.config().values(), "learning_rate": usual_rate(self.app.training.history(run))})

    def take_folder(self, folder: str, boxed: Mapping[str, object]) -> str:
        """Fill in a folder of pictures; the toy model's preset gives way to one for real work."""
        return self._order(*self._with_folder(folder, boxed))

    def _with_folder(self, folder: str, boxed: Mapping[str, object]) -> tuple[dict[str, object], str | None]:
        """What stands in the form with this folder, and the card to choose."""
        now = form.read(boxed) if boxed else preset_values(self.cards.all()[FIRST].values)
        card = beginning(self.cards, folder)
        is_toy = now.get("pretrained_model_name_or_path") == STARTER
        if is_toy == (card == FIRST) or (not is_toy and card != FIRST):
            return form.boxes({**now, "train_data_dir": folder}), None if boxed else card
        return form.boxes({**self.cards.values(card, now), "train_data_dir": folder}), card

    def arrive(self, boxed: Mapping[str, object]) -> dict[str, object]:
        """The order as the tab comes into view: the pictures that are open in the Dataset tab are taken where the form
        still names a preset's own, and offered where it names others.
        """
        opened, given = self.app.dataset.folder, str(form.read(boxed).get("train_data_dir", ""))
        if opened is None or (given and Path(given) == opened):
            return {}
        of_presets = [preset_values(preset.values).get("train_data_dir") for preset in self.cards.all().values()]
        if not given or given in of_presets:
            filled, card = self._with_folder(str(opened), boxed)
            return {"fill": filled, "card": card}
        says = self.text("train.use_open", folder=display_name(opened))
        return {"open": {"folder": str(opened), "says": says}}

    def _order(
        self, boxed: Mapping[str, object], card: str | None, first: bool = False, own: Collection[object] = ()
    ) -> str:
        """`card`: the one to choose, "" for none, None to leave the choice as it is.

        first: only for a form that is empty still; a message from another tab may have been quicker. own: settings that
        were set by hand.
        """
        order = {"fill": boxed, "card": card, "order": next(self._orders), "first": first, "own": [*own]}
        return json.dumps(order, ensure_ascii=False)

    def browse(self, name: str, boxed: Mapping[str, object]) -> str:
        """Let the system's own dialog fill in the folder of pictures, or the LoRA to go on from."""
        now = str(form.read(boxed).get(name, ""))
        if name == SETTING:
            beside = str(Path(now).parent) if now else ""
            chosen = file_dialog.choose(self.text("train.browse_lora"), beside, "*.safetensors")
            return self.take_lora(chosen, boxed) if chosen else self._order({}, "")
        chosen = file_dialog.choose(self.text("train.browse_title"), now, "folder")
        return self.take_folder(chosen, boxed) if chosen else self._order({}, "")

    def found_models(self) -> dict[str, str] | None:
        """Base models found on this computer, by what to give as base model; None while they are looked for."""
        found = self.app.once("base models", self._list_models)
        if found is None:
            return None
        return {model.value: f"{model.name} · {self.text('train.found_label')}" for model in found if model.can_train}

    def _list_models(self) -> list[FoundModel]:
        from lora_core.webuis.base_models import list_models

        return list_models(home=self.app.home)

    # --- what it comes to -------------------------------------------------------------------------------------

    def look_at(self, said: Said) -> Found:
        """Check what stands in the form, with the recipe of its card, and work out what it would do."""
        boxed, recipe, init = self._resolved(said)
        wrong, right = form.problems(boxed), form.typed_values(boxed)
        if init.problem:
            wrong[SETTING] = init.problem
        right["output_dir"] = str(self.app.runs_folder)
        found = dry_run(right, wrong, self._pictures)
        if found.plan and recipe and not recipe.is_known:  # the pictures were read meanwhile
            return self.look_at(said)
        problems = {name: form.told(message, self.text) for name, message in found.problems.items()}
        if init.problem:
            problems[SETTING] = self.text.say(init.problem)  # may begin with the name of the file
        reason, again = self._reason(found, problems)
        plan = self._plan_html(found, found.plan) if found.plan else self.empty_plan(bool(problems))
        plan += recipe.why_html(self.text) if recipe else ""
        moved = recipe.order(self.text) if recipe else init.order(frozenset(said.own), self.text)
        return Found(problems, plan, reason, again, found.config if not problems else None, boxed, moved)

    def _resolved(self, said: Said) -> tuple[Mapping[str, object], FormRecipe | None, GoingOn]:
        """What stands in the form with what its card's recipe, and the LoRA to go on from, make of it; as it is before
        torch is there to ask.
        """
        if not self.app.core_ready():
            return said.boxed, None, GoingOn()
        right = form.typed_values(said.boxed)
        init, preset = GoingOn.of(right).beside(right), self.cards.all().get(said.card)
        recipe = recipe_of(preset, right, self._dataset(right), said.own, init.values) if preset else None
        init = init if recipe else init.over(preset)
        moved = recipe.values() if recipe else init.left(frozenset(said.own))
        return {**said.boxed, **form.boxes_of(moved)}, recipe, init

    def _dataset(self, right: Mapping[str, object]) -> Dataset | None:
        """The pictures of the folder in the form, as far as they have been read."""
        folder = Path(str(right.get("train_data_dir", ""))).expanduser()
        if not right.get("train_data_dir") or not folder.is_dir():
            return None
        return self._pictures.of(folder, str(right.get("trigger_word", "")).strip()).dataset

    def _reason(self, found: DryRun, problems: Mapping[str, str]) -> tuple[str, str]:
        """Why Start is not allowed, and when to ask again."""
        if problems:
            labels = [self.text(f"settings.{name}") for name in problems if name in settings()]
            return self.text("train.reason_fields", fields=", ".join(labels)), ""
        if (reading := found.reading) is not None:
            if not reading.total:
                return self.text("train.reason_reading_list"), "soon"
            return self.text("train.reason_reading", done=reading.done, total=reading.total), "soon"
        if self.app.training.busy():
            return self.text("train.reason_busy"), "end"
        if not self.app.core_ready():
            return self.text("train.reason_core"), "soon"
        return "", ""

    def _plan_html(self, found: DryRun, plan: Plan) -> str:
        text, config = self.text, found.config
        assert config is not None
        held = len(plan.validation)
        key = "train.plan_pictures_held" if held else "train.plan_pictures_all"
        epochs = f"{plan.epochs:.0f}" if plan.epochs >= 10 else f"{plan.epochs:.1f}"
        known = self._estimate(config, plan)
        lines = [
            ("pictures", text(key, n=len(plan.training), held=held)),
            ("steps", text("train.plan_steps_epochs", steps=plan.steps, epochs=epochs)),
            ("buckets", self._sizes(plan)),
            *self._cost_lines(found, known),
            ("folder", str(new_folder(self.app.runs_folder, config))),
        ]
        rows = "".join(
            f'<dt>{escape(text(f"train.plan_{name}"))}</dt><dd id="train-plan-{name}">{escape(line)}</dd>'
            for name, line in lines
        )
        notices = [text.say(notice) for notice in plan.notices]
        if found.left_out:
            notices.insert(0, text("train.plan_left_out", n=found.left_out))
        notes = "".join(f"<li>{escape(notice)}</li>" for notice in notices)
        notes = f'<ul class="plan-notes">{notes}</ul>' if notes else ""
        levels = levels_html(known.levels, text) if known else ""
        return f'<section class="plan"><h3>{escape(text("train.plan"))}</h3><dl>{rows}</dl>{levels}{notes}</section>'

    def _estimate(self, config: TrainConfig, plan: Plan) -> Estimate | None:
        if not self.app.core_ready():
            return None
        from lora_core.training.estimate.cost import estimate

        return estimate(config, plan)

    def _cost_lines(self, found: DryRun, known: Estimate | None) -> list[tuple[str, str]]:
        """Time, memory and disk, as far as they are known."""
        free = self.text.size(found.free_bytes)
        if known is None:
            return [("disk", self.text("train.plan_disk_free", have=free))]
        lines = [("time", time_line(known.time, self.text))]
        if known.fit:
            lines.append(("memory", memory_line(known.fit, self.text)))
        if known.disk is None:
            return [*lines, ("disk", self.text("train.plan_disk_free", have=free))]
        return [*lines, ("disk", self.text("train.plan_disk_of", need=self.text.size(known.disk.total), have=free))]

    def _sizes(self, plan: Plan) -> str:
        ordered = sorted(plan.buckets.items(), key=lambda entry: -entry[1])
        shown = ", ".join(f"{width}×{height} ({n})" for (width, height), n in ordered[:MOST_SIZES])
        more = len(ordered) - MOST_SIZES
        return f"{shown} {self.text('train.plan_more_sizes', n=more)}" if more > 0 else shown

    # --- what is started --------------------------------------------------------------------------------------

    def start(self, config: TrainConfig, said: Said) -> None:
        """Start a run in a folder of its own, and remember its settings for the next time."""
        self.app.remember("train_form", dict(said.boxed))
        self.app.remember("train_card", said.card)
        self.app.remember("train_own", [*said.own])
        self._start(config)

    def retry(self, run: Run, changes: Mapping[str, object]) -> None:
        """Start a run again from the beginning, in a new folder, with some settings changed."""
        self._start(run.config().replace(**changes))

    def resume(self, run: Run) -> None:
        """Go on with a run from its last whole checkpoint, in the folder where it lies now."""
        self.app.training.start(run.config().replace(output_dir=str(run.folder)), "latest")

    def save_preset(self, title: str, boxed: Mapping[str, object]) -> str:
        wrong = form.problems(boxed)
        if wrong:
            raise UserError("ui.mend_first", fields=[self.text(f"settings.{name}") for name in wrong])
        return self.cards.save(title, TrainConfig.of(form.read(boxed)))

    def _start(self, config: TrainConfig) -> None:
        folder = new_folder(self.app.runs_folder, config)
        self.app.training.start(config.replace(output_dir=str(folder)))
