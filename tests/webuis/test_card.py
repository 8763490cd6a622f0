"""lora_core.webuis.card: what a run and its metadata say about name, words, weight and picture."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from lora_core.config import TrainConfig
from lora_core.errors import UserError
from lora_core.events import Finished, Validation
from lora_core.lora.file import write
from lora_core.lora.metadata import TrainingMetadata, build
from lora_core.runs.run import Run
from lora_core.webuis.card import OVERFIT_WEIGHT, card_for, lora_of, sample_of
from tests.support.lora_values import random_lora

_LAYER = {"unet.mid_block.attentions.0.transformer_blocks.0.attn2.to_k": (1280, 768)}


def _facts(**values: object) -> dict[str, str]:
    known: dict[str, object] = {"output_name": "zebu", "family": "sd1", "rank": 2, "alpha": 3.0, "resolution": 512}
    return build(TrainingMetadata(**{**known, **values}))  # type: ignore[arg-type]


def _write(path: Path, metadata: dict[str, str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write(path, random_lora(_LAYER), "sd1", metadata, "fp16")
    return path


def _run(folder: Path, losses: dict[int, float], **facts: object) -> Run:
    """A finished run with a checkpoint and two samples for every validation."""
    run = Run(folder)
    config = TrainConfig.of({"output_name": "zebu"})
    run.begin(config)
    metadata = _facts(**facts)
    for step, loss in losses.items():
        run.append(Validation(step, loss, loss, best=loss == min(losses.values())))
        for index in (0, 1):
            Image.new("RGB", (8, 8)).save(run.samples / f"step_{step:07d}_{index}.png")
        if step:
            _write(run.checkpoints / f"step_{step:07d}" / "lora.safetensors", metadata)
    run.append(Finished(max(losses, default=1), "zebu.safetensors", 1))
    _write(run.lora_file(config), metadata)
    return run


def test_a_run_that_went_well(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {0: 1.0, 100: 0.5, 200: 0.4}, trigger_phrase="zebu", base_model="org/sd", steps=200)
    found = card_for(run.folder)
    assert (found.lora, found.name) == (run.folder / "zebu.safetensors", "zebu")
    assert found.picture == run.samples / "step_0000200_0.png"
    assert found.remarks == ()
    card = found.sidecar
    assert (card.activation_text, card.preferred_weight, card.sd_version) == ("zebu", 1.0, "SD1")
    assert card.notes == "Base model: sd\nSteps: 200\nPictures: 0\nRank: 2\nResolution: 512x512"


def test_an_overfitted_run_gets_less_weight_and_a_hint(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {0: 1.0, 100: 0.4, 200: 0.5})
    found = card_for(run.folder)
    assert found.sidecar.preferred_weight == OVERFIT_WEIGHT
    remark = "\n".join(map(str, found.remarks))
    better = run.checkpoints / "step_0000100" / "lora.safetensors"
    assert "lowest at step 100 (0.4000) and is 0.5000 at step 200" in remark
    assert str(better) in remark
    from_checkpoint = card_for(better)
    assert (from_checkpoint.sidecar.preferred_weight, from_checkpoint.remarks) == (1.0, ())
    assert from_checkpoint.picture == run.samples / "step_0000100_0.png"


def test_a_hair_above_the_best_is_no_overfit(tmp_path: Path) -> None:
    assert card_for(_run(tmp_path / "run", {0: 1.0, 100: 0.4, 200: 0.4001}).folder).sidecar.preferred_weight == 1.0


def test_without_validation_the_weight_is_one(tmp_path: Path) -> None:
    assert card_for(_run(tmp_path / "run", {}).folder).sidecar.preferred_weight == 1.0


def test_a_lora_of_no_run(tmp_path: Path) -> None:
    path = _write(tmp_path / "theirs.safetensors", {"format": "pt"})
    found = card_for(path)
    assert (found.name, found.picture, found.remarks) == ("theirs", None, ())
    assert found.sidecar.notes == ""


# --- words -----------------------------------------------------------------------------------------------------------


def test_trigger_words_from_the_settings(tmp_path: Path) -> None:
    toml = TrainConfig.of({"trigger_word": "zebu"}).to_toml()
    path = _write(tmp_path / "x.safetensors", _facts(config_toml=toml))
    assert card_for(path).sidecar.activation_text == "zebu"


@pytest.mark.parametrize(
    ("tags", "words"),
    [({"zebu": 4, "grass": 2}, "zebu"), ({"zebu": 3, "grass": 2}, ""), ({}, ""), ({" zebu ": 4}, "zebu")],
)
def test_the_tag_that_every_picture_has(tags: dict[str, int], words: str, tmp_path: Path) -> None:
    metadata = _facts(tag_frequency={"a": tags}, dataset_dirs={"a": (1, 4)})
    assert card_for(_write(tmp_path / "x.safetensors", metadata)).sidecar.activation_text == words


@pytest.mark.parametrize("damaged", ["{", "[]", '{"a": 3}', '{"a": {"b": "c"}}'])
def test_damaged_tags_give_no_words(damaged: str, tmp_path: Path) -> None:
    metadata = {**_facts(dataset_dirs={"a": (1, 4)}), "ss_tag_frequency": damaged, "treino.config": "= ="}
    assert card_for(_write(tmp_path / "x.safetensors", metadata)).sidecar.activation_text == ""


# --- names -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("output_name", "folder", "trigger", "name"),
    [
        ("zebu", "run7", "word", "zebu"), ("pytorch_lora_weights", "run7", "my zebu", "my zebu"),
        ("pytorch_lora_weights", "run7", "", "run7"), ("pytorch_lora_weights", "lora_out", "", "pytorch_lora_weights"),
        ("pytorch_lora_weights", "run7", "a:b", "a_b"), ("pytorch_lora_weights", "run7", "...", "run7"),
        ("aux", "run7", "", "aux_"),
    ],
)  # fmt: skip
def test_a_name_that_every_run_has_makes_way(
    output_name: str, folder: str, trigger: str, name: str, tmp_path: Path
) -> None:
    run = Run(tmp_path / folder)
    run.begin(TrainConfig.of({}))
    run.append(Finished(1, "x", 1))
    path = _write(run.folder / "x.safetensors", _facts(output_name=output_name, trigger_phrase=trigger))
    assert card_for(path).name == name


# --- which file, which picture ---------------------------------------------------------------------------------------


def test_the_file_a_person_means(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {})
    assert lora_of(run.folder) == lora_of(run.folder / "zebu.safetensors") == run.folder / "zebu.safetensors"
    _write(run.folder / "other.safetensors", {})
    assert lora_of(run.folder) == run.folder / "zebu.safetensors"
    (run.folder / "zebu.safetensors").rename(run.folder / "third.safetensors")
    with pytest.raises(UserError, match="2 LoRAs"):
        lora_of(run.folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="no finished LoRA"):
        lora_of(tmp_path / "empty")


def test_two_loras_in_a_folder_that_is_no_run(tmp_path: Path) -> None:
    for name in ("a", "b"):
        _write(tmp_path / f"{name}.safetensors", {})
    with pytest.raises(UserError, match="2 LoRAs"):
        lora_of(tmp_path)


def test_no_picture_without_the_lora_is_shown_as_its_own(tmp_path: Path) -> None:
    run = _run(tmp_path / "run", {0: 1.0})
    assert sample_of(run, None) is None
    Image.new("RGB", (8, 8)).save(run.samples / "step_0000100_1.png")
    Image.new("RGB", (8, 8)).save(run.samples / "grid.png")
    assert sample_of(run, None) == run.samples / "step_0000100_1.png"
    assert sample_of(run, 999) == run.samples / "step_0000100_1.png"


def test_a_card_is_json_of_plain_words(tmp_path: Path) -> None:
    card = card_for(_run(tmp_path / "run", {0: 1.0, 100: 0.5}, trigger_phrase="zebu").folder).sidecar
    assert json.loads(card.to_json({}))["activation text"] == "zebu"
