"""Which weights of a model are trained."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from frog.types.plans import Plan

GRANULARITIES = ("element", "row", "column", "block")
"""What is chosen as a whole: one weight, an output, an input, a rectangle."""

KEPT = ("all", "nonzero", "mask")
"""What may be chosen: every weight, those that are not zero, those of given masks."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Chosen:
    """The chosen units of one matrix of ``shape`` (m, n).

    ``index`` (int64, ascending, unique) numbers the units: entries i * n + j for ``element``, rows
    for ``row``, columns for ``column``, and for ``block`` rectangles of ``block_size``, row by
    row (those at the right and lower edge may be smaller). ``count`` is the number of weights in
    them. ``digest`` is that of the matrix that the choice was made on. ``facts`` are numbers
    worth telling (``dead``: weights kept out by the dead-weight guard, ...).
    """

    name: str
    shape: tuple[int, int]
    dtype: str
    granularity: str
    index: np.ndarray = field(repr=False)
    count: int
    block_size: tuple[int, int] = (1, 1)
    digest: str = ""
    facts: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selection:
    """The chosen weights of a model, the plan they follow and the score that chose them.

    ``score`` is the expression that was used (``relevance``, ``gradient * relevance^-1``);
    ``keep`` one of :data:`KEPT`: of a pruned model the weights that are zero neither train nor get
    noise. Of a unit with such weights the others alone are chosen, as single entries.
    """

    path: str
    plan: Plan
    score: str
    granularity: str
    chosen: tuple[Chosen, ...]
    seed: int = 0
    notes: tuple[str, ...] = ()
    keep: str = "all"

    @property
    def count(self) -> int:
        """Number of chosen weights."""
        return sum(matrix.count for matrix in self.chosen)

    @property
    def digest(self) -> str:
        """A digest of what is chosen where: equal choices, equal digest, however they were made."""
        seal = hashlib.blake2b(digest_size=16)
        for matrix in sorted(self.chosen, key=lambda x: x.name):
            words = (matrix.name, matrix.shape, matrix.granularity, matrix.block_size)
            seal.update(repr(words).encode())
            seal.update(np.ascontiguousarray(matrix.index, dtype="<i8").tobytes())
        return seal.hexdigest()

    def save(self, path: Any) -> None:
        """Write as one safetensors file, indices as tensors, the rest as metadata."""
        from frog.serial.selection import write_selection

        write_selection(self, path)

    @staticmethod
    def load(path: Any) -> Selection:
        """Read what :meth:`save` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.serial.selection import read_selection

        return read_selection(path)
