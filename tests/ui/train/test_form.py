from __future__ import annotations

import re
import tomllib
from html.parser import HTMLParser

import pytest

from lora_core.config import TrainConfig, presets, settings
from lora_core.messages import LANGUAGES, Message
from lora_core.ui.shared.texts import LOCALE, Texts
from lora_core.ui.tabs.train import form

EN, PT = Texts("en"), Texts("pt-BR")


class Tags(HTMLParser):
    """Every tag with its attributes, in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str]]] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, {name: value or "" for name, value in attrs}))

    def having(self, name: str) -> list[dict[str, str]]:
        return [attributes for _, attributes in self.found if name in attributes]


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_setting_is_in_the_form_with_label_and_help(language: str) -> None:
    html = form.form_html(Texts(language), {"starter": "toy"})
    tags = Tags(html)
    fields = {attributes["data-field"] for attributes in tags.having("data-field")}
    assert fields == set(settings()) - form.LEFT_OUT
    ids = {attributes["id"] for attributes in tags.having("id")}
    assert len(ids) == len(tags.having("id")), "an id is used twice"
    for heard in (attributes["aria-describedby"] for attributes in tags.having("aria-describedby")):
        assert set(heard.split()) <= ids
    labelled = {attributes["for"] for tag, attributes in tags.found if tag == "label" and "for" in attributes}
    assert labelled <= ids


def test_the_basic_fields_come_first_and_are_few() -> None:
    html = form.form_html(EN, {})
    basic = html[: html.index("<datalist")]
    names = re.findall(r'data-field="(\w+)"', basic)
    assert names == [s.name for s in settings().values() if s.basic] and 6 <= len(names) <= 9


def test_each_language_labels_and_explains_exactly_the_settings_there_are() -> None:
    known = set(settings())
    others = ("topic_", "unit_", "wants", "clash_", "help_")
    for language in LANGUAGES:
        texts = tomllib.loads((LOCALE / language / "settings.toml").read_text(encoding="utf-8"))
        assert {name for name in texts if name in known or not name.startswith(others)} == known
        if language != "en":
            assert {name.removeprefix("help_") for name in texts if name.startswith("help_")} == known
        assert {s.topic.lower() for s in settings().values()} == {
            name.removeprefix("topic_") for name in texts if name.startswith("topic_")
        }


@pytest.mark.parametrize("preset", presets(), ids=lambda preset: preset.name)
def test_what_fills_the_boxes_is_read_back_as_it_was(preset: object) -> None:
    config = TrainConfig.of(preset.values)  # type: ignore[attr-defined]
    again = TrainConfig.of(form.read(form.boxes(config.values())))
    assert again.replace(output_dir=config.output_dir) == config


def test_boxes_take_what_people_type() -> None:
    read = form.read(
        {
            "learning_rate": " 0,0005 ", "resolution": " 768", "train_data_dir": '"C:\\Meus Dados\\fotos"',
            "prior_prompts": "a red ball\n\na cat, sitting; a dog", "random_flip": True, "unknown": "x",
        }
    )  # fmt: skip
    config = TrainConfig.of(read)
    assert (config.learning_rate, config.resolution, config.random_flip) == (0.0005, 768, True)
    assert config.train_data_dir == "C:\\Meus Dados\\fotos"
    assert config.prior_prompts == ("a red ball", "a cat, sitting", "a dog")


@pytest.mark.parametrize(
    ("name", "value", "english", "portuguese"),
    [
        ("train_batch_size", "0", "0 is too low", "0 é pouco; o mínimo é 1"),
        ("resolution", "500", "Not a multiple|500 is not a multiple of 8", "500 não é múltiplo de 8; use 496 ou 504"),
        ("learning_rate", "fast", "Needs a number", "Precisa ser um número, e não 'fast'"),
        ("output_name", "a/b", "is no file name", "não é um nome de arquivo"),
        ("output_name", "\ud800", "bytes that are no text", "bytes que não são texto"),
        ("transparent_color", "white", "#rrggbb", "não tem a forma #rrggbb"),
        ("optimizer", "sgd", "is not one of adamw", "não está entre adamw"),
        ("target_modules", [], "nothing to train", "Não há nada para treinar"),
    ],
)
def test_what_is_wrong_is_told_at_its_field_in_both_languages(
    name: str, value: object, english: str, portuguese: str
) -> None:
    boxed = {**form.boxes({}), name: value}
    problems = form.problems(boxed)
    assert set(problems) == {name} and re.search(english, form.told(problems[name], EN))
    assert portuguese in form.told(problems[name], PT)


def test_prodigy_asks_for_its_rate_in_both_languages() -> None:
    boxed = {**form.boxes({}), "optimizer": "prodigy"}
    problems = form.problems(boxed)
    assert problems.keys() == {"learning_rate"}
    assert "take 1" in form.told(problems["learning_rate"], EN) and "use 1" in form.told(problems["learning_rate"], PT)


def test_all_problems_come_at_once_and_the_rest_stays_usable() -> None:
    boxed = {**form.boxes({}), "train_batch_size": "x", "seed": "-1", "lora_rank": "8"}
    assert set(form.problems(boxed)) == {"train_batch_size", "seed"}
    right = form.typed_values(boxed)
    assert right["lora_rank"] == 8 and "seed" not in right
    assert form.told(Message("settings.unknown", suggestion=""), PT) == "Essa configuração não existe."

