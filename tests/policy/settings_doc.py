"""The pages of settings and presets, made from what they tell of: `python -m tests.policy.settings_doc --write`.

The English help stands in `config.py`; the Portuguese one, and the names of the settings in the window, in the catalogs
`lora_core/ui/locale/*/`. `test_docs.py` holds the pages to what is made here.
"""

from __future__ import annotations

import argparse
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path

from lora_core.config import presets, settings
from lora_core.settings import Setting
from tests import ROOT

PAGES = {"en": ROOT / "docs" / "settings.md", "pt-BR": ROOT / "docs" / "pt-BR" / "settings.md"}
LOCALE = ROOT / "lora_core" / "ui" / "locale"


@dataclass(frozen=True)
class Words:
    """What a page says besides the settings themselves."""

    made: str
    title: str
    intro: str
    basic: str
    columns: tuple[str, str, str, str]
    required: str
    empty: str
    true: str
    false: str
    bounds: str
    multiple: str
    one_of: str
    some_of: str
    texts: str
    presets: str
    preset_columns: tuple[str, str, str]


ENGLISH = Words(
    made="Made from lora_core/config.py by python -m tests.policy.settings_doc --write; change it there.",
    title="Settings",
    intro="""\
Every setting has one name: as a flag in the terminal (`--lora_rank 16`), as a line of a preset (`lora_rank = 16`),
and in the metadata of the finished LoRA. In the window it has the label that stands in bold here.
`python treino.py --help` prints the same list.

- A setting of true or false is switched on by its flag alone (`--random_flip`) and off with `no_` before its name
  (`--no_random_flip`).
- In a terminal, names in a list are separated by commas and prompts by semicolons.
- A setting that your computer cannot use, such as `fp16` without a graphics card, is replaced by the nearest one that
  works, and you are told. A setting that does not exist or makes no sense is refused before anything starts.

The settings marked with ★ are the ones that the window shows first; they come first in their topic here too. For most
trainings they are enough, and a [preset](#presets) sets the others.""",
    basic="★",
    columns=("Setting", "Default", "Possible values", "What it does"),
    required="required",
    empty="empty",
    true="on",
    false="off",
    bounds="{low} to {high}",
    multiple="a multiple of {step}",
    one_of="one of {choices}",
    some_of="one or more of {choices}",
    texts="text",
    presets="""\
## Presets

A preset is a small file of settings for one purpose. In the window it is a card; in the terminal it is a flag, and
every other flag goes over it:

```powershell
python treino.py --preset character --train_data_dir C:\\pictures\\rex --trigger_word rexdog
```

Most presets name no values: [recipes](recipes.md) tells what they come to, and why.
`python treino.py --list_presets` prints the table below, `--explain` what a preset comes to for your model, pictures
and computer.
`--preset` also takes a `.toml` of your own, the `config.toml` of a run, or **any LoRA that Treino wrote**: its
settings are inside the file.""",
    preset_columns=("Preset", "Name in the window", "What it is for"),
)
PORTUGUESE = Words(
    made="Feito de lora_core/config.py por python -m tests.policy.settings_doc --write; mude lá.",
    title="Configurações",
    intro="""\
Cada configuração tem um nome só: como opção no terminal (`--lora_rank 16`), como linha de um preset
(`lora_rank = 16`) e nos metadados do LoRA pronto. Na janela ela tem o rótulo que aqui aparece em negrito.
`python treino.py --help` mostra a mesma lista, em inglês.

- Uma configuração de sim ou não é ligada só com a opção (`--random_flip`) e desligada com `no_` antes do nome
  (`--no_random_flip`).
- No terminal, os nomes de uma lista são separados por vírgula, e os prompts, por ponto e vírgula.
- Uma configuração que o seu computador não pode usar, como `fp16` sem placa de vídeo, é trocada pela mais próxima que
  funciona, e você é avisado. Uma configuração que não existe ou não faz sentido é recusada antes de qualquer trabalho.

As configurações marcadas com ★ são as que a janela mostra primeiro; aqui também elas abrem cada assunto. Para a
maioria dos treinos elas bastam, e um [preset](#presets) cuida das outras.""",
    basic="★",
    columns=("Configuração", "Padrão", "Valores possíveis", "O que faz"),
    required="obrigatório",
    empty="vazio",
    true="ligado",
    false="desligado",
    bounds="de {low} a {high}",
    multiple="múltiplo de {step}",
    one_of="um destes: {choices}",
    some_of="um ou mais destes: {choices}",
    texts="texto",
    presets="""\
## Presets

Um preset é um arquivo pequeno de configurações para uma finalidade. Na janela é um cartão; no terminal é uma opção, e
todas as outras opções valem mais que ele:

```powershell
python treino.py --preset character --train_data_dir C:\\pictures\\rex --trigger_word rexdog
```

A maioria dos presets não traz valores: [receitas](recipes.md) diz no que dão, e por quê.
`python treino.py --list_presets` mostra a tabela abaixo, em inglês, e `--explain` no que um preset dá para seu modelo,
suas imagens e seu computador. `--preset` aceita também um `.toml` seu, o `config.toml` de um treino, ou **qualquer LoRA
que o Treino gravou**: as configurações estão dentro do arquivo.""",
    preset_columns=("Preset", "Nome na janela", "Para que serve"),
)
WORDS = {"en": ENGLISH, "pt-BR": PORTUGUESE}


def page(language: str) -> str:
    """The whole page in a language, as Markdown."""
    words = WORDS[language]
    labels = catalog(language, "settings")
    parts = [f"<!-- {words.made} -->\n\n# {words.title}\n\n{words.intro}\n"]
    topics = {s.topic: [t for t in settings().values() if t.topic == s.topic] for s in settings().values()}
    for topic, its in topics.items():
        rows = [f"| {' | '.join(row(s, words, labels))} |" for s in sorted(its, key=lambda s: not s.basic)]
        head = f"| {' | '.join(words.columns)} |\n|---|---|---|---|"
        parts.append(f"\n## {labels[f'topic_{topic.lower()}']}\n\n{head}\n" + "\n".join(rows) + "\n")
    return "".join([*parts, f"\n{words.presets}\n\n{preset_table(language, words)}"])


def preset_table(language: str, words: Words) -> str:
    """The presets with the names and sentences that the window gives them."""
    said = catalog(language, "train")
    rows = [f"| `{p.name}` | {said[f'preset_{p.name}']} | {said[f'preset_{p.name}_for']} |" for p in presets()]
    return f"| {' | '.join(words.preset_columns)} |\n|---|---|---|\n" + "\n".join(rows) + "\n"


def catalog(language: str, name: str) -> dict[str, str]:
    return tomllib.loads((LOCALE / language / f"{name}.toml").read_text(encoding="utf-8"))


def row(s: Setting, words: Words, labels: dict[str, str]) -> tuple[str, str, str, str]:
    """Name with label, default, possible values and help of one setting, as the cells of a table."""
    name = f"**{labels[s.name]}**{f' {words.basic}' if s.basic else ''}<br>`--{s.name}`"
    cells = (name, default(s, words), possible(s, words, labels), labels.get(f"help_{s.name}", s.help))
    return tuple(cell.replace("|", r"\|") for cell in cells)  # type: ignore[return-value]


def default(s: Setting, words: Words) -> str:
    if s.name == "train_data_dir":
        return words.required
    if s.kind is bool:
        return words.true if s.default else words.false
    told = ",".join(s.default) if isinstance(s.default, tuple) else str(s.default)
    return f"`{told}`" if told else words.empty


def possible(s: Setting, words: Words, labels: dict[str, str]) -> str:
    """Bounds, choices and unit in words; what is free text is called that."""
    if s.kind is bool:
        return f"{words.true}, {words.false}"
    if s.choices:
        choices = ", ".join(f"`{choice}`" for choice in s.choices)
        return (words.one_of if s.kind is str else words.some_of).format(choices=choices)
    if s.low is None or s.high is None:
        return words.texts
    told = words.bounds.format(low=f"{s.low:.10g}", high=f"{s.high:.10g}")
    if s.unit:
        told += f" {labels[f'unit_{s.unit}']}"
    return f"{told}, {words.multiple.format(step=s.multiple_of)}" if s.multiple_of else told


def main(argv: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help="write the pages that differ")
    asked = parser.parse_args(argv)
    old = [path for language, path in PAGES.items() if not is_current(language, path)]
    for language, path in PAGES.items():
        if path in old and asked.write:
            path.write_text(page(language), encoding="utf-8", newline="\n")
    for path in old:
        print(f"{path.relative_to(ROOT)} {'was written' if asked.write else 'is not what config.py says'}")
    return 1 if old and not asked.write else 0


def is_current(language: str, path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8") == page(language)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
