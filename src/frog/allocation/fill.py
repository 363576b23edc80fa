"""Water-filling: whole counts between floors and caps that add up exactly."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frog.errors import UsageError

NOTHING = 1e-12
"""What wants less than this share of the largest wish wants nothing."""


def fill(
    wanted: Sequence[float] | np.ndarray,
    total: int,
    floors: Sequence[int] | np.ndarray,
    caps: Sequence[int] | np.ndarray,
) -> list[int]:
    """Counts proportional to ``wanted`` (L,), within ``floors`` and ``caps``, sum ``total``.

    A common factor c is found with sum clip(c * wanted, floor, cap) = total; the rest of rounding
    down goes by largest remainder, ties to the earlier layer. What no factor can place, because
    all that want something are full, goes to the others evenly by room. Raises
    :class:`~frog.errors.UsageError` where floors or caps leave no way.

    >>> fill([1.0, 1.0, 2.0], 8, [0, 0, 0], [9, 9, 3])
    [3, 2, 3]
    """
    want = np.asarray(wanted, dtype=np.float64)
    want = want / max(float(want.max(initial=0.0)), np.finfo(np.float64).tiny)
    want = np.where(want < NOTHING, 0.0, want)
    low, high = np.asarray(floors, dtype=np.int64), np.asarray(caps, dtype=np.int64)
    if not low.sum() <= total <= high.sum():
        raise UsageError(
            f"a budget of {total:,} weights must lie between the sum of the floors, "
            f"{int(low.sum()):,}, and that of the caps, {int(high.sum()):,}: change floor or cap"
        )
    shares = _level(want, total, low, high)
    counts = np.clip(np.floor(shares + 1e-9).astype(np.int64), low, high)
    while (rest := total - int(counts.sum())) > 0:
        # by largest remainder, a round at a time, as far as there is room
        room = np.flatnonzero(counts < high)
        order = room[np.argsort(-(shares - counts)[room], kind="stable")]
        counts[order[:rest]] += 1
    while (excess := int(counts.sum()) - total) > 0:
        room = np.flatnonzero(counts > low)
        order = room[np.argsort((shares - counts)[room], kind="stable")]
        counts[order[:excess]] -= 1
    return counts.tolist()


def _level(want: np.ndarray, total: int, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """clip(c * want, low, high) with the factor c that makes the sum ``total``, by bisection."""
    some = want > 0
    if not some.any() or np.where(some, high, low).sum() < total:
        # all that want something are full: the others share by their room
        rest = np.where(some, high, low).astype(np.float64)
        room = (high - rest).sum()
        return rest + (high - rest) * ((total - rest.sum()) / room if room else 0.0)
    below, above = 0.0, float((high[some] / want[some]).max())
    for _ in range(200):
        middle = 0.5 * (below + above)
        if np.clip(middle * want, low, high).sum() < total:
            below = middle
        else:
            above = middle
    return np.clip(above * want, low, high)
