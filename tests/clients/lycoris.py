"""What readers of LyCORIS files add to a weight, by its published formulas (docs/Algo-Details.md of LyCORIS).

A1111 (`network_hada.py`, `network_lokr.py`), ComfyUI (`weight_adapter`), InvokeAI (`patches/layers`) and LyCORIS itself
compute the same; they differ in where they look for the rank that alpha is divided by, so `rank_for` asks each way.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def delta(tensors: Mapping[str, Tensor], name: str, shape: tuple[int, ...]) -> Tensor:
    """The change of a weight of this shape, from the tensors of a file."""
    stem = f"{name}."
    of_layer = {key.removeprefix(stem): tensor.double() for key, tensor in tensors.items() if key.startswith(stem)}
    alpha = of_layer["alpha"].item()
    if "hada_w1_a" in of_layer:
        first, second = (_product(of_layer, f"hada_w{n}", f"hada_t{n}") for n in (1, 2))
        return (first * second * alpha / of_layer["hada_w1_b"].shape[0]).reshape(shape).float()
    first, second = _product(of_layer, "lokr_w1", ""), _product(of_layer, "lokr_w2", "lokr_t2")
    ranks = rank_for(of_layer)
    (rank,) = set(ranks.values())
    scale = alpha / rank if rank is not None else 1.0
    return (_kronecker(first, second) * scale).reshape(shape).float()


def rank_for(tensors: Mapping[str, Tensor]) -> dict[str, int | None]:
    """Where readers find the rank of a LoKr: A1111 and ComfyUI take the second factor's before the first one's."""
    found = [tensors[part].shape[0] for part in ("lokr_w2_b", "lokr_w1_b") if part in tensors]
    return {"ComfyUI": found[0] if found else None, "InvokeAI": found[-1] if found else None}


def _product(tensors: Mapping[str, Tensor], stem: str, core: str) -> Tensor:
    if stem in tensors:
        return tensors[stem]
    a, b = tensors[f"{stem}_a"], tensors[f"{stem}_b"]
    if core not in tensors:
        return a @ b
    out = torch.tensordot(a, tensors[core], dims=([0], [0]))  # [out, rank, kh, kw]
    return torch.tensordot(out, b, dims=([1], [0])).permute(0, 3, 1, 2)


def _kronecker(first: Tensor, second: Tensor) -> Tensor:
    """Every number of the first times the whole second, as blocks; [ab, cd] or [ab, cd, kh, kw]."""
    rows = [torch.cat([number * second for number in row], dim=1) for row in first]
    return torch.cat(rows, dim=0)
