"""`treino.py caption`, `check`, `convert`, `export` and `info`: pictures, finished LoRAs, models, the computer."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from lora_core import captioners
from lora_core.cli.info import describe, quoted
from lora_core.cli.terminal import Terminal
from lora_core.dataset import CaptionEditor, add_trigger
from lora_core.dataset.edit_log import did
from lora_core.errors import DONE, STOPPED, UserError
from lora_core.lora.convert import convert_lora
from lora_core.lora.file import DTYPES
from lora_core.messages import Message, plain
from lora_core.models.families.specs import FAMILIES
from lora_core.system import files, paths
from lora_core.system.quick_import import importing
from lora_core.system.signals import stop_signals
from lora_core.webuis import detect, search
from lora_core.webuis.card import card_for
from lora_core.webuis.detect import WebUI
from lora_core.webuis.export import KEEP_BOTH, ON_EXISTING, export_lora


class _Parser(argparse.ArgumentParser):
    """Wrong input is told by the door, like all other wrong input."""

    def error(self, message: str) -> NoReturn:
        raise UserError("cli.bad_arguments", command=self.prog, what=message)


def caption(argv: list[str]) -> int:
    """`caption FOLDER`: describe pictures in captions, all of them one edit that the window can undo."""
    args = _caption_parser().parse_args(argv)
    if args.trigger is not None:
        add_trigger({}, args.trigger)  # an empty one is told now, not after the work
    editor = CaptionEditor(args.folder)
    if not editor.captions:
        raise UserError("cli.no_pictures", folder=args.folder)
    pictures = captioners.to_describe(editor.captions, args.replace)
    if not pictures:
        print(Message("cli.all_described", folder=args.folder))
        return DONE
    files.prove_writable(args.folder)
    terminal = Terminal(sys.stdout)
    captions, is_whole = _described(args, pictures, terminal)
    terminal.close()
    with stop_signals():  # a second Ctrl-C waits for the edit
        written = editor.apply(captions, did("described"))
    if not is_whole:
        print(Message("cli.describing_stopped", count=len(captions), total=len(pictures)))
        return STOPPED
    print(Message("cli.described", count=written, folder=args.folder))
    return DONE


def check(argv: list[str]) -> int:
    """`check`: what is fast and right on this computer, tried out and kept for trainings."""
    parser = _Parser(
        "treino.py check",
        description="Find out, in a minute at most, what is fast and right on this computer. Trainings take it from there.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the report")
    parser.add_argument("--device", default="auto", metavar="NAME", help="cpu, cuda, cuda:1, xpu or mps [default: auto]")
    asked = parser.parse_args(argv)
    with importing():
        from lora_core.check.run import check as check_device  # brings torch

    terminal = Terminal(sys.stderr)
    with stop_signals() as stops:
        report = check_device(asked.device, terminal, lambda: bool(stops))
    terminal.close()
    print(json.dumps(report.to_json(), ensure_ascii=False, indent=1) if asked.json else report.text())
    return DONE if report.is_whole else STOPPED


def convert(argv: list[str]) -> int:
    """`convert IN OUT`: any program's LoRA as a file that every webui loads."""
    parser = _Parser("treino.py convert", description="Turn any LoRA for SD 1, 2 or XL into a file that every webui loads.")
    parser.add_argument("source", metavar="IN", type=Path, help="a .safetensors LoRA of any program, or a folder with one")
    parser.add_argument("target", metavar="OUT", type=Path, help="the file to write, or a folder")
    parser.add_argument("--family", choices=FAMILIES, default="", help="base model, where the LoRA itself does not tell")
    parser.add_argument("--precision", choices=tuple(DTYPES), default="", help="number format [default: as it is]")
    parser.add_argument("--replace", action="store_true", help="overwrite OUT")
    parser.add_argument("--drop", action="store_true", help="leave out layers that not every webui loads")
    args = parser.parse_args(argv)
    done = convert_lora(args.source, args.target, args.family, args.precision, args.replace, args.drop)
    print(Message("cli.converted", path=done.path, count=done.modules, family=done.family, dtype=done.dtype))
    for module in done.left_out:
        print(Message("cli.left_out", layer=module))
    for warning in done.warnings:
        print(Message("cli.warning", what=warning))
    return DONE


def export(argv: list[str]) -> int:
    """`export RUN [--to WEBUI]`: a run's LoRA into a webui, with picture and card."""
    args = _export_parser().parse_args(argv)
    card = card_for(args.run)
    webui = _chosen(args.to)
    changes = {name: value for name, value in vars(args).items() if name in _SIDECAR and value is not None}
    picture = card.picture if args.picture is None else Path(args.picture) if args.picture != "none" else None
    for remark in card.remarks:
        print(remark)
    done = export_lora(
        card.lora, webui.folder, args.name or card.name, args.on_existing,
        dataclasses.replace(card.sidecar, **changes), picture,
    )  # fmt: skip
    search.remember(paths.config_folder(), webui.folder.absolute())
    for warning in done.warnings:
        print(Message("cli.warning", what=warning))
    print(f"{done.webui}: {done.lora}")
    if done.prompt:
        print(Message("cli.prompt", prompt=done.prompt))
    print(done.next_step)
    return DONE


def info(argv: list[str]) -> int:
    """`info PATH`: what a model is, and whether it can be trained on here."""
    parser = _Parser("treino.py info", description="Tell what a model is, and whether it can be trained on here.")
    parser.add_argument(
        "path", metavar="PATH", help="a .safetensors or .ckpt file, a folder, a downloaded model's id, or starter"
    )
    for line in describe(parser.parse_args(argv).path):
        print(line)
    return DONE


def _caption_parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "treino.py caption",
        description="Describe the pictures of a folder in captions. The model is downloaded when it is first asked for.",
    )
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="the folder with the pictures")
    sizes = " or ".join(f"{each.name} ({each.megabytes / 1000:.1f} GB once)" for each in captioners.CAPTIONERS.values())
    parser.add_argument(
        "--with", dest="captioner", choices=tuple(captioners.CAPTIONERS), default="sentences",
        help=f"what a caption is made of: {sizes} [default: sentences]",
    )  # fmt: skip
    parser.add_argument(
        "--threshold", type=_share, default=captioners.DEFAULT_THRESHOLD,
        help=f"how sure a tag must be, 0 to 1 [default: {captioners.DEFAULT_THRESHOLD}]",
    )  # fmt: skip
    parser.add_argument("--trigger", metavar="WORD", help="put WORD before each caption that does not hold it")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--only-missing", "--only_missing", action="store_true", help="pictures without a caption [default]")
    which.add_argument("--replace", action="store_true", help="all pictures; their captions are replaced")
    return parser


def _described(args: argparse.Namespace, pictures: Sequence[Path], terminal: Terminal) -> tuple[dict[Path, str], bool]:
    """The new captions by picture, and whether that is all of them: Ctrl-C ends with those that are known."""
    captions: dict[Path, str] = {}
    try:
        for picture, text in captioners.describe(args.captioner, pictures, terminal, args.threshold):
            if not text:
                terminal.say(Message("cli.not_recognised", picture=picture.name))
                continue
            named = {picture: text}
            captions |= {**named, **(add_trigger(named, args.trigger) if args.trigger else {})}
            terminal.say(f"{picture.name}: {captions[picture]}")
    except KeyboardInterrupt:
        if not captions:
            raise
        return captions, False
    return captions, True


def _share(text: str) -> float:
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no number from 0 to 1")
    return share


_SIDECAR = ("activation_text", "preferred_weight", "negative_text", "description", "notes")


def _export_parser() -> argparse.ArgumentParser:
    parser = _Parser("treino.py export", description="Put a finished LoRA into your webui, with a picture and its words.")
    parser.add_argument("run", metavar="RUN", type=Path, help="a run folder, or a LoRA file")
    parser.add_argument(
        "--to", default="auto", metavar="FOLDER", help="the webui or its LoRA folder [default: auto, find it]"
    )
    parser.add_argument("--name", default="", help="name in the webui [default: the run's]")
    parser.add_argument(
        "--on-existing", "--on_existing", choices=ON_EXISTING, default=KEEP_BOTH,
        help="what to do when the name is taken [default: keep-both, which adds a number]",
    )  # fmt: skip
    parser.add_argument("--trigger", dest="activation_text", help="words that call it [default: the run's trigger word]")
    parser.add_argument("--weight", dest="preferred_weight", type=_weight, help="recommended weight, 0 to 2")
    parser.add_argument("--negative", dest="negative_text", help="words for the negative prompt")
    parser.add_argument("--description", help="a sentence for the card")
    parser.add_argument("--notes", help="notes for the card")
    parser.add_argument("--picture", metavar="FILE", help="picture of the card, or none [default: the last sample]")
    return parser


def _weight(text: str) -> float:
    try:
        weight = float(text)
    except ValueError:
        weight = -1.0
    if not 0 <= weight <= 2:  # the range of A1111's slider
        raise argparse.ArgumentTypeError(f"{text!r} is no weight from 0 to 2")
    return weight


def _chosen(to: str) -> WebUI:
    """The webui to export into: the one named, the only one found, or the one chosen last time."""
    if to != "auto":
        return detect.at(Path(to))
    places = search.here()
    found = detect.find(places)
    last = [webui for webui in found if places.remembered and webui.folder == places.remembered[0]]
    if len(found) == 1 or last:
        return (last or found)[0]
    if not found:
        raise UserError("cli.no_webui")
    choices = [plain(f"  --to {quoted(webui.folder)}   ({webui.kind})") for webui in found]
    raise UserError("cli.several_webuis", count=len(found), choices=choices)


RUN: dict[str, Callable[[list[str]], int]] = {
    "caption": caption, "check": check, "convert": convert, "export": export, "info": info,
}  # fmt: skip
