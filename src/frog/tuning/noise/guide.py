"""How the noise on a matrix is spread over its rows and columns: a guide a_i b_j of RMS 1."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from frog.errors import UsageError
from frog.numerics.relevance import EXACT_UNTIL, factors, relevance
from frog.numerics.rounding import Rounding, rounded_values
from frog.numerics.scored import slabs

RANK = 64
"""Leading components for the relevance of a matrix too large for all (a sketch of them)."""

Guide = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def guide_of(guide: str | Guide, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """a (m,) and b (n,) for a weight (m, n), float32: not negative, each with mean square 1.

    So the mean square of a_i b_j over the matrix is 1, and the guide moves noise between entries
    without changing its RMS. A side that would be all zero becomes all one. Raises
    :class:`~frog.errors.UsageError` where a guide of the user's gives anything else.

    >>> a, b = guide_of("rounding", np.array([[1.0, -7.0], [1.0, 0.0]], dtype=np.float32))
    >>> (a / a[1]).round(4).tolist(), b.tolist()
    ([7.0, 1.0], [1.0, 1.0])
    """
    made = (guide if callable(guide) else _KNOWN[guide])(weight)
    a, b = (np.array(x, dtype=np.float64) for x in made)
    for side, length, word in ((a, weight.shape[0], "row"), (b, weight.shape[1], "column")):
        if side.shape != (length,) or not (np.isfinite(side).all() and (side >= 0).all()):
            raise UsageError(
                f"a guide must give one finite number, not negative, for each of the {length} "
                f"{word}s, got an array of shape {side.shape}"
            )
    return _even_square(a), _even_square(b)


def rounding_rows(
    weight: np.ndarray, how: Rounding, kept: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """a (m,), the RMS error of rounding each row of a weight (m, n), and ones (n,).

    With ``kept``, bool (m, n), over the entries where it is True.
    """
    exact = torch.from_numpy(weight)
    error = exact.sub(rounded_values(exact, how)).numpy()
    if kept is not None:
        error[~kept] = 0
    squares = np.einsum("ij,ij->i", error, error, dtype=np.float64)
    counts = weight.shape[1] if kept is None else np.maximum(kept.sum(1), 1)
    return np.sqrt(squares / counts), np.ones(weight.shape[1])


def _relevance(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Row and column means of 1 - S_ij / max S."""
    rank = None if min(weight.shape) <= EXACT_UNTIL else RANK
    scores = relevance(factors(weight, rank))
    top = max((float(slab.max(initial=0.0)) for _, slab in slabs(scores)), default=0.0)
    if top == 0:
        return _even(weight)
    left, right = scores.left.astype(np.float64), scores.right.astype(np.float64)
    rows, columns = left @ right.mean(0), right @ left.mean(0)
    return np.maximum(0, 1 - rows / top), np.maximum(0, 1 - columns / top)


def _even(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return np.ones(weight.shape[0]), np.ones(weight.shape[1])


def _rounding(weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The largest entry of each row: the step of a row-wise quantisation is proportional to it."""
    return np.abs(weight).max(1, initial=0.0), np.ones(weight.shape[1])


_KNOWN: dict[Any, Guide] = {"relevance": _relevance, "even": _even, "rounding": _rounding}


def _even_square(side: np.ndarray) -> np.ndarray:
    size = np.sqrt(np.mean(side**2)) if side.size else 0.0
    return (side / size if size > 0 else np.ones_like(side)).astype(np.float32)
