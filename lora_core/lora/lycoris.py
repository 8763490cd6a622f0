"""LoHa (Hyeon-Woo et al. 2022, arXiv:2108.06098) and LoKr (Yeh et al. 2024, arXiv:2309.14859) as LyCORIS writes them.

LoHa   (w1_a @ w1_b) * (w2_a @ w2_b), number by number; a convolution is flattened to [out, in * kh * kw].
LoKr   w1 ⊗ w2, the Kronecker product, either of them whole or a product of two of the rank.

With Tucker's decomposition, t1 and t2 are [rank, rank, kh, kw] and their factors [rank, out] and [rank, in]. Every webui
reads that; what Treino trains has none, as LyCORIS' default.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

LOHA = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b", "hada_t1", "hada_t2")
LOKR = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2", "lokr_w2_a", "lokr_w2_b", "lokr_t2")
TENSORS = (*LOHA, *LOKR)  # PEFT's layers keep them under the very same names
TITLES = {"dora": "DoRA", "loha": "LoHa", "lokr": "LoKr"}


@dataclass(frozen=True)
class Lycoris:
    """The change of one layer, made of the tensors by their names in the file.

    Raises:
        ValueError: the tensors do not belong together.
    """

    tensors: Mapping[str, Tensor]
    alpha: float
    dora_scale: None = None  # no webui computes the two together alike
    is_over_outputs = False

    def __post_init__(self) -> None:
        sides = [_factors(self.tensors, side) for side in _sides(self.kind)]
        if sum(map(len, sides)) != len(self.tensors):  # of both kinds
            raise ValueError(sorted(self.tensors))
        shapes = [_shape_of(side) for side in sides]
        if shapes[0] != shapes[1] if self.kind == "loha" else len(shapes[0]) != 2:
            raise ValueError(shapes)

    @property
    def kind(self) -> str:
        """ "loha" or "lokr"."""
        return "loha" if any(name in LOHA for name in self.tensors) else "lokr"

    @property
    def rank(self) -> int:
        """The rank as readers find it; of two whole matrices, the alpha, as LyCORIS sets it."""
        for name in ("hada_w1_b", "lokr_w2_b", "lokr_w1_b"):
            if name in self.tensors:
                return int(self.tensors[name].shape[0])
        return max(1, round(self.alpha))

    @property
    def scale(self) -> float:
        """alpha / rank; 1 of two whole matrices, whatever the alpha, as all readers have it."""
        return 1.0 if {"lokr_w1", "lokr_w2"} <= self.tensors.keys() else self.alpha / self.rank

    @property
    def outputs(self) -> int:
        return self.shape[0]

    @property
    def inputs(self) -> int:
        """Of a layer; of a convolution that was flattened, times its kernel."""
        return self.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the change: [out, in], flattened, or [out, in, kh, kw]."""
        one, other = (_shape_of(_factors(self.tensors, side)) for side in _sides(self.kind))
        return one if self.kind == "loha" else (one[0] * other[0], one[1] * other[1], *other[2:])

    @property
    def matrices(self) -> tuple[Tensor, ...]:
        return tuple(self.tensors.values())

    def change(self) -> Tensor:
        """What it adds to the weight, fp32, of `shape`."""
        one, other = (_whole(_factors(self.tensors, side)) for side in _sides(self.kind))
        if self.kind == "loha":
            return one * other * self.scale
        if other.dim() == 4:
            one = one[..., None, None]
        return torch.kron(one, other.contiguous()) * self.scale


def _sides(kind: str) -> tuple[str, str]:
    return ("hada_{}1", "hada_{}2") if kind == "loha" else ("lokr_{}1", "lokr_{}2")


def _factors(tensors: Mapping[str, Tensor], side: str) -> dict[str, Tensor]:
    """The tensors of one side: of "hada_{}1", those named hada_w1..., hada_t1."""
    names = [name for name in tensors if re.fullmatch(side.format("w") + "(_[ab])?", name) or name == side.format("t")]
    return {name: tensors[name] for name in names}


def _shape_of(side: Mapping[str, Tensor]) -> tuple[int, ...]:
    """Raises ValueError: they are not one whole matrix, nor a product."""
    ends = {name[-2:] if name[-2:] in ("_a", "_b") else name[-2]: tensor for name, tensor in side.items()}
    whole, a, b, core = (ends.get(end) for end in ("w", "_a", "_b", "t"))
    if whole is not None and len(ends) == 1 and whole.dim() in (2, 4):
        return tuple(whole.shape)
    if a is None or b is None or whole is not None or a.dim() != 2 or b.dim() != 2:
        raise ValueError(sorted(side))
    if core is None:
        if a.shape[1] != b.shape[0] or not b.shape[0]:
            raise ValueError(sorted(side))
        return a.shape[0], b.shape[1]
    if core.dim() != 4 or core.shape[:2] != (a.shape[0], b.shape[0]) or not b.shape[0]:
        raise ValueError(sorted(side))
    return a.shape[1], b.shape[1], *core.shape[2:]


def _whole(side: Mapping[str, Tensor]) -> Tensor:
    ends = {name[-2:] if name[-2:] in ("_a", "_b") else name[-2]: tensor.float() for name, tensor in side.items()}
    if "w" in ends:
        return ends["w"]
    if "t" not in ends:
        return ends["_a"] @ ends["_b"]
    return torch.einsum("ijkl,ip,jr->prkl", ends["t"], ends["_a"], ends["_b"])
