from __future__ import annotations

from lora_core.config import TrainConfig
from lora_core.training.data.caption_augment import caption_for_step, captions_to_prepare
from lora_core.training.diffusion import generator

CAPTION = "a zebu, grass, sky, sun"


def uses(config: TrainConfig, count: int = 200) -> list[str]:
    return [caption_for_step(CAPTION, config, generator(1, step)) for step in range(count)]


def test_nothing_changes_unless_asked() -> None:
    assert set(uses(TrainConfig.of({}))) == {CAPTION}


def test_kept_tags_stay_in_front_and_none_is_lost() -> None:
    shuffled = uses(TrainConfig.of({"shuffle_tags": True, "keep_tags": 1}))
    assert len(set(shuffled)) == 6, "three free tags have six orders"
    assert all(s.startswith("a zebu, ") and sorted(s.split(", ")) == sorted(CAPTION.split(", ")) for s in shuffled)


def test_dropout_drops_about_its_share() -> None:
    dropped = uses(TrainConfig.of({"caption_dropout": 0.3}), 1000).count("")
    assert 240 < dropped < 360


def test_only_what_can_be_known_ahead_is_prepared() -> None:
    assert captions_to_prepare([CAPTION], TrainConfig.of({})) == [CAPTION]
    assert captions_to_prepare([CAPTION], TrainConfig.of({"caption_dropout": 0.1})) == [CAPTION, ""]
    assert captions_to_prepare([CAPTION], TrainConfig.of({"shuffle_tags": True})) == []
