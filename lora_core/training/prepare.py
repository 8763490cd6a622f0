"""From settings to a training ready to step: load the base model, encode the dataset, put adapters on, build the session.

Each stage returns a small value that the next ones read; none of them is changed again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch

from lora_core.config import TrainConfig
from lora_core.dataset import Dataset, report, scan
from lora_core.errors import UserError
from lora_core.events import Emit, Warned
from lora_core.lora.lycoris import TITLES
from lora_core.lora.peft_layers import input_widths
from lora_core.lora.summary import invokeai_warning
from lora_core.messages import Message
from lora_core.models import int8
from lora_core.models import load as base_models
from lora_core.models.architecture import of_model
from lora_core.models.device import Compute, begin_peak, choose, is_small, set_up
from lora_core.models.families.base import BaseModel, Predict
from lora_core.models.load import fingerprint
from lora_core.models.weights import load_to, on_device
from lora_core.sampling.params import params_of
from lora_core.sampling.sample import encode_prompts
from lora_core.system.distributed import ProcessGroup
from lora_core.training.data.caption_augment import captions_to_prepare
from lora_core.training.data.latent_cache import Example, Prompts, encode_pictures
from lora_core.training.data.plan import Plan
from lora_core.training.engine import adapters, compile, cuda_graphs
from lora_core.training.engine.init_lora import InitLora, put_on, read_for
from lora_core.training.engine.stepper import PlainStepper, Stepper
from lora_core.training.estimate import beside, fit, speed
from lora_core.training.estimate.memory import validated_at_once
from lora_core.training.optim.build import ParameterGroups, build_optimizer
from lora_core.training.optim.ema import EMA
from lora_core.training.prior import draw_prior, prior_params
from lora_core.training.progress import ProgressMeter, card_memory
from lora_core.training.session import Prior, Session

TOLD_OF_EACH = 5  # problems of one kind that are told by file; the rest are counted


def read_dataset(config: TrainConfig) -> Dataset:
    """The pictures and captions to train on.

    Raises:
        UserError: no folder named, or nothing usable in it.
    """
    if not config.train_data_dir:
        raise UserError("training.no_dataset")
    return scan(Path(config.train_data_dir).expanduser(), config.trigger_word)


def prepare(
    config: TrainConfig, dataset: Dataset, plan: Plan, emit: Emit, group: ProcessGroup, is_resumed: bool = False
) -> Session:
    """Everything a training needs before its first step. is_resumed: a checkpoint holds what the adapters have learned.

    Raises:
        UserError: the base model cannot be had, or a setting does not fit it.
    """
    loaded = load(config, dataset, plan, emit, group, begins_with="" if is_resumed else config.init_lora)
    encoded = encode(config, plan, loaded, emit, group)
    adapted = adapt(config, loaded, emit)
    return build(config, plan, loaded, encoded, adapted, emit, group)


# --- load -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Loaded:
    """The base model, whose weights are read as they are needed, and where and how to compute.

    fitted: the settings with what makes the training fit its card; the run keeps them as they were asked. init: the LoRA
    to begin with.
    """

    model: BaseModel
    compute: Compute
    fitted: TrainConfig
    init: InitLora | None = None


def load(
    config: TrainConfig, dataset: Dataset, plan: Plan, emit: Emit, group: ProcessGroup, begins_with: str = ""
) -> Loaded:
    """Choose the device, open the base model, and say what is worth knowing before more time is spent.

    Raises:
        UserError: no such device or base model, pictures of a size that the model cannot have, or a LoRA to begin with
            that is none for this model.
    """
    compute = choose(config.device, config.mixed_precision, group)
    set_up(compute)
    group.join(compute.device)
    begin_peak(compute.device)
    for notice in compute.notices:
        emit(Warned(notice))
    for message in plan.notices:
        emit(Warned(message))
    model = base_models.open_on_meta(
        config.pretrained_model_name_or_path, compute.dtype, emit, config.vae, config.prediction_type,
        config.zero_terminal_snr,
    )  # fmt: skip
    init = read_for(model, Path(begins_with)) if begins_with else None
    model.read_captions(config.clip_skip, config.max_token_length)
    for message in quality_warnings(model, dataset, config):
        emit(Warned(message))
    _check_size(model, plan)
    if config.adapter == "dora":
        emit(Warned(Message("lora.warned_dora")))
    elif config.is_lycoris:
        emit(Warned(Message("lora.warned_lycoris", kind=TITLES[config.adapter])))
    for found in (
        size_notice(model, config.resolution),
        offset_notice(model, config),
        clip_skip_notice(model, config),
        fit.notice(model, config, compute, plan.buckets),
    ):
        if found:
            emit(Warned(found))
    if sentence := fit.page_file_notice(model, config, compute, plan.buckets):
        emit(Warned(sentence))
    return Loaded(model, compute, fit.fitted(config, of_model(model), compute, plan.buckets), init)


def quality_warnings(model: BaseModel, dataset: Dataset, config: TrainConfig) -> list[Message]:
    """The dataset's quality report, of each kind of problem the first few and the number of the rest."""

    def token_count(caption: str) -> int:
        """Tokens without the start and end marks, by the tokenizer that makes most of them."""
        return max(len(tokenizer(caption, verbose=False).input_ids) - 2 for tokenizer in model.tokenizers.values())

    kinds: dict[str, list[Message]] = {}
    for problem in report(dataset, config.resolution, token_count, config.max_token_length):
        kinds.setdefault(problem.kind, []).append(problem.message)
    warnings = []
    for messages in kinds.values():
        warnings += messages[:TOLD_OF_EACH]
        if (rest := len(messages) - TOLD_OF_EACH) > 0:
            warnings.append(Message("dataset.more_like_it", rest=rest, example=messages[TOLD_OF_EACH]))
    return warnings


def size_notice(model: BaseModel, resolution: int) -> Message | None:
    """What to say when the training size is far from the one the base model knows; None when it is near enough."""
    own = model.resolution
    if own / 1.5 <= resolution <= own * 1.5:
        return None
    return Message("training.far_size", own=own, resolution=resolution)


def offset_notice(model: BaseModel, config: TrainConfig) -> Message | None:
    """What to say when the noise of a model is shifted that needs no such help; None when it is not."""
    if not config.noise_offset or model.prediction_type != "v_prediction":
        return None
    return Message("training.offset_of_velocity", offset=config.noise_offset)


def clip_skip_notice(model: BaseModel, config: TrainConfig) -> Message | None:
    """What to say when the family has no choice of the layer that is read; None when it has, or the usual one is wanted."""
    if model.clip_skip == config.clip_skip:
        return None
    return Message("training.no_clip_skip", family=model.family.spec.label)


def _check_size(model: BaseModel, plan: Plan) -> None:
    step = model.pixels_per_latent
    if odd := [size for size in plan.buckets if size[0] % step or size[1] % step]:
        raise UserError("training.odd_size", step=step, size=str(odd[0]))


# --- encode -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Encoded:
    """What the base model, still without adapters, makes of pictures and captions; its UNet is on the device by now."""

    prompts: Prompts
    training: list[Example]
    held_out: list[Example]
    prior: list[Prior]


def encode(config: TrainConfig, plan: Plan, loaded: Loaded, emit: Emit, group: ProcessGroup) -> Encoded:
    """Pictures to latents, captions to conditioning, and the prior's pictures drawn, each from the cache where it is.

    Raises:
        UserError: a picture cannot be read, or the VAE is damaged.
    """
    model, device = loaded.model, loaded.compute.device
    if config.train_text_encoder or config.shuffle_tags:  # else they are gone again once the captions are encoded
        for encoder in model.text_encoders.values():
            load_to(encoder, device)
    prompts = Prompts(model, device, live=config.train_text_encoder)
    training, held_out = _examples(model, config, plan, device, emit, group)
    captions = [example.caption for example in (*training, *held_out)]
    with on_device(model.text_encoders.values(), device):
        prompts.prepare([*captions_to_prepare(captions, config), *config.prior_prompts], emit)
        if not config.train_text_encoder:
            drawn = params_of(config, [example.caption for example in (*held_out, *training)])
            encode_prompts(model, [*prior_params(config), *drawn], device)
    if config.eight_bit_base:
        int8.quantize(model.unet)
    load_to(model.unet, device)
    if config.sample_count:  # the base model's pictures are kept under it, and with adapters on it would be another
        fingerprint(model, "unet")
    return Encoded(prompts, training, held_out, draw_prior(model, config, emit))


def _examples(
    model: BaseModel, config: TrainConfig, plan: Plan, device: torch.device, emit: Emit, group: ProcessGroup
) -> tuple[list[Example], list[Example]]:
    """Training and held-out pictures.

    The processes of a group begin at different pictures, and find what the others did in the cache.
    """
    items = (*plan.training, *plan.validation)
    turn = len(items) * group.rank // group.size
    turned = encode_pictures(model, plan, (*items[turn:], *items[:turn]), config, device, emit)
    examples = [*turned[len(items) - turn :], *turned[: len(items) - turn]]
    return examples[: len(plan.training)], examples[len(plan.training) :]


# --- adapt ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Adapted:
    """What is trained, in groups of one learning rate each, and how its steps are computed on this device."""

    parameters: dict[str, torch.nn.Parameter]
    groups: ParameterGroups
    stepper: Stepper
    predict: Predict


def adapt(config: TrainConfig, loaded: Loaded, emit: Emit) -> Adapted:
    """Put adapters on the model.

    Raises:
        UserError: the model has none of the layers that are to be trained.
    """
    model, fitted = loaded.model, loaded.fitted
    adapters.attach(model, fitted)
    if loaded.init and (notice := put_on(model, loaded.init, fitted)):
        emit(Warned(notice))
    if notice := invokeai_notice(model):
        emit(Warned(notice))
    adapters.checkpoint(model, fitted)
    for module in model.adapted().values():
        module.train()
    return Adapted(
        parameters=adapters.named_parameters(model),
        groups=adapters.parameter_groups(model, config),
        stepper=fastest_stepper(model, fitted, loaded.compute.device, emit),
        predict=compile.predict(model, fitted, emit) if fitted.is_compiled else model.predict,
    )


def invokeai_notice(model: BaseModel) -> Message | None:
    """What to say when InvokeAI will not know for what a LoRA of these layers is; nothing of toys, which no webui has."""
    if int(model.unet.config.cross_attention_dim) != model.family.spec.widths[0]:
        return None
    found = [input_widths(module, component) for component, module in model.adapted().items()]
    return invokeai_warning({name: width for widths in found for name, width in widths.items()}, model.family.spec.name)


def fastest_stepper(model: BaseModel, config: TrainConfig, device: torch.device, emit: Emit) -> Stepper:
    """CUDA graphs on a card where these settings allow them."""
    return cuda_graphs.CudaGraphStepper(model, emit) if cuda_graphs.can_capture(config, device) else PlainStepper()


# --- build ------------------------------------------------------------------------------------------------------------


def build(
    config: TrainConfig, plan: Plan, loaded: Loaded, encoded: Encoded, adapted: Adapted, emit: Emit, group: ProcessGroup
) -> Session:
    """The session of all that, at step 0."""
    model, ran, sizes, width = loaded.model, loaded.fitted, plan.buckets, loaded.compute.dtype.itemsize
    shapes = of_model(model)
    of_pass = beside.pass_steps(ran, shapes, width, sizes)
    numbers = len(encoded.held_out), len(encoded.training)
    measure, is_late = beside.measure(config, *numbers, is_small(model.unet), of_pass)
    return Session(
        config=config, plan=plan, compute=loaded.compute, model=loaded.model, prompts=encoded.prompts,
        training=encoded.training, held_out=encoded.held_out, prior=encoded.prior, parameters=adapted.parameters,
        optimizer=build_optimizer(adapted.groups, config),
        scaler=torch.amp.GradScaler(loaded.compute.device.type, enabled=loaded.compute.scale_loss),
        meter=_meter(plan, loaded, emit), group=group, stepper=adapted.stepper, predict=adapted.predict,
        ancestor=loaded.init.ancestor if loaded.init else None, fitted=ran, measure=measure, base_is_due=is_late,
        latents_at_once=validated_at_once(ran, shapes, sizes, width),
        ema=EMA(adapted.parameters, config.ema_decay if group.is_first else 0.0),
    )  # fmt: skip


def _meter(plan: Plan, loaded: Loaded, emit: Emit) -> ProgressMeter:
    config, compute = loaded.fitted, loaded.compute
    meter = ProgressMeter(emit, config.max_train_steps, config.save_steps, compute.device, compute.scale_loss)
    if card_memory(compute.device):  # its driver may fall back from the first step on: only earlier trainings know better
        pace = speed.step_seconds(config, of_model(loaded.model), compute, plan.buckets)
        meter.sysmem_fallback.expected = pace.seconds if pace else 0.0
    return meter
