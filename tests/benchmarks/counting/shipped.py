"""The counts that come with Treino: which graphs they are of, how their file is written, and how tests add one."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

from lora_core.config import TARGETS, TrainConfig, find_preset
from lora_core.models.architecture import Shapes, of_family, shapes_of
from lora_core.models.catalog import STARTER
from lora_core.recipes import recipe
from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts
from lora_core.recipes.intents import INTENTS
from lora_core.system.files import write_text_whole
from lora_core.training.estimate.counts import (
    SHIPPED,
    VERSION,
    CostCounts,
    Graph,
    Parts,
    PartsCount,
    Polynomial,
    StepCount,
    known,
)  # fmt: skip
from lora_core.training.estimate.levels import LEVELS
from tests.benchmarks.counting.count import parts_count, step_count

RESOLUTION = {"sd1": 512, "sd2": 768, "sdxl": 1024}
MODULES: dict[str, tuple[str, ...]] = {
    "q v": ("to_q", "to_v"),
    "attention": ("to_q", "to_k", "to_v", "to_out.0"),
    "attention, ff": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2"),
    "attention, ff, proj": ("to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out"),
    "all": TARGETS,
}


def usual() -> Iterator[tuple[Shapes, TrainConfig, int]]:
    """The graphs whose counts come with Treino: the recipes', the usual modules, and all, which holds every other."""
    for family in RESOLUTION:
        for config in (TrainConfig(), *recipes(family)):
            for changes in ({}, *LEVELS.values()):
                yield of_family(family), config.replace(**changes), 2
            yield of_family(family), config, 4
    for family in RESOLUTION:
        for quarters in (1, 2, 3):
            for targets in MODULES.values():
                yield of_family(family), TrainConfig.of({"target_modules": targets, "checkpointed_quarters": quarters}), 2
            for asked in ({"eight_bit_base": True}, {"train_text_encoder": True}):
                most = {**asked, "target_modules": TARGETS, "checkpointed_quarters": quarters}
                yield of_family(family), TrainConfig.of(most), 2
        for checkpointing in (True, False):
            for targets in MODULES.values():
                asked = {"eight_bit_base": True, "gradient_checkpointing": checkpointing, "target_modules": targets}
                yield of_family(family), TrainConfig.of(asked), 2
        for kind in ("loha", "lokr"):
            for checkpointing in (False, True):
                most = {"target_modules": TARGETS, "train_text_encoder": True}
                for asked in ({}, {"target_modules": MODULES["attention"]}, most):
                    values = {**asked, "adapter": kind, "gradient_checkpointing": checkpointing}
                    yield of_family(family), TrainConfig.of(values), 2
    for is_lean, checkpointing in ((False, False), (True, False), (True, True)):
        asked = {"lean_activations": is_lean, "gradient_checkpointing": checkpointing}
        yield shapes_of(STARTER), TrainConfig.of({**find_preset("quickstart").values, **asked}), 4
    for checkpointing in (True, False):
        for name in (STARTER, *RESOLUTION):
            shapes = shapes_of(name) if name == STARTER else of_family(name)
            lessons = {"prior_prompts": "x", "prior_pictures": 1} if name == STARTER else {}
            for number_bytes in (4,) if name == STARTER else (2, 4):
                plain = {"gradient_checkpointing": checkpointing}
                for targets in MODULES.values():
                    yield shapes, TrainConfig.of({**plain, "target_modules": targets}), number_bytes
                for is_lean in (True, False):
                    most = {**plain, **lessons, "target_modules": TARGETS, "train_text_encoder": True}
                    yield shapes, TrainConfig.of({**most, "lean_activations": is_lean}), number_bytes


def recipes(family: str) -> Iterator[TrainConfig]:
    """What each intent comes to where there is room."""
    for intent in INTENTS:
        found = recipe(intent, BaseFacts(of_family(family)), DatasetFacts(20), MachineFacts("a card"))
        yield TrainConfig.of(found.values)


def write() -> None:
    """Count what the file does not hold, and keep it there."""
    counts = CostCounts.read(SHIPPED)
    for shapes, config, number_bytes in usual():
        graph, parts = Graph.of(shapes, config, number_bytes), Parts.of(shapes, number_bytes)
        if graph in counts.steps and parts in counts.parts:
            continue
        print(f"counting {shapes.family}, {', '.join(graph.targets)}", flush=True)
        _add(counts, shapes, config, number_bytes)
        write_text_whole(SHIPPED, to_text(counts))


@contextmanager
def counted(shapes: Shapes, config: TrainConfig, number_bytes: int) -> Iterator[None]:
    """Within the block the estimates know this very graph, as if its count had come with Treino. Seconds for SD 1.5, up
    to a minute for SDXL.
    """
    shipped = known()
    before = dict(shipped.steps), dict(shipped.parts)
    try:
        _add(shipped, shapes, config, number_bytes)
        yield
    finally:
        for now, then in zip((shipped.steps, shipped.parts), before, strict=True):
            now.clear()
            now.update(then)  # type: ignore[arg-type]


def to_text(counts: CostCounts) -> str:
    """The counts as JSON, one a line."""
    steps = [_line({"of": asdict(graph), "count": _plain(count)}) for graph, count in counts.steps.items()]
    parts = [_line({"of": asdict(part), "count": _plain(found)}) for part, found in counts.parts.items()]
    return f'{{"version": {VERSION}, "steps": [\n{_rows(steps)}\n], "parts": [\n{_rows(parts)}\n]}}\n'


def to_rows(polynomial: Polynomial) -> list[list[float]]:
    """Rows of three powers and a factor, as `Polynomial.from_json` reads them."""
    return [[*term, round(factor, 3)] for term, factor in sorted(polynomial.terms.items()) if factor]


def _add(counts: CostCounts, shapes: Shapes, config: TrainConfig, number_bytes: int) -> None:
    graph, parts = Graph.of(shapes, config, number_bytes), Parts.of(shapes, number_bytes)
    if graph not in counts.steps:
        counts.steps[graph] = step_count(shapes, config, number_bytes)
    if parts not in counts.parts:
        counts.parts[parts] = parts_count(shapes, number_bytes)


def _plain(count: StepCount | PartsCount) -> dict[str, Any]:
    return {name: _plain_value(getattr(count, name)) for name in count.__dataclass_fields__}


def _plain_value(value: Any) -> Any:
    if isinstance(value, Polynomial):
        return to_rows(value)
    return [to_rows(polynomial) for polynomial in value] if isinstance(value, list) else value


def _line(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _rows(lines: list[str]) -> str:
    return ",\n".join(lines)
