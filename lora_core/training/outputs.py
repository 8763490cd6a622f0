"""What a training leaves in its run folder: checkpoints, sample pictures, the finished LoRA, the before/after sheet."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from lora_core.config import CONV_TARGETS, TrainConfig
from lora_core.dataset import Item
from lora_core.errors import UserError
from lora_core.events import Emit, Phase
from lora_core.lora import file as lora_file
from lora_core.lora.metadata import Ancestor, TrainingMetadata, build
from lora_core.lora.peft_layers import base_shapes
from lora_core.lora.shapes import check_fits
from lora_core.models.architecture import of_model
from lora_core.runs.run import SHEET, Run
from lora_core.sampling import sample
from lora_core.sampling.batches import alike
from lora_core.sampling.infotext import parameters_text, save_picture
from lora_core.sampling.params import GenerationParams, cache_key_of, params_of
from lora_core.sampling.sheet import Place, sheet
from lora_core.system.files import free_bytes, whole_file, write_bytes_whole
from lora_core.training import checkpoint, diffusion
from lora_core.training.data.tensor_store import stored
from lora_core.training.data.validation import Measure
from lora_core.training.engine import adapters
from lora_core.training.estimate.disk import run_bytes
from lora_core.training.estimate.speed import remember
from lora_core.training.progress import Diverged
from lora_core.training.session import Session

_CELL, _PROMPT_WIDTH = 192, 230  # of the before/after sheet, in pixels
FEWEST_STEPS = 10  # of a run whose speed is kept
# Beside a checkpoint's identity, where older versions pass them over: what its losses were validated on, and the LoRA that
# the training began with, whose file may be gone when it goes on.
_MEASURE, _ANCESTOR = "measure", "ancestor"
# Settings whose name in the file is their name here.
_AS_THEY_ARE = (
    "output_name", "resolution", "max_train_steps", "gradient_accumulation_steps", "seed", "optimizer", "lr_scheduler",
    "mixed_precision", "gradient_checkpointing", "max_grad_norm", "noise_offset", "snr_gamma",
    "lora_dropout", "caption_dropout", "prior_loss_weight", "validation_split", "random_flip", "shuffle_tags",
    "keep_tags", "enable_bucket", "prior_pictures", "debiased_estimation_loss", "loss_type", "huber_c", "huber_schedule",
    "multires_noise_discount", "ip_noise_gamma",
)  # fmt: skip


def restore(session: Session, state: checkpoint.State) -> None:
    """Put a checkpoint's state into a prepared session.

    Raises:
        UserError: the checkpoint's adapters are not those of the model.
    """
    parameters = session.parameters
    if {n: p.shape for n, p in parameters.items()} != {n: t.shape for n, t in state.adapters.items()}:
        raise UserError("training.other_base")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state.adapters[name])
    session.ema.restore(state.ema)
    rates = [group["base_lr"] / session.lr_scale for group in session.optimizer.param_groups]
    session.optimizer.load_state_dict(state.optimizer)
    for group, rate in zip(session.optimizer.param_groups, rates, strict=True):
        group["base_lr"] = rate  # as the settings have it now: they may have been lowered since the checkpoint
    session.lr_scale = 1.0
    scale_learning_rates(session, state.lr_scale)
    if state.scaler:  # not of a run without loss scaling, which begins as that of a new run does
        session.scaler.load_state_dict(state.scaler)
    session.step = session.saved_step = state.step
    session.best_step, session.best_loss = state.best_step, state.best_loss
    measured = state.identity.get(_MEASURE)
    session.measure = Measure(*map(int, measured.split(","))) if measured else None
    began_with = state.identity.get(_ANCESTOR)
    session.ancestor = Ancestor(*began_with.split(" ", 1)[::-1]) if began_with else None
    session.base_is_due = session.base_is_due and state.step == 0  # else it was measured before the first save


def scale_learning_rates(session: Session, factor: float) -> None:
    """Multiply the learning rates by `factor`."""
    session.lr_scale *= factor
    for group in session.optimizer.param_groups:
        group["base_lr"] *= factor


def check_space(session: Session, run: Run) -> None:
    """Raises UserError when the disk cannot hold the checkpoints and samples this run will leave."""
    needed = run_bytes(session.config, sum(p.numel() for p in session.parameters.values()))
    if (free := free_bytes(run.folder)) < needed:
        raise UserError("training.no_space", needed=needed / 1e6, folder=run.folder, free=free / 1e6)


def save_checkpoint(session: Session, run: Run) -> Path:
    """Write the session's state and its LoRA (that of the average, where one is kept) as a checkpoint folder.

    Raises:
        Diverged: a weight, its average, or what the optimizer remembers, is not finite.
    """
    remembered = [value for held in session.optimizer.state.values() for value in held.values()]
    for tensor in (*session.parameters.values(), *session.ema.tensors().values(), *remembered):
        if isinstance(tensor, torch.Tensor) and not torch.isfinite(tensor).all():
            raise Diverged(session.step)
    write_lora = partial(_write_lora, session)
    return checkpoint.save(run.checkpoints, state_of(session), write_lora, session.config.keep_states)


def state_of(session: Session) -> checkpoint.State:
    """All that the session needs to be where it is again; the optimizer's tensors are its own, not copies."""
    beside = {_MEASURE: ",".join(map(str, astuple(session.measure)))} if session.measure else {}
    if session.ancestor:
        beside[_ANCESTOR] = f"{session.ancestor.hash} {session.ancestor.name}"
    return checkpoint.State(
        step=session.step, identity={**checkpoint.identity(session.config, session.plan.digest), **beside},
        adapters={name: p.detach().cpu().clone() for name, p in session.parameters.items()},
        optimizer=session.optimizer.state_dict(), scaler=session.scaler.state_dict(),
        best_step=session.best_step, best_loss=session.best_loss, lr_scale=session.lr_scale,
        ema={name: tensor.clone() for name, tensor in session.ema.tensors().items()},
    )  # fmt: skip


def write_final(session: Session, run: Run) -> Path:
    """Put the newest checkpoint's LoRA, verified when it was written, under the name the user chose; and the sheet."""
    newest = run.checkpoint_lora(session.step)
    path = run.lora_file(session.config)
    write_bytes_whole(path, newest.read_bytes())
    before_after(run, session)
    return path


def _write_lora(session: Session, path: Path) -> None:
    with session.ema.applied():
        trained = adapters.extract(session.model)
    for component, module in session.model.adapted().items():
        part = {name: adapter for name, adapter in trained.items() if name.startswith(f"{component}.")}
        check_fits(part, base_shapes(module, component))
    metadata = build(training_metadata(session))
    lora_file.write(path, trained, session.model.family.name, metadata, session.config.save_precision)


def training_metadata(session: Session) -> TrainingMetadata:
    """What the LoRA file says of a training at its present step."""
    config, plan = session.config, session.plan
    items = (*plan.training, *plan.validation)
    return TrainingMetadata(
        **{name: getattr(config, name) for name in _AS_THEY_ARE},
        family=session.model.family.name,
        ancestor=session.ancestor,
        rank=config.lora_rank,
        alpha=config.alpha,
        base_model=session.model.name,
        prediction_type=session.model.prediction_type,
        zero_terminal_snr=bool(session.model.scheduler.config.rescale_betas_zero_snr),
        clip_skip=session.model.clip_skip,
        max_token_length=config.max_token_length,
        network_args=_network_args(config),
        lr_warmup_steps=config.warmup_steps,
        multires_noise_iterations=diffusion.OCTAVES if config.multires_noise_discount else 0,
        learning_rate=config.learning_rate,
        text_encoder_lr=(config.text_encoder_lr or config.learning_rate) if config.train_text_encoder else 0.0,
        steps=session.step,
        epochs=session.step * config.gradient_accumulation_steps / plan.batches_per_epoch,
        batches_per_epoch=plan.batches_per_epoch,
        batch_size=config.train_batch_size,
        training_pictures=len(plan.training),
        validation_pictures=len(plan.validation),
        buckets=plan.buckets,
        dataset_dirs=_folders(items),
        tag_frequency=_tags(items),
        title=config.output_name,
        trigger_phrase=config.trigger_word,
        started_at=session.started_at,
        finished_at=time.time(),
        config_toml=config.to_toml(),
        private=config.private_metadata,
    )


def _network_args(config: TrainConfig) -> dict[str, str]:
    algorithm = {"algo": config.adapter} if config.is_lycoris else {}  # as LyCORIS calls it
    switches = {"dora": config.adapter == "dora", "text_encoder": config.train_text_encoder}
    (rank, alpha), has_conv = config.conv, any(target in CONV_TARGETS for target in config.target_modules)
    conv = {"conv_dim": str(rank), "conv_alpha": f"{alpha:g}"} if has_conv else {}
    if config.block_ranks:
        conv |= {"block_ranks": config.block_ranks}
    switched = {name: "True" for name, on in switches.items() if on}
    return {**algorithm, "targets": ",".join(config.target_modules), **conv, **switched}


def _folders(items: Sequence[Item]) -> dict[str, tuple[int, int]]:
    """Folder name -> (repeats, pictures)."""
    counts = Counter(item.path.parent for item in items)
    repeats = {item.path.parent: item.repeats for item in items}
    return {_folder_name(folder): (repeats[folder], count) for folder, count in counts.items()}


def _tags(items: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Folder name -> tag -> pictures that have it."""
    found: dict[str, Counter[str]] = {}
    for item in items:
        tags = {tag.strip() for tag in item.caption.split(",") if tag.strip()}
        found.setdefault(_folder_name(item.path.parent), Counter()).update(tags)
    return {folder: dict(tags.most_common()) for folder, tags in found.items()}


def _folder_name(folder: Path) -> str:
    return folder.resolve().name


def sample_params(session: Session) -> list[GenerationParams]:
    """The sample pictures of this run; of captions, those of held-out pictures first."""
    return params_of(session.config, [example.caption for example in (*session.held_out, *session.training)])


def draw_samples(
    session: Session, run: Run, emit: Emit, on_step: Callable[[], None]
) -> Iterator[tuple[Path, GenerationParams]]:
    """Draw the sample pictures as the model stands and write them to samples/; at step 0 that is the base model."""
    todo = sample_params(session)
    if not todo:
        return
    emit(Phase("sample", 0, len(todo)))
    if session.step == 0:
        pictures = _of_base_model(session, todo, emit, on_step)
    else:
        pictures = sample.draw(session.model, todo, on_step)
    for index, (params, picture) in enumerate(zip(todo, pictures, strict=True)):
        path = _sample_path(run, session.step, index)
        save_picture(path, picture, parameters_text(replace(params, base=session.model.name)))
        yield path, params
    emit(Phase("sample", len(todo), len(todo)))


def _of_base_model(
    session: Session, todo: list[GenerationParams], emit: Emit, on_step: Callable[[], None]
) -> list[Image.Image]:
    """Its pictures are the same for every run on it, and nobody should wait for them twice."""

    def make(same: list[GenerationParams]) -> dict[str, torch.Tensor]:
        with adapters.disabled(session.model):  # which may have learned already, of another LoRA
            drawn = sample.draw(session.model, same, on_step)
        return {"pixels": torch.from_numpy(np.stack([np.asarray(picture) for picture in drawn]))}

    model = session.model
    about = (sorted(model.fingerprints.items()), sorted(model.scheduler.config.items()), session.config.adapter == "dora")
    pictures: list[Image.Image] = []
    for same in alike(todo):
        key = f"({', '.join(map(repr, about))}, {cache_key_of(same)})"
        pixels_NHW3 = stored(f"samples {key}", partial(make, same), emit)["pixels"]
        pictures += [Image.fromarray(pixels_HW3) for pixels_HW3 in pixels_NHW3.numpy()]
    return pictures


def before_after(run: Run, session: Session) -> None:
    """A sheet of the sample prompts without and with the LoRA; none when no samples were drawn."""
    prompts: list[str] = []
    pictures: dict[Place, Image.Image] = {}
    for index, params in enumerate(sample_params(session)):
        pair = [_sample_path(run, step, index) for step in (0, session.step)]
        if all(path.is_file() for path in pair):
            pictures |= {(len(prompts), column): _opened(path) for column, path in enumerate(pair)}
            prompts.append(params.prompt)
    if prompts:
        page = sheet(("without LoRA", "with LoRA"), prompts, pictures, (_CELL, _CELL), _PROMPT_WIDTH)
        with whole_file(run.folder / SHEET) as temporary, temporary.open("wb") as file:
            page.save(file, "PNG")


def _opened(path: Path) -> Image.Image:
    with Image.open(path) as picture:
        return picture.convert("RGB")


def _sample_path(run: Run, step: int, index: int) -> Path:
    return run.samples / f"step_{step:07d}_{index}.png"


def remember_speed(session: Session) -> None:
    """Keep the speed of a run that ends; nothing when it was too short, trained by a group, or slow for a full card."""
    speed, laps = session.meter.speed(), len(session.meter.laps)
    if session.group.size > 1 or laps <= FEWEST_STEPS or not speed or session.meter.sysmem_fallback.is_told:
        return
    shapes, sizes = of_model(session.model), session.plan.buckets
    remember(session.fitted or session.config, shapes, session.compute, sizes, speed)
