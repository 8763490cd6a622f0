"""The workflow audit.yml: what it passes over does not reach Treino, and all that is installed goes with our licence.

What is published about the packages is asked of pip-audit's database there, which needs a network.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from itertools import pairwise

import pytest
import yaml

from tests import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "audit.yml"
# Holes that no version closes: why they do not reach Treino, and a pattern of what its sources then must not hold.
PASSED_OVER = {
    ("CVE-2026-4538",): ("opens no .pt2 archives of torch", r"torch\.export|pt2"),
    ("CVE-2025-14922",): (
        "of diffusers it reads Stable Diffusion only, tensors only",
        r"CogView|DiffusionPipeline\.from_pretrained\((?!model, dtype)",
    ),
    (
        "CVE-2025-14920", "CVE-2025-14921", "CVE-2025-14924", "CVE-2025-14926", "CVE-2025-14927", "CVE-2025-14928",
        "CVE-2025-14929", "CVE-2025-14930",
    ): (
        "of transformers it takes CLIP's layers only and reads their weights itself",
        r"AutoModel|CLIPTextModel\w*\.from_pretrained|transformers\.models|trust_remote",
    ),
    ("CVE-2026-69112",): (
        "never loads checkpoints by accelerate; its own lists of files are checked (lora_core/models/weights.py)",
        r"load_checkpoint_(in_model|and_dispatch)",
    ),
    ("CVE-2026-71281",): (
        "uses neither LoRA-GA nor CorDA of peft, and its torch reads tensors only unless told otherwise",
        r"(?i)corda|lora_?ga|weights_only=False",
    ),
}  # fmt: skip


def words(step: str) -> list[str]:
    """The words of the last command of a step."""
    steps = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]["audit"]["steps"]
    (command,) = (each["run"] for each in steps if each.get("name") == step)
    return shlex.split(command.replace("\\\n", " ").strip().splitlines()[-1])


def test_what_the_audit_passes_over_is_explained() -> None:
    asked = words("Known security holes")
    passed_over = [after for word, after in pairwise(asked) if word == "--ignore-vuln"]
    assert sorted(passed_over) == sorted(each for ids in PASSED_OVER for each in ids)
    assert {"requirements.txt", "tests/requirements.txt"} <= set(asked)


@pytest.mark.parametrize("ids", PASSED_OVER, ids=lambda ids: ids[0])
def test_what_is_passed_over_is_not_used(ids: tuple[str, ...]) -> None:
    _, unused = PASSED_OVER[ids]
    for path in (ROOT / "lora_core").rglob("*.py"):
        assert not re.search(unused, path.read_text(encoding="utf-8")), path


def test_all_that_is_installed_goes_with_our_licence() -> None:
    python, *asked = words("Licences that go with MIT")
    assert python == "python"
    told = subprocess.run([sys.executable, *asked], capture_output=True, text=True, encoding="utf-8", check=False)
    assert told.returncode == 0, told.stdout[-500:] + told.stderr
    assert all(name in told.stdout for name in ("torch", "gradio", "peft", "opencv-python"))


def test_a_licence_that_does_not_go_with_ours_is_found() -> None:
    _, *asked = words("Licences that go with MIT")
    only_ours = [re.sub("allow-only=.*", "allow-only=MIT", word) for word in asked]
    told = subprocess.run([sys.executable, *only_ours], capture_output=True, text=True, encoding="utf-8", check=False)
    assert told.returncode == 1
