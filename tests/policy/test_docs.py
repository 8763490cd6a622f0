"""The two READMEs: the same in both languages, and true to what is in the repository."""

from __future__ import annotations

import re
import subprocess

import pytest

from lora_core.cli import flags
from lora_core.config import PRESETS, settings
from tests import ROOT
from tests.policy import settings_doc

ENGLISH, PORTUGUESE = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.pt-BR.md"))
BOTH = pytest.mark.parametrize("text", [ENGLISH, PORTUGUESE], ids=["en", "pt-BR"])
GENERAL = {"help", "version", "list_presets", "preset", "resume", "verbose"}

# The user's own line, as it has to work on their Windows.
COMMAND = (
    r"python .\treino.py --train_data_dir .\Training --output_dir .\meu_lora_out --pretrained_model_name_or_path "
    "runwayml/stable-diffusion-v1-5 --resolution 512 --train_batch_size 1 --max_train_steps 1500 --save_steps 500 "
    "--lora_rank 16 --mixed_precision fp16"
)


def blocks(text: str, language: str = r"\w*") -> list[str]:
    """The contents of fenced code blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def tree(text: str) -> dict[str, str]:
    """Path -> description of the drawn tree; folders end with a slash and each level is two spaces deep."""
    lines = blocks(text, "tree")[0].splitlines()
    found: dict[str, str] = {}
    parents: list[str] = []
    for line in lines:
        depth, rest = (len(line) - len(line.lstrip())) // 2, line.strip()
        name, _, description = rest.partition(" ")
        path = "".join(parents[:depth]) + name
        parents[depth:] = [name]
        assert path not in found, f"{path} is drawn twice"
        found[path] = description.strip()
    return found


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    return [name for name in listed.stdout.decode("utf-8").split("\0") if name and (ROOT / name).exists()]


@BOTH
def test_the_tree_names_what_is_tracked_and_nothing_else(text: str) -> None:
    drawn = tree(text)
    opened = {""} | {
        path.rsplit("/", 2 if path.endswith("/") else 1)[0] + "/" for path in drawn if path.rstrip("/").count("/")
    }
    expected = set()
    for name in tracked():
        parts = name.split("/")
        for depth in range(len(parts)):
            if "".join(f"{part}/" for part in parts[:depth]) in opened:
                expected.add("/".join(parts[: depth + 1]) + ("/" if depth < len(parts) - 1 else ""))
    assert sorted(drawn) == sorted(expected)


@BOTH
def test_every_line_of_the_tree_says_something(text: str) -> None:
    assert [path for path, description in tree(text).items() if len(description) < 10] == []


def test_both_trees_are_in_the_same_order() -> None:
    assert list(tree(ENGLISH)) == list(tree(PORTUGUESE))


@BOTH
def test_the_users_own_command_is_there_as_written(text: str) -> None:
    assert COMMAND in "".join(blocks(text, "powershell"))
    assert r"Copy-Item .\meu_lora_out\*.safetensors -Destination" in text


@BOTH
def test_the_two_commands_come_first(text: str) -> None:
    first = blocks(text)[0]
    assert "python treino.py --preset quickstart" in first
    assert "python -m tests" in text


def test_both_have_the_same_parts() -> None:
    assert re.findall(r"^(#+) ", ENGLISH, re.MULTILINE) == re.findall(r"^(#+) ", PORTUGUESE, re.MULTILINE)
    assert ENGLISH.count("\n| ") == PORTUGUESE.count("\n| ")
    assert re.findall(r"^(\d+\.|-) ", ENGLISH, re.MULTILINE) == re.findall(r"^(\d+\.|-) ", PORTUGUESE, re.MULTILINE)


def test_both_show_the_same_commands() -> None:
    def commands(text: str) -> list[str]:
        bare = [
            re.sub(r"#.*", "", line).strip()
            for block in blocks(text, r"(?:powershell|bash|python)")
            for line in block.splitlines()
        ]
        return [line for line in bare if line]

    assert commands(ENGLISH) == commands(PORTUGUESE)


@BOTH
def test_every_flag_that_is_named_exists(text: str) -> None:
    known = {option for action in flags.parser()._actions for option in action.option_strings}
    others = ("treino.py caption", "treino.py convert", "treino.py export", "gui.py ", "tests.benchmarks")
    foreign = (*others, "accelerate launch", "pip ", "ruff ", "There is no flag")
    own = [line for line in text.splitlines() if not any(word in line for word in foreign)]
    named = {flag for line in own for flag in re.findall(r"(?<![\w-])--[a-z_]+", line)}
    assert named - known == set()
    assert len(named) > 15


@BOTH
def test_every_preset_is_named(text: str) -> None:
    for path in PRESETS.glob("*.toml"):
        assert f"`{path.stem}`" in text


@BOTH
def test_the_table_of_settings_tells_the_real_defaults(text: str) -> None:
    rows = re.findall(r"^\| `--(\w+)` \| `([^`]*)` \|", text, re.MULTILINE)
    assert len(rows) >= 10
    for name, shown in rows:
        default = settings()[name].default
        assert shown == (",".join(default) if isinstance(default, tuple) else str(default)), name


@BOTH
def test_links_within_the_repository_lead_somewhere(text: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", text)
    assert "lora_core/starter/before_after.png" in links
    assert [link for link in links if not (ROOT / link).exists()] == []


@BOTH
def test_numbers_of_speed_and_memory_stand_only_where_they_are_measured(text: str) -> None:
    outside = re.sub(r"<!-- measured -->.*?<!-- /measured -->", "", text, flags=re.DOTALL)
    assert len(outside) < len(text)
    assert re.findall(r"\d+[.,]?\d* ?(?:it/s|s/it|seconds|segundos|minutes|minutos|GiB|MiB)", outside) == []


@pytest.mark.parametrize("language", settings_doc.PAGES)
def test_the_page_of_the_settings_is_what_config_and_presets_say(language: str) -> None:
    assert settings_doc.PAGES[language].read_text(encoding="utf-8") == settings_doc.page(language), (
        "write it anew: python -m tests.policy.settings_doc --write"
    )
