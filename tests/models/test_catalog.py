"""lora_core.models.catalog: base models by name, and what is known of them without a download."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import torch

from lora_core.models import load as base_models
from lora_core.models.architecture import shapes_of
from lora_core.models.catalog import BASES, KNOWN, STARTER, KnownBase, known
from lora_core.models.families.specs import FAMILIES
from lora_core.models.hub import client
from lora_core.models.hub.client import canonical, is_repo_id
from tests import ROOT
from tests.support.twins import save_twin

NOOB_V = "Laxhar/noobai-XL-Vpred-1.0"


def test_every_family_has_a_base_model_that_is_where_it_says() -> None:
    assert set(BASES) == set(FAMILIES)
    assert all(is_repo_id(base) and canonical(base) == (base, None) for base in BASES.values())
    assert not is_repo_id(STARTER)


@pytest.mark.parametrize("base", KNOWN, ids=lambda base: base.title)
def test_a_base_to_suggest_has_an_id_a_family_and_a_name(base: KnownBase) -> None:
    assert is_repo_id(base.id) and canonical(base.id) == (base.id, None)
    assert shapes_of(base.id).family == base.family.name and shapes_of(base.id).certain
    assert base.captions in ("tags", "sentences") and base.prediction_type in ("epsilon", "v_prediction")
    assert base.prediction_type == "v_prediction" or not base.zero_snr
    assert str(base.label).startswith(f"{base.title}: {base.captions}, {base.licence}")
    for page in ("docs", "docs/pt-BR"):
        line = next(
            line for line in (ROOT / page / "base-models-and-memory.md").read_text(encoding="utf-8").splitlines()
            if f"`{base.id}`" in line and line.startswith("|")
        )  # fmt: skip
        assert base.title in line and base.licence in line


def test_what_people_train_on_is_suggested_once() -> None:
    titles = " ".join(base.title for base in KNOWN)
    for name in ("SDXL", "Illustrious", "NoobAI XL 1.1 (epsilon)", "(v-pred)", "Pony", "Animagine", "1.5", "anime", "2.1"):
        assert name in titles
    assert len({base.id for base in KNOWN}) == len(KNOWN) and set(BASES.values()) <= {base.id for base in KNOWN}


def test_a_base_is_known_by_the_id_it_had_before_and_however_it_is_written() -> None:
    now = known("stable-diffusion-v1-5/stable-diffusion-v1-5")
    assert now and known("runwayml/stable-diffusion-v1-5") is now and known(NOOB_V.upper()) == known(NOOB_V)
    assert known("someone/juggernautXL") is None and known(STARTER) is None


@pytest.fixture
def noobai(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """NoobAI v-pred as the hub has it: settings that say epsilon, weights that predict velocity."""
    folder = save_twin("sdxl", tmp_path / "twin")
    scheduler = folder / "scheduler" / "scheduler_config.json"
    assert json.loads(scheduler.read_text(encoding="utf-8"))["prediction_type"] == "epsilon"
    snapshot = tmp_path / "hub" / f"models--{NOOB_V.replace('/', '--')}" / "snapshots" / ("a" * 40)
    shutil.copytree(folder, snapshot)
    refs = snapshot.parents[1] / "refs"
    refs.mkdir()
    (refs / "main").write_text(snapshot.name, encoding="utf-8")
    monkeypatch.setattr(client.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.chdir(tmp_path)
    return NOOB_V


def test_a_folder_that_says_the_wrong_thing_of_known_weights_is_not_believed(noobai: str) -> None:
    def opened(**asked: str) -> tuple[str, bool]:
        model = base_models.open_on_meta(noobai, torch.float32, lambda event: None, **asked)  # type: ignore[arg-type]
        return model.prediction_type, float(model.scheduler.alphas_cumprod[-1]) == 0

    assert opened() == ("v_prediction", True)
    assert opened(zero_terminal_snr="off") == ("v_prediction", False)
    assert opened(prediction_type="epsilon") == ("epsilon", False), "who says so knows better"
    (Path(noobai).parent).mkdir()
    shutil.copytree(Path("twin"), noobai)
    assert opened() == ("epsilon", False), "a folder of that name is another model"


def test_values_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        KNOWN[0].licence = "other"  # type: ignore[misc]
