"""lora_core.sampling.infotext: the text in a PNG, read as A1111 reads it."""

from __future__ import annotations

import re
from pathlib import Path

from PIL import Image

from lora_core.sampling.infotext import parameters_text, save_picture
from lora_core.sampling.params import GenerationParams
from tests.support.pictures import png_text

# As in A1111's modules/infotext_utils.py
FIELD = re.compile(r'\s*(\w[\w \-/]+):\s*("(?:\\.|[^\\"])+"|[^,]*)(?:,|$)')


def fields(text: str) -> dict[str, str]:
    """The last line of a text, read as A1111 reads it."""
    return {key: value.strip('"') for key, value in FIELD.findall(text.splitlines()[-1])}


def test_a1111_reads_every_field() -> None:
    params = GenerationParams(
        "a zebu, çã", 7, 64, 96, "blurred", 12, 6.5, "DPM++ 2M Karras", "someone/a-model", "x.safetensors", "my lora",
        "0123456789abcdef", weight=0.8,
    )  # fmt: skip
    text = parameters_text(params, {"X Values": "1, 2"})
    assert text.splitlines()[:2] == ["a zebu, çã <lora:my lora:0.8>", "Negative prompt: blurred"]
    assert fields(text) == {
        "Steps": "12", "Sampler": "DPM++ 2M Karras", "CFG scale": "6.5", "Seed": "7", "Size": "64x96",
        "Model": "a-model", "Lora hashes": "my lora: 0123456789ab", "X Values": "1, 2",
    }  # fmt: skip


def test_without_a_lora_the_prompt_is_as_it_was_typed() -> None:
    assert parameters_text(GenerationParams("a zebu", 1, 64, 64, base="starter")).splitlines()[0] == "a zebu"
    lora = GenerationParams("", 1, 64, 64, base="starter", lora="x.safetensors", name="x")
    assert parameters_text(lora).startswith("<lora:x:1>\nSteps")


def test_a_model_folder_is_not_told() -> None:
    for name in ("/home/ana/models/dream", "C:\\Users\\Ana\\models\\dream", "C:\\Users\\Ana\\models\\dream\\"):
        text = parameters_text(GenerationParams("a zebu", 1, 64, 64, base=name))
        assert fields(text)["Model"] == "dream" and "na" not in text.split("Model")[0].splitlines()[1]


def test_a_png_keeps_its_text_in_every_script(tmp_path: Path) -> None:
    save_picture(tmp_path / "ação.png", Image.new("RGB", (8, 8)), "um gato, 猫\nSteps: 1")
    assert png_text(tmp_path / "ação.png") == "um gato, 猫\nSteps: 1"
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    assert png_text(tmp_path / "plain.png") == ""
