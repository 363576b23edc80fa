"""Spectra for the page: 16-bit logarithms in base64, some 1.4 kB a layer."""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

STEPS = 65535
BUDGET = 500 * 256
"""Points in a page: all of 500 layers; larger models get fewer points a layer."""

MIN_POINTS = 24


def packed_curves(curves: Sequence[Mapping[str, Any] | None]) -> list[dict[str, Any] | None]:
    """Every curve as :func:`packed`, thinned out where there are very many layers."""
    present = sum(curve is not None for curve in curves)
    points = max(MIN_POINTS, BUDGET // max(present, 1))
    return [None if curve is None else packed(curve, points) for curve in curves]


def packed(curve: Mapping[str, Any], points: int = BUDGET) -> dict[str, Any] | None:
    """Eigenvalues and survival on logarithmic grids of 65,536 steps; None without a point.

    The error is 1/131,070 of the plotted range, a hundredth of a pixel. Zero and negative
    eigenvalues have no logarithm and are left out, their share stays in the survival.

    >>> made = packed({"eigenvalue": [100.0, 1.0], "survival": [0.5, 1.0], "xmin": 1.0})
    >>> unpacked(made)[0]
    [100.0, 1.0]
    """
    pairs = [
        (math.log10(x), math.log10(s))
        for x, s in zip(curve.get("eigenvalue", ()), curve.get("survival", ()), strict=False)
        if x > 0 and s > 0 and math.isfinite(x) and math.isfinite(s)
    ]
    if not pairs:
        return None
    if len(pairs) > points:
        # the tail is what one looks at: its first half stays, the rest is thinned out
        kept = points // 2
        rest = np.linspace(kept, len(pairs) - 1, points - kept).round().astype(int)
        pairs = pairs[:kept] + [pairs[i] for i in rest]
    values = np.array(pairs).T
    lows, highs = values.min(axis=1), values.max(axis=1)
    span = np.where(highs > lows, highs - lows, 1.0)
    grid = ((values - lows[:, None]) / span[:, None] * STEPS).round().astype("<u2")
    marks = {name: curve[name] for name in ("xmin", "alpha", "bulk_edge") if name in curve}
    return {
        "n": len(pairs),
        "low": lows.tolist(),
        "high": (lows + span).tolist(),
        "data": base64.b64encode(grid.tobytes()).decode(),
        **marks,
    }


def unpacked(made: Mapping[str, Any]) -> tuple[list[float], list[float]]:
    """Eigenvalues and survival back from :func:`packed`, as the page's script reads them."""
    grid = np.frombuffer(base64.b64decode(made["data"]), dtype="<u2").reshape(2, -1)
    low, high = (np.array(made[name])[:, None] for name in ("low", "high"))
    values = 10.0 ** (low + grid / STEPS * (high - low))
    return values[0].tolist(), values[1].tolist()
