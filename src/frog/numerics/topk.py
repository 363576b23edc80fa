"""The k highest scores, exactly: by a threshold, slab by slab; ties go to the first entry."""

from __future__ import annotations

import numpy as np

from frog.errors import UsageError
from frog.numerics.scored import Scored, slabs

SAMPLE = 1 << 16
"""Entries that the first guess of a threshold is read from."""
MARGIN = 4.0
"""Standard deviations by which that guess is lowered, so that it rarely cuts too much."""


def top_k(scores: Scored, k: int) -> np.ndarray:
    """Flat indices i * n + j of the k highest scores, ascending, int64.

    Scores must not be negative, but for -inf, which is never chosen, nor is NaN; where fewer than
    k others exist, all of them are chosen.
    Equal scores are taken in the order of their index. Memory: one slab and about 1.3 k numbers.

    >>> from frog.numerics.scored import Dense
    >>> top_k(Dense(np.array([[1.0, 5.0, 5.0], [0.0, 5.0, 9.0]])), 3).tolist()
    [1, 2, 5]
    """
    m, n = scores.shape
    if not 0 <= k <= m * n:
        raise UsageError(f"k must lie in 0..{m * n}, got {k}")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    values, index = _above(scores, _guess(scores, k), 2 * k + SAMPLE)
    if not k <= len(index) <= 2 * k + SAMPLE:
        # the sample misled: rows of very different size; the bits of the k-th highest decide
        values, index = _above(scores, _kth(scores, k), m * n)
    return index if len(index) <= k else index[_largest(values, k)]


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest, ascending; ties in order of position."""
    cut = np.partition(values, len(values) - k)[len(values) - k]
    above = values > cut
    ties = np.flatnonzero(values == cut)[: k - int(above.sum())]
    above[ties] = True
    return np.flatnonzero(above)


def _guess(scores: Scored, k: int) -> float:
    """A threshold that probably leaves a few more than k, from an even sample of the rows."""
    m, n = scores.shape
    total = m * n
    rows = max(1, SAMPLE // n)
    if total <= 4 * SAMPLE or rows * 4 >= m or k > total // 2:
        return -np.inf
    # rows spread evenly over the matrix: neighbours may be alike
    places = np.unique(np.linspace(0, m - 1, rows).astype(np.int64))
    sample = np.concatenate([scores.slab(int(i), int(i) + 1)[0] for i in places])
    expected = k / total * len(sample)
    # whole rows are drawn, not single entries: rows of different size spread the count further
    wanted = int(expected * 1.25 + MARGIN * np.sqrt(expected) * 2) + 1
    if wanted >= len(sample):
        return -np.inf
    sample = np.where(np.isnan(sample), -np.inf, sample)
    return float(np.partition(sample, len(sample) - wanted)[len(sample) - wanted])


def _kth(scores: Scored, k: int) -> float:
    """The k-th highest score, exactly; -inf where there are fewer."""
    coarse = coarse_counts(scores)
    if int(coarse.sum(dtype=np.int64)) < k:
        return -np.inf
    cell, sure = cell_of(coarse, k)
    low = cell_of(fine_counts(scores, cell), k - sure)[0]
    return float(np.array([(cell << 16) | low], dtype=np.uint32).view(np.float32)[0])


def _above(scores: Scored, threshold: float, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Scores at or above a threshold and above -inf, with their flat indices.

    Stops when more than ``most`` are found.
    """
    values, index, count = [], [], 0
    n = scores.shape[1]
    for start, slab in slabs(scores):
        flat = slab.reshape(-1)
        here = np.flatnonzero((flat >= threshold) & (flat > -np.inf))
        values.append(flat[here])
        index.append(here + start * n)
        count += len(here)
        if count > most:
            break
    return np.concatenate(values), np.concatenate(index)


# ------------------------------------------------------------- one threshold over many

BINS = 1 << 16
"""Cells of a histogram: half of the bits of a float32."""


def coarse_counts(scores: Scored) -> np.ndarray:
    """How many scores have each value of their upper 16 bits, int32 (65536,).

    The bits of a float32 that is not negative, read as an integer, are in the order of the
    numbers: a histogram of them needs no range, and two of 16 bits decide exactly.
    """
    counts = np.zeros(BINS, dtype=np.int32)
    for _, slab in slabs(scores):
        counts += np.bincount(_bits(slab) >> 16, minlength=BINS).astype(np.int32)
    return counts


def fine_counts(scores: Scored, coarse: int) -> np.ndarray:
    """How many scores in one coarse cell have each value of their lower 16 bits, int32."""
    counts = np.zeros(BINS, dtype=np.int32)
    for _, slab in slabs(scores):
        bits = _bits(slab)
        counts += np.bincount(bits[bits >> 16 == coarse] & 0xFFFF, minlength=BINS).astype(np.int32)
    return counts


def cell_of(counts: np.ndarray, k: int) -> tuple[int, int]:
    """The cell that holds the k-th largest, and how many lie in the cells above it.

    >>> cell_of(np.array([5, 2, 1]), 2)
    (1, 1)
    """
    above = counts[::-1].cumsum(dtype=np.int64)
    place = min(int(np.searchsorted(above, k)), len(counts) - 1)
    cell = len(counts) - 1 - place
    return cell, int(above[place] - counts[cell])


def _bits(slab: np.ndarray) -> np.ndarray:
    """Bit patterns of the scores that may be chosen; -0.0 counts as 0."""
    alive = slab[slab > -np.inf].astype(np.float32, copy=False)
    return (alive + np.float32(0.0)).view(np.uint32)
