"""The search of :mod:`frog.numerics.tail_scan` for many samples of one size at once.

Small samples cost more in calls than in arithmetic; resampling fits hundreds of them. The rounds
are the same (bounds at a few places, the lowest bound in full, the place of its largest deviation
tried on all other starts), each round one array operation over all samples that are not finished.
"""

from __future__ import annotations

import numpy as np

from frog.numerics.tail_scan import COARSE, SLACK

ELEMENTS = 1 << 15  # samples are taken in groups of about this many values: they fit a core's cache


def best_tails(
    logs: np.ndarray, *, min_tail: int = 2, resolution: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """b = alpha - 1 and the number of points of the tail of smallest distance, per sample.

    ``logs`` (samples, n), each row ascending with its last value 0. Gives (slopes, sizes), each
    (samples,); NaN and 0 for a row without a candidate. Equal to ``TailScan.best`` row by row.

    >>> row = np.log([1.0, 2.0, 4.0, 8.0]) - np.log(8.0)
    >>> slopes, sizes = best_tails(np.stack([row, row]))
    >>> slopes.round(3).tolist(), sizes.tolist()
    ([0.962, 0.962], [4, 4])
    """
    slopes, sizes, _ = _in_groups(logs, min_tail, resolution)
    return slopes, sizes.astype(np.int64)


def best_distances(logs: np.ndarray, *, min_tail: int = 2, resolution: float = 0.0) -> np.ndarray:
    """The smallest distance D over all tails, per sample (as ``best_tails``); inf where none.

    >>> row = np.log([1.0, 2.0, 4.0, 8.0]) - np.log(8.0)
    >>> best_distances(row[None]).round(3).tolist()
    [0.237]
    """
    return _in_groups(logs, min_tail, resolution)[2]


def _in_groups(logs: np.ndarray, min_tail: int, resolution: float) -> np.ndarray:
    """Slopes, sizes and distances (3, samples)."""
    samples, n = logs.shape
    out = np.tile(np.array([[np.nan], [0.0], [np.inf]]), samples)
    columns = n - max(min_tail, 2) + 1
    if columns < 1:
        return out
    group = max(ELEMENTS // n, 1)
    for at in range(0, samples, group):
        out[:, at : at + group] = _search(logs[at : at + group], columns, resolution)
    return out


def _search(logs: np.ndarray, columns: int, resolution: float) -> np.ndarray:
    """``_in_groups`` for one group; only the first ``columns`` starts are candidates."""
    samples, n = logs.shape
    counts = np.arange(n, 0, -1, dtype=np.float64)
    sums = np.cumsum(((logs[:, 1:] - logs[:, :-1]) * counts[1:])[:, ::-1], axis=1)[:, ::-1]
    sums = sums[:, :columns]
    valid = (-logs[:, :columns] > resolution) & (sums > 0.0)
    slopes = np.divide(counts[:columns], sums, out=np.zeros_like(sums), where=valid)
    bounds = np.where(valid, _spread(logs, slopes, counts), np.inf)
    best, place = np.full(samples, np.inf), np.full(samples, n)
    rows = np.arange(samples)  # the samples that are not finished; the arrays below follow it
    active_logs, active_slopes = logs, slopes
    while True:
        starts = bounds.argmin(axis=1)
        lowest = bounds[np.arange(len(rows)), starts]
        # inf <= inf: a row with no candidate left has a bound that says nothing.
        going = (lowest <= best[rows] * SLACK) & np.isfinite(lowest)
        if not going.all():
            rows, starts, bounds = rows[going], starts[going], bounds[going]
            active_logs, active_slopes = active_logs[going], active_slopes[going]
        if not len(rows):
            break
        distance, where = _full(active_logs, active_slopes, starts, counts)
        closer = (distance < best[rows]) | ((distance == best[rows]) & (starts < place[rows]))
        best[rows[closer]], place[rows[closer]] = distance[closer], starts[closer]
        np.maximum(bounds, _try(active_logs, active_slopes, where, counts), out=bounds)
        bounds[np.arange(len(rows)), starts] = np.inf
    found = place < n
    chosen = np.full(samples, np.nan)
    chosen[found] = slopes[found, place[found]]
    return np.stack([chosen, np.where(found, n - place, 0), best])


def _spread(logs: np.ndarray, slopes: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """First bounds (samples, columns): the maximum over a few evenly spaced k."""
    starts = np.arange(slopes.shape[1])
    last = logs.shape[1] - 1 - starts
    bounds = np.zeros_like(slopes)
    for step in range(1, (1 << COARSE) + 1):
        k = (last * step) >> COARSE
        gaps = logs[:, starts + k] - logs[:, : len(starts)]
        np.maximum(bounds, _deviation(gaps, slopes, k / counts[: len(starts)]), out=bounds)
    return bounds


def _full(
    logs: np.ndarray, slopes: np.ndarray, starts: np.ndarray, counts: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """D of one start per sample, and the index of its largest deviation."""
    pick = np.arange(len(starts))
    first = starts[:, None]
    # Before the start: gap 0 and share 0, no deviation.
    gaps = np.maximum(logs - logs[pick, starts][:, None], 0.0)
    share = np.maximum(np.arange(logs.shape[1]) - first, 0) / counts[first]
    found = _deviation(gaps, slopes[pick, starts][:, None], share)
    where = found.argmax(axis=1)
    return found[pick, where], where


def _try(logs: np.ndarray, slopes: np.ndarray, where: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Deviation (samples, columns) of every start at one index per sample; 0 beyond it."""
    columns = slopes.shape[1]
    gaps = logs[np.arange(len(where)), where][:, None] - logs[:, :columns]
    share = np.maximum(where[:, None] - np.arange(columns), 0) / counts[:columns]
    return _deviation(np.maximum(gaps, 0.0, out=gaps), slopes, share)


def _deviation(gaps: np.ndarray, slopes: np.ndarray, share: np.ndarray) -> np.ndarray:
    """|model - empirical| distribution; ``gaps`` is overwritten."""
    gaps *= -slopes
    np.exp(gaps, out=gaps)
    np.subtract(1.0, gaps, out=gaps)
    gaps -= share
    return np.abs(gaps, out=gaps)
