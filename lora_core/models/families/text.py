"""Captions as CLIP reads them: token ids, in parts of 75 where a caption is longer. The same for all families.

Trainers and webuis differ in the details; this is what webuis draw with, for there the LoRA is used:

- every part keeps its own marks and its 77 states, as in A1111, Forge and ComfyUI (sd-scripts takes out the marks between);
- a caption has as many parts as it needs, so a short one is the same whatever the setting (sd-scripts fills up all);
- a part ends at a comma within its last 20 tokens, so that no tag is cut in two: A1111's and Forge's
  `comma_padding_backtrack` (ComfyUI and sd-scripts cut at the 75th token). Where a caption fits only without, it is cut so;
- the summary of a caption, which SDXL has beside the states, is that of its first part, as in all four;
- captions of different lengths in a batch are repeated to the least common multiple, as in ComfyUI: attention over the
  same keys several times gives what it gives over them once. So what a caption is does not depend on its neighbours, and
  is encoded once.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lora_core.dataset.tokens import CHUNK, MARKED
from lora_core.models.families.base import BaseModel

BACKTRACK = 20  # tokens, A1111's default


def tokenize(model: BaseModel, captions: Sequence[str]) -> dict[str, Tensor]:
    """Captions to ids [B, 77 n] by each tokenizer, in n parts of 75 between marks of their own; at most the model's
    `max_chunks` for each. What is longer is cut (the dataset report tells).
    """
    return {name: _tokenized(tokenizer, captions, model.max_chunks) for name, tokenizer in model.tokenizers.items()}


def _tokenized(tokenizer: Any, captions: Sequence[str], most: int) -> Tensor:
    start, end, padding = tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id
    comma = tokenizer.convert_tokens_to_ids(",</w>")
    rows = []
    for ids in tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids:
        row: list[int] = []
        for part in parts_of(ids, comma, most):
            row += [start, *part, end] + [padding] * (CHUNK - len(part))
        rows.append(torch.tensor(row))
    return side_by_side(rows)


def parts_of(ids: list[int], comma: int, most: int) -> list[list[int]]:
    """A caption's token ids in at most `most` parts; one, and empty, where there are none."""
    parts, rest = [], ids
    while len(rest) > CHUNK:
        end = CHUNK
        if rest[CHUNK] != comma:
            near = range(CHUNK - 1, CHUNK - BACKTRACK - 1, -1)
            end = next((place + 1 for place in near if rest[place] == comma), CHUNK)
        parts.append(rest[:end])
        rest = rest[end:]
    if len(parts) < most:
        return [*parts, rest]
    return [ids[start : start + CHUNK] for start in range(0, len(ids), CHUNK)][:most]


def side_by_side(rows: Sequence[Tensor]) -> Tensor:
    """Rows [L, ...] as a batch [B, L, ...]; shorter ones are repeated until all are as long."""
    longest = math.lcm(*(len(row) for row in rows))
    return torch.stack([torch.cat([row] * (longest // len(row))) if len(row) < longest else row for row in rows])


def in_parts(ids: Tensor) -> Tensor:
    """[B, 77 n] as [B n, 77]."""
    return ids.reshape(-1, MARKED)


def joined(states_BLD: Tensor, ids: Tensor) -> Tensor:
    """States of parts, [B n, 77, width], as those of captions, [B, 77 n, width]."""
    return states_BLD.reshape(len(ids), -1, states_BLD.shape[-1])
