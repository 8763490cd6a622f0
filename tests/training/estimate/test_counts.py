"""lora_core.training.estimate.counts: the counts that come with Treino against the step as it is, and how they are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from lora_core.config import TrainConfig
from lora_core.models.architecture import of_family, shapes_of
from lora_core.training.estimate.counts import SHIPPED, At, CostCounts, Graph, Polynomial, known, worst
from tests.benchmarks.counting.count import step_count
from tests.benchmarks.counting.meta_session import meta_session
from tests.benchmarks.counting.op_counter import top
from tests.benchmarks.counting.shipped import to_rows, to_text

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")


def settings(**values: object) -> TrainConfig:
    return TrainConfig.of({"target_modules": ATTENTION, "mixed_precision": "no", **values})


def test_the_shipped_counts_are_those_of_the_step_as_it_is() -> None:
    """When this fails, the step has changed: python -m tests.benchmarks.memory --write after deleting counts.json."""
    shapes, config = shapes_of("starter"), settings(target_modules=("to_q", "to_v"))
    fresh = step_count(shapes, config, 4)
    kept = CostCounts.read(SHIPPED).steps[Graph.of(shapes, config, 4)]
    for where in (At(1, 1, 16), At(8, 4, 4)):
        for name in ("moments", "draw"):
            assert worst(getattr(kept, name), where) == pytest.approx(worst(getattr(fresh, name), where), rel=0.01)
        assert kept.step.at(where) == pytest.approx(fresh.step.at(where), rel=0.01)
    assert kept.adapters.at(At(1, 1, 16)) == sum(
        p.numel() for p in meta_session(
            shapes, config.replace(lora_rank=16), torch.float32, 1, 8
        ).parameters.values()
    )  # fmt: skip


def test_sd15_computes_what_the_textbook_says_and_less_where_it_recomputes() -> None:
    """0.81 TFLOP forward, 0.98 backward at 512 pixels. Recomputing ends before each block's last convolution, which keeps
    nothing: 1.48 instead of the textbook's 1.57.
    """
    shapes, where = of_family("sd1"), At.of(1, (64, 64), 16)
    for checkpointing, backward in ((False, 0.98), (True, 1.48)):
        config = TrainConfig.of({"target_modules": ATTENTION, "gradient_checkpointing": checkpointing})
        found = CostCounts.read(SHIPPED).steps[Graph.of(shapes, config, 2)]
        assert found.forward.at(where) / 1e12 == pytest.approx(0.81, rel=0.02)
        assert (found.step.at(where) - found.forward.at(where)) / 1e12 == pytest.approx(backward, rel=0.02)


def test_counts_are_read_back_as_they_were_written_and_a_damaged_file_is_as_good_as_none(tmp_path: Path) -> None:
    assert to_text(known()) == SHIPPED.read_text(encoding="utf-8")
    damaged = tmp_path / "counts.json"
    for text in ("{", '{"version": 0, "steps": [], "parts": []}', '{"version": 4, "steps": [{}], "parts": []}'):
        damaged.write_text(text, encoding="utf-8")
        assert CostCounts.read(damaged) == CostCounts.read(tmp_path / "none") == CostCounts({}, {})


def test_polynomials_are_compared_and_read_back() -> None:
    small, large = Polynomial({(0, 0, 0): 1.0, (1, 2, 0): 2.0}), Polynomial({(0, 0, 0): 3.0, (1, 2, 0): 2.0})
    other = Polynomial({(0, 0, 1): 9.0})
    assert top([small, large, other]) == [large, other]
    assert worst([large, other], At(2, 3, 1)) == 39.0
    assert Polynomial.from_json(to_rows(large)) == large
