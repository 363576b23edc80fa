"""Choosing among the weights that pruning left: masks, and the weights that count in each unit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from frog.errors import UsageError
from frog.numerics.units import unit_entries
from frog.selection.choose import Units
from frog.types import WeightMatrix

NONZERO = "nonzero"

Keep = str | Mapping[str, Any] | None
"""``nonzero``, or masks (m, n) by the name of the matrix, True where a weight stays; None: all."""


def word_of(keep: Keep) -> str:
    """``all``, ``nonzero`` or ``mask``; UsageError for anything else."""
    if keep is None:
        return "all"
    if isinstance(keep, Mapping):
        return "mask"
    if keep != NONZERO:
        raise UsageError(
            f"keep must be '{NONZERO}', or masks by the name of the matrix, got {keep!r}: leave it "
            "out where nothing is pruned"
        )
    return NONZERO


def kept_mask(keep: Keep, matrix: WeightMatrix, weight: np.ndarray) -> np.ndarray | None:
    """What stays of a matrix, bool (m, n); None where everything does.

    Raises :class:`~frog.errors.UsageError` for masks that lack the matrix or do not fit it, and
    where a weight that a mask leaves out is not zero.

    >>> from types import SimpleNamespace
    >>> kept_mask("nonzero", SimpleNamespace(name="w"), np.array([[0.0, 2.0]])).tolist()
    [[False, True]]
    """
    if keep is None:
        return None
    if not isinstance(keep, Mapping):
        mask = weight != 0
    elif matrix.name not in keep:
        raise UsageError(f"keep must have a mask for every matrix of the plan, lacks {matrix.name}")
    else:
        mask = np.asarray(keep[matrix.name])
        if mask.dtype != bool or mask.shape != matrix.shape:
            raise UsageError(
                f"the mask of {matrix.name} must be bool {matrix.shape}, got {mask.dtype} "
                f"{mask.shape}"
            )
        odd = int(np.count_nonzero(weight[~mask]))
        if odd:
            raise UsageError(
                f"the mask of {matrix.name} leaves out {odd:,} weights that are not zero: prune "
                "the model first"
            )
    return None if mask.all() else mask


def kept_in_units(mask: np.ndarray, units: Units) -> np.ndarray:
    """Weights that stay in every row, column or block, int64 (u,).

    >>> kept_in_units(np.array([[True, False], [True, True]]), Units(granularity="column")).tolist()
    [2, 1]
    """
    if units.granularity == "row":
        return mask.sum(1, dtype=np.int64)
    if units.granularity == "column":
        return mask.sum(0, dtype=np.int64)
    tall, wide = units.size
    inner = np.add.reduceat(mask, np.arange(0, mask.shape[1], wide), axis=1, dtype=np.int64)
    return np.add.reduceat(inner, np.arange(0, mask.shape[0], tall), axis=0).reshape(-1)


def kept_entries(index: np.ndarray, mask: np.ndarray, units: Units) -> np.ndarray | None:
    """Entries i * n + j of the chosen units that stay, ascending; None where all of them do."""
    rows, columns = unit_entries(index, mask.shape, units.granularity, units.size)
    inside = mask[rows, columns]
    if inside.all():
        return None
    return np.sort(rows[inside] * mask.shape[1] + columns[inside])


def refuse_beyond_kept(name: str, wanted: int, kept: int, size: int) -> None:
    """UsageError where more is to train than pruning left."""
    if wanted > kept:
        raise UsageError(
            f"the plan trains {wanted:,} weights of {name}, but pruning left {kept:,} of {size:,} "
            f"({kept / size:.1%}): make a plan with a smaller budget, or leave that matrix out"
        )
