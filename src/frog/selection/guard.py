"""What is never chosen, and what is chosen less: dead weights, protected subspaces."""

from __future__ import annotations

import numpy as np

from frog.numerics.scored import Made, Scored
from frog.selection.scores import Subject

NEVER = -np.inf


def without_pruned(scores: Scored, kept: np.ndarray) -> Scored:
    """Scores with -inf where ``kept``, bool (m, n), is False."""

    def left(start: int, stop: int) -> np.ndarray:
        slab = scores.slab(start, stop)
        slab[~kept[start:stop]] = NEVER
        return slab

    return Made(scores.shape, left)


def without_dead(scores: Scored, subject: Subject) -> tuple[Scored, int]:
    """Scores with -inf for dead weights, and the number of those.

    Dead are the entries of rows and columns that are zero throughout (a channel that a network
    has switched off gives no gradient), where gradients are known those without any, and every
    entry whose score is NaN.
    """
    weight = subject.weight
    rows, columns = (weight == 0).all(axis=1), (weight == 0).all(axis=0)
    square = None if subject.gradient is None else subject.gradient.square
    count = int(rows.sum()) * weight.shape[1] + int(columns.sum()) * int((~rows).sum())
    if square is not None:
        count += int((square[~rows][:, ~columns] == 0).sum())
    if not count and _surely_finite(scores):
        return scores, 0

    def alive(start: int, stop: int) -> np.ndarray:
        slab = scores.slab(start, stop)
        slab[np.isnan(slab)] = NEVER
        slab[rows[start:stop]] = NEVER
        slab[:, columns] = NEVER
        if square is not None:
            slab[square[start:stop] == 0] = NEVER
        return slab

    return Made(subject.shape, alive), count


def _surely_finite(scores: Scored) -> bool:
    """Products of thin factors and plain maps hold no NaN; powers may (0 times infinity)."""
    return not isinstance(scores, Made)


def spare(scores: Scored, subject: Subject, directions: int, strength: float) -> Scored:
    """Scores times ((1 - l_i) (1 - c_j))^strength for the leverage in the leading directions.

    l_i and c_j in [0, 1] are the row and column leverage of the ``directions`` leading singular
    directions. A positive ``strength`` keeps the choice away from them, a negative one draws it
    there, 0 changes nothing.
    """
    if not strength:
        return scores
    found = subject.factors(min(directions, *subject.shape))
    rows = np.clip(1.0 - _leverage(found.left / np.maximum(found.sigma, 1e-30)), 1e-6, 1.0)
    columns = np.clip(1.0 - _leverage(found.right), 1e-6, 1.0)
    left, right = (rows**strength).astype(np.float32), (columns**strength).astype(np.float32)

    def spared(start: int, stop: int) -> np.ndarray:
        return scores.slab(start, stop) * left[start:stop, None] * right[None, :]

    return Made(subject.shape, spared)


def _leverage(directions: np.ndarray) -> np.ndarray:
    return (directions**2).sum(axis=1)
