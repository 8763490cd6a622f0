"""Sizes as polynomials in batch, side and rank, so that one count answers for all of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Term = tuple[int, int, int]  # powers of the batch, of the side (in units of 8 latent pixels) and of the rank


@dataclass(frozen=True)
class At:
    """Where a polynomial is read. `side`: the root of the latent's area, in units of 8 latent pixels."""

    batch: float
    side: float
    rank: float

    @classmethod
    def of(cls, batch: int, latent: tuple[int, int], rank: int) -> At:
        return cls(batch, (latent[0] * latent[1]) ** 0.5 / 8, rank)


@dataclass(frozen=True)
class Poly:
    """A sum of `factor * batch^b * side^s * rank^r`."""

    terms: Mapping[Term, float]

    def at(self, where: At) -> float:
        return sum(f * where.batch**b * where.side**s * where.rank**r for (b, s, r), f in self.terms.items())

    def to_json(self) -> list[list[float]]:
        return [[*term, round(factor, 3)] for term, factor in sorted(self.terms.items()) if factor]

    @classmethod
    def from_json(cls, rows: Iterable[Sequence[Any]]) -> Poly:
        return cls({(int(b), int(s), int(r)): float(factor) for b, s, r, factor in rows})


def worst(moments: Iterable[Poly], where: At) -> float:
    """The most there is at any of the moments."""
    return max((moment.at(where) for moment in moments), default=0.0)


def top(moments: Sequence[Poly]) -> list[Poly]:
    """Those of the moments that no other one exceeds in everything."""
    kept: list[Poly] = []
    for moment in moments:
        terms = moment.terms
        if not any(other is not moment and _covers(other.terms, terms) for other in kept):
            kept = [other for other in kept if not _covers(terms, other.terms)] + [moment]
    return kept


def _covers(one: Mapping[Term, float], other: Mapping[Term, float]) -> bool:
    return all(one.get(term, 0.0) >= factor for term, factor in other.items())
