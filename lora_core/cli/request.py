"""What a command line asks for: flags over preset over defaults, or over the run it goes on with, checked as a whole."""

from __future__ import annotations

import argparse
import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from lora_core.cli import flags
from lora_core.config import OLDER, PRESETS, TrainConfig, find_preset, migrated, read_values, settings, toml
from lora_core.errors import UserError
from lora_core.install.bootstrap import ROOT
from lora_core.messages import Message
from lora_core.runs.run import Run
from lora_core.settings import ConfigError, Problem, suggest, typed
from lora_core.system.quick_import import importing

PATHS = ("train_data_dir", "output_dir", "pretrained_model_name_or_path", "vae", "init_lora")


@dataclass(frozen=True)
class Request:
    """What the command line asks for. `notes` are told before the training starts; `reasons`, of each setting of a recipe,
    when they are asked for.
    """

    config: TrainConfig
    resume: str = ""
    notes: tuple[Message, ...] = ()
    reasons: tuple[Message, ...] = ()


@dataclass
class _Layers:
    """Where values come from, weakest first, so that a problem can be told with its place."""

    values: dict[str, object] = field(default_factory=dict)
    places: dict[str, Callable[[Problem], Message]] = field(default_factory=dict)
    notes: list[Message] = field(default_factory=list)

    def add(self, values: dict[str, object], place: Callable[[Problem], Message]) -> None:
        self.values.update(values)
        self.places.update(dict.fromkeys(values, place))

    def add_run(self, folder: Path, asked: dict[str, object]) -> None:
        """The settings a run was started with; what is asked for now and differs is noted."""
        file = Run(folder).config_file
        stored = read_values(file)
        self.add(stored, lambda p: Message("cli.in_file", file=file, field=p.field, what=p.message))
        for name in [n for n in asked if n in stored and n in settings() and n != "output_dir"]:
            with contextlib.suppress(ValueError):  # a wrong value is told with all the others
                now, old = (typed(settings()[name], _absolute_value(name, v)) for v in (asked[name], stored[name]))
                if now != old:
                    self.notes.append(Message("cli.changed", name=name, now=repr(now), old=repr(old)))


def request(found: argparse.Namespace) -> Request:
    """The checked request behind parsed flags.

    Raises:
        UserError: lists every problem at once.
    """
    known = {*settings(), *OLDER}
    given = {name: value for name, value in vars(found).items() if name in known and value is not flags.MISSING}
    given, preset = _localized(given), {}
    layers, intent, taken = _Layers(), "", dict[str, object]()
    problems: list[Message] = list(found.problems)
    resume = found.resume or ""
    try:
        if isinstance(found.preset, str):
            name = _local_path(found.preset)
            preset, intent = _preset_values(name), find_preset(name).intent
        if resume:
            folder, resume = _run_to_resume(resume, given, preset)
            layers.add_run(folder, {**preset, **given})
            preset, given = {**preset, "output_dir": str(folder)}, {**given, "output_dir": str(folder)}
        else:
            taken = _of_init_lora(preset, given)
    except UserError as wrong:
        problems.append(wrong.message)
    is_known = problems == found.problems
    layers.add(preset, lambda p: Message("cli.in_preset", name=found.preset, field=p.field, what=p.message))
    layers.add(given, _at_flag)
    layers.values = {**migrated(layers.values), **taken}
    try:
        config = TrainConfig.of(layers.values)
    except ConfigError as wrong:
        problems += [layers.places.get(p.field, _at_flag)(p) for p in wrong.problems]
        raise _all_of(problems) from None
    if config.train_data_dir and not Path(config.train_data_dir).is_dir():
        problems.append(_no_folder(Path(config.train_data_dir)))
    elif not config.train_data_dir and is_known:  # else what should give it is wrong, and told
        problems.append(Message("cli.data_required"))
    if problems:
        raise _all_of(problems)
    if intent and not resume:
        return _with_recipe(intent, config, layers.values, taken)
    if taken:
        layers.notes.append(_taken_note(config, taken))
    return Request(config.replace(**_absolute(config)), resume, tuple(layers.notes))


def _of_init_lora(preset: Mapping[str, object], given: Mapping[str, object]) -> dict[str, object]:
    """What the LoRA to go on from says of its adapters, but for what was set where it was named, or by a flag.

    Raises:
        UserError: it is none that a training can go on from.
    """
    path = given.get("init_lora", preset.get("init_lora", ""))
    if not isinstance(path, str) or not path:
        return {}
    with importing():
        from lora_core.lora.adapter_settings import settings_to_go_on  # brings torch

    set_beside = migrated(given if "init_lora" in given else {**preset, **given})
    try:
        found = settings_to_go_on(Path(path))
    except UserError as cause:
        raise UserError("cli.at_flag", field="init_lora", what=cause) from None
    return {name: value for name, value in found.items() if name not in set_beside}


def _taken_note(config: TrainConfig, taken: Mapping[str, object]) -> Message:
    told = [f"--{name} {toml(value)}" for name, value in taken.items()]
    return Message("cli.init_lora", file=Path(config.init_lora).name, settings=told)


def _with_recipe(
    intent: str, config: TrainConfig, values: Mapping[str, object], taken: Mapping[str, object]
) -> Request:
    """What was given, over what the recipe of an intent makes of model, pictures and computer.

    taken: of `values`, those of the LoRA to go on from.
    """
    with importing():
        from lora_core.cli import plan_summary
        from lora_core.recipes.resolved import for_training

    kept = {name: value for name, value in config.values().items() if name in values and name not in taken}
    found = for_training(intent, config, kept, taken)
    whole = TrainConfig.of({**found.values, **kept})
    reasons, note = plan_summary.reasons(found, kept), plan_summary.of_recipe(found, whole)
    return Request(whole.replace(**_absolute(whole)), notes=(note,), reasons=tuple(reasons))


def _run_to_resume(resume: str, given: dict[str, object], preset: dict[str, object]) -> tuple[Path, str]:
    """The run folder, and what the job shall resume from: "latest" or a checkpoint folder.

    `resume` is "latest", a checkpoint folder, or a run folder, which means its latest checkpoint.
    """
    place = Path(_local_path(resume))
    if resume == "latest":
        default = preset.get("output_dir", settings()["output_dir"].default)
        folder = Path(str(given.get("output_dir", default)))
        if not Run(folder).config_file.is_file():
            raise UserError("cli.no_run", folder=folder)
        return folder, resume
    is_run = Run(place).config_file.is_file()
    folder = place if is_run else place.parent.parent
    if not Run(folder).config_file.is_file():
        raise UserError("cli.no_checkpoint", path=place)
    if "output_dir" in given and Path(str(given["output_dir"])).resolve() != folder.resolve():
        raise UserError("cli.other_run", path=place, folder=folder)
    return folder, "latest" if is_run else str(place)


def _preset_values(name: str) -> dict[str, object]:
    """A preset's settings; a shipped one speaks of the folders shipped with it, wherever it is called from."""
    values = dict(find_preset(name).values)
    path = Path(name)
    is_shipped = path.suffix not in (".toml", ".safetensors") or path.resolve().parent == PRESETS.resolve()
    if is_shipped and isinstance(folder := values.get("train_data_dir"), str) and folder:
        values["train_data_dir"] = str(ROOT / folder)
    return _localized(values)


def _localized(values: dict[str, object]) -> dict[str, object]:
    return {n: _local_path(v) if n in PATHS and isinstance(v, str) else v for n, v in values.items()}


def _local_path(text: str) -> str:
    r"""`.\Training` as Windows writes it, also elsewhere, and `~`; a name that really holds a backslash stays."""
    text = os.path.expanduser(text)
    if os.name == "nt" or "\\" not in text or Path(text).exists():
        return text
    forward = text.replace("\\", "/")
    return forward if Path(forward).exists() or text.startswith((".\\", "..\\")) else text


def _absolute(config: TrainConfig) -> dict[str, object]:
    """Input folders as absolute paths, so that the run can be resumed from anywhere."""
    names = ("train_data_dir", "pretrained_model_name_or_path", "vae", "init_lora")
    return {name: _absolute_value(name, getattr(config, name)) for name in names}


def _absolute_value(name: str, value: object) -> object:
    if not isinstance(value, str) or name not in PATHS or name == "output_dir":
        return value
    if name != "train_data_dir" and (value in ("", "starter") or not Path(value).exists()):
        return value
    return os.path.abspath(value)


def _no_folder(path: Path) -> Message:
    beside = [p.name for p in path.parent.iterdir() if p.is_dir()] if path.parent.is_dir() else []
    key = "cli.data_is_file" if path.exists() else "cli.data_missing"
    return Message(key, path=path, suggestion=suggest(path.name, beside))


def _at_flag(wrong: Problem) -> Message:
    return Message("cli.at_flag", field=wrong.field, what=wrong.message)


def _all_of(problems: list[Message]) -> UserError:
    if len(problems) == 1:
        return UserError(problems[0])
    return UserError("cli.several", problems=[Message("cli.one_of_several", what=each) for each in problems])
