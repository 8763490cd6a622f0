"""README and `docs/`: the same in both languages, and true to what is in the repository."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lora_core import sample_prompts
from lora_core.cli import flags
from lora_core.cli.main import main
from lora_core.config import PRESETS, TrainConfig, find_preset, settings
from tests import ROOT
from tests.policy import recipes_doc, settings_doc

DOCS = ROOT / "docs"
README, LEIAME = ROOT / "README.md", ROOT / "README.pt-BR.md"
PAIRS = [(README, LEIAME), *((DOCS / path.name, path) for path in sorted((DOCS / "pt-BR").glob("*.md")))]
PAGES = [
    README,
    LEIAME,
    ROOT / "ARCHITECTURE.md",
    *sorted(DOCS.rglob("*.md")),
    ROOT / "lora_core" / "starter" / "README.md",
]
LOG = DOCS / "log.md"


def name(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


BOTH = pytest.mark.parametrize("readme", [README, LEIAME], ids=["en", "pt-BR"])
EVERY_PAGE = pytest.mark.parametrize("page", PAGES, ids=name)
EVERY_PAIR = pytest.mark.parametrize(("english", "portuguese"), PAIRS, ids=[name(english) for english, _ in PAIRS])

# The user's own line, as it has to work on their Windows.
COMMAND = (
    r"python .\treino.py --train_data_dir .\Training --output_dir .\meu_lora_out --pretrained_model_name_or_path "
    "runwayml/stable-diffusion-v1-5 --resolution 512 --train_batch_size 1 --max_train_steps 1500 --save_steps 500 "
    "--lora_rank 16 --mixed_precision fp16"
)
# Programs that are not ours; what follows them on a line is theirs.
FOREIGN = r"accelerate launch|pip install|\bgit\b|webui that runs with|webui que roda com|There is no flag"


def read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def blocks(text: str, language: str = r"\w*") -> list[str]:
    """The contents of fenced code blocks."""
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


def prose(text: str) -> str:
    """A page without its fenced code blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text: str) -> set[str]:
    """What GitHub calls the headings of a page in an address."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        slug = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        number = next(n for n in range(len(found) + 1) if (f"{slug}-{n}" if n else slug) not in found)
        found.add(f"{slug}-{number}" if number else slug)
    return found


def links(text: str) -> list[str]:
    """Where a page leads, and which pictures it shows; addresses in the web are left out."""
    found = re.findall(r"\]\(([^)\s]+)\)", prose(text)) + re.findall(r'\b(?:src|srcset|href)="([^"]+)"', text)
    return [link for link in found if not re.match(r"\w+:", link)]


def targets(page: Path) -> Iterator[tuple[Path, str]]:
    """File and anchor of every link of a page."""
    for link in links(read(page)):
        path, _, anchor = link.partition("#")
        yield (page.parent / path).resolve() if path else page, anchor


# --- the pages as such ------------------------------------------------------------------------------------------------


@BOTH
def test_the_readme_is_read_in_a_few_minutes(readme: Path) -> None:
    assert 100 <= len(read(readme).splitlines()) <= 170


@BOTH
def test_the_two_commands_come_first(readme: Path) -> None:
    first = blocks(read(readme))[0].splitlines()
    assert [line.partition("#")[0].strip() for line in first] == ["python gui.py", "python treino.py --preset quickstart"]


@BOTH
def test_the_users_own_command_is_there_as_written(readme: Path) -> None:
    shown = "".join(blocks(read(readme), "powershell"))
    assert COMMAND in shown
    assert r"Copy-Item .\meu_lora_out\*.safetensors -Destination" in shown


def test_the_way_to_run_the_tests_is_told() -> None:
    assert re.search(r"^python -m tests ", "".join(blocks(read(DOCS / "development.md"))), re.MULTILINE)


def test_every_page_is_reached_from_the_readme() -> None:
    for start, others in ((README, [p for p in PAGES if "pt-BR" not in name(p)]), (LEIAME, [pt for _, pt in PAIRS])):
        seen, ahead = set(), [start]
        while ahead:
            page = ahead.pop()
            if page not in seen and page.suffix == ".md":
                seen.add(page)
                ahead += [path for path, _ in targets(page)]
        assert [name(page) for page in others if page not in seen] == []


def test_what_a_user_needs_is_there_in_portuguese() -> None:
    for_developers = {"performance.md", "reliability.md", "development.md", "log.md"}
    assert {p.name for p in DOCS.glob("*.md")} - for_developers == {p.name for p in (DOCS / "pt-BR").glob("*.md")}


@EVERY_PAGE
def test_links_lead_to_files_and_headings_that_exist(page: Path) -> None:
    dead = [(name(path) if path.is_relative_to(ROOT) else str(path), anchor) for path, anchor in targets(page)
            if not path.exists() or (anchor and anchor not in anchors(read(path)))]  # fmt: skip
    assert dead == []


@EVERY_PAGE
def test_links_stay_within_what_is_tracked(page: Path) -> None:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode:
        pytest.skip("not a git clone")
    files = {ROOT / part for part in listed.stdout.decode("utf-8").split("\0") if part}
    tracked = files | {folder for path in files for folder in path.parents}
    assert [name(path) for path, _ in targets(page) if path.resolve() not in tracked] == []


def test_every_picture_of_the_window_is_shown_in_both_languages() -> None:
    pictures = {path.resolve() for path in (ROOT / "lora_core/ui/assets/pictures").glob("*.png")}
    for pages in zip(*PAIRS, strict=True):
        assert pictures - {path for page in pages for path, _ in targets(page)} == set()
    for page in PAGES:
        assert all(re.search(r'alt="[^"]{10,}"', tag) for tag in re.findall(r"<img [^>]*>", read(page))), name(page)
        assert "![](" not in read(page), name(page)


# --- both languages ---------------------------------------------------------------------------------------------------


@EVERY_PAIR
def test_both_languages_have_the_same_parts(english: Path, portuguese: Path) -> None:
    for pattern in (r"^(#+) ", r"^(\d+\.|-) ", r"^(\|)", r"^```(\w+)", r"^<(?!img)([^>]*)>"):
        parts = [re.findall(pattern, read(page), re.MULTILINE) for page in (english, portuguese)]
        if pattern.endswith(">"):
            parts = [[part.replace("../../", "../") for part in found if "--write" not in part] for found in parts]
        assert parts[0] == parts[1], pattern


@EVERY_PAIR
def test_both_languages_lead_to_the_same_places(english: Path, portuguese: Path) -> None:
    translated = dict(PAIRS) | {LEIAME: README}
    led = [{path for path, _ in targets(page)} for page in (english, portuguese)]
    assert {translated.get(path, path) for path in led[0]} == led[1]


@EVERY_PAIR
def test_both_languages_show_the_same_commands(english: Path, portuguese: Path) -> None:
    def commands(page: Path) -> list[str]:
        bare = [
            re.sub(r"#.*", "", line).strip()
            for block in blocks(read(page), r"(?:powershell|bash|python)")
            for line in block.splitlines()
        ]
        return [line for line in bare if line]

    assert commands(english) == commands(portuguese)


@EVERY_PAIR
def test_both_languages_name_the_same_flags_and_numbers(english: Path, portuguese: Path) -> None:
    """Commands, flags, names of files and variables, and figures are no matter of language."""
    if english.name == "settings.md":  # its help is a text of the window, held by the tests of the catalogs
        return
    for pattern in (r"(?<![\w-])--[a-z_-]+[a-z]", r"\b[A-Z]+_[A-Z_]+\b", r"\d+(?:[.,]\d+)?(?= ?(?:GB|MB|px|%|MiB))"):
        found = [
            sorted(part.replace(",", ".") for part in re.findall(pattern, read(page))) for page in (english, portuguese)
        ]
        assert found[0] == found[1], pattern


@EVERY_PAIR
def test_words_in_italics_stand_in_the_window(english: Path, portuguese: Path) -> None:
    """What a page tells to press is called that in the window."""
    ours = re.compile(r"ampulheta|rexdog.*|The same prompts .*|Os mesmos prompts .*")
    for page, language in ((english, "en"), (portuguese, "pt-BR")):
        catalogs = sorted((settings_doc.LOCALE / language).glob("*.toml"))
        said = {text for path in catalogs for text in settings_doc.catalog(language, path.stem).values()}
        words = {re.sub(r"\s+", " ", found) for found in re.findall(r"(?<![*\w])\*([^*]+)\*(?![*\w])", prose(read(page)))}
        assert {word for word in words if not ours.fullmatch(word)} - said == set()


# --- true to the program ----------------------------------------------------------------------------------------------


def known_flags(line: str) -> set[str]:
    """The flags that whatever a line names can take."""
    if module := re.search(r"python -m (tests[\w.]*)", line):
        path = ROOT / module[1].replace(".", "/")
        path = path / "__main__.py" if path.is_dir() else path.with_suffix(".py")
        return set(re.findall(r'"(--[a-z_-]+)"', read(path)))
    commands = set(re.findall(r'"(--[a-z_-]+)"', read(ROOT / "lora_core" / "cli" / "commands.py"))) | {"--help"}
    window = set(re.findall(r'"(--[a-z_-]+)"', read(ROOT / "lora_core" / "ui" / "main.py"))) | {"--help"}
    training = {option for action in flags.parser()._actions for option in action.option_strings}
    if re.search(r"treino\.py (?:caption|check|convert|export|info)\b", line):
        return commands
    if "gui.py" in line:
        return window
    if "--sample_prompts" in line:  # whose prompts have flags of their own
        return training | {f"--{flag}" for flag in sample_prompts.FLAGS}
    if re.search(r"treino\.py\b", line):
        return training
    return training | commands | window


@EVERY_PAGE
def test_every_flag_that_is_named_exists(page: Path) -> None:
    if page == LOG:  # it tells of what was, too
        return
    for line in read(page).splitlines():
        own = re.split(FOREIGN, line)
        named = set(re.findall(r"(?<![\w-])--[a-z][a-z_-]*", own[0]))
        assert named <= known_flags(line), line


def test_flags_are_named_at_all() -> None:
    assert len({flag for page in PAGES for flag in re.findall(r"(?<![\w-])--[a-z_]+", read(page))}) > 60


@EVERY_PAGE
def test_every_training_that_a_page_starts_is_understood(page: Path) -> None:
    shown = [line.partition("#")[0] for block in blocks(read(page), "powershell") for line in block.splitlines()]
    for typed in (found[1] for line in shown if (found := re.search(r"treino\.py (--.*)", line))):
        found = flags.parse(typed.split())
        assert found.problems == [], typed
        given = {key: value for key, value in vars(found).items() if key in settings()}
        assert TrainConfig.of(given), typed
        if found.preset and not found.preset.endswith(".safetensors"):
            assert find_preset(found.preset), typed


def test_what_a_terminal_says_to_several_slips_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--train_data_dir", "Training", "--lora_rnk", "16", "--resolution", "513", "--seed", "x"]) == 2
    said = capsys.readouterr().err
    for page in (DOCS / "runs-and-resuming.md", DOCS / "pt-BR" / "runs-and-resuming.md"):
        assert said in blocks(read(page), "text"), name(page)


@EVERY_PAGE
def test_every_command_and_path_that_is_named_exists(page: Path) -> None:
    """`python -m ...`, tests and other files of the repository; the log tells of some that are no more."""
    text = read(page)
    modules = set(re.findall(r"python -m ((?:tests|lora_core)[\w.]*)", text))
    files = set(re.findall(r"`((?:tests|lora_core|presets|\.ci|\.github)/[\w./-]+)`", text))
    files |= set(re.findall(r"(?:pytest|bash) (tests/[\w./]+)", text))
    files |= {module.replace(".", "/") for module in modules}
    there = [file for file in files if (ROOT / file).exists() or (ROOT / f"{file}.py").exists()]
    assert page == LOG or sorted(files) == sorted(there)


@pytest.mark.parametrize("number", [0, 1], ids=["en", "pt-BR"])
def test_every_preset_is_named(number: int) -> None:
    text = "".join(read(pair[number]) for pair in PAIRS)
    for path in PRESETS.glob("*.toml"):
        assert f"`{path.stem}`" in text


@pytest.mark.parametrize("language", list(recipes_doc.PAGES))
def test_the_page_of_the_recipes_is_what_they_come_to(language: str) -> None:
    told = "write it anew: python -m tests.policy.recipes_doc --write"
    assert read(recipes_doc.PAGES[language]) == recipes_doc.page(language), told


@pytest.mark.parametrize("language", settings_doc.PAGES)
def test_the_page_of_the_settings_is_what_config_and_presets_say(language: str) -> None:
    page = read(settings_doc.PAGES[language])
    assert page == settings_doc.page(language), "write it anew: python -m tests.policy.settings_doc --write"
    rows = re.findall(r"<br>`--(\w+)` \| ([^|]+) \|", page)
    assert sorted(setting for setting, _ in rows) == sorted(settings())
    for setting, shown in rows:
        default = settings()[setting].default
        if shown.startswith("`"):
            assert shown == f"`{','.join(default) if isinstance(default, tuple) else default}`", setting
        else:
            assert isinstance(default, bool) or not default, setting


@EVERY_PAGE
def test_numbers_of_speed_and_memory_stand_only_where_they_are_measured(page: Path) -> None:
    if page == LOG or page.parent.name == "starter":  # the log and the model card: figures are what they are for
        return
    outside = re.sub(r"<!-- measured -->.*?<!-- /measured -->", "", read(page), flags=re.DOTALL)
    assert re.findall(r"\d+[.,]?\d* ?(?:it/s|s/it|seconds|segundos|minutes|minutos|GiB|MiB)", outside) == []


@pytest.mark.parametrize("page", [README, LEIAME, DOCS / "performance.md", DOCS / "reliability.md"], ids=name)
def test_what_was_measured_is_marked(page: Path) -> None:
    assert re.search(r"<!-- measured -->.*\d.*<!-- /measured -->", read(page), re.DOTALL)
