"""From settings to a training ready to step: scan, plan, load, cache, attach, optimizer."""

from __future__ import annotations

from pathlib import Path

import torch

from lora_core.config import TrainConfig
from lora_core.dataset import Dataset, report, scan
from lora_core.errors import UserError
from lora_core.events import Emit, Warned
from lora_core.messages import Message, plain
from lora_core.models import device as precision
from lora_core.models import int8
from lora_core.models import load as base_models
from lora_core.models.architecture import of_model
from lora_core.models.families.base import BaseModel, Predict
from lora_core.models.load import fingerprint
from lora_core.models.weights import at_hand, bring
from lora_core.sampling.sample import encode_prompts, params_of
from lora_core.system.distributed import ProcessGroup
from lora_core.training.data.caption_augment import captions_to_prepare
from lora_core.training.data.latent_cache import Example, Prompts, encode_pictures
from lora_core.training.data.plan import Plan
from lora_core.training.engine import adapters, compile, cuda_graphs, parallel, torchscript
from lora_core.training.engine.parallel import Lanes
from lora_core.training.estimate import fit as memory
from lora_core.training.estimate import speed as estimate_speed
from lora_core.training.optim import build as optim
from lora_core.training.optim.ema import Averages
from lora_core.training.prior import draw_prior, prior_params
from lora_core.training.progress import ProgressMeter, card_memory
from lora_core.training.session import Session

TOLD_OF_EACH = 5  # problems of one kind that are told by file; the rest are counted


def read_dataset(config: TrainConfig) -> Dataset:
    """The pictures and captions to train on.

    Raises:
        UserError: no folder named, or nothing usable in it.
    """
    if not config.train_data_dir:
        raise UserError("train_data_dir is missing: name the folder with your pictures, e.g. --train_data_dir ./Training")
    return scan(Path(config.train_data_dir).expanduser(), config.trigger_word)


def prepare(config: TrainConfig, dataset: Dataset, plan: Plan, emit: Emit, group: ProcessGroup) -> Session:
    """Load the base model, encode everything once, put adapters on, and build the optimizer.

    Raises:
        UserError: the base model cannot be had, or a setting does not fit it.
    """
    compute = precision.choose(config.device, config.mixed_precision, group)
    group.join(compute.device)
    for notice in (*compute.notices, *plan.notices):
        emit(Warned(plain(notice)))
    model = base_models.open_hollow(
        config.pretrained_model_name_or_path, compute.dtype, emit, config.vae, config.prediction_type
    )
    for sentence in quality_sentences(model, dataset, config):
        emit(Warned(sentence))
    _check_size(model, plan)
    fitted = memory.fitted(config, of_model(model), compute, plan.buckets)  # the run keeps the settings as they were asked
    for told in (
        size_notice(model, config.resolution), memory.notice(model, config, compute, plan.buckets),
        memory.page_file_notice(model, config, compute, plan.buckets),
    ):  # fmt: skip
        if told:
            emit(Warned(told if isinstance(told, Message) else plain(told)))
    if config.train_text_encoder or config.shuffle_tags:  # else they are gone again once the captions are encoded
        for encoder in model.text_encoders.values():
            bring(encoder, compute.device)
    prompts = Prompts(model, compute.device, live=config.train_text_encoder)
    training, held_out = _encode(model, prompts, config, plan, group, emit)
    if config.eight_bit_base:
        int8.shrink(model.unet)
    bring(model.unet, compute.device)
    if config.sample_count:  # the base model's pictures are kept under it, and with adapters on it would be another
        fingerprint(model, "unet")
    prior = draw_prior(model, config, emit)
    adapters.attach(model, fitted)
    adapters.checkpoint(model, fitted)
    for module in model.adapted().values():
        module.train()
    lanes, predict = quickest(model, prompts, fitted, compute, group, emit)
    parameters = adapters.named_parameters(model)
    return Session(
        config=config, plan=plan, compute=compute, model=model, prompts=prompts, training=training, held_out=held_out,
        prior=prior, parameters=parameters, optimizer=optim.build(adapters.parameter_groups(model, config), config),
        scaler=torch.amp.GradScaler(compute.device.type, enabled=compute.scale_loss),
        meter=_meter(model, fitted, plan, compute, emit), group=group,
        lanes=lanes, predict=predict, averages=Averages(parameters, config.ema_decay if group.is_first else 0.0),
    )  # fmt: skip


def quickest(
    model: BaseModel, prompts: Prompts, config: TrainConfig, compute: precision.Compute, group: ProcessGroup, emit: Emit
) -> tuple[Lanes, Predict]:
    """How steps are computed here: in which parts, and by what; `prompts` are told how to encode."""
    lanes = parallel.lanes(model.unet, config, compute.device, group)
    if cuda_graphs.can_capture(config, compute.device):
        lanes = cuda_graphs.GraphLanes(model, emit)
    if config.is_compiled:
        return lanes, compile.predict(model, config, emit)
    if not torchscript.can_record(model.unet, config, compute.device):
        return lanes, model.predict
    if prompts.live:
        prompts.encode_text = torchscript.encode_text(model, emit)
    return lanes, torchscript.predict(model, emit)


def _meter(model: BaseModel, config: TrainConfig, plan: Plan, compute: precision.Compute, emit: Emit) -> ProgressMeter:
    meter = ProgressMeter(emit, config.max_train_steps, config.save_steps, compute.device)
    if card_memory(compute.device):  # from the first step on, maybe: only earlier trainings know better
        pace = estimate_speed.step_seconds(config, of_model(model), compute, plan.buckets)
        meter.sysmem_fallback.expected = pace.seconds if pace else 0.0
    return meter


def quality_sentences(model: BaseModel, dataset: Dataset, config: TrainConfig) -> list[Message]:
    """The dataset's quality report as sentences, of each kind the first few and the number of the rest."""

    def token_count(caption: str) -> int:
        """Tokens without the start and end marks, by the tokenizer that makes most of them."""
        return max(len(tokenizer(caption).input_ids) - 2 for tokenizer in model.tokenizers.values())

    kinds: dict[str, list[Message]] = {}
    for problem in report(dataset, config.resolution, token_count):
        kinds.setdefault(problem.kind, []).append(problem.message)
    sentences = []
    for messages in kinds.values():
        sentences += messages[:TOLD_OF_EACH]
        if (rest := len(messages) - TOLD_OF_EACH) > 0:
            sentences.append(Message("dataset.more_like_it", rest=rest, example=messages[TOLD_OF_EACH]))
    return sentences


def _encode(
    model: BaseModel, prompts: Prompts, config: TrainConfig, plan: Plan, group: ProcessGroup, emit: Emit
) -> tuple[list[Example], list[Example]]:
    """Latents of training and held-out pictures, and every caption that can be known ahead.

    The processes of a group begin at different pictures, and find what the others did in the cache.
    """
    device, items = prompts.device, (*plan.training, *plan.validation)
    turn = len(items) * group.rank // group.size
    turned = encode_pictures(model, plan, (*items[turn:], *items[:turn]), config, device, emit)
    examples = [*turned[len(items) - turn :], *turned[: len(items) - turn]]
    training, held_out = examples[: len(plan.training)], examples[len(plan.training) :]
    captions = captions_to_prepare([example.caption for example in examples], config)
    with at_hand(model.text_encoders.values(), device):
        prompts.prepare([*captions, *config.prior_prompts], emit)
        if not config.train_text_encoder:
            drawn = params_of(config, [example.caption for example in (*held_out, *training)])
            encode_prompts(model, [*prior_params(config), *drawn], device)
    return training, held_out


def size_notice(model: BaseModel, resolution: int) -> str:
    """What to say when the training size is far from the one the base model knows; empty when it is near enough."""
    own = model.resolution
    if own / 1.5 <= resolution <= own * 1.5:
        return ""
    return (
        f"The base model was made for pictures of {own} pixels, and resolution is {resolution}: "
        f"--resolution {own} suits it, where memory allows."
    )


def _check_size(model: BaseModel, plan: Plan) -> None:
    step = model.pixels_per_latent
    if odd := [size for size in plan.buckets if size[0] % step or size[1] % step]:
        raise UserError(f"resolution and bucket_step must be multiples of {step} for this model; {odd[0]} is not.")
