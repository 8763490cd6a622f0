"""What a model file is, from the names and shapes of its tensors: no weight is read, no name of a file believed.

`of_header` is pure. `of_path` reads the header of a file, or the settings of a diffusers folder. Neither needs torch.
Families are told by the width of the cross attention (families/specs.py).
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lora_core.errors import UserError
from lora_core.models.families.specs import COMPONENTS, FAMILIES, FamilySpec, by_width
from lora_core.system import tensor_headers
from lora_core.system.tensor_headers import Header, Tensor

REFINER_WIDTH = 1280
LAYERS = {spec.widths[0]: spec.layers for spec in FAMILIES.values()}  # cross attention layers of the full model, by width
BASE, UNET = "base model", "UNet"
EMA_PREFIX = "model_ema."
VAE_PREFIXES = ("first_stage_model.", "vae.")
TEXT_PREFIXES = {
    "text_encoder": ("cond_stage_model.", "conditioner.embedders.0."),
    "text_encoder_2": ("conditioner.embedders.1.",),
}
TAKE_ANOTHER = "Take a Stable Diffusion 1.x, 2.x or XL base model."


@dataclass(frozen=True)
class Identity:
    """What a file is.

    kind: "base model" (a checkpoint or a diffusers folder), "UNet", or what else it is ("LoRA", "VAE", "Flux model").
    family: sd1, sd2 or sdxl; empty for other kinds.
    prediction_type: "epsilon" or "v_prediction"; empty where the file does not tell.
    traits: what is special about it: inpainting, refiner, LCM, pruned, EMA...
    precision: fp32, fp16, bf16, fp8, or two joined by "+".
    parts: the components in it, of unet, vae, text_encoder, text_encoder_2.
    problem: why it cannot be trained on and what to do instead; empty when it can.
    """

    kind: str
    family: str = ""
    prediction_type: str = ""
    zero_snr: bool = False
    traits: tuple[str, ...] = ()
    precision: str = ""
    parts: tuple[str, ...] = ()
    problem: str = ""
    notes: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """For people: "Stable Diffusion XL base model (turbo, fp16)"."""
        inside = ", ".join(part for part in (*self.traits, self.precision) if part)
        name = f"{FAMILIES[self.family].title} {self.kind}" if self.family else self.kind
        return f"{name} ({inside})" if inside else name

    @property
    def lacking(self) -> tuple[str, ...]:
        """Components that the family needs and the file has not."""
        needed = FAMILIES[self.family].components if self.family else ()
        return tuple(part for part in needed if part not in self.parts)


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
            return Identity(kind, precision=precision, problem=f"This is {_a(kind)}. {advice}")
    if unet is None:
        return Identity("file of no known kind", precision=precision, problem=f"It is no model known here. {TAKE_ANOTHER}")
    return replace(_of_unet(unet, names, header.metadata), precision=precision)


# --- what is no base model ------------------------------------------------------------------------------------------

_ANY_PREFIX = r"^(?:model\.diffusion_model\.|diffusion_model\.|transformer\.|model\.)?"
_ELSEWHERE = f"Treino trains the UNets of Stable Diffusion only. {TAKE_ANOTHER}"
_BESIDE = "It works beside a base model: give that one."
# In this order; the first pattern found in a name of a tensor decides. (pattern, kind, what to do)
_OTHERS = (
    (r"^control_model\.|controlnet_|^input_hint_block\.|^lllite_|^lora_controlnet$", "ControlNet", _BESIDE),
    (
        r"^(?:lora|lycoris)_|\.lora[_.]|\.(?:lora_[AB]|hada_w[12]_[ab]|lokr_w[12]|dora_scale)\b|_lora\.(?:down|up)\.",
        "LoRA", "It was made for a base model: give that one.",
    ),
    (r"^adapter\.body\.|^body\.\d+\.(?:block1|in_conv|resnets)", "T2I adapter", _BESIDE),
    (r"^ip_adapter\.|^image_proj", "IP-Adapter", _BESIDE),
    (r"motion_modules\.", "AnimateDiff motion module", _BESIDE),
    (
        _ANY_PREFIX + r"(?:double_blocks\.0\.img_attn\.|single_transformer_blocks\.0\.|double_stream_mod)",
        "Flux model", _ELSEWHERE,
    ),
    (_ANY_PREFIX + r"(?:joint_blocks\.0\.|transformer_blocks\.0\.norm1_context\.)", "Stable Diffusion 3 model", _ELSEWHERE),
    (_ANY_PREFIX + r"(?:clip_txt_mapper|effnet_mapper|clip_txt_pooled_mapper)\.", "Stable Cascade model", _ELSEWHERE),
    (r"\.(?:time_stack|time_mixer|temporal_transformer_blocks)\.", "Stable Video Diffusion model", _ELSEWHERE),
    (r"^edm_mean$", "Playground 2.5 model", f"It is trained by other formulas (EDM). {TAKE_ANOTHER}"),
    (r"^edm_vpred\.", "CosXL model", f"It is trained by other formulas (EDM). {TAKE_ANOTHER}"),
    (r"(?:^|\.)encoder_hid_proj\.", "Kolors or IF model", f"Its text encoder is not CLIP. {TAKE_ANOTHER}"),
    (
        _ANY_PREFIX + r"(?:patchify_proj|cap_embedder|distilled_guidance_layer|x_embedder|txt_in|head\.modulation"
        r"|pos_embed\.proj|cond_seq_linear|blocks\.0\.(?:cross_attn|attn|self_attn))\b",
        "diffusion transformer (PixArt, Lumina, Wan, Qwen and the like)", _ELSEWHERE,
    ),
    (
        r"\.(?:absmax|quant_map|qweight|scale_weight|weight_scale)$|\.quant_state|^scaled_fp8$",
        "quantized model", "Its numbers are cut down for drawing: take the fp16 or bf16 model.",
    ),
)  # fmt: skip
# Only where there is no UNet.
_PARTS = (
    (
        r"^(?:emb_params|string_to_param|clip_[lg])$", "textual inversion embedding",
        "It belongs into prompts: give the base model it was made for.",
    ),
    (
        r"^(?:first_stage_model\.|vae\.)?(?:encoder|decoder)\.conv_in\.", "VAE",
        "Give a base model, and this file with --vae if it shall be used with it.",
    ),
    (r"token_embedding|^encoder\.block\.0\.layer\.", "text encoder", "It is a part of a model: give the whole."),
    (r"^(?:model\.)?(?:conv_first|body\.0\.rdb1|model\.1\.sub)\b", "upscaler", f"It enlarges pictures. {TAKE_ANOTHER}"),
)  # fmt: skip
# Input channels of UNets that need more than noise and a prompt.
_CHANNELS = {
    9: ("inpainting", "It fills in masked pictures. Train on the base model it was made from: the LoRA works in both."),
    8: ("editing (InstructPix2Pix)", f"It changes given pictures. {TAKE_ANOTHER}"),
    7: ("upscaler", f"It enlarges given pictures. {TAKE_ANOTHER}"),
    5: ("depth", "It needs a depth map. Train on the Stable Diffusion 2 base model instead: the LoRA works in both."),
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
        advice = "It finishes what the SDXL base model begins. Train on that one: stabilityai/stable-diffusion-xl-base-1.0."
        return Identity("Stable Diffusion XL refiner", parts=parts, problem=advice)
    if not family:
        width = f"{unet.width} wide" if unet.width else "not there"
        problem = f"Its cross attention is {width}, as in no Stable Diffusion. {TAKE_ANOTHER}"
        return Identity("UNet of another kind", parts=parts, problem=problem)
    traits, problem, notes = _traits(unet, family, names)
    prediction, zero_snr = _prediction(names, metadata, family)
    return Identity(kind, family.name, prediction, zero_snr, traits, "", parts, problem, notes)


def _traits(unet: Unet, family: FamilySpec, names: Mapping[str, Tensor]) -> tuple[tuple[str, ...], str, tuple[str, ...]]:
    """What is special about it, why it cannot be trained, and what to know of it."""
    traits, notes, problem = [], [], ""
    if unet.in_channels in _CHANNELS:
        trait, problem = _CHANNELS[unet.in_channels]
        traits.append(trait)
    elif unet.in_channels != 4:
        problem = f"Its UNet takes {unet.in_channels} channels instead of 4. {TAKE_ANOTHER}"
    elif unet.has_labels and not family.has_added_embedding:
        traits, problem = ["unCLIP"], f"It draws variations of given pictures. {TAKE_ANOTHER}"
    elif unet.width in LAYERS and unet.layers < LAYERS[unet.width]:
        traits.append("reduced")
        problem = (
            "It has fewer layers than the original (as SSD-1B, Segmind or small-sd have), so its settings are not known: "
            "give its diffusers folder or hub id."
        )
    if unet.is_distilled:
        traits.append("LCM")
        notes.append("It draws in few steps (LCM), which training unlearns: better train on the model it was made from.")
    if unet.original:
        has_ema = sum(name.startswith(EMA_PREFIX) for name in names) > 100
        traits.append("EMA only" if unet.ema_only else "with EMA" if has_ema else "pruned")
        if has_ema and not unet.ema_only:
            notes.append("It holds its weights twice; those that webuis draw with are used, not the averaged ones (EMA).")
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
    if not identity.family or not found or "LCM" in identity.traits:
        return identity
    name = found[1].upper() if found[1].lower() in ("lcm", "dmd2") else found[1].lower()
    note = f"Its name says {name}: such models draw in few steps, which training unlearns; better train on a plain one."
    return replace(identity, traits=(name, *identity.traits), notes=(*identity.notes, note))


def _of_folder(folder: Path) -> Identity:
    """A diffusers folder, by the settings of its parts."""
    if not (folder / "model_index.json").is_file():
        raise UserError(f"{folder} is no base model: it has no model_index.json. Give the folder that holds it.")
    index = settings_in(folder / "model_index.json")
    if not isinstance(index.get("unet"), list):
        kind = str(index.get("_class_name", "unknown")).removesuffix("Pipeline")
        return Identity(f"{kind} model", problem=f"It has no UNet. {_ELSEWHERE}")
    unet = settings_in(folder / "unet" / "config.json")
    scheduler = settings_in(folder / "scheduler" / "scheduler_config.json")
    width, channels = unet.get("cross_attention_dim"), unet.get("in_channels")
    parts = tuple(part for part in COMPONENTS if isinstance(index.get(part), list) and index[part][0])
    family = by_width(width)
    problem, traits = "", []
    if channels in _CHANNELS:
        trait, problem = _CHANNELS[channels]
        traits.append(trait)
    if unet.get("time_cond_proj_dim"):
        traits.append("LCM")
    name = str(index.get("_class_name", ""))
    identity = Identity(
        BASE, family.name if family else "",
        str(scheduler.get("prediction_type", "epsilon")), bool(scheduler.get("rescale_betas_zero_snr")),
        tuple(traits), _precision_of(folder), parts, problem,
    )  # fmt: skip
    if width == REFINER_WIDTH:
        return replace(identity, kind="Stable Diffusion XL refiner", problem="Train on the SDXL base model instead.")
    if not family:
        kind = name.removesuffix("Pipeline") or "unknown"
        return replace(identity, kind=f"{kind} model", problem=f"Its UNet is of no known family. {TAKE_ANOTHER}")
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
        raise UserError(f"The base model is incomplete: {part} cannot be read in {file.parent.parent}.") from cause
    if not isinstance(table, dict):
        raise UserError(f"The base model is damaged: {file} holds no settings.")
    return table


def _precision_of(folder: Path) -> str:
    weights = sorted((folder / "unet").glob("*.safetensors"))
    return _precision(tensor_headers.read(weights[0]).tensors) if weights else ""


def _a(noun: str) -> str:
    return f"{'an' if noun[0] in 'AEIOUaeiou' or noun.startswith('IP') else 'a'} {noun}"
