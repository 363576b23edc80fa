"""Measured values made comparable: standardised within groups of like matrices."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

BAND = 3.0
"""Standard deviations beyond which a value counts as no more extreme."""

FEWEST = 3
"""Members that a group needs to be standardised at all."""


def standardised(
    values: Sequence[float] | np.ndarray,
    groups: Sequence[Hashable],
    errors: Sequence[float] | np.ndarray | None = None,
) -> np.ndarray:
    """(value - median) / spread within its group, |z| <= 3; NaN where there is none, (L,).

    The spread is 1.4826 times the median absolute deviation. With standard ``errors`` (L,) an
    uncertain value is pulled to 0, by spread^2 / (spread^2 + error^2). A group of fewer than
    three finite values has none.

    >>> standardised([1.0, 2.0, 3.0, 9.0], ["a", "a", "a", "b"]).round(2).tolist()
    [-0.67, 0.0, 0.67, nan]
    """
    values = np.asarray(values, dtype=np.float64)
    errors = np.zeros(len(values)) if errors is None else np.asarray(errors, dtype=np.float64)
    members: dict[Hashable, list[int]] = defaultdict(list)
    for place, group in enumerate(groups):
        members[group].append(place)
    result = np.full(len(values), math.nan)
    for places in members.values():
        known = [i for i in places if math.isfinite(values[i])]
        if len(known) < FEWEST:
            continue
        middle = float(np.median(values[known]))
        spread = 1.4826 * float(np.median(np.abs(values[known] - middle)))
        if spread == 0.0:
            result[known] = 0.0
            continue
        error = np.where(np.isfinite(errors[known]), errors[known], 0.0)
        sure = spread**2 / (spread**2 + error**2)
        result[known] = np.clip((values[known] - middle) / spread, -BAND, BAND) * sure
    return result
