"""lora_core.messages and its catalogs: every key in every language, none missing, none unused, none in plain English."""

from __future__ import annotations

import ast
import re
import string
from pathlib import Path

import pytest

from lora_core.errors import UserError
from lora_core.events import Failed, Warned, from_line, to_line
from lora_core.messages import LANGUAGES, PLAIN, Message, catalog, from_json, plain, say, to_json
from lora_core.ui.shared.texts import Texts
from tests import ROOT

CODE = sorted((ROOT / "lora_core").rglob("*.py"))
KEY = re.compile(r"[a-z]+\.[a-z0-9_]+")
ROOMS = {path.stem for path in (ROOT / "lora_core" / "locale" / "en").glob("*.toml")}


def placeholders(text: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(text) if name is not None}


def test_every_language_has_the_same_keys_with_the_same_parameters() -> None:
    english = {key: placeholders(text) for key, text in catalog("en").items()}
    for language in LANGUAGES:
        assert {key: placeholders(text) for key, text in catalog(language).items()} == english, language


def test_every_catalog_is_of_a_room() -> None:
    rooms = {path.stem for path in (ROOT / "lora_core").iterdir() if path.is_dir() or path.suffix == ".py"}
    assert ROOMS - rooms == set()


def keys_written() -> dict[str, list[tuple[Path, ast.Constant]]]:
    """Every text of the code that is a key, or begins one (`f"settings.unit_{...}"`), with where it stands."""
    found: dict[str, list[tuple[Path, ast.Constant]]] = {}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and KEY.fullmatch(node.value):
                found.setdefault(node.value, []).append((path, node))
    return found


def test_no_sentence_is_unused() -> None:
    written = keys_written()
    made = tuple(key for key in written if key.endswith("_"))  # f-strings: the beginning alone is written
    assert [key for key in catalog("en") if key not in written and not key.startswith(made)] == []


def calls() -> list[tuple[str, ast.Call]]:
    """Each call with a key as its first text: Message(...), UserError(...), problem(...) and their like."""
    found = []
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                for argument in node.args:
                    if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                        if KEY.fullmatch(argument.value) and argument.value.split(".")[0] in ROOMS:
                            found.append((f"{path.relative_to(ROOT)}:{node.lineno}", node))
                        break
    return found


def key_of(call: ast.Call) -> str:
    return next(a.value for a in call.args if isinstance(a, ast.Constant) and isinstance(a.value, str))


def says(call: ast.Call) -> bool:
    """Whether the call makes a message or an error of it."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    return name == "Message" or name.endswith("Error")


def test_every_message_fills_its_placeholders_and_no_more() -> None:
    wrong = []
    for place, call in calls():
        if not says(call):
            continue
        key, given = key_of(call), {keyword.arg for keyword in call.keywords}
        if key not in catalog("en"):
            wrong.append(f"{place}: no {key}")
        elif None not in given and placeholders(catalog("en")[key]) != given:
            wrong.append(f"{place}: {key} takes {placeholders(catalog('en')[key])}, and is given {given}")
    assert wrong == []


# Units, which Portuguese writes the same.
UNITS = {"settings.unit_pixels", "system.bytes", "system.mib", "system.minutes", "system.seconds"}
# Names, which are the same everywhere.
NAMES = {f"models.kind_{name}" for name in ("controlnet", "ip_adapter", "lora", "unet", "vae")} | {
    f"models.trait_{name}" for name in ("dmd2", "hyper", "inpainting", "lcm", "lightning", "turbo", "unclip")
}

SAME = UNITS | NAMES


def has_words(text: str) -> bool:
    """Whether a line says something of its own, and does not only put others together."""
    return bool(re.search(r"[^\W\d_]", re.sub(r"\{.*?\}", "", text)))


def example(key: str) -> Message:
    """A message of a key with a number where its line wants one, and a text elsewhere."""
    asked = {name: spec for _, name, spec, _ in string.Formatter().parse(catalog("en")[key]) if name is not None}
    return Message(key, **{name: 2 if spec and spec[-1] in "defg%" else "x" for name, spec in asked.items()})


@pytest.mark.parametrize("key", sorted(key for key, text in catalog("en").items() if has_words(text) and key not in SAME))
def test_every_sentence_reaches_the_window_in_portuguese(key: str) -> None:
    text = Texts("pt-BR")
    assert text.say(example(key)) not in ("", str(example(key)))


SENTENCE = re.compile(r"[^\W\d_]{2,}[,:;]? +[^\W\d_]{2,}")
MAKERS = {"UserError", "Message", "Warned", "Failed", "Problem", "plain", "problem", "notice"}


def makers() -> set[str]:
    """Names of what takes a sentence: the errors for people, and what messages are made and wrapped with."""
    bases = {}
    for path in CODE:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases[node.name] = {base.id for base in node.bases if isinstance(base, ast.Name)}
    found = set(MAKERS)
    while more := {name for name, above in bases.items() if above & found} - found:
        found |= more
    return found


def written_out(room: str) -> list[str]:
    """Where a room passes an English sentence of its own instead of a key."""
    makes, found = makers(), []
    for path in CODE:
        if path.relative_to(ROOT / "lora_core").with_suffix("").parts[0] != room:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            name = getattr(node.func, "attr", getattr(node.func, "id", "")) if isinstance(node, ast.Call) else ""
            if name not in makes:
                continue
            assert isinstance(node, ast.Call)
            for argument in (*node.args, *(keyword.value for keyword in node.keywords)):
                texts = [part.value for part in ast.walk(argument) if isinstance(part, ast.Constant)]
                if any(isinstance(text, str) and SENTENCE.search(text) for text in texts):
                    found.append(f"{path.relative_to(ROOT)}:{node.lineno}")
    return found


@pytest.mark.parametrize("room", sorted({path.relative_to(ROOT / "lora_core").with_suffix("").parts[0] for path in CODE}))
def test_no_sentence_is_written_out_in_code(room: str) -> None:
    if room in ("install", "starter"):  # told before anything is installed; told to developers
        return
    assert written_out(room) == []


def test_says_itself_in_each_language() -> None:
    suggestion = Message("settings.did_you_mean", word="rank")
    message = Message("settings.unknown", suggestion=suggestion)
    assert str(message) == "there is no such setting. Did you mean 'rank'?"
    assert say(message, "pt-BR") == "essa configuração não existe. Você quis dizer 'rank'?"


def test_figures_are_written_the_way_of_the_language() -> None:
    message = Message("settings.too_low", value=0.25, low=1.5, unit="")
    assert say(message) == "0.25 is too low; the least is 1.5"
    assert say(message, "pt-BR") == "0,25 é pouco; o mínimo é 1,5"


def test_several_texts_part_at_commas_and_several_messages_at_lines() -> None:
    assert str(Message("settings.no_block", blocks=("down", "mid"))).endswith("name at least one of down, mid")
    assert str(Message("settings.problems", lines=[plain("one"), plain("two")])) == "one\ntwo"


def test_paths_and_errors_become_texts_and_messages() -> None:
    inner = UserError("settings.file_missing", file=Path("a"))
    message = Message("settings.problem", field="vae", what=inner)
    assert message.params == (("field", "vae"), ("what", inner.message))
    assert Message(PLAIN, text=OSError("no room")).params == (("text", "no room"),)


def test_an_error_is_asked_for_its_kind() -> None:
    assert UserError("settings.file_missing", file="a").kind == "settings.file_missing"


def test_every_text_in_a_message_can_be_changed() -> None:
    message = Message("settings.problem", field="secret", what=Message("settings.no_block", blocks=("secret", "x")))
    assert "secret" not in str(message.mapped(lambda text: text.replace("secret", "…")))


@pytest.mark.parametrize("event", [Warned, Failed])
def test_events_keep_the_key_and_are_read_by_people_too(event: type[Warned] | type[Failed]) -> None:
    message = Message("settings.too_low", value=0.25, low=1, unit=Message("settings.unit_steps"))
    line = to_line(event(message), 1.0)
    assert '"message": "0.25 is too low; the least is 1 steps"' in line
    back, _ = from_line(line)
    assert back == event(message)


def test_events_of_an_older_and_a_newer_version_say_their_text() -> None:
    for said in ("", ', "said": {"key": "training.of_tomorrow", "params": {}}', ', "said": 7'):
        back, _ = from_line(f'{{"kind": "Warned", "at": 1.0, "message": "As it was."{said}}}')
        assert back == Warned(plain("As it was."))


def test_json_there_and_back() -> None:
    message = Message("settings.problems", lines=[Message("settings.no_block", blocks=("down", "mid"))])
    assert from_json(to_json(message)) == message
    for rubbish in (None, 3, [], {}, {"key": 1, "params": {}}, {"key": "settings.problems", "params": 3}):
        with pytest.raises(ValueError, match="not a message"):
            from_json(rubbish)
