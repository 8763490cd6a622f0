"""A run whose disk and speed are compared with what was told of them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from lora_core.config import TrainConfig
from lora_core.training.data.plan import Plan
from lora_core.training.job import Job
from tests.support.training import config_for


@pytest.fixture(scope="package")
def ran(tiny_sd1: Path, pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A real run of the starter in a cache of its own: what it announced, its plan, settings and folders."""
    home = tmp_path_factory.mktemp("ran")
    before = os.environ["TREINO_CACHE"]
    os.environ["TREINO_CACHE"] = str(home / "cache")
    try:
        config = config_for(
            "starter", pictures, home / "out", target_modules=["to_q", "to_v"], max_train_steps=14, save_steps=7,
            sample_count=1,
        )  # fmt: skip
        told: list[tuple[TrainConfig, Plan]] = []
        job = Job(config)
        job.announce = lambda config, plan: told.append((config, plan))
        job.start()
        assert job.wait(300) and job.error is None, job.error
        yield config, told[0][1], home
    finally:
        os.environ["TREINO_CACHE"] = before
