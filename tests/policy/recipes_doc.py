"""The page of the recipes, made from what they come to: `python -m tests.policy.recipes_doc --write`."""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass

from lora_core.config import presets, settings
from lora_core.messages import say
from lora_core.models.architecture import of_family
from lora_core.recipes import Recipe, recipe
from lora_core.recipes.facts import BaseFacts, DatasetFacts, MachineFacts
from lora_core.training.estimate.budget import Budget
from tests import ROOT
from tests.policy.settings_doc import catalog

PAGES = {"en": ROOT / "docs" / "recipes.md", "pt-BR": ROOT / "docs" / "pt-BR" / "recipes.md"}
CARD = MachineFacts("RTX 3060", budget=Budget(11 * 2**30, 2**29, 2**30))  # 12 GB
BASES = {
    "Stable Diffusion 1.5": BaseFacts(of_family("sd1")),
    "SDXL, Illustrious, Pony": BaseFacts(of_family("sdxl")),
    "NoobAI v-pred": BaseFacts(of_family("sdxl"), "v_prediction", zero_snr=True),
}
PICTURES = (5, 12, 20, 60, 300)


@dataclass(frozen=True)
class Words:
    """What a page says besides the recipes."""

    made: str
    intro: str
    steps: str
    pictures: str
    columns: tuple[str, str]
    true: str
    false: str


WORDS = {
    "en": Words(
        made="Made from lora_core/recipes by python -m tests.policy.recipes_doc --write; change it there.",
        intro="""\
# Recipes

A preset such as *Character or person* says what you want. What it comes to depends on the base model, on your
pictures and on your computer: Treino works that out before the start, tells the reason of every value, and follows
what you set by hand. In the window the reason stands beside each field, and *Why these settings?* shows all of them;
a field that you changed is marked, and a click takes it back. In a terminal

```powershell
python treino.py --preset character --train_data_dir C:\\pictures\\rex --explain
```

prints the same, in the form of a preset, and trains nothing. The run's `config.toml` and the finished LoRA hold the
values themselves, so that a training can be repeated whatever recipes become.

- **Steps** follow the pictures: all together are seen some 2,000 times, each no less than 50 and no more than 150
  times; of more than 120 pictures each is seen less often, 6,000 in all. Repeats (`10_name`) say how often one folder
  is seen beside another.
- **The learning rate** grows with the root of the pictures of a step, and falls with the root of alpha.
- **The size** is that of the base model, or less where half of your pictures are smaller.
- **What the card cannot hold** is changed, least harm first: [base models and memory](base-models-and-memory.md)
  tells the order. There is no preset for small cards; every recipe fits the memory that is free.
- *Careful* and *Quick start* are no recipes: their values are fixed.

The numbers lie within what OneTrainer, sd-scripts, kohya's GUI, ai-toolkit, Civitai's trainer and the documents of
diffusers train with; `tests/recipes/test_recipe.py` holds them there. Nobody measured them on real weights here.""",
        steps="## Steps by the number of pictures", pictures="pictures", columns=("setting", "why"), true="on", false="off",
    ),
    "pt-BR": Words(
        made="Feito de lora_core/recipes por python -m tests.policy.recipes_doc --write; mude lá.",
        intro="""\
# Receitas

Um preset como *Personagem ou pessoa* diz o que você quer. No que isso dá depende do modelo base, das suas imagens e
do seu computador: o Treino calcula antes do início, diz o motivo de cada valor, e segue o que você define à mão. Na
janela o motivo fica ao lado de cada campo, e *Por que estas configurações?* mostra todos; um campo que você mudou
fica marcado, e um clique o traz de volta. No terminal

```powershell
python treino.py --preset character --train_data_dir C:\\pictures\\rex --explain
```

mostra o mesmo, em inglês e na forma de um preset, e não treina nada. O `config.toml` do treino e o LoRA pronto
guardam os próprios valores, e assim um treino pode ser repetido, mudem as receitas como mudarem.

- **Os passos** seguem as imagens: todas juntas são vistas umas 2.000 vezes, cada uma de 50 a 150 vezes; de mais de
  120 imagens cada uma é vista menos, 6.000 ao todo. Repetições (`10_nome`) dizem quanto uma pasta é vista em relação
  a outra.
- **A taxa de aprendizado** cresce com a raiz das imagens por passo, e cai com a raiz do alpha.
- **O tamanho** é o do modelo base, ou menor se metade das suas imagens for menor.
- **O que a placa não comporta** é mudado, do menos grave ao mais: [modelos base e memória](base-models-and-memory.md)
  diz a ordem. Não há preset para placas pequenas; toda receita cabe na memória livre.
- *Cauteloso* e *Início rápido* não são receitas: seus valores são fixos.

Os números ficam dentro do que OneTrainer, sd-scripts, a GUI do kohya, ai-toolkit, o treinador do Civitai e os
documentos do diffusers usam; `tests/recipes/test_recipe.py` os mantém aí. Ninguém os mediu aqui com pesos reais.""",
        steps="## Passos pelo número de imagens", pictures="imagens", columns=("configuração", "por quê"),
        true="ligado", false="desligado",
    ),
}  # fmt: skip


def page(language: str) -> str:
    """The whole page in a language, as Markdown."""
    words, titles = WORDS[language], catalog(language, "train")
    intents = [preset.intent for preset in presets() if preset.intent]
    parts = [f"<!-- {words.made} -->\n\n{words.intro}\n"]
    head = f"| {words.pictures} | {' | '.join(map(str, PICTURES))} |\n|---|{'---|' * len(PICTURES)}\n"
    rows = [
        f"| {titles[f'preset_{intent}']} | "
        + " | ".join(_steps(recipe(intent, BASES["Stable Diffusion 1.5"], DatasetFacts(n), CARD)) for n in PICTURES)
        for intent in intents
    ]
    parts.append(f"\n{words.steps}\n\n{head}" + " |\n".join(rows) + " |\n")
    for intent in intents:
        found = [recipe(intent, base, DatasetFacts(20, "tags"), CARD) for base in BASES.values()]
        head = f"| {words.columns[0]} | {' | '.join(BASES)} | {words.columns[1]} |\n|---|{'---|' * (len(BASES) + 1)}\n"
        rows = [_row(name, found, language) for name in settings() if any(name in each.choices for each in found)]
        parts.append(f"\n## {titles[f'preset_{intent}']}: 20 {words.pictures}\n\n{head}" + "\n".join(rows) + "\n")
    return "".join(parts)


def _steps(found: Recipe) -> str:
    batch = found.values["train_batch_size"]
    return f"{found.values['max_train_steps']}" + (f" × {batch}" if batch != 1 else "")


def _row(name: str, found: list[Recipe], language: str) -> str:
    told = [_said(each.values[name], WORDS[language]) if name in each.choices else "–" for each in found]
    reasons = dict.fromkeys(say(each.choices[name].reason, language) for each in found if name in each.choices)
    return f"| `{name}` | {' | '.join(told)} | {'; '.join(reasons)} |"


def _said(value: object, words: Words) -> str:
    if isinstance(value, bool):
        return words.true if value else words.false
    return ", ".join(value) if isinstance(value, tuple) else f"{value:g}" if isinstance(value, float) else str(value)


def main() -> int:
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--write", action="store_true", help="write the pages instead of printing the English one")
    if not arguments.parse_args().write:
        print(page("en"))
        return 0
    for language, path in PAGES.items():
        path.write_text(page(language), encoding="utf-8", newline="\n")
        print(f"{path.relative_to(ROOT)} was written")
    return 0


if __name__ == "__main__":
    sys.exit(main())
