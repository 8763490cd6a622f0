"""ARCHITECTURE.md and the docstrings of the packages: what they name is there, and all that is there is named."""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests import ROOT
from tests.policy.test_docs import blocks, name, read

ARCHITECTURE = read(ROOT / "ARCHITECTURE.md")
CORE = ROOT / "lora_core"
ROOMS = {path.parent.name for path in CORE.glob("*/__init__.py")} | {
    path.stem for path in CORE.glob("*.py") if path.stem != "__init__"
}


def exists(dotted: str) -> bool:
    """Whether `room.module.name`, with or without the module, is there; read, not imported."""
    parts = dotted.split(".")
    base = ROOT if parts[0] == "tests" else CORE
    for count in range(len(parts), 0, -1):
        place = base.joinpath(*parts[:count])
        path = place / "__init__.py" if place.is_dir() else place.with_suffix(".py")
        if path.is_file():
            return defines(ast.parse(read(path)).body, parts[count:])
    return False


def defines(body: Sequence[ast.stmt], names: Sequence[str]) -> bool:
    """Whether these statements define a name, and what is left of the names within it."""
    if not names:
        return True
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and node.name == names[0]:
            return defines(node.body, names[1:])
        bound = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
        if any(isinstance(part, ast.Name) and part.id == names[0] for part in bound):
            return len(names) == 1
    return False


def test_every_module_and_function_that_the_map_names_exists() -> None:
    named = set(re.findall(r"`((?:\w+\.)+\w+)`", ARCHITECTURE))
    code = {word for word in named if word.split(".")[0] in ROOMS | {"tests"} and not word.endswith((".toml", ".jsonl"))}
    assert len(code) > 30
    assert sorted(word for word in code if not exists(word)) == [], "gone or renamed: ARCHITECTURE.md tells of them"


def test_a_name_that_does_not_exist_is_noticed() -> None:
    assert exists("config.TrainConfig.of") and exists("training.data.plan") and exists("messages.say")
    assert not exists("config.TrainConfig.off") and not exists("training.data.plans") and not exists("config.no_such")


def test_every_path_that_the_map_names_exists() -> None:
    named = [word for word in re.findall(r"`([\w./*<>-]+/[\w./*<>-]*)`", ARCHITECTURE) if "<" not in word]
    assert len(named) > 10
    bases = (ROOT, CORE)
    assert [word for word in named if not any(list(base.glob(word.rstrip("/"))) for base in bases)] == []


def test_the_map_has_every_room_and_no_other() -> None:
    table = ARCHITECTURE.partition("## The rooms")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.{20,}) \|$", table, re.MULTILINE)
    assert sorted(room for room, _ in rows) == sorted(ROOMS)
    for room, words in rows:
        inner = [word for word in re.findall(r"`(\w+)`", words) if (CORE / room).is_dir()]
        assert [word for word in inner if not (CORE / room / word).is_dir()] == [], room
        packages = {path.parent.name for path in (CORE / room).glob("*/__init__.py")}
        assert packages == set(inner), room


PACKAGES = sorted(path.parent for path in CORE.rglob("__init__.py") if path.parent != CORE)


def told_modules(package: Path) -> dict[str, str]:
    """Module or folder -> what the package's docstring says of it, a line each, whose second line is set in."""
    docstring = ast.get_docstring(ast.parse(read(package / "__init__.py"))) or ""
    return dict(re.findall(r"^ {0,4}(\w+)/? {2,}(\S.+)$", docstring, re.MULTILINE))


@pytest.mark.parametrize("package", PACKAGES, ids=name)
def test_a_package_tells_what_each_of_its_modules_is_for(package: Path) -> None:
    modules = {path.stem for path in package.glob("*.py")} - {"__init__"}
    modules |= {path.parent.name for path in package.glob("*/__init__.py")}
    told = told_modules(package)
    assert sorted(told) == sorted(modules)
    assert [module for module, words in told.items() if len(words) < 10] == []


def test_the_picture_of_the_order_is_the_order_that_is_checked() -> None:
    rules = tomllib.loads(read(ROOT / "pyproject.toml"))["tool"]["importlinter"]["contracts"]
    layers = [[room.strip() for room in layer.split("|")] for layer in rules[0]["layers"]]
    drawn = blocks(ARCHITECTURE.partition("## The order")[2], "text")[0].splitlines()
    assert [re.split(r"\s{2,}", line)[0].strip().split(" · ") for line in drawn] == layers
