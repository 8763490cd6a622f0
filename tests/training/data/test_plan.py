"""lora_core.training.data.plan: every picture in its turn, some held out, and what is worth knowing before."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from lora_core.config import TrainConfig
from lora_core.dataset import Dataset, Item
from lora_core.training.data.plan import Plan, hold_out

ITEMS = tuple(Item(Path(f"{n:03}.png"), f"a zebu {n}", 64 + 32 * (n % 2), 64, repeats=1 + n % 3) for n in range(20))
DATA = Dataset(Path("data"), ITEMS, ())
CONFIG = TrainConfig.of({"resolution": 64, "bucket_step": 16, "train_batch_size": 3, "max_train_steps": 30})


def test_every_picture_is_used_as_often_as_it_repeats_in_each_epoch_in_batches_of_one_size() -> None:
    plan = Plan.of(CONFIG, DATA)
    for epoch in range(3):
        numbers = range(epoch * plan.batches_per_epoch, (epoch + 1) * plan.batches_per_epoch)
        batches = [plan.batch(CONFIG, number) for number in numbers]
        uses = Counter(index for batch in batches for index in batch)
        assert uses == {index: item.repeats for index, item in enumerate(plan.training)}
        for batch in batches:
            assert len({plan.size_of[plan.training[index].path] for index in batch}) == 1
    assert plan.batch(CONFIG, 1) == Plan.of(CONFIG, DATA).batch(CONFIG, 1)


def test_the_order_changes_with_the_epoch_and_the_seed() -> None:
    plan = Plan.of(CONFIG, DATA)
    first = [plan.batch(CONFIG, n) for n in range(plan.batches_per_epoch)]
    second = [plan.batch(CONFIG, n + plan.batches_per_epoch) for n in range(plan.batches_per_epoch)]
    other = CONFIG.replace(seed=1)
    assert first != second and first != [Plan.of(CONFIG, DATA).batch(other, n) for n in range(plan.batches_per_epoch)]


def test_held_out_pictures_are_never_trained_on_and_stay_the_same() -> None:
    training, held = hold_out(ITEMS, 0.25, seed=3)
    assert len(held) == 5 and not set(training) & set(held) and set(training) | set(held) == set(ITEMS)
    assert hold_out(ITEMS, 0.25, seed=3) == (training, held) != hold_out(ITEMS, 0.25, seed=4)
    assert hold_out(ITEMS[:7], 0.25, seed=3) == (ITEMS[:7], ())


def test_epochs_count_accumulated_batches() -> None:
    plan = Plan.of(CONFIG.replace(gradient_accumulation_steps=2), DATA)
    assert plan.epochs == 60 / plan.batches_per_epoch


def test_what_will_not_work_as_expected_is_told_before_the_start() -> None:
    plan = Plan.of(CONFIG.replace(trigger_word="gnu", save_steps=99), Dataset(Path("data"), ITEMS[:5], ()))
    told = " ".join(map(str, plan.notices))
    assert "'gnu'" in told and "save_steps" in told and "none is held out" in told


def told_of(trigger: str, *captions: str) -> str:
    items = tuple(Item(Path(f"{n:03}.png"), caption, 64, 64) for n, caption in enumerate(captions))
    config = CONFIG.replace(trigger_word=trigger, validation_split=0, save_steps=10)
    return " ".join(map(str, Plan.of(config, Dataset(Path("data"), items, ())).notices))


def test_what_no_prompt_will_call_is_told() -> None:
    assert "1 of 3 captions lack the trigger word 'Zbu'" in told_of("Zbu", "zbu asleep", "a ZBU", "a cat")
    assert told_of("zbu", "zbu asleep", "a zbu, at sea") == ""
    assert "No caption holds the trigger word" in told_of("zbu", "a cat", "a dog")
    assert "no word stands in every caption" in told_of("", "a cat at sea", "my dog on it")
    assert told_of("", "a zbu at sea", "my Zbu, asleep") == ""


def test_the_digest_notices_a_changed_caption() -> None:
    changed = (*ITEMS[:-1], Item(ITEMS[-1].path, "another", 96, 64))
    datasets = (("data", ITEMS), ("data", changed), ("elsewhere", ITEMS))
    now, after, moved = (Plan.of(CONFIG, Dataset(Path(at), items, ())).digest for at, items in datasets)
    assert now != after and now == moved
