"""The main job as a user does it: one command, twelve pictures, a LoRA that has visibly learned."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from lora_core.starter.score import score_lora
from tests import ROOT


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run folder after `python treino.py --preset quickstart`."""
    out = tmp_path_factory.mktemp("quickstart") / "saída com espaço"
    command = [sys.executable, str(ROOT / "treino.py"), "--preset", "quickstart", "--output_dir", str(out)]
    result = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=900, cwd=out.parent)
    assert result.returncode == 0, result.stderr
    assert "ampulheta.safetensors" in result.stdout + result.stderr
    return out


@pytest.mark.timeout(1200)
def test_the_lora_learned_its_concept_and_nothing_else(finished: Path) -> None:
    trained = [path.read_text(encoding="utf-8") for path in (ROOT / "Training").glob("*.txt")]
    score = score_lora(finished / "ampulheta.safetensors", trained)
    assert score["concept_with"] >= 0.90, score
    assert score["concept_without"] <= 0.05, score
    assert score["leak"] <= 0.10, score


@pytest.mark.timeout(1200)
def test_it_leaves_a_sheet_of_before_and_after(finished: Path) -> None:
    with Image.open(finished / "before_after.png") as sheet:
        assert sheet.width > 500 and sheet.height > 300
        colours = sheet.convert("RGB").getcolors(2**24)
    assert colours is not None and len(colours) > 500, "an empty sheet has few colours"


@pytest.mark.timeout(1200)
def test_the_run_folder_holds_what_the_readme_says(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert {
        "ampulheta.safetensors",
        "before_after.png",
        "config.toml",
        "events.jsonl",
        "checkpoints",
        "samples",
    } <= names
    assert not [path for path in finished.rglob("*") if path.suffix == ".tmp"]


def test_the_users_own_command_is_understood_as_written(tmp_path: Path) -> None:
    """The brief's PowerShell line, with a model that is not on this machine: it must get as far as looking for it."""
    arguments = [
        "--train_data_dir", r".\Training", "--output_dir", r".\meu_lora_out", "--pretrained_model_name_or_path",
        "runwayml/stable-diffusion-v1-5", "--resolution", "512", "--train_batch_size", "1", "--max_train_steps", "1500",
        "--save_steps", "500", "--lora_rank", "16", "--mixed_precision", "fp16",
    ]  # fmt: skip
    shutil.copytree(ROOT / "Training", tmp_path / "Training")
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    result = subprocess.run(
        [sys.executable, str(ROOT / "treino.py"), *arguments], capture_output=True, text=True, encoding="utf-8",
        timeout=300, cwd=tmp_path, env=environment,
    )  # fmt: skip
    assert result.returncode == 2 and "Traceback" not in result.stderr
    assert "stable-diffusion-v1-5/stable-diffusion-v1-5" in result.stderr
