"""A finished LoRA into a webui: the file, a real sample picture beside it, and the card its editor shows."""

from __future__ import annotations

import io
import json
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageOps, UnidentifiedImageError

from lora_core.errors import UserError
from lora_core.lora.adapter import Lora, LoraError, is_lycoris
from lora_core.lora.dialects.modules import loads_everywhere
from lora_core.lora.file import is_ready, read, serialise, width_of
from lora_core.lora.metadata import recognisable
from lora_core.lora.peft_layers import told_widths
from lora_core.lora.shapes import family_of, is_toy
from lora_core.lora.summary import invokeai_warning, warnings_for
from lora_core.messages import Message
from lora_core.models.families.specs import FAMILIES
from lora_core.system.file_names import check_name, next_free
from lora_core.system.files import JsonMemo, writable_folder, write_together
from lora_core.webuis import detect
from lora_core.webuis.card import Sidecar
from lora_core.webuis.refresh import refresh

KEEP_BOTH, REPLACE, CANCEL = "keep-both", "replace", "cancel"
ON_EXISTING = (KEEP_BOTH, REPLACE, CANCEL)
WITHOUT_PROMPT_CALL = ("ComfyUI", "InvokeAI")  # know no <lora:...>: the LoRA and its weight are chosen in boxes
_PICTURE_SIDE = 512  # pixels; the cards of A1111 and Forge are drawn smaller than that
_TINY_SIDE = 256  # smaller pictures are enlarged in whole steps, so that a card is not a blur


class ExistsError(UserError):
    """A LoRA of that name is there already and was left alone."""


@dataclass(frozen=True)
class Exported:
    """What an export left. `refreshed`: the address of the webui that took notice, "" when `hint` is needed."""

    name: str
    lora: Path
    sidecar: Path
    picture: Path | None
    webui: str
    prompt: str  # to paste into the webui; "" where nothing needs to be
    refreshed: str
    hint: Message
    warnings: tuple[Message, ...]

    @property
    def next_step(self) -> Message:
        """What a person does now in the webui, if there is anything left to do."""
        return Message("webuis.refreshed", address=self.refreshed) if self.refreshed else self.hint


def export_lora(
    lora_path: Path, into: Path | detect.WebUI, name: str, on_existing: str, sidecar: Sidecar, picture: Path | None = None
) -> Exported:
    """Put a LoRA into a webui under `name`, whole or not at all; files of other dialects are converted on the way.

    into: a webui, its folder, or a LoRA folder. on_existing: one of ON_EXISTING.

    Raises:
        ExistsError: `cancel`, and the name is taken.
        LoraError: not a LoRA that could work.
        UserError: no webui, a name no system takes, a picture that is none.
        WriteError: not enough space or no permission; nothing was changed.
    """
    assert on_existing in ON_EXISTING, on_existing
    webui = detect.at(into) if isinstance(into, Path) else into
    check_name(name, webui.lora_folder)
    lora, metadata = read(lora_path)
    family = family_of(lora, metadata)
    if odd := [module for module in lora if not loads_everywhere(module)]:
        raise LoraError("webuis.odd_layers", file=lora_path, layer=odd[0], count=len(odd))
    thumbnail = webui_picture(picture) if picture else None
    writable_folder(webui.lora_folder)
    name = _free_name(webui.lora_folder, name, on_existing)
    check_name(name, webui.lora_folder)
    stem = webui.lora_folder / name
    files = {stem.with_name(f"{name}.safetensors"): _content(lora_path, lora, metadata, family, name)}
    if thumbnail:
        files[stem.with_name(f"{name}.png")] = thumbnail
    card = stem.with_name(f"{name}.json")
    sidecar = sidecar if sidecar.sd_version else _with_version(sidecar, family)
    files[card] = sidecar.to_json(JsonMemo(card).read(dict))
    write_together(files, _verify)
    return Exported(
        name=name, lora=stem.with_name(f"{name}.safetensors"), sidecar=card,
        picture=stem.with_name(f"{name}.png") if thumbnail else None, webui=webui.kind,
        prompt=prompt_text(name, sidecar, webui.kind), refreshed=refresh(webui),
        hint=Message(webui.hint, name=name, folder=webui.lora_folder, weight=sidecar.preferred_weight or 1.0),
        warnings=(*warnings_for(lora), *_warnings_of(webui.kind, lora, family)),
    )  # fmt: skip


def _warnings_of(webui: str, lora: Lora, family: str) -> list[Message]:
    """What makes it useless in that kind of webui alone."""
    if webui in FAMILIES[family].lacking_webuis:
        return [Message("webuis.warned_fooocus")]
    if webui == "InvokeAI" and not is_toy(lora):
        found = invokeai_warning(told_widths(lora), family)
        return [found] if found else []
    return []


def prompt_text(name: str, sidecar: Sidecar, webui: str = "") -> str:
    """What a person pastes into the prompt of that kind of webui; as A1111's where it is not said."""
    if webui in WITHOUT_PROMPT_CALL:
        return sidecar.activation_text
    call = f"<lora:{name}:{sidecar.preferred_weight or 1:g}>"
    return f"{call} {sidecar.activation_text}".rstrip()


def webui_picture(path: Path) -> bytes:
    """A picture as the PNG of a webui's card: upright, RGB, at most 512 pixels wide or high, without its texts.

    Raises:
        UserError: it cannot be read.
    """
    try:
        with Image.open(path) as opened:
            picture = ImageOps.exif_transpose(opened).convert("RGB")
    except (OSError, UnidentifiedImageError, ValueError, Image.DecompressionBombError) as cause:
        why = getattr(cause, "strerror", None) or Message("webuis.no_picture")
        raise UserError("webuis.picture", file=path, why=why) from None
    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
    if max(picture.size) < _TINY_SIDE:
        picture = ImageOps.scale(picture, _PICTURE_SIDE // max(picture.size), Image.Resampling.NEAREST)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG")
    return buffer.getvalue()


def _content(path: Path, lora: Lora, metadata: dict[str, str], family: str, name: str) -> bytes:
    """The bytes of the exported file: the very same where they can be, else the same tensors under our names.

    Webuis call a LoRA by `ss_output_name`, so two files that say the same there would hide each other.
    """
    wanted = recognisable(metadata, family, name, [(a.rank, a.alpha) for a in lora.values()], is_lycoris(lora))
    if wanted == metadata and is_ready(path, lora, family):
        return path.read_bytes()
    return serialise(lora, family, wanted, width_of(lora))


def _verify(temporary: Path, final: Path) -> None:
    """Open what was written as the webui will."""
    if final.suffix == ".safetensors":
        read(temporary)
    elif final.suffix == ".png":
        with Image.open(temporary) as picture:
            picture.verify()
    else:
        json.loads(temporary.read_text(encoding="utf-8"))


def _free_name(folder: Path, name: str, on_existing: str) -> str:
    if not is_taken(folder, name) or on_existing == REPLACE:
        return name
    if on_existing == CANCEL:
        raise ExistsError("webuis.exists", file=folder / f"{name}.safetensors")
    return next_name(folder, name)


def next_name(folder: Path, name: str) -> str:
    """The name with the first number that is free, which is what KEEP_BOTH gives a name that is taken."""
    return next_free(name, lambda free: is_taken(folder, free), joint="-")


def is_taken(folder: Path, name: str) -> bool:
    """Whether a LoRA of that name, or its card or picture, is in the folder."""
    return any((folder / f"{name}{ending}").exists() for ending in (".safetensors", ".json", ".png", ".preview.png"))


def _with_version(sidecar: Sidecar, family: str) -> Sidecar:
    return Sidecar(**{**vars(sidecar), "sd_version": FAMILIES[family].webui_version})
