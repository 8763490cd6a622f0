"""The form of all settings, made from `config.settings()`: what a setting is stands in one line there, and only there.

Plain HTML: values travel by name, each as what stands in its box, and what is wrong is told beside the box.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from html import escape
from typing import TYPE_CHECKING

from lora_core.config import TrainConfig, settings
from lora_core.messages import Message
from lora_core.settings import ConfigError, Setting, Value, check
from lora_core.ui.tabs.train.preset_cards import FREE

if TYPE_CHECKING:
    from lora_core.ui.shared.texts import Texts

# The window gives each run a folder of its own.
LEFT_OUT = frozenset({"output_dir"})
SUGGESTED = "pretrained_model_name_or_path"
_BROWSED = ("train_data_dir", "init_lora")  # paths that the system's dialog can fill in
_PATHS = (*_BROWSED, SUGGESTED)


def form_html(text: Texts, suggestions: Mapping[str, str], has_browse: bool = False) -> str:
    """Basic fields, then the others folded by topic under a search box.

    suggestions: base models with their labels; has_browse: whether the system's folder dialog can be had.
    """
    shown = [s for s in settings().values() if s.name not in LEFT_OUT]
    basic = "".join(_field(s, text, has_browse) for s in shown if s.basic)
    folds = []
    for topic in dict.fromkeys(s.topic for s in shown):
        fields = "".join(_field(s, text, has_browse) for s in shown if s.topic == topic and not s.basic)
        if fields:
            name = escape(text(f"settings.topic_{topic.lower()}"))
            folds.append(
                f'<details class="form-topic" id="train-topic-{topic.lower()}"><summary>{name}'
                f'<span class="form-changed" hidden></span></summary><div class="form-grid">{fields}</div></details>'
            )
    options = "".join(f'<option value="{escape(name)}">{escape(label)}</option>' for name, label in suggestions.items())
    return (
        f'<div class="form" role="form"><div class="form-grid form-basic">{basic}</div>'
        f'<datalist id="train-models">{options}</datalist>'
        f'<div class="form-search"><label for="train-search">{escape(text("train.search"))}</label>'
        f'<input id="train-search" type="search" placeholder="{escape(text("train.search_hint"))}">'
        f'<output for="train-search" class="form-none" hidden>{escape(text("train.search_none"))}</output></div>'
        f"{''.join(folds)}</div>"
    )


def boxes(values: Mapping[str, object]) -> dict[str, object]:
    """What stands in each box for these values over the defaults: texts, true or false, or lists of chosen names."""
    known = settings()
    given: dict[str, object] = {name: s.default for name, s in known.items()}
    given |= {name: value for name, value in values.items() if name in known}
    return {name: _box(known[name], value) for name, value in given.items() if name not in LEFT_OUT}


def boxes_of(values: Mapping[str, object]) -> dict[str, object]:
    """What stands in the boxes of these settings alone."""
    return {name: _box(settings()[name], value) for name, value in values.items()}


def read(boxed: Mapping[str, object]) -> dict[str, object]:
    """Values as people type them, ready for `TrainConfig.of`: 0,5 for 0.5, a prompt per line, a path in quotes."""
    return {name: _unboxed(settings()[name], value) for name, value in boxed.items() if name in settings()}


def problems(boxed: Mapping[str, object]) -> dict[str, Message]:
    """What is wrong, by setting; empty when a TrainConfig can be made of it."""
    try:
        TrainConfig.of(read(boxed))
    except ConfigError as wrong:
        return {problem.field: problem.message for problem in wrong.problems}
    return {}


def told(problem: Message, text: Texts) -> str:
    """What is wrong at a field in the language of the page, as a sentence of its own."""
    said = text.say(problem)
    return f"{said[:1].upper()}{said[1:]}"


def sentence(reason: str) -> str:
    """A reason as it stands by itself."""
    return f"{reason[:1].upper()}{reason[1:]}."


def typed_values(boxed: Mapping[str, object]) -> dict[str, Value]:
    """The values that are right, each alone; for what can be said while others are still being typed."""
    right: dict[str, Value] = {}
    for name, value in read(boxed).items():
        try:
            right |= check(settings(), {name: value})
        except ConfigError:
            continue
    return right


def _box(s: Setting, value: object) -> object:
    if isinstance(value, bool):
        return value
    if isinstance(value, list | tuple):
        return list(value) if s.choices else "\n".join(str(part) for part in value)
    return f"{value:.10g}" if isinstance(value, float) else str(value)


def _unboxed(s: Setting, value: object) -> object:
    if not isinstance(value, str):
        return value
    stripped = value.strip()
    if s.kind in (int, float):
        return stripped.replace(",", ".") if stripped.count(",") == 1 and "." not in stripped else stripped
    if s.kind is tuple and not s.choices:
        return ";".join(stripped.splitlines())
    # Windows' "copy as path" puts quotes around it.
    return stripped.strip('"') if s.name in _PATHS else value


# --- a field of the form --------------------------------------------------------------------------------------------


def _field(s: Setting, text: Texts, has_browse: bool) -> str:
    label, help_text = text(f"settings.{s.name}"), help_of(s, text)
    unit = text(f"settings.unit_{s.unit}") if s.unit else ""
    unit = f' <span class="form-unit">{escape(unit)}</span>' if unit and unit not in label.lower() else ""
    name = f'<span class="form-name">{s.name}</span>'
    search = escape(f"{label} {s.name.replace('_', ' ')} {s.name} {help_text}".lower())
    is_free = s.name in FREE
    notes = (
        f'<p class="form-help" id="train-h-{s.name}">{escape(help_text)}</p>{"" if is_free else _why(s.name, label)}'
        f'<p class="form-wrong" id="train-e-{s.name}" role="alert" hidden></p>'
    )
    heard = f'aria-describedby="train-e-{s.name} train-h-{s.name}{"" if is_free else f" train-w-{s.name}"}"'
    wide = " form-wide" if s.kind is tuple or s.name in _PATHS else ""
    body: str
    if s.kind is tuple and s.choices:
        body = f"<fieldset {heard}><legend>{escape(label)}{name}</legend>{_ticks(s)}</fieldset>"
    elif s.kind is bool:
        body = f'<label class="form-tick">{_control(s, heard)}<span>{escape(label)}</span></label>{name}'
    else:
        extra = _browse(s.name, label, text) if has_browse and s.name in _BROWSED else ""
        body = (
            f'<label for="train-f-{s.name}">{escape(label)}{unit}</label>{name}'
            f'<div class="form-box">{_control(s, heard)}{extra}</div>'
        )
    offer = ""
    if s.name == "train_data_dir":
        offer = f'<button type="button" class="form-open" hidden>{escape(text("train.use_open", folder="…"))}</button>'
    free = " data-free" if is_free else ""
    return f'<div class="form-field{wide}" data-field="{s.name}"{free} data-search="{search}">{body}{offer}{notes}</div>'


def _browse(name: str, label: str, text: Texts) -> str:
    """The button of the system's dialog."""
    says = escape(text("train.browse"))
    return (
        f'<button type="button" class="form-browse" id="train-browse-{name}" data-browse="{name}" '
        f'aria-label="{says} {escape(label)}">{says}</button>'
    )


def _why(name: str, label: str) -> str:
    """Room for the reason of the recipe's value; or for that the person set it, and what takes it back."""
    called = escape(label)
    back = (
        f'<button type="button" class="form-back" data-back="{name}" data-label="{called}" aria-label="{called}" hidden>'
        "</button>"
    )
    return f'<div class="form-own"><p class="form-why" id="train-w-{name}"></p>{back}</div>'


def help_of(s: Setting, text: Texts) -> str:
    """The help of a setting: English stands beside the setting, other languages in their settings.toml."""
    key = f"help_{s.name}"
    return s.help if text.language == "en" else text(f"settings.{key}")


def _ticks(s: Setting) -> str:
    return "".join(
        f'<label class="form-tick"><input type="checkbox" name="{s.name}" value="{escape(choice)}">'
        f"<code>{escape(choice)}</code></label>"
        for choice in s.choices
    )


def _control(s: Setting, heard: str) -> str:
    same = f'id="train-f-{s.name}" name="{s.name}" {heard}'
    makers: dict[type, Callable[[], str]] = {
        bool: lambda: f'<input type="checkbox" {same}>',
        tuple: lambda: f'<textarea {same} rows="3" spellcheck="false"></textarea>',
        int: lambda: f'<input type="text" inputmode="numeric" {same}>',
        float: lambda: f'<input type="text" inputmode="decimal" {same}>',
    }
    if s.choices:
        options = "".join(f'<option value="{escape(choice)}">{escape(choice)}</option>' for choice in s.choices)
        return f"<select {same}>{options}</select>"
    models = ' list="train-models"' if s.name == SUGGESTED else ""
    return makers.get(s.kind, lambda: f'<input type="text" {same}{models} spellcheck="false">')()
