"""What a LoRA file says about itself: ss_* as sd-scripts writes it, modelspec.* 1.0.1, and treino.config.

Webuis read these without a guard (A1111's dialog calls int(), float() and .items() on them), so every type here is
theirs: values are strings, objects are JSON, and what is not known is left out or "None", as sd-scripts leaves it.
`sshs_*` come last, from the tensors, in `file.pack`.
"""

from __future__ import annotations

import datetime
import json
import re
import uuid
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lora_core import __version__
from lora_core.dataset.tokens import CHUNK
from lora_core.models.families.specs import FAMILIES

THUMBNAIL_LIMIT = 200_000  # characters of data URL; ComfyUI reads headers up to 8 MB, A1111 keeps them in memory
CONFIG = "treino.config"
LYCORIS = "lycoris.kohya"  # the module that sd-scripts loads LoHa and LoKr with
ANCESTOR, ANCESTOR_HASH = "treino.init_lora", "treino.init_lora_hash"
# diffusers' settings of the adapters: it refuses a file that has them beside alphas of its own.
_PEFT_SETTINGS = "lora_adapter_metadata"
# OneTrainer's mark of its OMI names, by which InvokeAI chooses how to read the names of a file.
_OLD_NAMES = ("ot_branch",)
# Lines of the settings that hold folder names, tags or captions, or mean nothing without one that does.
_PRIVATE_SETTINGS = (
    "train_data_dir", "output_dir", "trigger_word", "sample_prompts", "sample_negative_prompt", "prior_prompts",
    "prior_pictures",
)  # fmt: skip
_PATHS = ("pretrained_model_name_or_path", "vae", "init_lora")
_PRIVATE_KEYS = (
    "ss_dataset_dirs", "ss_reg_dataset_dirs", "ss_tag_frequency", "ss_training_comment", "ss_sd_model_name",
    "ss_datasets", "ss_vae_name",
    "modelspec.trigger_phrase", "modelspec.description", "modelspec.tags", "modelspec.thumbnail",
    "modelspec.usage_hint", "modelspec.author", ANCESTOR,
)  # fmt: skip


@dataclass(frozen=True)
class Ancestor:
    """The LoRA that a training went on from. hash: its sshs_model_hash, as its tensors are."""

    name: str
    hash: str


@dataclass(frozen=True, kw_only=True)
class TrainingMetadata:
    """What a file says of its training, in plain values. Times are Unix seconds, sizes (width, height) in pixels."""

    output_name: str
    family: str  # sd1, sd2, sdxl
    rank: int
    alpha: float
    resolution: int
    base_model: str = ""  # hub id, file or folder; only its last part is written
    prediction_type: str = "epsilon"  # or v_prediction, as diffusers' schedulers name it
    zero_terminal_snr: bool = False
    clip_skip: int = 1
    max_token_length: int = 75
    ancestor: Ancestor | None = None
    network_args: Mapping[str, str] = field(default_factory=dict)  # e.g. {"dora": "True", "targets": "to_q,to_v"}

    learning_rate: float = 0.0
    text_encoder_lr: float = 0.0  # 0: not trained
    steps: int = 0  # done
    max_train_steps: int = 0
    epochs: float = 0.0  # done
    batches_per_epoch: int = 0
    batch_size: int = 1
    gradient_accumulation_steps: int = 1
    seed: int = 0
    optimizer: str = ""
    lr_scheduler: str = ""
    lr_warmup_steps: int = 0
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    max_grad_norm: float = 0.0
    noise_offset: float = 0.0
    snr_gamma: float = 0.0
    debiased_estimation_loss: bool = False
    loss_type: str = "l2"
    huber_c: float = 0.0
    huber_schedule: str = ""
    multires_noise_discount: float = 0.0
    multires_noise_iterations: int = 0
    ip_noise_gamma: float = 0.0
    lora_dropout: float = 0.0
    caption_dropout: float = 0.0
    prior_loss_weight: float = 1.0
    validation_split: float = 0.0
    random_flip: bool = False
    shuffle_tags: bool = False
    keep_tags: int = 0
    enable_bucket: bool = True

    training_pictures: int = 0
    validation_pictures: int = 0
    prior_pictures: int = 0
    buckets: Mapping[tuple[int, int], int] = field(default_factory=dict)  # size -> pictures
    dataset_dirs: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # folder -> (repeats, pictures)
    tag_frequency: Mapping[str, Mapping[str, int]] = field(default_factory=dict)  # folder -> tag -> pictures

    title: str = ""
    description: str = ""
    author: str = ""
    trigger_phrase: str = ""
    usage_hint: str = ""
    thumbnail: str = ""  # data URL
    started_at: float = 0.0
    finished_at: float = 0.0
    config_toml: str = ""
    private: bool = False  # leave folder names, tags, captions and pictures out


def build(training: TrainingMetadata) -> dict[str, str]:
    """The metadata of the file, all but `sshs_*`."""
    metadata = {**_ss(training), **_modelspec(training)}
    if training.ancestor:
        metadata |= {ANCESTOR: training.ancestor.name, ANCESTOR_HASH: training.ancestor.hash}
    if training.config_toml:
        metadata[CONFIG] = training.config_toml
    return without_private(metadata) if training.private else metadata


def prediction_of(metadata: Mapping[str, str]) -> str:
    """What the base model of a LoRA predicts, `epsilon` or `v_prediction`; "" where its metadata do not say."""
    said = metadata.get("modelspec.prediction_type", "")
    if said.startswith("v") or metadata.get("ss_base_model_version", "").endswith("_v"):
        return "v_prediction"
    return "epsilon" if said == "epsilon" else ""


def without_private(metadata: Mapping[str, str]) -> dict[str, str]:
    """The same metadata without folder names, tags, captions and pictures; webuis still recognise the family."""
    kept = {key: value for key, value in metadata.items() if key not in _PRIVATE_KEYS}
    kept = {key: value for key, value in kept.items() if key.startswith(("ss_", "sshs_", "modelspec.", "treino."))}
    if "modelspec.title" in kept:
        kept["modelspec.title"] = kept.get("ss_output_name", "LoRA")
    if CONFIG in kept:
        kept[CONFIG] = _without_private_settings(kept[CONFIG])
    return kept


def recognisable(
    metadata: Mapping[str, str], family: str, name: str, adapters: Iterable[tuple[int, float]], is_lycoris: bool = False
) -> dict[str, str]:
    """Anyone's metadata, with what webuis tell the family by and call the LoRA by set right; the rest stays.

    adapters: (rank, alpha) of every module. is_lycoris: whether they are LoHa or LoKr.
    """
    kept = {key: value for key, value in metadata.items() if key != _PEFT_SETTINGS and key not in _OLD_NAMES}
    ranks, alphas = (set(numbers) for numbers in zip(*adapters, strict=True))
    spec = FAMILIES[family]
    if not kept.get("ss_base_model_version", "").startswith(spec.kohya_version):
        kept["ss_base_model_version"] = spec.kohya_version
    if not re.match(f"{spec.architectures}/lora", kept.get("modelspec.architecture", "")):
        is_v = kept.get("modelspec.prediction_type") == "v" or kept["ss_base_model_version"].endswith("_v")
        kept["modelspec.architecture"] = f"{spec.architecture_of(is_v)}/lora"
    kept["ss_v2"] = str(spec.is_v2)
    kept["ss_output_name"] = name
    defaults = {
        "ss_network_module": LYCORIS if is_lycoris else "networks.lora",
        "ss_network_dim": str(ranks.pop()) if len(ranks) == 1 else "Dynamic",  # the word sd-scripts' resizing writes
        "ss_network_alpha": str(alphas.pop()) if len(alphas) == 1 else "Dynamic",
        "modelspec.sai_model_spec": "1.0.1",
        "modelspec.implementation": spec.implementation,
        "modelspec.title": name,
    }
    return {**defaults, **kept}


def _without_private_settings(toml: str) -> str:
    lines = []
    for line in toml.splitlines(keepends=True):
        name, _, value = line.partition("=")
        is_path = name.strip() in _PATHS and not _is_public(value.strip())
        if name.strip() not in _PRIVATE_SETTINGS and not is_path:
            lines.append(line)
    return "".join(lines)


def _is_public(value: str) -> bool:
    """Whether a TOML string is "starter" or a hub id, and so no folder of the user's."""
    return re.fullmatch(r'"(?:starter|\w[\w.-]*/\w[\w.-]*)"', value) is not None and not value.endswith(
        ('.safetensors"', '.ckpt"')
    )


def _ss(training: TrainingMetadata) -> dict[str, str]:
    values: dict[str, Any] = {
        **dict.fromkeys(_UNUSED), **_ss_schedule(training), **_ss_network(training), **_ss_dataset(training),
        "ss_session_id": _session_id(training),
        "ss_output_name": training.output_name,
        "ss_sd_scripts_commit_hash": f"treino {__version__}",
        "ss_training_started_at": training.started_at,
        "ss_training_finished_at": training.finished_at,
        "ss_training_comment": training.description or None,
    }  # fmt: skip
    if training.base_model:
        values["ss_sd_model_name"] = re.split(r"[\\/]", training.base_model.rstrip("\\/"))[-1]
    return {key: value if isinstance(value, str) else str(value) for key, value in values.items()}


def _session_id(training: TrainingMetadata) -> int:
    return uuid.uuid5(uuid.NAMESPACE_OID, f"{training.output_name}{training.started_at}{training.seed}").int >> 96


# Settings of sd-scripts that Treino has not; sd-scripts writes what is off as "None" too.
_UNUSED = (
    "ss_adaptive_noise_scale", "ss_caption_dropout_every_n_epochs", "ss_caption_tag_dropout_rate",
    "ss_face_crop_aug_range", "ss_scale_weight_norms", "ss_noise_offset_random_strength",
    "ss_ip_noise_gamma_random_strength", "ss_huber_scale", "ss_validation_seed",
    "ss_max_validation_steps", "ss_validate_every_n_epochs", "ss_validate_every_n_steps", "ss_resize_interpolation",
)  # fmt: skip


def _ss_schedule(training: TrainingMetadata) -> dict[str, Any]:
    is_huber = training.loss_type != "l2"
    return {
        "ss_learning_rate": training.learning_rate,
        "ss_unet_lr": training.learning_rate,
        "ss_text_encoder_lr": training.text_encoder_lr or None,
        "ss_num_batches_per_epoch": training.batches_per_epoch,
        "ss_num_epochs": max(1, round(training.epochs)),
        "ss_epoch": max(1, round(training.epochs)),
        "ss_steps": training.steps,
        "ss_max_train_steps": training.max_train_steps,
        "ss_gradient_checkpointing": training.gradient_checkpointing,
        "ss_gradient_accumulation_steps": training.gradient_accumulation_steps,
        "ss_lr_warmup_steps": training.lr_warmup_steps,
        "ss_lr_scheduler": training.lr_scheduler,
        "ss_optimizer": training.optimizer,
        "ss_max_grad_norm": training.max_grad_norm,
        "ss_mixed_precision": training.mixed_precision,
        "ss_lowram": False,
        "ss_full_fp16": False,
        "ss_fp8_base": False,
        "ss_fp8_base_unet": False,
        "ss_seed": training.seed,
        "ss_noise_offset": training.noise_offset or None,
        "ss_min_snr_gamma": training.snr_gamma or None,
        "ss_zero_terminal_snr": training.zero_terminal_snr,
        "ss_clip_skip": training.clip_skip if training.clip_skip > 1 else None,
        "ss_max_token_length": training.max_token_length if training.max_token_length > CHUNK else None,
        "ss_debiased_estimation": training.debiased_estimation_loss,
        "ss_loss_type": training.loss_type,
        "ss_huber_c": training.huber_c if is_huber else None,
        "ss_huber_schedule": training.huber_schedule if is_huber else None,
        "ss_multires_noise_iterations": training.multires_noise_iterations or None,
        "ss_multires_noise_discount": training.multires_noise_discount or None,
        "ss_ip_noise_gamma": training.ip_noise_gamma or None,
        "ss_prior_loss_weight": training.prior_loss_weight,
        "ss_cache_latents": True,
        "ss_validation_split": training.validation_split,
    }


def _ss_network(training: TrainingMetadata) -> dict[str, Any]:
    spec = FAMILIES[training.family]
    values = {
        "ss_v2": spec.is_v2,
        "ss_base_model_version": spec.kohya_version + ("_v" if _is_v(training) and spec.says_v else ""),
        "ss_network_module": LYCORIS if "algo" in training.network_args else "networks.lora",
        "ss_network_dim": "Dynamic" if "block_ranks" in training.network_args else training.rank,
        "ss_network_alpha": "Dynamic" if "block_ranks" in training.network_args else training.alpha,
        "ss_network_dropout": training.lora_dropout or None,
    }
    if training.network_args:
        values["ss_network_args"] = json.dumps(dict(training.network_args))
    return values


def _ss_dataset(training: TrainingMetadata) -> dict[str, Any]:
    sizes = list(training.buckets) or [(training.resolution, training.resolution)]
    buckets = {
        str(number): {"resolution": list(size), "count": count}
        for number, (size, count) in enumerate(sorted(training.buckets.items()))
    }
    dirs = {name: {"n_repeats": repeats, "img_count": count} for name, (repeats, count) in training.dataset_dirs.items()}
    tags = {name: dict(counts) for name, counts in training.tag_frequency.items()}
    return {
        "ss_num_train_images": training.training_pictures,
        "ss_num_validation_images": training.validation_pictures,
        "ss_num_reg_images": training.prior_pictures,
        "ss_batch_size_per_device": training.batch_size,
        "ss_total_batch_size": training.batch_size,
        "ss_resolution": f"({training.resolution}, {training.resolution})",
        "ss_color_aug": False,
        "ss_flip_aug": training.random_flip,
        "ss_random_crop": False,
        "ss_shuffle_caption": training.shuffle_tags,
        "ss_keep_tokens": training.keep_tags,
        "ss_caption_dropout_rate": training.caption_dropout,
        "ss_enable_bucket": training.enable_bucket,
        "ss_bucket_no_upscale": False,
        "ss_min_bucket_reso": min(min(size) for size in sizes),
        "ss_max_bucket_reso": max(max(size) for size in sizes),
        "ss_bucket_info": json.dumps({"buckets": buckets, "mean_img_ar_error": 0.0}),
        "ss_dataset_dirs": json.dumps(dirs, ensure_ascii=False),
        "ss_reg_dataset_dirs": json.dumps({}),
        "ss_tag_frequency": json.dumps(tags, ensure_ascii=False),
    }


def _modelspec(training: TrainingMetadata) -> dict[str, str]:
    """https://github.com/Stability-AI/ModelSpec, version 1.0.1, with the names sd-scripts gives the models."""
    spec = FAMILIES[training.family]
    values = {
        "sai_model_spec": "1.0.1",
        "architecture": f"{spec.architecture_of(_is_v(training))}/lora",
        "implementation": spec.implementation,
        "implementation_version": f"treino/{__version__}",
        "title": training.title or training.output_name,
        "resolution": f"{training.resolution}x{training.resolution}",
        "prediction_type": "v" if _is_v(training) else "epsilon",
        "date": datetime.datetime.fromtimestamp(int(training.finished_at), datetime.UTC).isoformat(),
        "description": training.description,
        "author": training.author,
        "trigger_phrase": training.trigger_phrase,
        "usage_hint": training.usage_hint,
        "thumbnail": training.thumbnail if len(training.thumbnail) <= THUMBNAIL_LIMIT else "",
    }
    return {f"modelspec.{key}": value for key, value in values.items() if value}


def _is_v(training: TrainingMetadata) -> bool:
    return training.prediction_type.startswith("v")
