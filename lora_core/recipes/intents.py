"""What a person can want of a training, and what of the settings follows from that alone.

The numbers are those of the field's trainers, where they agree; docs/recipes.md names them.
"""

from __future__ import annotations

from dataclasses import dataclass

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
FEED_FORWARD = ("ff.net.0.proj", "ff.net.2")
PROJECTIONS = ("proj_in", "proj_out")
CONVOLUTIONS = ("conv1", "conv2")


@dataclass(frozen=True)
class Intent:
    """What follows from an intent alone. Why it has these targets is told by the text `recipes.targets_NAME`.

    text_encoder: trained where the family's learns from it. mirror: a mirrored picture still shows it. rate: the learning
    rate of AdamW at rank and alpha 16 and one picture a step, on a full model. seen: pictures in all that a training shows,
    as long as each is seen as often as `VIEWS` in recipe.py wants; most_seen: no more in any case.
    """

    targets: tuple[str, ...]
    rank: int = 16
    alpha: float = 16.0
    text_encoder: bool = False
    mirror: bool = False
    caption_dropout: float = 0.0
    wants_offset: bool = False  # reaches darks and lights that the base model does not
    rate: float = 1e-4
    seen: int = 2000
    most_seen: int = 6000
    blocks: tuple[str, ...] = ("down", "mid", "up")
    samples: int = 4
    saves: int = 8

    @property
    def has_convolutions(self) -> bool:
        return bool({*CONVOLUTIONS} & {*self.targets})


INTENTS = {
    "character": Intent((*ATTENTION, *FEED_FORWARD), text_encoder=True),
    "style": Intent(
        (*ATTENTION, *FEED_FORWARD), rank=32, mirror=True, caption_dropout=0.1, wants_offset=True, saves=6
    ),
    "object": Intent((*ATTENTION, *FEED_FORWARD, *PROJECTIONS, *CONVOLUTIONS)),
    "concept": Intent((*ATTENTION, *FEED_FORWARD), text_encoder=True),
    "first_look": Intent(ATTENTION, rate=2e-4, seen=1000, most_seen=1500, blocks=("mid", "up"), samples=2, saves=4),
}
