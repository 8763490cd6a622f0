"""What every test shares: no network, a cache of its own, one tiny model and one tiny dataset."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_core.models.computer import computer_file
from tests import ROOT, heed_ctrl_c

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
# Sums differ in their last bits with the number of threads; one is also the fastest for models as small as ours.
os.environ.setdefault("OMP_NUM_THREADS", "1")
heed_ctrl_c()


# Of these a minute or more is spent in one file. Begun last, one worker would wait for the other at the end.
LONGEST = (
    "e2e/test_quickstart", "e2e/test_story", "e2e/test_train", "training/test_train", "reliability/test_starvation",
    "reliability/test_kill_drill", "system/test_distributed", "cli/test_main", "e2e/test_test", "e2e/test_frame",
    "reliability/test_gone_wrong", "policy/test_benchmarks",
)  # fmt: skip


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="what tests/device trains on: cuda, xpu, mps; by default the CPU")


def pytest_configure(config: pytest.Config) -> None:
    """Without a wish for a card nothing is computed on one, also not by programs that tests start: a card adds up in
    another order each time, and golden losses and resumed runs are compared to the last bit."""
    if config.getoption("--device") == "cpu":
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"  # of NVIDIA and AMD


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest files first."""
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.relative_to(ROOT / "tests").with_suffix("").as_posix(), len(order)))


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Tests never see, nor fill, the cache of the person who runs them."""
    os.environ["TREINO_CACHE"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(autouse=True)
def nothing_is_proven(shared_cache: None) -> Iterator[None]:
    """What one test's check of this computer found out decides nothing in the next one."""
    yield
    computer_file().unlink(missing_ok=True)


@pytest.fixture(scope="session")
def tiny_sd1(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers folder with an SD1-shaped model of random weights."""
    from tests.support.tiny import tiny_model

    return tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset of nine small pictures with captions; not to be changed."""
    from tests.support.tiny import tiny_dataset

    return tiny_dataset(tmp_path_factory.mktemp("pictures"))
