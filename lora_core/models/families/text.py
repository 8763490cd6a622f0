"""Captions as CLIP reads them: token ids, in parts of 75 where a caption is longer. The same for all families."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from lora_core.models.families.base import BaseModel

CHUNK, MARKED = 75, 77  # tokens of a part, without and with the marks for start and end


def tokenize(model: BaseModel, captions: Sequence[str], chunks: int = 0) -> dict[str, Tensor]:
    """Captions to ids [B, 77 n] by each tokenizer, in n parts of 75 between marks of their own, as A1111 and ComfyUI read a
    long prompt (sd-scripts leaves out the marks between the parts). What is longer is cut (the dataset report tells).

    chunks: n; 0: as many as the longest caption needs, up to the model's `max_chunks`.
    """
    words = {name: _ids(tokenizer, captions) for name, tokenizer in model.tokenizers.items()}
    longest = max((len(ids) for each in words.values() for ids in each), default=0)
    count = chunks or min(model.max_chunks, max(1, math.ceil(longest / CHUNK)))
    return {name: _in_chunks(model.tokenizers[name], each, count) for name, each in words.items()}


def chunks_of(model: BaseModel, caption: str) -> int:
    """Parts that a caption is read in."""
    return int(next(iter(tokenize(model, [caption]).values())).shape[1]) // MARKED


def _ids(tokenizer: Any, captions: Sequence[str]) -> list[list[int]]:
    return list(tokenizer(list(captions), add_special_tokens=False, verbose=False).input_ids)


def _in_chunks(tokenizer: Any, words: Sequence[Sequence[int]], count: int) -> Tensor:
    rows = []
    for ids in words:
        row: list[int] = []
        for start in range(0, count * CHUNK, CHUNK):
            part = [tokenizer.bos_token_id, *ids[start : start + CHUNK], tokenizer.eos_token_id]
            row += part + [tokenizer.pad_token_id] * (MARKED - len(part))
        rows.append(row)
    return torch.tensor(rows)


def in_parts(ids: Tensor) -> Tensor:
    """[B, 77 n] as [B n, 77]."""
    return ids.reshape(-1, MARKED)


def joined(states_BLD: Tensor, ids: Tensor) -> Tensor:
    """States of parts, [B n, 77, width], as those of captions, [B, 77 n, width]."""
    return states_BLD.reshape(len(ids), -1, states_BLD.shape[-1])
