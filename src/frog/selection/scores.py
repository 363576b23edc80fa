"""Scores of single weights: higher = rather train this one.

A score is a function from a :class:`Subject` to a :class:`~frog.numerics.scored.Scored` map of
its (m, n) entries, with the decorator ``@score``. What the pilot studies found about them, and
why none is claimed to beat chance: docs/selecting-weights.md.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from frog.errors import UsageError
from frog.numerics import relevance as rel
from frog.numerics.scored import Dense, Made, Product, Scored
from frog.registry import Registry
from frog.types import Gradient

AUTO = "random"
"""What ``score="auto"`` means: no score was shown to beat a random mask at equal budget with the
learning rate tuned; a random one forgets least at equal rates."""

RANK = 64
"""Components of ``relevance-lowrank``, ``lowrank`` and ``leverage`` where none are asked for."""


Thin = TypeVar("Thin", rel.Factors, Product)
"""Two thin factors, ``left`` (m, r) and ``right`` (n, r)."""


KEPT_BYTES = 1 << 28
"""Memory for the factors of matrices that are scored several times: 256 MB."""


@dataclass(kw_only=True, eq=False)
class Kept:
    """Factors that are needed again, as many as fit into ``limit`` bytes; the rest are remade."""

    limit: int = KEPT_BYTES
    held: int = 0
    _found: dict[tuple[str, object], Any] = field(default_factory=dict)

    def get(self, name: str, key: object, make: Callable[[], Thin]) -> Thin:
        """What was made of matrix ``name`` under ``key``, else made now, and kept if it fits."""
        place = (name, key)
        if place in self._found:
            return self._found[place]
        made = make()
        size = made.left.nbytes + made.right.nbytes
        if self.held + size <= self.limit:
            # a view would keep alive what it was cut from
            made = type(made)(np.array(made.left), np.array(made.right))
            self._found[place] = made
            self.held += size
        return made

    def drop(self, name: str) -> None:
        """Forget a matrix: it will not be scored again."""
        for place in [x for x in self._found if x[0] == name]:
            gone = self._found.pop(place)
            self.held -= gone.left.nbytes + gone.right.nbytes


@dataclass(kw_only=True, eq=False)
class Subject:
    """One matrix that is scored: its weights, what was measured of it, what may be drawn.

    ``rank`` is the number of components for the scores that use some only; None takes
    :data:`RANK`, 0 those that stand out of the random bulk. ``kept`` holds the factors of matrices
    that are scored several times. ``bits`` and ``group`` say how the weights will be rounded.
    """

    name: str
    weight: np.ndarray
    gradient: Gradient | None = None
    alpha: float = float("nan")
    rank: int | None = None
    seed: int = 0
    kept: Kept | None = None
    bits: int = 4
    group: int | None = 64
    _found: dict[int | None, rel.Factors] = field(default_factory=dict)

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return self.weight.shape[0], self.weight.shape[1]

    def factors(self, rank: int | None) -> rel.Factors:
        """The leading components, computed once."""
        if rank not in self._found:
            self._found[rank] = self.once(rank, lambda: rel.factors(self.weight, rank))
        return self._found[rank]

    def once(self, key: object, make: Callable[[], Thin]) -> Thin:
        """What ``make`` gives, remembered for the next time that this matrix is scored."""
        return make() if self.kept is None else self.kept.get(self.name, key, make)

    @cached_property
    def leading(self) -> rel.Factors:
        """As many components as ``rank`` asks for."""
        if self.rank == 0:
            return self.once("beyond the bulk", self._beyond_bulk)
        return self.factors(min(self.rank or RANK, *self.shape))

    def _beyond_bulk(self) -> rel.Factors:
        whole = rel.factors(self.weight)
        beyond = rel.beyond_bulk(whole.sigma, self.shape)
        return rel.Factors(whole.left[:, :beyond], whole.right[:, :beyond])

    def needed_gradient(self, score: str) -> Gradient:
        """The gradient, or an error that says how to get one."""
        if self.gradient is None:
            raise UsageError(
                f"the score '{score}' needs gradients, got none for {self.name}: give those of "
                "a few batches (frog.collect_gradients(model, batches)), exclude a matrix that the "
                "loss does not use, or take a score that needs weights only"
            )
        return self.gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One way to score weights; ``needs`` is ``weights`` or ``gradient``."""

    name: str
    needs: str
    source: str
    function: Callable[[Subject], Scored]

    def __call__(self, subject: Subject) -> Scored:
        """Scores of all entries, not negative."""
        return self.function(subject)

    @property
    def meaning(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


SCORES: Registry[Score] = Registry("score")

Function = Callable[[Subject], Scored]


def score(name: str, *, needs: str = "weights", source: str) -> Callable[[Function], Function]:
    """Register a function ``(subject) -> scores`` and give it back unchanged."""

    def register(function: Function) -> Function:
        SCORES.add(name, Score(name=name, needs=needs, source=source, function=function))
        return function

    return register


@score("relevance", source="FROG")
def relevance(subject: Subject) -> Scored:
    """S_ij = sum_k sigma_k |u_ik| |v_jk| over all components."""
    return rel.relevance(subject.factors(None))


@score("relevance-lowrank", source="FROG")
def relevance_lowrank(subject: Subject) -> Scored:
    """S_ij over the leading components only, by default 64."""
    return rel.relevance(subject.leading)


@score("relevance-rank1", source="FROG")
def relevance_rank1(subject: Subject) -> Scored:
    """The best rank-one form a_i b_j of S: two vectors."""
    return subject.once(
        "rank one", lambda: rel.rank_one(rel.relevance(rel.factors(subject.weight)))
    )


@score("lowrank", source="Liu et al. 2025, LIFT, ICML, arXiv:2506.00772")
def lowrank(subject: Subject) -> Scored:
    """|W_r|: size of the entry in the truncation to the leading components."""
    return rel.low_rank(subject.leading)


@score("leverage", source="Mahoney & Drineas 2009, PNAS 106(3)")
def leverage(subject: Subject) -> Scored:
    """Row leverage times column leverage in the leading components."""
    return rel.leverage(subject.leading)


@score("magnitude", source="Han et al. 2015, NeurIPS")
def magnitude(subject: Subject) -> Scored:
    """|W_ij|; to the power -1: the smallest first."""
    weight = subject.weight
    return Made(subject.shape, lambda start, stop: np.abs(weight[start:stop]))


@score("near-boundary", source="Liu et al. 2023, OFQ, ICML, arXiv:2302.02210")
def near_boundary(subject: Subject) -> Scored:
    """1 - 2 d, d the distance in steps to the nearest midpoint of two levels: by default of int4.

    OFQ goes on training the weights alone that are near one, of a model that will be rounded.
    """
    import torch

    from frog.numerics.rounding import Rounding, nearness

    how = Rounding(bits=subject.bits, group=subject.group)
    weight = subject.weight

    def rows(start: int, stop: int) -> np.ndarray:
        return nearness(torch.tensor(weight[start:stop]), how).numpy()

    return Made(subject.shape, rows)


@score("random", source="control")
def random(subject: Subject) -> Scored:
    """Chance: a number drawn from the seed, the matrix's name and the row."""
    words = f"{subject.seed}/{subject.name}".encode("utf-8", "backslashreplace")
    key = int.from_bytes(hashlib.blake2b(words, digest_size=16).digest(), "little")
    n = subject.shape[1]

    def rows(start: int, stop: int) -> np.ndarray:
        # the row counts in the high word of the counter: every row has a stream of its own
        return np.stack([
            np.random.Generator(np.random.Philox(key=key, counter=[0, 0, 0, row])).random(
                n, dtype=np.float32
            )
            for row in range(start, stop)
        ])  # fmt: skip

    return Made(subject.shape, rows)


@score("gradient", needs="gradient", source="Song et al. 2023, SIFT, arXiv:2312.11875")
def gradient(subject: Subject) -> Scored:
    """|mean gradient| over the batches."""
    mean = subject.needed_gradient("gradient").mean
    return Made(subject.shape, lambda start, stop: np.abs(mean[start:stop]))


@score("fisher", needs="gradient", source="Sung et al. 2021, FISH mask, arXiv:2111.09839")
def fisher(subject: Subject) -> Scored:
    """Mean squared gradient of the batches: the diagonal of the empirical Fisher information."""
    return Dense(subject.needed_gradient("fisher").square)


@score("relevance-gradient", needs="gradient", source="FROG")
def relevance_gradient(subject: Subject) -> Scored:
    """S_ij times |mean gradient|."""
    mean = subject.needed_gradient("relevance-gradient").mean
    spectral = relevance(subject)
    return Made(
        subject.shape,
        lambda start, stop: spectral.slab(start, stop) * np.abs(mean[start:stop]),
    )
