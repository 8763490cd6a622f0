"""The rules of the house that no linter knows, held by reading the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lora_core.install import requirements
from tests import ROOT

CORE = sorted((ROOT / "lora_core").rglob("*.py"))
DOORS = [ROOT / name for name in ("treino.py", "gui.py") if (ROOT / name).exists()]
CODE = CORE + DOORS
LONGEST_FILE, LONGEST_FUNCTION, MOST_PARAMETERS = 400, 60, 7

# Optional packages: used where a person has installed them, and told where not.
OPTIONAL = {"bitsandbytes"}
IMPORTED_AS = {"PIL": "pillow", "cv2": "opencv-python", "huggingface_hub": "huggingface-hub", "yaml": "pyyaml"}

# In pieces, so that this file does not name them itself.
FOREIGN_PLACES = re.compile(
    "|".join(
        [
            "/" + "work/(?:main|shared)", "/" + "root/", "/opt/" + "(?:wheels|pypi)",
            "pypi" + r"\.org", "pythonhosted" + r"\.org", "registry" + r"\.npmjs", "deb" + r"\.debian\.org",
        ]
    )
)  # fmt: skip


def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def imported(tree: ast.AST) -> set[str]:
    """The top-level names of all absolute imports, also those inside functions."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            names.add((node.module or "").partition(".")[0])
    return names


def functions(tree: ast.AST) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    return [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]


@pytest.mark.parametrize("path", CODE, ids=name)
def test_only_the_window_imports_gradio(path: Path) -> None:
    if path.name != "gui.py" and "lora_core/ui/" not in path.as_posix():
        assert "gradio" not in imported(parsed(path))


@pytest.mark.parametrize("path", CODE, ids=name)
def test_everything_fits_on_a_page(path: Path) -> None:
    tree = parsed(path)
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= LONGEST_FILE, f"{name(path)} has {lines} lines"
    for function in functions(tree):
        length = (function.end_lineno or function.lineno) - function.lineno + 1
        assert length <= LONGEST_FUNCTION, f"{function.name} has {length} lines"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_functions_take_few_parameters_and_change_no_globals(path: Path) -> None:
    tree = parsed(path)
    assert not [node for node in ast.walk(tree) if isinstance(node, ast.Global)]
    for function in functions(tree):
        arguments = function.args
        named = [a.arg for a in (*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs)]
        taken = [a for a in named if a not in ("self", "cls")]
        assert len(taken) <= MOST_PARAMETERS, f"{function.name} takes {', '.join(taken)}"


@pytest.mark.parametrize("path", CODE, ids=name)
def test_text_files_are_opened_as_utf8(path: Path) -> None:
    for node in ast.walk(parsed(path)):
        if not isinstance(node, ast.Call):
            continue
        called = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        given = {keyword.arg for keyword in node.keywords}
        if called in ("read_text", "write_text"):
            assert "encoding" in given, f"line {node.lineno}"
        elif isinstance(node.func, ast.Name) and called == "open":
            modes = [part.value for a in node.args[1:2] for part in ast.walk(a) if isinstance(part, ast.Constant)]
            assert "encoding" in given or (modes and all("b" in str(mode) for mode in modes)), f"line {node.lineno}"


def test_every_package_that_is_imported_is_required() -> None:
    ours = {"lora_core", "tests", "treino", "gui"}
    wanted = {requirement.name for requirement in requirements.read(ROOT / "requirements.txt")}
    used = {top for path in CODE for top in imported(parsed(path)) if top not in sys.stdlib_module_names | ours}
    assert {IMPORTED_AS.get(top, top) for top in used} - OPTIONAL - wanted == set()


@pytest.mark.parametrize("module", ["lora_core", "lora_core.install.bootstrap", "lora_core.config", "lora_core.cli.main"])
def test_a_door_opens_without_loading_anything_heavy(module: str) -> None:
    script = f"import sys, {module}; print(sorted({{'torch', 'diffusers', 'transformers', 'numpy'}} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def texts() -> list[Path]:
    """What is tracked and is text."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    paths = [ROOT / file for file in listed.stdout.decode("utf-8").split("\0") if file]
    return [path for path in paths if path.is_file() and b"\0" not in path.read_bytes()[:8192]]


def test_no_text_names_a_place_that_only_its_author_has() -> None:
    found = [
        f"{name(path)}:{number}: {hit[0]}"
        for path in texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if (hit := FOREIGN_PLACES.search(line))
    ]
    assert found == []


def test_texts_are_utf8_without_bom() -> None:
    for path in texts():
        content = path.read_bytes()
        content.decode("utf-8")
        assert not content.startswith(b"\xef\xbb\xbf"), name(path)


def test_lines_end_as_on_unix_in_the_repository() -> None:
    listed = subprocess.run(["git", "ls-files", "--eol"], cwd=ROOT, capture_output=True, check=False, encoding="utf-8")
    if listed.returncode:
        pytest.skip("not a git clone")
    assert [line for line in listed.stdout.splitlines() if line.startswith(("i/crlf", "i/mixed"))] == []
