"""The k highest scores, exactly: by a threshold, slab by slab; ties go to the first entry."""

from __future__ import annotations

import numpy as np

from frog.errors import UsageError
from frog.numerics.scored import Scored, slabs

SAMPLE = 1 << 16
"""Entries that the first guess of a threshold is read from, and that are held beyond 2 k."""
ROWS = 64
"""Rows that these entries come from, at least: rows differ in size."""


def top_k(scores: Scored, k: int) -> np.ndarray:
    """Flat indices i * n + j of the k highest scores, ascending, int64.

    Scores must not be negative, but for -inf, which is never chosen, nor is NaN; where fewer than
    k others exist, all of them are chosen.
    Equal scores are taken in the order of their index. Memory: a slab, and at most 2 k numbers
    and those of one more slab with their indices. Scores are read once, seldom twice.

    >>> from frog.numerics.scored import Dense
    >>> top_k(Dense(np.array([[1.0, 5.0, 5.0], [0.0, 5.0, 9.0]])), 3).tolist()
    [1, 2, 5]
    """
    m, n = scores.shape
    if not 0 <= k <= m * n:
        raise UsageError(f"k must lie in 0..{m * n}, got {k}")
    if k == 0:
        return np.empty(0, dtype=np.int64)
    guess = _guess(scores, k)
    index = _highest(scores, k, guess)
    return index if len(index) == k or guess == -np.inf else _highest(scores, k, -np.inf)


def _highest(scores: Scored, k: int, beyond: float) -> np.ndarray:
    """Indices of the k highest scores above ``beyond``; of all of them where they are fewer.

    In one pass: what exceeds the threshold is held; beyond 2 k of them, only the k highest are,
    and the lowest of those is the new threshold. An equal score that comes later is no better.
    """
    n = scores.shape[1]
    values, index = [np.empty(0, dtype=np.float32)], [np.empty(0, dtype=np.int64)]
    held = 0
    for start, slab in slabs(scores):
        flat = slab.reshape(-1)
        here = np.flatnonzero(flat > beyond)
        values.append(flat[here])
        index.append(here + start * n)
        held += len(here)
        if held > 2 * k + SAMPLE:
            kept, beyond = _cut(np.concatenate(values), k)
            values = [np.concatenate(values)[kept]]
            index = [np.concatenate(index)[kept]]
            held = k
    found = np.concatenate(index)
    return found if held <= k else found[_cut(np.concatenate(values), k)[0]]


def _cut(values: np.ndarray, k: int) -> tuple[np.ndarray, float]:
    """Positions of the k largest, ascending, ties in order of position; the smallest of them."""
    cut = np.partition(values, len(values) - k)[len(values) - k]
    above = values > cut
    ties = np.flatnonzero(values == cut)[: k - int(above.sum())]
    above[ties] = True
    return np.flatnonzero(above), float(cut)


def _guess(scores: Scored, k: int) -> float:
    """A threshold that probably leaves k or more, from an even sample; -inf without one."""
    m, n = scores.shape
    rows = max(ROWS, SAMPLE // n)
    if rows * 4 >= m or k > m * n // 4:
        return -np.inf
    # rows spread evenly over the matrix: neighbours may be alike
    places = np.unique(np.linspace(0, m - 1, rows).astype(np.int64))
    step = max(1, n * rows // SAMPLE)
    sample = np.concatenate([scores.slab(int(i), int(i) + 1)[0, ::step] for i in places])
    # twice as many as expected: whole rows are drawn, and one too low costs less than a second pass
    wanted = int(2 * k / (m * n) * len(sample)) + 16
    sample = sample[sample > -np.inf]
    if wanted >= len(sample):
        return -np.inf
    low = np.partition(sample, len(sample) - wanted)[len(sample) - wanted]
    return float(np.nextafter(low, np.float32(-np.inf)))


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
