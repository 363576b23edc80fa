"""The search for the start of a power-law tail: smallest Kolmogorov-Smirnov distance, exactly.

Logarithms ``l`` ascend, relative to the largest value, so ``l[-1] == 0`` and no scale enters.
The tail that starts at ``i`` has n_i = n - i points, and

    S_i = sum_{j >= i} (l_j - l_i)            maximum likelihood:  b_i = alpha_i - 1 = n_i / S_i
    D_i = max_{k < n_i} | 1 - exp(-b_i (l_{i+k} - l_i)) - k / n_i |

D_i compares with the left edge k/n_i of each step of the empirical distribution only, as the
reference tool of the field does (two-sided distances pick other tails).

D_i is a maximum over k, so the maximum over *some* k is a lower bound. Most tails are ruled out
by a few k; the few that remain are computed in full. Nothing is approximated.
"""

from __future__ import annotations

import math

import numpy as np

COARSE = 16  # points of the first bound
FINER = (64, 256)  # points of the bounds for what the first one leaves
CHUNK = 1 << 15  # elements computed at once: a few arrays of this size fit into a core's cache
SLACK = 1.0 + 1e-12  # a bound and a distance of equal value may differ in the last bit


class TailScan:
    """Distances of all tails of one sample, computed when asked for.

    ``logs`` (n,) ascending; candidates are the starts 0 .. n - ``min_tail`` whose tail spans more
    than ``resolution`` in log: an alpha of values that are equal up to rounding is noise.
    A start that is no candidate has the distance 1, as in WeightWatcher.

    >>> scan = TailScan(np.log([1.0, 2.0, 4.0, 8.0]) - np.log(8.0), min_tail=2)
    >>> start = scan.best()
    >>> start, round(1.0 + float(scan.slopes[start]), 3)
    (0, 1.962)
    """

    def __init__(self, logs: np.ndarray, *, min_tail: int = 2, resolution: float = 0.0) -> None:
        n = len(logs)
        self.logs = logs
        self.sizes = np.arange(n, 0, -1, dtype=np.float64)
        # Summed from the spacings: no term is negative, so nothing cancels.
        sums = np.zeros(n)
        sums[:-1] = np.cumsum((np.diff(logs) * self.sizes[1:])[::-1])[::-1]
        valid = (logs[-1] - logs > resolution) & (sums > 0.0)
        valid[max(n - max(min_tail, 2) + 1, 0) :] = False
        self.starts = np.flatnonzero(valid)
        self.slopes = np.divide(self.sizes, sums, out=np.zeros(n), where=valid)
        self._bounds = np.full(n, np.inf)
        self._known = np.full(n, np.nan)
        self._smallest = math.inf
        self._order: np.ndarray | None = None

    # ------------------------------------------------------------------ questions

    def best(self, guess: int | None = None) -> int:
        """First start of smallest distance; -1 when there is no candidate.

        ``guess`` is a start that is likely to be good: it only saves time.
        """
        if not len(self.starts):
            return -1
        self._refine(guess)
        return self._first_smallest(self.starts)

    def distance(self, start: int) -> float:
        """D of one start."""
        self._compute(np.array([start]))
        return float(self._known[start])

    def band(self, limit: float) -> tuple[float, float]:
        """Smallest and largest b = alpha - 1 among the starts with D <= ``limit``.

        Starts are visited from both ends of the range of b, so the first hit is the answer.
        """
        rows = self.starts[self._bounds[self.starts] <= limit * SLACK]
        rows = rows[np.argsort(self.slopes[rows], kind="stable")]
        return self._first_within(rows, limit), self._first_within(rows[::-1], limit)

    def runner_up(self, low: float, high: float) -> float:
        """Smallest D among the starts whose b lies outside ``low``..``high``; NaN if none."""
        slopes = self.slopes[self.starts]
        rows = self.starts[(slopes < low) | (slopes > high)]
        if not len(rows):
            return math.nan
        return float(self._known[self._first_smallest(rows)])

    # -------------------------------------------------------------------- machinery

    def _refine(self, guess: int | None) -> None:
        """Bounds of all starts, sharper where the coarse ones do not decide."""
        rows = self.starts
        self._bounds[rows] = self._sampled(rows, COARSE)
        self._try(rows, guess)
        for points in FINER:
            rows = self.starts[self._bounds[self.starts] <= self._smallest * SLACK]
            # A full distance costs about as much as this many points: sharpen only above that.
            if len(rows) * self.sizes[rows[0]] < CHUNK or self.sizes[rows[0]] < 4 * points:
                return
            self._bounds[rows] = np.maximum(self._bounds[rows], self._sampled(rows, points))
            self._try(rows, None)

    def _try(self, rows: np.ndarray, guess: int | None) -> None:
        """Compute the start of lowest bound (and the guess): an upper bound of the minimum."""
        first = int(rows[np.argmin(self._bounds[rows])])
        picks = {first} if guess is None or not self.slopes[guess] else {first, guess}
        self._compute(np.array(sorted(picks)))

    def _first_smallest(self, rows: np.ndarray) -> int:
        """First start of smallest D among ``rows``, by rising bound until no bound is below."""
        best = np.nanmin(self._known[rows], initial=math.inf)
        todo = rows[self._bounds[rows] <= best * SLACK]
        todo = todo[np.argsort(self._bounds[todo], kind="stable")]
        step, place = 4, 0
        while place < len(todo) and self._bounds[todo[place]] <= best * SLACK:
            part = todo[place : place + step]
            self._compute(part)
            best = min(best, float(self._known[part].min()))
            place, step = place + step, 2 * step
        return int(rows[np.flatnonzero(self._known[rows] == best)[0]])

    def _first_within(self, rows: np.ndarray, limit: float) -> float:
        """b of the first of ``rows`` with D <= ``limit``."""
        step, place = 2, 0
        while place < len(rows):
            part = rows[place : place + step]
            self._compute(part)
            hits = np.flatnonzero(self._known[part] <= limit)
            if len(hits):
                return float(self.slopes[part[hits[0]]])
            place, step = place + step, 2 * step
        return math.nan

    def _sampled(self, rows: np.ndarray, points: int) -> np.ndarray:
        """Lower bounds of D: the maximum over ``points`` evenly spaced k."""
        out = np.empty(len(rows))
        steps = np.arange(1, points + 1)
        chunk = max(CHUNK // points, 1)
        for at in range(0, len(rows), chunk):
            part = rows[at : at + chunk]
            last = (len(self.logs) - 1 - part)[:, None]
            out[at : at + chunk] = self._deviation(part, last * steps // points)
        return out

    def _deviation(self, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """max over the given k (rows, points) of |model - empirical| distribution."""
        rows = rows[:, None]
        gaps = self.logs[rows + offsets]
        gaps -= self.logs[rows]
        gaps *= -self.slopes[rows]
        np.exp(gaps, out=gaps)
        np.subtract(1.0, gaps, out=gaps)
        gaps -= offsets / self.sizes[rows]
        np.abs(gaps, out=gaps)
        return gaps.max(axis=1)

    def _compute(self, rows: np.ndarray) -> None:
        """Full D of the starts that are not known yet."""
        rows = rows[np.isnan(self._known[rows])]
        if not len(rows):
            return
        width = int(self.sizes[rows.min()])
        chunk = max(CHUNK // width, 1)
        for at in range(0, len(rows), chunk):
            part = rows[at : at + chunk]
            last = (len(self.logs) - 1 - part)[:, None]
            # Beyond the end of a shorter tail its last point is repeated: the maximum stays.
            offsets = np.minimum(np.arange(width), last)
            self._known[part] = self._deviation(part, offsets)
        self._bounds[rows] = self._known[rows]
        self._smallest = min(self._smallest, float(self._known[rows].min()))
