"""The form of the Test tab: its controls, what they say, and how a LoRA or an older picture fills them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import gradio as gr

from lora_core.errors import UserError
from lora_core.models.catalog import KNOWN, STARTER
from lora_core.models.families.specs import FAMILIES
from lora_core.runs.run import run_of
from lora_core.sampling import grid, samplers
from lora_core.sampling.grid import Axis, Grid
from lora_core.sampling.params import GenerationParams
from lora_core.ui.state.lora_library import LoraLibrary, label, misfit, of_same_run, short_label
from lora_core.ui.tabs.page import Page, Updates
from lora_core.webuis import loras
from lora_core.webuis.loras import Found

PAIR, GRID = "pair", "grid"
MOST_SEED = 2**32 - 1
_WEIGHTS = "0, 0.5, 0.75, 1"


@dataclass(frozen=True)
class Order:
    """What the form asks for, read when a button is pressed."""

    params: GenerationParams
    mode: str
    grid: Grid | None


class Form:
    """Controls by name in `fields`; `inputs` in the order in which `read` takes their values."""

    def __init__(self, page: Page, library: LoraLibrary) -> None:
        self.text, self.library = page.text, library
        self.fields: dict[str, Any] = {}
        self.facts = gr.HTML(f'<div class="test-facts"><p>{escape(self.text("test.facts_none"))}</p></div>', render=False)
        self.count = gr.HTML("", render=False)
        self.grid_group = gr.Column(visible=False, render=False, elem_id="test-grid-form")
        # What a LoRA filled in: a field that still says so was not touched, and follows the next LoRA.
        self.filled = gr.State({})
        self._build_lora()
        self._build_grid()
        self._build_picture()
        self._build_more()

    @property
    def inputs(self) -> list[Any]:
        return list(self.fields.values())

    # --- layout -----------------------------------------------------------------------------------------------

    def _build_lora(self) -> None:
        text = self.text
        self.fields["lora"] = gr.Dropdown(
            [(text("test.lora_none"), "")],
            value="",
            label=text("test.lora"),
            info=text("test.lora_help"),
            elem_id="test-lora",
        )
        self.facts.render()
        with gr.Accordion(text("test.elsewhere"), open=False, elem_id="test-elsewhere"):
            self.path = gr.Textbox(label=text("test.path"), info=text("test.path_help"), max_lines=1, elem_id="test-path")
            self.refresh = gr.Button(text("test.refresh"), size="sm", elem_id="test-refresh")

    def _build_picture(self) -> None:
        text, fields = self.text, self.fields
        fields["prompt"] = gr.Textbox(
            label=text("test.prompt"), info=text("test.prompt_help"), lines=2, max_lines=6, elem_id="test-prompt"
        )
        fields["negative"] = gr.Textbox(label=text("test.negative"), lines=1, max_lines=4, elem_id="test-negative")
        fields["weight"] = gr.Slider(
            -1, 2, 1, step=0.05, label=text("test.weight"), info=text("test.weight_help"), elem_id="test-weight"
        )
        with gr.Row(elem_id="test-seed-row"):
            fields["seed"] = gr.Number(
                42, label=text("test.seed"), info=text("test.seed_help"), precision=0, minimum=0, maximum=MOST_SEED,
                elem_id="test-seed", min_width=150,
            )  # fmt: skip
            fields["new_seed"] = gr.Checkbox(
                False, label=text("test.new_seed"), info=text("test.new_seed_help"), elem_id="test-new-seed", min_width=150
            )

    def _build_more(self) -> None:
        text, fields = self.text, self.fields
        fields["base"] = gr.Dropdown(
            [(text("test.base_starter"), STARTER), *((text.say(base.label), base.id) for base in KNOWN)], value=STARTER,
            allow_custom_value=True, label=text("test.base"), info=text("test.base_help"), elem_id="test-base",
        )  # fmt: skip
        with gr.Accordion(text("test.more"), open=False, elem_id="test-more"):
            fields["sampler"] = gr.Dropdown(
                list(samplers.NAMES), value=samplers.NAMES[0], label=text("test.sampler"),
                info=text("test.sampler_help"), elem_id="test-sampler",
            )  # fmt: skip
            fields["steps"] = gr.Slider(1, 150, 25, step=1, label=text("test.steps"), elem_id="test-steps")
            fields["guidance"] = gr.Slider(0, 30, 7.5, step=0.1, label=text("test.guidance"), elem_id="test-guidance")
            fields["width"] = gr.Slider(64, 2048, 512, step=8, label=text("test.width"), elem_id="test-width")
            fields["height"] = gr.Slider(64, 2048, 512, step=8, label=text("test.height"), elem_id="test-height")

    def _build_grid(self) -> None:
        text, fields = self.text, self.fields
        modes = [(text("test.mode_pair"), PAIR), (text("test.mode_grid"), GRID)]
        fields["mode"] = gr.Radio(modes, value=PAIR, label=text("test.mode"), elem_id="test-mode")
        self.grid_group.render()
        with self.grid_group:
            names = "test.grid_weight_checkpoint", "test.grid_weight_prompt", "test.grid_checkpoint_prompt"
            kinds = [text(name) for name in names]
            fields["kind"] = gr.Dropdown(
                list(zip(kinds, map(str, range(len(kinds))), strict=True)), value="0", label=text("test.grid_kind"),
                elem_id="test-grid-kind",
            )  # fmt: skip
            fields["weights"] = gr.Textbox(
                _WEIGHTS, label=text("test.grid_weights"), info=text("test.grid_weights_help"), max_lines=1,
                elem_id="test-grid-weights",
            )  # fmt: skip
            fields["checkpoints"] = gr.Dropdown(
                [], value=[], multiselect=True, label=text("test.grid_checkpoints"),
                info=text("test.grid_checkpoints_help"), elem_id="test-grid-checkpoints",
            )  # fmt: skip
            fields["prompts"] = gr.Textbox(
                label=text("test.grid_prompts"), info=text("test.grid_prompts_help"), lines=3, max_lines=8,
                visible=False, elem_id="test-grid-prompts",
            )  # fmt: skip
            self.count.render()

    # --- what it says -----------------------------------------------------------------------------------------

    def read(self, values: Sequence[Any], roll: bool = False) -> Order:
        """What the controls ask for; roll: a new seed where one is wanted.

        Raises:
            UserError: a LoRA that is gone, or a grid that cannot be.
        """
        said = dict(zip(self.fields, values, strict=True))
        seed = random.randint(0, MOST_SEED) if roll and said["new_seed"] else int(said["seed"] or 0)
        defaults = self.library.defaults(Path(said["lora"])) if said["lora"] else None
        base = str(said["base"] or "").strip() or STARTER
        # What it was trained with belongs to the base it was trained on.
        own = defaults if defaults and defaults.base == base else None
        params = GenerationParams(
            base=base, prompt=said["prompt"] or "", seed=seed,
            width=_side(said["width"]), height=_side(said["height"]), negative_prompt=said["negative"] or "",
            steps=int(said["steps"]), guidance=float(said["guidance"]), sampler=said["sampler"],
            lora=str(defaults.path) if defaults else "", name=defaults.name if defaults else "",
            hash=defaults.hash if defaults else "", trigger=defaults.trigger if defaults else "",
            weight=float(said["weight"]) if defaults else 1.0,
            vae=own.vae if own else "", prediction_type=own.prediction_type if own else "auto",
            zero_terminal_snr=own.zero_terminal_snr if own else "auto",
            clip_skip=defaults.clip_skip if defaults else 1,
            max_token_length=defaults.max_token_length if defaults else 75,
        )  # fmt: skip
        return Order(params, said["mode"], self._grid(said, params) if said["mode"] == GRID else None)

    def _grid(self, said: dict[str, Any], params: GenerationParams) -> Grid:
        if not params.lora:
            raise UserError(self.text("test.grid_needs_lora"))
        columns, rows = (self._axis(kind, said, params) for kind in grid.KINDS[int(said["kind"])])
        return Grid(params, columns, rows)

    def _axis(self, kind: str, said: dict[str, Any], params: GenerationParams) -> Axis:
        if kind == grid.WEIGHT:
            return grid.weights(said["weights"] or "")
        if kind == grid.PROMPT:
            return grid.prompts(said["prompts"] or params.prompt)
        wanted = set(said["checkpoints"] or [])
        chosen = [found for found in self.library.found() if str(found.path) in wanted]
        runs = {run_of(found.path) for found in chosen}
        chosen.sort(key=lambda found: (found.home, found.step or 0))
        return grid.checkpoints([(short_label(self.text, f, len(runs) == 1), _call(f, params)) for f in chosen])

    def count_html(self, *values: Any) -> str:
        """How many pictures the grid makes, or why it cannot be."""
        try:
            order = self.read(values)
            if order.grid is None:
                return ""
            many = grid.check(order.grid)
        except UserError as error:
            return f'<p class="test-count test-warning">{escape(self.text.say(error.message))}</p>'
        across, down = len(many.columns.labels), len(many.rows.labels)
        one = self.text("test.grid_count_one")
        words = one if len(many) == 1 else self.text("test.grid_count", n=len(many), columns=across, rows=down)
        return f'<p class="test-count">{escape(words)}</p>'

    # --- what fills it ----------------------------------------------------------------------------------------

    def choices(self, chosen: str | None = None) -> Updates:
        """The LoRAs there are now; with `chosen`, that one is chosen if it is there.

        Without it the choice is left alone: what is chosen while this is on its way must not be undone by it.
        """
        every = self.library.found()
        listed = [(label(self.text, found), str(found.path)) for found in every]
        known = {path for _, path in listed}
        value = {} if chosen is None else {"value": chosen if chosen in known else ""}
        return {self.fields["lora"]: gr.update(choices=[(self.text("test.lora_none"), ""), *listed], **value)}

    def still_there(self, chosen: str) -> Updates:
        """The LoRAs there are now, and no choice that is gone."""
        is_gone = bool(chosen) and Path(chosen) not in {found.path for found in self.library.found()}
        return self.choices("" if is_gone else None)

    def fill(self, path: str, filled: dict[str, Any], *values: Any) -> Updates:
        """What a LoRA tells goes into the fields nobody wrote in since the last one did."""
        said = dict(zip(self.fields, values, strict=True))
        if not path:
            return {self.facts: self._facts_html("", ""), **self._checkpoints("")}
        defaults = self.library.defaults(Path(path))
        told: dict[str, Any] = {
            "base": defaults.base, "prompt": defaults.prompt, "negative": defaults.negative, "weight": defaults.weight,
            "seed": defaults.seed, "steps": defaults.steps, "guidance": defaults.guidance,
            "width": defaults.width, "height": defaults.height,
        }  # fmt: skip
        untouched = {name for name in told if not filled or said[name] == filled.get(name) or said[name] in ("", None)}
        base = told["base"] if "base" in untouched or misfit(self.text, defaults, said["base"]) else said["base"]
        return {
            **{self.fields[name]: told[name] for name in untouched},
            self.fields["base"]: base, self.facts: self._facts_html(path, base), self.filled: told,
            **self._checkpoints(path),
        }  # fmt: skip

    def restore(self, params: GenerationParams) -> Updates:
        """The fields as they were for a picture."""
        values = {
            "base": params.base, "prompt": params.prompt, "negative": params.negative_prompt, "seed": params.seed,
            "steps": params.steps, "guidance": params.guidance, "sampler": params.sampler, "new_seed": False,
            "width": params.width, "height": params.height,
        }  # fmt: skip
        updates: Updates = {self.fields[name]: value for name, value in values.items()}
        if not params.lora or not Path(params.lora).is_file():
            return updates
        self.library.take(Path(params.lora))
        return {
            **updates, **self.choices(params.lora), **self._checkpoints(params.lora),
            self.fields["weight"]: params.weight, self.facts: self._facts_html(params.lora, params.base),
            self.filled: {},
        }  # fmt: skip

    def facts_for(self, path: str, base: str) -> str:
        return self._facts_html(path, base)

    def _checkpoints(self, path: str) -> Updates:
        every = self.library.found()
        mine = {found.path for found in of_same_run(every, Path(path))} if path else set()
        listed = [(label(self.text, found), str(found.path)) for found in every]
        return {self.fields["checkpoints"]: gr.update(choices=listed, value=[str(p) for p in sorted(mine)])}

    def _facts_html(self, path: str, base: str) -> str:
        text = self.text
        if not path:
            return f'<div class="test-facts"><p>{escape(text("test.facts_none"))}</p></div>'
        defaults = self.library.defaults(Path(path))
        parts = [text("test.facts_family", family=FAMILIES[defaults.family].label)]
        if defaults.is_toy:
            parts = [text("test.facts_toy")]
        elif defaults.trained_on:
            parts.append(text("test.facts_trained", base=Path(defaults.base).name))
        else:
            parts.append(text("test.facts_usual"))
        if defaults.trigger:
            parts.append(text("test.facts_trigger", trigger=defaults.trigger))
        problem = misfit(text, defaults, base)
        warning = f'<p class="test-warning" role="alert">{escape(problem)}</p>' if problem else ""
        return f'<div class="test-facts"><p>{escape(" · ".join(parts))}</p>{warning}</div>'


def _call(found: Found, params: GenerationParams) -> dict[str, object]:
    """How a cell of the grid calls this LoRA."""
    return {"lora": str(found.path), "name": params.name, "hash": loras.hash_of(found.path)}


def _side(value: float) -> int:
    """A size every model takes."""
    return max(64, int(value) // 8 * 8)
