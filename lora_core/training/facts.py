"""What a session tells the LoRA file about itself."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from lora_core.config import TrainConfig
from lora_core.dataset import Item
from lora_core.lora.metadata import TrainingFacts
from lora_core.training.train import Session

# Settings whose name in the file is their name here.
_AS_THEY_ARE = (
    "output_name", "resolution", "max_train_steps", "gradient_accumulation_steps", "seed", "optimizer", "lr_scheduler",
    "lr_warmup_steps", "mixed_precision", "gradient_checkpointing", "max_grad_norm", "noise_offset", "snr_gamma",
    "lora_dropout", "caption_dropout", "prior_loss_weight", "validation_split", "random_flip", "shuffle_tags",
    "keep_tags", "enable_bucket", "prior_pictures",
)  # fmt: skip


def facts(session: Session) -> TrainingFacts:
    """The facts of a training at its present step."""
    config, plan = session.config, session.plan
    items = (*plan.training, *plan.validation)
    return TrainingFacts(
        **{name: getattr(config, name) for name in _AS_THEY_ARE},
        family=session.model.family.name,
        rank=config.lora_rank,
        alpha=config.alpha,
        base_model=session.model.name,
        prediction_type=session.model.prediction_type,
        zero_terminal_snr=bool(session.model.scheduler.config.rescale_betas_zero_snr),
        network_args=_network_args(config),
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
    switches = {"rslora": config.use_rslora, "dora": config.use_dora, "text_encoder": config.train_text_encoder}
    return {"targets": ",".join(config.target_modules), **{name: "True" for name, on in switches.items() if on}}


def _folders(items: Sequence[Item]) -> dict[str, tuple[int, int]]:
    """Folder name -> (repeats, pictures)."""
    counts = Counter(item.path.parent for item in items)
    repeats = {item.path.parent: item.repeats for item in items}
    return {_name(folder): (repeats[folder], count) for folder, count in counts.items()}


def _tags(items: Sequence[Item]) -> dict[str, dict[str, int]]:
    """Folder name -> tag -> pictures that have it."""
    found: dict[str, Counter[str]] = {}
    for item in items:
        tags = {tag.strip() for tag in item.caption.split(",") if tag.strip()}
        found.setdefault(_name(item.path.parent), Counter()).update(tags)
    return {folder: dict(tags.most_common()) for folder, tags in found.items()}


def _name(folder: Path) -> str:
    return folder.resolve().name
