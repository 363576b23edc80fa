"""The search for the start of a power-law tail: smallest Kolmogorov-Smirnov distance, exactly.

Logarithms ``l`` ascend, relative to the largest value, so ``l[-1] == 0`` and no scale enters.
The tail that starts at ``i`` has n_i = n - i points, and

    S_i = sum_{j >= i} (l_j - l_i)            maximum likelihood:  b_i = alpha_i - 1 = n_i / S_i
    D_i = max_{k < n_i} | 1 - exp(-b_i (l_{i+k} - l_i)) - k / n_i |

D_i compares with the left edge k/n_i of each step of the empirical distribution only, as the
reference tool of the field does (two-sided distances pick other tails).

D_i is a maximum over k, so the maximum over *some* k is a lower bound. Most tails are ruled out
by a few evenly spaced k. Of what remains, the tail of lowest bound is computed in full, and the
place where *its* distance is largest is tried on all others: tails that start near each other
disagree with the law at the same place, so the bounds become sharp after a few rounds. What no
bound rules out is computed in full. Nothing is approximated.
"""

from __future__ import annotations

import math

import numpy as np

COARSE = 3  # log2 of the number of points of the first bound
BATCH = 2  # starts computed in full per round
LITTLE = 1 << 13  # elements that are computed rather than avoided: a call costs as much
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
        sums[:-1] = np.cumsum(((logs[1:] - logs[:-1]) * self.sizes[1:])[::-1])[::-1]
        valid = (logs[-1] - logs > resolution) & (sums > 0.0)
        valid[max(n - max(min_tail, 2) + 1, 0) :] = False
        self.starts = np.flatnonzero(valid)
        self.slopes = np.divide(self.sizes, sums, out=np.zeros(n), where=valid)
        self._counts = np.arange(n)
        self._bounds = np.full(n, -1.0)
        self._worst = np.arange(n)  # where the largest deviation found so far lies, as an index
        self._known = np.full(n, np.nan)

    # ------------------------------------------------------------------ questions

    def best(self, like: TailScan | None = None) -> int:
        """First start of smallest distance; -1 when there is no candidate.

        ``like`` is a finished scan of nearly the same sample: it only saves time.
        """
        if not len(self.starts):
            return -1
        if like is None:
            self._spread()
        else:
            self._follow(like)
        return self._first_smallest(self.starts)

    def distance(self, start: int) -> float:
        """D of one start."""
        self._compute(np.array([start]))
        return float(self._known[start])

    def band(self, limit: float) -> tuple[float, float]:
        """Smallest and largest b = alpha - 1 among the starts with D <= ``limit``.

        Many starts are visited from both ends of the range of b: the first hit is the answer.
        ``limit`` must be at least the smallest D, so that there is one.
        """
        rows = self.starts[self._bounds[self.starts] <= limit * SLACK]
        if self._is_little(rows):
            self._compute(rows)
            slopes = self.slopes[rows[self._known[rows] <= limit]]
            return float(slopes.min()), float(slopes.max())
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

    def _first_smallest(self, rows: np.ndarray) -> int:
        """First start of smallest D among ``rows``, by rising bound until no bound is below."""
        known = self._known[rows]
        new = np.isnan(known)
        todo = rows[new]
        best = math.inf if new.all() else float(known[~new].min())
        while True:
            todo = todo[self._bounds[todo] <= best * SLACK]
            if not len(todo):
                return int(rows[np.flatnonzero(self._known[rows] == best)[0]])
            if self._is_little(todo):
                part, todo = todo, todo[:0]
            else:
                order = np.argsort(self._bounds[todo], kind="stable")
                part, todo = todo[order[:BATCH]], todo[order[BATCH:]]
            self._compute(part)
            best = min(best, float(self._known[part].min()))
            todo = todo[self._bounds[todo] <= best * SLACK]
            if not self._is_little(todo):
                self._share(part, todo)

    def _first_within(self, rows: np.ndarray, limit: float) -> float:
        """b of the first of ``rows`` with D <= ``limit``."""
        while True:
            rows = rows[self._bounds[rows] <= limit * SLACK]
            if not len(rows):
                return math.nan
            part = rows[:BATCH]
            self._compute(part)
            hits = np.flatnonzero(self._known[part] <= limit)
            if len(hits):
                return float(self.slopes[part[hits[0]]])
            rows = rows[BATCH:]
            self._share(part, rows)

    def _is_little(self, rows: np.ndarray) -> bool:
        """Whether computing all of ``rows`` in full costs less than more bounds."""
        return len(rows) * (len(self.logs) - int(rows.min(initial=len(self.logs)))) <= LITTLE

    def _spread(self) -> None:
        """First bounds: the maximum over a few evenly spaced k."""
        steps = np.arange(1, (1 << COARSE) + 1)
        chunk = CHUNK >> COARSE
        for at in range(0, len(self.starts), chunk):
            rows = self.starts[at : at + chunk]
            last = (len(self.logs) - 1 - rows)[:, None]
            self._raise(rows, (last * steps) >> COARSE)

    def _follow(self, like: TailScan) -> None:
        """First bounds: one k each, where the similar scan found its largest deviation."""
        last = len(self.logs) - 1
        rows = self.starts[self.starts < len(like.logs)]
        self._raise(rows, (np.minimum(like._worst[rows], last) - rows)[:, None])

    def _share(self, done: np.ndarray, rows: np.ndarray) -> None:
        """Try the places of largest deviation of the starts just computed on other starts."""
        if len(rows):
            self._raise(rows, np.maximum(self._worst[done] - rows[:, None], 0))

    def _raise(self, rows: np.ndarray, offsets: np.ndarray) -> None:
        """Raise the bounds of ``rows`` by the deviations at the given k (rows, points)."""
        found = self._deviation(rows, offsets)
        at = found.argmax(axis=1)
        pick = np.arange(len(rows))
        found = found[pick, at]
        higher = found > self._bounds[rows]
        rows = rows[higher]
        self._bounds[rows] = found[higher]
        self._worst[rows] = rows + offsets[pick, at][higher]

    def _compute(self, rows: np.ndarray) -> None:
        """Full D of the starts that are not known yet."""
        rows = rows[np.isnan(self._known[rows])]
        if not len(rows):
            return
        width = len(self.logs) - int(rows.min())
        step = max(CHUNK // width, 1)
        for at in range(0, len(rows), step):
            part = rows[at : at + step]
            # Beyond the end of a shorter tail its last point is repeated: the maximum stays.
            offsets = np.minimum(self._counts[:width], (len(self.logs) - 1 - part)[:, None])
            found = self._deviation(part, offsets)
            places = found.argmax(axis=1)
            self._known[part] = self._bounds[part] = found[np.arange(len(part)), places]
            self._worst[part] = part + places

    def _deviation(self, rows: np.ndarray, offsets: np.ndarray) -> np.ndarray:
        """|model - empirical| distribution at the given k (rows, points)."""
        rows = rows[:, None]
        out = self.logs[rows + offsets]
        out -= self.logs[rows]
        out *= -self.slopes[rows]
        np.exp(out, out=out)
        np.subtract(1.0, out, out=out)
        out -= offsets / self.sizes[rows]
        return np.abs(out, out=out)
