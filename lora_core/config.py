"""Every setting of a training, each written once. See `settings.py` for what is derived from a line."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from lora_core.errors import UserError
from lora_core.messages import Message
from lora_core.sample_prompts import read_sample_prompt
from lora_core.settings import TRUTH, ConfigError, Problem, Setting, Value, check, setting, settings_of, suggest
from lora_core.system.file_names import RESERVED
from lora_core.system.redact import holds_secret
from lora_core.system.tensor_headers import metadata_of

SCHEMA = 3  # 1: cuda_graphs was on or off; 2: use_dora and use_rslora were settings
OLDER = ("use_dora", "use_rslora")  # switches that were, on or off; `migrated` tells what they are now
PRESETS = Path(__file__).parent.parent / "presets"
TARGETS = (
    "to_q", "to_k", "to_v", "to_out.0", "ff.net.0.proj", "ff.net.2", "proj_in", "proj_out",
    "conv1", "conv2", "conv_shortcut", "time_emb_proj", "conv",
)  # fmt: skip
CONV_TARGETS = ("conv1", "conv2", "conv")  # with kernels of 3x3, as LyCORIS and sd-scripts tell convolutions from the rest
BLOCKS = ("down", "mid", "up")
_STRENGTH = ("lora_rank", "lora_alpha", "conv_rank", "conv_alpha")
BECAME = {"low_memory": "settings.preset_low_memory", "fast": "settings.preset_fast"}  # presets that were, and what they are now


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """What a training is told. Frozen: derived numbers live in `plan.Plan`."""

    # fmt: off
    train_data_dir: str = setting("", "Dataset", "Folder with pictures and captions: NNN.png|jpg|jpeg and NNN.txt.", basic=True)
    trigger_word: str = setting("", "Dataset", "Word that calls the concept; captions are expected to hold it, pictures without a caption get it.", basic=True)
    resolution: int = setting(512, "Dataset", "Training size: pictures are resized to about its square.", low=32, high=4096, multiple_of=8, unit="pixels", basic=True)
    enable_bucket: bool = setting(True, "Dataset", "Keep each picture's aspect ratio, in groups of like shape; off: everything is cropped square.")
    bucket_step: int = setting(64, "Dataset", "Sides of a group are multiples of this.", low=8, high=512, multiple_of=8, unit="pixels")
    random_flip: bool = setting(False, "Dataset", "Also show each picture mirrored; not for text or one-sided faces.")
    shuffle_tags: bool = setting(False, "Dataset", "Shuffle comma-separated tags anew for every use of a caption.")
    keep_tags: int = setting(0, "Dataset", "Tags at the front that shuffling leaves in place.", low=0, high=100)
    caption_dropout: float = setting(0.0, "Dataset", "Share of steps without a caption; teaches the style apart from the words.", low=0, high=1)
    transparent_color: str = setting("#ffffff", "Dataset", "Colour put behind transparent pictures, as #rrggbb.")

    pretrained_model_name_or_path: str = setting("runwayml/stable-diffusion-v1-5", "Model", "Base model: a .safetensors or .ckpt file, a diffusers folder, a hub id, or 'starter'.", basic=True)
    vae: str = setting("", "Model", "Another VAE than the base model's own: a file or a diffusers folder.")
    prediction_type: str = setting("auto", "Model", "What the base model predicts, where its file does not say it or says it wrongly: noise (epsilon) or velocity.", choices=("auto", "epsilon", "v_prediction"))
    zero_terminal_snr: str = setting("auto", "Model", "Whether the base model begins at pure noise, where its file does not say it: many merges of v-prediction models lost that mark. auto: as the file says.", choices=("auto", "on", "off"))
    max_token_length: int = setting(75, "Model", "Most tokens of a caption that are read, in parts of 75, each read for itself as webuis do; a short caption takes one part.", low=75, high=225, multiple_of=75)
    clip_skip: int = setting(1, "Model", "Which layer of the text encoder is read: 1 the last, 2 the one before it, as the anime models of Stable Diffusion 1.x were trained.", low=1, high=2)
    mixed_precision: str = setting("fp16", "Model", "Number format of the frozen model; a CPU without bf16 units computes in fp32.", choices=("no", "fp16", "bf16"))
    device: str = setting("auto", "Model", "Where to compute: auto, cpu, cuda, cuda:1, mps, xpu.")
    optimizer_on_host: bool = setting(False, "Model", "On a card: keep the optimizer's state, and let it step, in the computer's memory: the same LoRA but for rounding, two transfers more a step. Pays at high ranks.")
    eight_bit_base: bool = setting(False, "Model", "Hold the frozen UNet in 8 bits: half its memory, a little slower, nearly the same pictures.")
    lean_activations: bool = setting(True, "Model", "Keep only what the gradients need and recompute the rest: two fifths less for activations, a little slower.")
    gradient_checkpointing: bool = setting(False, "Model", "Recompute instead of remember: far less memory, about a third slower.")
    checkpointed_quarters: int = setting(0, "Model", "Recompute only so many quarters of the UNet, each about a twelfth slower; 0: as many as the card's memory needs.", low=0, high=3)
    cuda_graphs: str = setting("auto", "Model", "On an NVIDIA or AMD card: start a step's thousands of operations with one call; auto: where the check of this computer proved it, and where that is what steps wait for.", choices=("auto", "on", "off"))
    torch_compile: bool = setting(False, "Model", "Compile the UNet: faster steps after minutes at the first of each picture size. Needs Triton on a card, a C++ compiler on a CPU; not with 8 bits or dropout.")

    init_lora: str = setting("", "LoRA", "A LoRA to go on from: a new run begins with all it has learned, while resuming takes up an unfinished one. A file in any program's format; its kind, rank, alpha and layers are taken, unless they are set too.")
    adapter: str = setting("lora", "LoRA", "Kind of adapter. dora trains direction and magnitude apart: slower, sometimes closer. loha multiplies two pairs of matrices: it learns less of the style, and more concepts at once. lokr is the smallest file: products of little matrices, each side of a layer cut near its root. All but lora are slower and not for diffusers and bare sd-scripts.", choices=("lora", "dora", "loha", "lokr"))
    lora_rank: int = setting(16, "LoRA", "Size of the adapters; 4 to 32 suit most pictures.", low=1, high=1024, basic=True)
    lora_alpha: float = setting(0.0, "LoRA", "Strength of the adapters is alpha/rank; 0 means the same as the rank. What rsLoRA calls alpha is here alpha times the root of the rank.", low=0, high=131_072)
    conv_rank: int = setting(0, "LoRA", "Size of the adapters of 3x3 convolutions; 0 means as the others.", low=0, high=1024)
    conv_alpha: float = setting(0.0, "LoRA", "Alpha of the adapters of 3x3 convolutions, 1 to 8 is usual; 0 means as the others, or their own rank where that is another.", low=0, high=131_072)
    block_ranks: str = setting("", "LoRA", "Ranks of the UNet's way down, middle and way up, as 8;16;8, where they are to differ; alpha/rank stays. Empty: lora_rank everywhere. Convolutions go along unless conv_rank is set; text encoders keep lora_rank.")
    target_modules: tuple[str, ...] = setting(("to_q", "to_v"), "LoRA", "UNet layers that get an adapter.", choices=TARGETS)
    target_blocks: tuple[str, ...] = setting(BLOCKS, "LoRA", "Parts of the UNet whose layers get an adapter; without 'down' the way back ends early, which makes steps quicker.", choices=BLOCKS)
    train_text_encoder: bool = setting(False, "LoRA", "Also adapt the text encoder(s).")
    lora_dropout: float = setting(0.0, "LoRA", "Share of adapter inputs dropped while training.", low=0, high=0.9)

    max_train_steps: int = setting(1500, "Training", "Optimizer steps in all.", low=1, high=1_000_000, unit="steps", basic=True)
    train_batch_size: int = setting(1, "Training", "Pictures computed at once.", low=1, high=512, basic=True)
    gradient_accumulation_steps: int = setting(1, "Training", "Batches added up before each optimizer step.", low=1, high=1024)
    learning_rate: float = setting(1e-5, "Training", "Step size of the optimizer; 1e-4 is usual for a LoRA, 1e-5 very careful.", low=0, high=10, basic=True)
    text_encoder_lr: float = setting(0.0, "Training", "Learning rate of the text encoder's adapters; 0 means the same.", low=0, high=10)
    lr_scheduler: str = setting("constant", "Training", "How the learning rate moves over the run.", choices=("constant", "constant_with_warmup", "linear", "cosine", "cosine_with_restarts", "polynomial"))
    lr_scheduler_num_cycles: int = setting(1, "Training", "Falls of the rate with cosine_with_restarts, each from the top.", low=1, high=100)
    lr_scheduler_power: float = setting(1.0, "Training", "Bend of polynomial: 1 falls evenly, 2 quickly at first.", low=0.1, high=10)
    lr_warmup_steps: float = setting(0.0, "Training", "Steps over which the rate rises from zero; below 1 their share of all steps.", low=0, high=1_000_000, unit="steps")
    optimizer: str = setting("adamw", "Training", "What turns gradients into steps. prodigy finds the learning rate by itself and wants learning_rate 1.", choices=("adamw", "adafactor", "prodigy"))
    weight_decay: float = setting(1e-2, "Training", "Pull of the adapters towards zero.", low=0, high=1)
    max_grad_norm: float = setting(1.0, "Training", "Longer gradients are shortened to this; 0 turns it off.", low=0, high=1000)
    ema_decay: float = setting(0.0, "Training", "Save, validate and draw a moving average of the adapters, which keeps so much of itself at each step: 0.99 is about the last hundred steps, 0 turns it off.", low=0, high=0.9999)
    seed: int = setting(42, "Training", "Same seed, same data, same settings: same LoRA.", low=0, high=2**31 - 1)

    snr_gamma: float = setting(0.0, "Objective", "Min-SNR weighting of the timesteps, 5 is usual; 0 turns it off.", low=0, high=100)
    timestep_sampling: str = setting("uniform", "Objective", "Draw timesteps evenly and weigh the loss, or draw them as often as min-SNR weighs them: more learned per step.", choices=("uniform", "weighted"))
    debiased_estimation_loss: bool = setting(False, "Objective", "Weigh each timestep by the root of its noise over its signal, instead of min-SNR (debiased estimation).")
    min_timestep: int = setting(0, "Objective", "Least noisy timestep that is trained; higher leaves fine detail to the base model.", low=0, high=999)
    max_timestep: int = setting(1000, "Objective", "Trained are the timesteps below this; lower leaves layout and colour to the base model.", low=1, high=1000)
    loss_type: str = setting("l2", "Objective", "How an error counts: l2 squares it; huber and smooth_l1 square small ones only, so that odd pictures pull less.", choices=("l2", "huber", "smooth_l1"))
    huber_c: float = setting(0.1, "Objective", "Errors above about this count linearly, with huber and smooth_l1.", low=1e-4, high=1)
    huber_schedule: str = setting("snr", "Objective", "How that bound moves with the noise: not, falling from 1 to it, or with the signal-to-noise ratio.", choices=("constant", "exponential", "snr"))
    noise_offset: float = setting(0.0, "Objective", "Shift noise as a whole, for darker darks and brighter brights; up to 0.1.", low=0, high=1)
    multires_noise_discount: float = setting(0.0, "Objective", "Add coarser and coarser noise, each this much weaker than the one before, for pictures with more contrast; 0.1 to 0.3, 0 turns it off.", low=0, high=0.9)
    ip_noise_gamma: float = setting(0.0, "Objective", "Input perturbation: noise the pictures a little more than the model is told, so that it mends its own errors; 0.1 is usual, 0 turns it off.", low=0, high=0.5)
    prior_prompts: tuple[str, ...] = setting((), "Objective", "Prompts the LoRA must leave as they are; parted by ';'. The base model draws them before training.")
    prior_pictures: int = setting(0, "Objective", "Pictures drawn for the prior prompts; 0 turns prior preservation off.", low=0, high=10_000)
    prior_loss_weight: float = setting(1.0, "Objective", "Weight of the prior pictures in the loss.", low=0, high=10)
    prior_every: int = setting(3, "Objective", "Steps between lessons on the prior pictures, each weighing as many times more: a lower price, nearly as firm a hold.", low=1, high=100)

    output_dir: str = setting("./lora_out", "Output", "Folder of the run; the finished LoRA lies directly in it.")
    output_name: str = setting("pytorch_lora_weights", "Output", "File name of the LoRA, without ending.")
    save_steps: int = setting(500, "Output", "Save, validate and draw samples every so many steps.", low=1, high=1_000_000, unit="steps")
    keep_states: int = setting(2, "Output", "Newest checkpoints that keep what resuming needs; older ones keep only the LoRA.", low=1, high=1000)
    save_precision: str = setting("fp16", "Output", "Number format of the LoRA file.", choices=("fp16", "bf16", "fp32"))
    private_metadata: bool = setting(False, "Output", "Leave folder names, tags and captions out of the file.")

    validation_split: float = setting(0.1, "Validation", "Share of pictures held out to measure overfitting; 0 keeps none.", low=0, high=0.5)
    sample_prompts: tuple[str, ...] = setting((), "Validation", "Prompts of the sample pictures, parted by ';'; empty: captions of the dataset. Each may end in kohya's flags: --w --h size, --s steps, --l guidance, --d seed, --n what not to show.")
    sample_count: int = setting(4, "Validation", "Most sample pictures drawn at a time; 0 draws none.", low=0, high=64)
    sample_inference_steps: int = setting(25, "Validation", "Denoising steps of a sample picture.", low=1, high=1000, unit="steps")
    sample_guidance: float = setting(7.5, "Validation", "Guidance scale (CFG) of the sample pictures.", low=0, high=50)
    sample_negative_prompt: str = setting("", "Validation", "What the sample pictures should not show.")
    # fmt: on

    @classmethod
    def of(cls, values: Mapping[str, object]) -> Self:
        """A config of `values` over the defaults.

        Raises:
            ConfigError: lists every unknown name, wrong type, impossible value and clash between settings.
        """
        config = cls(**check(settings(), values))  # type: ignore[arg-type]  # checked one by one against the fields
        if problems := list(_clashes(config)):
            raise ConfigError(problems)
        return config

    def replace(self, **values: object) -> Self:
        """A copy with some settings changed, checked again."""
        return self.of({**dataclasses.asdict(self), **values})

    def values(self) -> dict[str, Value]:
        return dataclasses.asdict(self)

    @property
    def alpha(self) -> float:
        """LoRA alpha with 0 resolved to the rank."""
        return self.lora_alpha or float(self.lora_rank)

    @property
    def conv(self) -> tuple[int, float]:
        """Rank and alpha of 3x3 convolutions, with 0 resolved."""
        rank = self.conv_rank or self.lora_rank
        return rank, self.conv_alpha or (float(rank) if self.conv_rank else self.alpha)

    @property
    def is_lycoris(self) -> bool:
        """Whether the adapters are LoHa or LoKr, which have no dropout of inputs and no plain matrices."""
        return self.adapter in ("loha", "lokr")

    @property
    def ranks_of_blocks(self) -> dict[str, int]:
        """Of each part of the UNet, where they are told apart."""
        if not _are_ranks(self.block_ranks):  # nothing, or what is told where all settings are checked
            return {}
        return dict(zip(BLOCKS, map(int, self.block_ranks.split(";")), strict=True))

    def strength(self, block: str = "", is_conv: bool = False) -> tuple[int, float]:
        """Rank and alpha of a layer of this part of the UNet; is_conv: one of `CONV_TARGETS`."""
        rank, alpha = self.conv if is_conv else (self.lora_rank, self.alpha)
        own = self.ranks_of_blocks.get(block)
        return (rank, alpha) if own is None or (is_conv and self.conv_rank) else (own, own * alpha / rank)

    @property
    def largest_rank(self) -> int:
        own = [rank for block, rank in self.ranks_of_blocks.items() if block in self.target_blocks]
        return max(*own, self.conv_rank, self.lora_rank if self.train_text_encoder or not own else 0)

    @property
    def warmup_steps(self) -> int:
        """lr_warmup_steps with a share resolved."""
        asked = self.lr_warmup_steps
        return round(asked * self.max_train_steps if asked < 1 else asked)

    @property
    def is_compiled(self) -> bool:
        """8-bit layers are no program for a compiler (models/frozen_layers.py), and dropout's draws would be others."""
        return self.torch_compile and not self.eight_bit_base and not self.lora_dropout

    @property
    def is_lean(self) -> bool:
        """A compiler chooses itself what is kept."""
        return self.lean_activations and not self.is_compiled

    def to_toml(self) -> str:
        """The whole config as TOML, readable by `read_values`."""
        return "".join([f"schema = {SCHEMA}\n", *(f"{n} = {toml(v)}\n" for n, v in self.values().items())])


@functools.cache
def settings() -> dict[str, Setting]:
    """Every setting by name, in the order of `TrainConfig`."""
    return settings_of(TrainConfig)


@dataclass(frozen=True)
class Preset:
    """A named set of values with a sentence on what it is for.

    intent: what is wanted, for which `recipes` works out all that the values leave open; "": the defaults do.
    """

    name: str
    title: str
    description: str
    values: dict[str, object]
    intent: str = ""


def presets() -> list[Preset]:
    """The presets shipped with the app, by file name."""
    return [read_preset(path) for path in sorted(PRESETS.glob("*.toml"))]


def find_preset(name: str) -> Preset:
    """A preset by name, or by the path of a .toml or of a LoRA that Treino wrote.

    Raises:
        UserError: nothing of that name; the nearest known name is suggested.
    """
    if Path(name).suffix in (".toml", ".safetensors"):
        return read_preset(Path(name))
    known = [path.stem for path in sorted(PRESETS.glob("*.toml"))]
    if name in BECAME:
        raise UserError(BECAME[name], name=name)
    if name not in known:
        raise UserError("settings.no_preset", name=name, known=known, suggestion=suggest(name, known))
    return read_preset(PRESETS / f"{name}.toml")


def read_preset(path: Path) -> Preset:
    """A preset file; its [preset] table holds title and description, the rest are settings."""
    table, values = _read(path)
    about = table.get("preset", {})
    if not isinstance(about, dict):
        raise UserError("settings.preset_no_table", file=path)
    told = {name: str(about.get(name, "")) for name in ("description", "intent")}
    return Preset(path.stem, str(about.get("title", path.stem)), values=values, **told)


def read_values(path: Path) -> dict[str, object]:
    """The settings in a preset, in a run's config.toml or in the metadata of a .safetensors we wrote.

    Raises:
        UserError: no such file, not TOML, no settings in the file, or written by a newer Treino.
    """
    return _read(path)[1]


def values_of(text: str, path: Path) -> dict[str, object]:
    """The settings in a text of TOML that was read from a file. Raises UserError like `read_values`."""
    return _parsed(text, path)[1]


def _read(path: Path) -> tuple[dict[str, Any], dict[str, object]]:
    try:
        text = _metadata_toml(path) if path.suffix == ".safetensors" else path.read_text(encoding="utf-8-sig")
        return _parsed(text, path)
    except FileNotFoundError:
        raise UserError("settings.file_missing", file=path) from None
    except OSError as cause:
        raise UserError("settings.file_unreadable", file=path, why=cause.strerror or cause) from None
    except UnicodeDecodeError as cause:
        raise UserError("settings.file_not_toml", file=path, why=cause) from None


def _parsed(text: str, path: Path) -> tuple[dict[str, Any], dict[str, object]]:
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as cause:  # of the syntax, or a number of thousands of digits
        why = str(cause) or Message("settings.nested_too_deep")
        raise UserError("settings.file_not_toml", file=path, why=why) from None
    schema = table.get("schema", SCHEMA)
    if type(schema) is not int or not 1 <= schema <= SCHEMA:
        raise UserError("settings.schema_too_new", file=path, schema=repr(schema), known=SCHEMA)
    return table, migrated({name: value for name, value in table.items() if name not in ("schema", "preset")})


def migrated(values: Mapping[str, object]) -> dict[str, object]:
    """Settings of an older schema, or older flags, as the present ones are called."""
    now = {name: value for name, value in values.items() if name not in OLDER or str(value).lower() not in TRUTH}
    if isinstance(graphs := values.get("cuda_graphs"), bool):
        now["cuda_graphs"] = "auto" if graphs else "off"  # on was the default, so it was nobody's wish
    is_dora, is_stabilised = (TRUTH.get(str(values.get(name)).lower()) for name in OLDER)
    if is_dora or (is_dora is False and values.get("adapter") == "dora"):
        now["adapter"] = "dora" if is_dora else "lora"
    return now | _rank_stabilised(now) if is_stabilised else now


def _rank_stabilised(values: Mapping[str, object]) -> dict[str, object]:
    """Ranks, and the alphas at which alpha/rank is what rsLoRA's alpha/sqrt(rank) was (Kalajdzievski 2023)."""
    try:
        asked = TrainConfig.of({name: values[name] for name in _STRENGTH if name in values})
    except ConfigError:
        return {}  # told where all values are checked
    ranks = {"lora": (asked.lora_rank, asked.alpha)}
    if asked.conv != ranks["lora"]:
        ranks["conv"] = asked.conv
    return {
        f"{kind}_{name}": value
        for kind, (rank, alpha) in ranks.items()
        for name, value in (("rank", rank), ("alpha", alpha * math.sqrt(rank)))
    }


def _metadata_toml(path: Path) -> str:
    """`treino.config` from the metadata of a .safetensors."""
    try:
        return metadata_of(path)["treino.config"]
    except (UserError, KeyError):
        raise UserError("settings.file_no_settings", file=path) from None


def _clashes(config: TrainConfig) -> list[Problem]:
    problems = []

    def wrong(field: str, key: str, **params: object) -> None:
        problems.append(Problem(field, Message(key, **params)))

    if config.enable_bucket and config.resolution < config.bucket_step:
        wrong("bucket_step", "settings.step_over_resolution", step=config.bucket_step)
    if config.prior_pictures and not config.prior_prompts:
        wrong("prior_prompts", "settings.no_prior_prompt")
    if not config.target_modules and not config.train_text_encoder:
        wrong("target_modules", "settings.nothing_to_train")
    if config.min_timestep >= config.max_timestep:
        wrong("min_timestep", "settings.no_timestep_left", most=config.max_timestep)
    if config.zero_terminal_snr == "on" and config.prediction_type == "epsilon":
        wrong("zero_terminal_snr", "settings.zero_snr_of_noise")
    if config.debiased_estimation_loss and config.snr_gamma:
        wrong("debiased_estimation_loss", "settings.two_weightings")
    if config.noise_offset and config.multires_noise_discount:
        wrong("multires_noise_discount", "settings.two_noises")
    if config.optimizer == "prodigy" and config.learning_rate < 0.1:
        wrong("learning_rate", "settings.prodigy_rate", rate=config.learning_rate)
    if config.block_ranks and not _are_ranks(config.block_ranks):
        wrong("block_ranks", "settings.no_block_ranks", given=config.block_ranks)
    if config.is_lycoris and config.lora_dropout:
        wrong("lora_dropout", "settings.lycoris_dropout", kind=config.adapter)
    if config.is_lycoris and config.init_lora:
        wrong("adapter", "settings.lycoris_init", kind=config.adapter)
    if config.target_modules and not config.target_blocks:
        wrong("target_blocks", "settings.no_block", blocks=BLOCKS)
    for prompt in config.sample_prompts:
        try:
            read_sample_prompt(prompt)
        except UserError as cause:
            problems.append(Problem("sample_prompts", cause.message))
    if holds_secret(config.pretrained_model_name_or_path):
        wrong("pretrained_model_name_or_path", "settings.secret_in_address")
    colour = config.transparent_color
    if len(colour) != 7 or colour[0] != "#" or any(c not in "0123456789abcdefABCDEF" for c in colour[1:]):
        wrong("transparent_color", "settings.no_colour", colour=colour)
    if not _is_file_name(config.output_name):
        wrong("output_name", "settings.no_file_name", name=config.output_name)
    return problems


def _are_ranks(text: str) -> bool:
    parts = text.split(";")
    return len(parts) == len(BLOCKS) and all(re.fullmatch(r" *[0-9]{1,4} *", part) and 1 <= int(part) <= 1024 for part in parts)


def _is_file_name(name: str) -> bool:
    """Whether Windows, macOS and Linux all take the name, with an ending and a number added to it."""
    is_reserved = name.split(".")[0].rstrip().upper() in RESERVED
    has_odd_end = name != name.strip() or name.endswith(".")
    is_printable = not any(c in '<>:"/\\|?*' or ord(c) < 32 for c in name)
    return bool(name) and is_printable and not is_reserved and not has_odd_end and len(name.encode()) <= 200


def toml(value: object) -> str:
    """A setting's value as TOML writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return "[" + ", ".join(toml(part) for part in value) + "]"
    # JSON's escapes are TOML's, but for the delete character.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f") if isinstance(value, str) else repr(value)
