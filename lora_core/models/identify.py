"""What a model file is, from the names and shapes of its tensors: no weight is read, no name of a file believed.

`of_header` is pure. `of_path` reads the header of a file, or the settings of a diffusers folder. Neither needs torch.
Families are told by the width of the cross attention (families/specs.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.messages import Message, from_json, joined, to_json
from lora_core.models.families.specs import COMPONENTS, FAMILIES, SDXL, FamilySpec, by_width
from lora_core.system import tensor_headers
from lora_core.system.tensor_headers import Header, Tensor

REFINER_WIDTH = 1280
LAYERS = {spec.widths[0]: spec.layers for spec in FAMILIES.values()}  # cross attention layers of the full model, by width
BASE, UNET = Message("models.kind_base"), Message("models.kind_unet")
EMA_PREFIX = "model_ema."
VAE_PREFIXES = ("first_stage_model.", "vae.")
TEXT_PREFIXES = {
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
TAKE_ANOTHER = Message("models.take_another")


@dataclass(frozen=True)
class Identity:
    """What a file is.

    kind: BASE (a checkpoint or a diffusers folder), UNET, or what else it is ("LoRA", "VAE", "Flux model").
    family: sd1, sd2 or sdxl; empty for other kinds.
    prediction_type: "epsilon" or "v_prediction"; empty where the file does not tell.
    traits: what is special about it: inpainting, lcm, pruned, with_ema... (models.trait_... of the catalogs)
    precision: fp32, fp16, bf16, fp8, or two joined by "+".
    parts: the components in it, of unet, vae, text_encoder, text_encoder_2.
    problem: why it cannot be trained on and what to do instead; None when it can.
    """

    kind: Message
    family: str = ""
    prediction_type: str = ""
    zero_snr: bool = False
    traits: tuple[str, ...] = ()
    precision: str = ""
    parts: tuple[str, ...] = ()
    problem: Message | None = None
    notes: tuple[Message, ...] = ()

    @property
    def is_lora(self) -> bool:
        return self.kind == _kind("lora")

    @property
    def title(self) -> Message:
        """For people: "Stable Diffusion XL base model (turbo, fp16)"."""
        traits: list[str | Message] = [Message(f"models.trait_{trait}") for trait in self.traits]
        traits += [self.precision] if self.precision else []
        inside = Message("models.inside", traits=joined(traits, "models.comma")) if traits else ""
        if not self.family:
            return Message("models.title", kind=self.kind, inside=inside)
        return Message("models.title_of_family", family=FAMILIES[self.family].title, kind=self.kind, inside=inside)

    @property
    def lacking(self) -> tuple[str, ...]:
        """Components that the family needs and the file has not."""
        needed = FAMILIES[self.family].components if self.family else ()
        return tuple(part for part in needed if part not in self.parts)


    def to_json(self) -> dict[str, object]:
        """As JSON holds it; `from_json` is the way back."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        said = {"kind": to_json(self.kind), "problem": to_json(self.problem) if self.problem else None}
        lists = {"notes": [to_json(note) for note in self.notes], "traits": list(self.traits), "parts": list(self.parts)}
        return {**found, **said, **lists}

    @staticmethod
    def from_json(stored: Mapping[str, Any]) -> Identity:
        """The identity behind `to_json`.

        Raises:
            ValueError: it is of another version.
        """
        try:
            values = dict(stored)
            values["kind"], values["notes"] = from_json(values["kind"]), tuple(map(from_json, values["notes"]))
            values["problem"] = from_json(values["problem"]) if values["problem"] else None
            return Identity(**values | {name: tuple(values[name]) for name in ("traits", "parts")})
        except (KeyError, TypeError) as cause:
            raise ValueError("no identity") from cause


def of_path(path: Path) -> Identity:
    """What a file or a diffusers folder is.

    Raises:
        UserError: nothing there, truncated, damaged, holding code, or no model at all.
    """
    if path.is_dir():
        return _of_folder(path)
    header = tensor_headers.read(path)
    identity = _with_yaml(of_header(header), path.with_suffix(".yaml"))
    return _with_hints(identity, f"{path.stem} {header.metadata.get('modelspec.title', '')}")


def of_header(header: Header) -> Identity:
    """What a file with these tensors is."""
    names = header.tensors
    precision = _precision(names)
    unet = unet_in(names)
    for pattern, kind, advice in (*_OTHERS, *(_PARTS if unet is None else ())):
        if any(map(re.compile(pattern).search, names)):
            problem = Message("models.this_is", what=Message(f"models.a_{kind}"), advice=advice)
            return Identity(_kind(kind), precision=precision, problem=problem)
    if unet is None:
        problem = Message("models.no_model_known", advice=TAKE_ANOTHER)
        return Identity(_kind("unknown"), precision=precision, problem=problem)
    return replace(_of_unet(unet, names, header.metadata), precision=precision)


def _kind(name: str) -> Message:
    return Message(f"models.kind_{name}")


# --- what is no base model ------------------------------------------------------------------------------------------

_ANY_PREFIX = r"^(?:model\.diffusion_model\.|diffusion_model\.|transformer\.|model\.)?"
_ELSEWHERE = Message("models.elsewhere", advice=TAKE_ANOTHER)
_BESIDE = Message("models.beside")
_EDM = Message("models.edm", advice=TAKE_ANOTHER)
# In this order; the first pattern found in a name of a tensor decides. (pattern, kind, what to do)
_OTHERS = (
    (r"^control_model\.|controlnet_|^input_hint_block\.|^lllite_|^lora_controlnet$", "controlnet", _BESIDE),
    (
        r"^(?:lora|lycoris)_|\.lora[_.]|\.(?:lora_[AB]|hada_w[12]_[ab]|lokr_w[12]|dora_scale)\b|_lora\.(?:down|up)\.",
        "lora", Message("models.made_for"),
    ),
    (r"^adapter\.body\.|^body\.\d+\.(?:block1|in_conv|resnets)", "t2i_adapter", _BESIDE),
    (r"^ip_adapter\.|^image_proj", "ip_adapter", _BESIDE),
    (r"motion_modules\.", "motion", _BESIDE),
    (
        _ANY_PREFIX + r"(?:double_blocks\.0\.img_attn\.|single_transformer_blocks\.0\.|double_stream_mod)",
        "flux", _ELSEWHERE,
    ),
    (_ANY_PREFIX + r"(?:joint_blocks\.0\.|transformer_blocks\.0\.norm1_context\.)", "sd3", _ELSEWHERE),
    (_ANY_PREFIX + r"(?:clip_txt_mapper|effnet_mapper|clip_txt_pooled_mapper)\.", "cascade", _ELSEWHERE),
    (r"\.(?:time_stack|time_mixer|temporal_transformer_blocks)\.", "video", _ELSEWHERE),
    (r"^edm_mean$", "playground", _EDM),
    (r"^edm_vpred\.", "cosxl", _EDM),
    (r"(?:^|\.)encoder_hid_proj\.", "kolors", Message("models.not_clip", advice=TAKE_ANOTHER)),
    (
        _ANY_PREFIX + r"(?:patchify_proj|cap_embedder|distilled_guidance_layer|x_embedder|txt_in|head\.modulation"
        r"|pos_embed\.proj|cond_seq_linear|blocks\.0\.(?:cross_attn|attn|self_attn))\b",
        "transformer", _ELSEWHERE,
    ),
    (
        r"\.(?:absmax|quant_map|qweight|scale_weight|weight_scale)$|\.quant_state|^scaled_fp8$",
        "quantized", Message("models.cut_down"),
    ),
)  # fmt: skip
# Only where there is no UNet.
_PARTS = (
    (r"^(?:emb_params|string_to_param|clip_[lg])$", "embedding", Message("models.into_prompts")),
    (r"^(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.conv_in\.", "vae", Message("models.with_vae")),
    (r"token_embedding|^encoder\.block\.0\.layer\.", "text_encoder", Message("models.part_of_model")),
    (
        r"^(?:model\.)?(?:conv_first|body\.0\.rdb1|model\.1\.sub)\b",
        "upscaler", Message("models.enlarges", advice=TAKE_ANOTHER),
    ),
)  # fmt: skip
# Input channels of UNets that need more than noise and a prompt: trait, and why not.
_CHANNELS = {
    9: ("inpainting", Message("models.fills_in")),
    8: ("editing", Message("models.changes_pictures", advice=TAKE_ANOTHER)),
    7: ("upscaler", Message("models.enlarges_given", advice=TAKE_ANOTHER)),
    5: ("depth", Message("models.needs_depth")),
}


# --- UNets ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Unet:
    """Where a file keeps its UNet, and the few shapes that tell what it is. original: named as in Stability's code."""

    prefix: str
    original: bool
    ema_only: bool
    in_channels: int
    width: int  # of the cross attention; 0: it has none
    layers: int  # with cross attention
    has_labels: bool  # is conditioned on more than states: SDXL's sizes, unCLIP's picture
    is_distilled: bool  # takes the guidance scale as an input, as LCM does


_CONV_IN = (
    ("model.diffusion_model.", "input_blocks.0.0.weight"), ("diffusion_model.", "input_blocks.0.0.weight"),
    ("", "input_blocks.0.0.weight"), ("unet.", "conv_in.weight"), ("", "conv_in.weight"),
)  # fmt: skip


def unet_in(names: Mapping[str, Tensor]) -> Unet | None:
    """The UNet among these tensors."""
    ema_conv_in = EMA_PREFIX + "diffusion_modelinput_blocks00weight"
    for prefix, conv_in in _CONV_IN:
        if prefix + conv_in in names and (prefix or _has_blocks(names)):
            return _unet(prefix, conv_in.startswith("input"), False, names[prefix + conv_in], _under(prefix, names))
    if ema_conv_in in names:
        prefix = EMA_PREFIX + "diffusion_model"
        return _unet(prefix, True, True, names[ema_conv_in], _under(prefix, names))
    return None


def _has_blocks(names: Iterable[str]) -> bool:
    """VAEs and ControlNets have a first convolution too; going up is what only a UNet does."""
    return any(name.startswith(("output_blocks.", "up_blocks.")) for name in names)


def _under(prefix: str, names: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name[len(prefix) :]: tensor for name, tensor in names.items() if name.startswith(prefix)}


def _unet(prefix: str, original: bool, ema_only: bool, conv_in: Tensor, inside: Mapping[str, Tensor]) -> Unet:
    keys = [tensor.shape[-1] for name, tensor in inside.items() if re.search(r"attn2\.?to_?k\.?weight$", name)]
    return Unet(
        prefix, original, ema_only,
        in_channels=conv_in.shape[1] if len(conv_in.shape) == 4 else 0,
        width=max(keys, default=0), layers=len(keys),
        has_labels=any(name.startswith(("label_emb", "add_embedding.", "class_embedding.")) for name in inside),
        is_distilled=any(name.endswith("cond_proj.weight") for name in inside),
    )  # fmt: skip


def _of_unet(unet: Unet, names: Mapping[str, Tensor], metadata: Mapping[str, str]) -> Identity:
    parts = ("unet", *_other_parts(names))
    kind = BASE if len(parts) > 1 else UNET
    family = by_width(unet.width)
    if unet.width == REFINER_WIDTH:
        return Identity(_kind("refiner"), parts=parts, problem=Message("models.refines", base=SDXL.default_model))
    if not family:
        odd = Message("models.no_cross_attention", advice=TAKE_ANOTHER)
        if unet.width:
            odd = Message("models.odd_cross_attention", width=unet.width, advice=TAKE_ANOTHER)
        return Identity(_kind("other_unet"), parts=parts, problem=odd)
    traits, problem, notes = _traits(unet, family, names)
    prediction, zero_snr = _prediction(names, metadata, family)
    return Identity(kind, family.name, prediction, zero_snr, traits, "", parts, problem, notes)


def _traits(
    unet: Unet, family: FamilySpec, names: Mapping[str, Tensor]
) -> tuple[tuple[str, ...], Message | None, tuple[Message, ...]]:
    """What is special about it, why it cannot be trained, and what to know of it."""
    traits: list[str] = []
    notes: list[Message] = []
    problem: Message | None = None
    if unet.in_channels in _CHANNELS:
        trait, problem = _CHANNELS[unet.in_channels]
        traits.append(trait)
    elif unet.in_channels != 4:
        problem = Message("models.odd_channels", count=unet.in_channels, advice=TAKE_ANOTHER)
    elif unet.has_labels and not family.has_added_embedding:
        traits, problem = ["unclip"], Message("models.varies", advice=TAKE_ANOTHER)
    elif unet.width in LAYERS and unet.layers < LAYERS[unet.width]:
        traits.append("reduced")
        problem = Message("models.fewer_layers")
    if unet.is_distilled:
        traits.append("lcm")
        notes.append(Message("models.draws_in_few_steps"))
    if unet.original:
        has_ema = sum(name.startswith(EMA_PREFIX) for name in names) > 100
        traits.append("ema_only" if unet.ema_only else "with_ema" if has_ema else "pruned")
        if has_ema and not unet.ema_only:
            notes.append(Message("models.holds_twice"))
    return tuple(traits), problem, tuple(notes)


def _prediction(names: Mapping[str, Tensor], metadata: Mapping[str, str], family: FamilySpec) -> tuple[str, bool]:
    """Prediction type and zero terminal SNR, as marks in the file say them; nothing where SD 2.x says nothing.

    The keys v_pred and ztsnr are what NoobAI writes and webuis read; metadata as in the Stability model metadata
    specification, modelspec.prediction_type.
    """
    told = {"v": "v_prediction", "v_prediction": "v_prediction", "epsilon": "epsilon", "eps": "epsilon"}
    found = told.get(metadata.get("modelspec.prediction_type", "").lower(), "")
    if "v_pred" in names:
        found = "v_prediction"
    return found or family.default_prediction, "ztsnr" in names


def _other_parts(names: Iterable[str]) -> Iterable[str]:
    prefixes = {"vae": VAE_PREFIXES, **TEXT_PREFIXES}
    heads = {match[0] for name in names if (match := re.match(r"(?:conditioner\.embedders\.\d+|[a-z_]+)\.", name))}
    return [part for part, starts in prefixes.items() if heads & set(starts)]


_FORMATS = {"F32": "fp32", "F64": "fp64", "F16": "fp16", "BF16": "bf16", "F8_E4M3": "fp8", "F8_E5M2": "fp8"}


def _precision(names: Mapping[str, Tensor]) -> str:
    """The number formats that at least a fiftieth of the bytes have, the most used first."""
    count: Counter[str] = Counter()
    for tensor in names.values():
        count[_FORMATS.get(tensor.dtype, tensor.dtype.lower())] += tensor.bytes
    return "+".join(name for name, size in count.most_common() if size * 50 >= count.total() and size)


# --- what stands beside the weights ---------------------------------------------------------------------------------


def _with_yaml(identity: Identity, file: Path) -> Identity:
    """A1111's settings beside a checkpoint, under its name, tell the prediction type."""
    try:
        is_velocity = re.search(r"^\s*parameterization:\s*[\"']?v\b", file.read_text(encoding="utf-8-sig"), re.MULTILINE)
    except (OSError, ValueError):
        return identity
    if identity.family and is_velocity:
        return replace(identity, prediction_type="v_prediction")
    return identity if identity.prediction_type or not identity.family else replace(identity, prediction_type="epsilon")


def _with_hints(identity: Identity, words: str) -> Identity:
    """Turbo, Lightning and Hyper models have the tensors of any other; only what people call them tells."""
    found = re.search(r"(?i)(?<![a-z])(turbo|lightning|hyper|lcm|dmd2)(?![a-z])", words.replace("_", " "))
    if not identity.family or not found or "lcm" in identity.traits:
        return identity
    trait = found[1].lower()
    note = Message("models.named_quick", name=Message(f"models.trait_{trait}"))
    return replace(identity, traits=(trait, *identity.traits), notes=(*identity.notes, note))


def _of_folder(folder: Path) -> Identity:
    """A diffusers folder, by the settings of its parts."""
    if not (folder / "model_index.json").is_file():
        raise UserError("models.base_no_index", folder=folder)
    index = settings_in(folder / "model_index.json")
    if not isinstance(index.get("unet"), list):
        kind = str(index.get("_class_name", "unknown")).removesuffix("Pipeline")
        return Identity(Message("models.kind_named", name=kind), problem=Message("models.no_unet", advice=_ELSEWHERE))
    unet = settings_in(folder / "unet" / "config.json")
    scheduler = settings_in(folder / "scheduler" / "scheduler_config.json")
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    parts = tuple(part for part in COMPONENTS if isinstance(index.get(part), list) and index[part][0])
    family = by_width(width)
    problem: Message | None = None
    traits = []
    if channels in _CHANNELS:
        trait, problem = _CHANNELS[channels]
        traits.append(trait)
    if unet.get("time_cond_proj_dim"):
        traits.append("lcm")
    name = str(index.get("_class_name", ""))
    identity = Identity(
        BASE, family.name if family else "",
        str(scheduler.get("prediction_type", "epsilon")), bool(scheduler.get("rescale_betas_zero_snr")),
        tuple(traits), _precision_of(folder), parts, problem,
    )  # fmt: skip
    if width == REFINER_WIDTH:
        return replace(identity, kind=_kind("refiner"), problem=Message("models.refines_folder"))
    if not family:
        kind = name.removesuffix("Pipeline") or "unknown"
        problem = Message("models.unet_of_no_family", advice=TAKE_ANOTHER)
        return replace(identity, kind=Message("models.kind_named", name=kind), problem=problem)
    return _with_hints(identity, f"{folder.name} {index.get('_name_or_path', '')}")


def settings_in(file: Path) -> dict[str, Any]:
    """A component's settings.

    Raises:
        UserError: missing or damaged.
    """
    try:
        table = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as cause:
        part = f"{file.parent.name}/{file.name}"
        raise UserError("models.settings_missing", part=part, folder=file.parent.parent) from cause
    if not isinstance(table, dict):
        raise UserError("models.settings_damaged", file=file)
    return table


def _precision_of(folder: Path) -> str:
    weights = sorted((folder / "unet").glob("*.safetensors"))
    return _precision(tensor_headers.read(weights[0]).tensors) if weights else ""
