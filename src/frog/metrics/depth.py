"""WeightWatcher's correlation flow: a metric over depth, by role, with its trend and roughness."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from statistics import median

import numpy as np

from frog.types import DepthProfile, LayerReport, Settings

METRICS = ("alpha", "log_spectral_norm", "stable_rank")

FEWEST = 3
"""Blocks below which there is no profile: two points have a difference, not a trend."""


def profiles(layers: Sequence[LayerReport], settings: Settings) -> tuple[DepthProfile, ...]:
    """alpha, log10 lambda_max and stable rank over the blocks, role by role.

    ``slope`` is the Theil-Sen estimate per block, the median of all pairwise slopes, with its
    95 % interval (Sen 1968, "Estimates of the regression coefficient based on Kendall's tau",
    J. Am. Stat. Assoc. 63); ``roughness`` the median |difference| of neighbouring blocks;
    ``outside`` the share of alphas outside [2, 6] for ``ks`` on the full window, else NaN. Where
    a block has several layers of a role (experts), their median stands for the block. Layers
    without the number are left out, and so are roles with it in fewer than three blocks.
    """
    made = []
    layers = [x for x in layers if x.skipped is None and x.block is not None]
    roles = dict.fromkeys(x.role for x in layers)
    for role in roles:
        for metric in METRICS:
            points = _points(layers, role, metric)
            if len(points) >= FEWEST:
                made.append(_profile(role, metric, points, settings))
    return tuple(made)


def _points(
    layers: Sequence[LayerReport], role: str, metric: str
) -> list[tuple[int, float, list[float]]]:
    """Block, median and all values of it, in the order of depth."""
    blocks: dict[int, list[float]] = {}
    for layer in layers:
        value = layer.values.get(metric, math.nan)
        if layer.role == role and layer.block is not None and math.isfinite(value):
            blocks.setdefault(layer.block, []).append(value)
    return [(block, median(blocks[block]), blocks[block]) for block in sorted(blocks)]


def _profile(
    role: str, metric: str, points: Sequence[tuple[int, float, list[float]]], settings: Settings
) -> DepthProfile:
    from scipy.stats import theilslopes

    blocks = [block for block, _, _ in points]
    values = [value for _, value, _ in points]
    slope, _, low, high = np.asarray(theilslopes(values, blocks), dtype=float).tolist()
    outside = math.nan
    if metric == "alpha" and settings.usual_alpha is not None:
        low_alpha, high_alpha = settings.usual_alpha
        every = [x for _, _, inside in points for x in inside]
        outside = sum(not low_alpha <= x <= high_alpha for x in every) / len(every)
    return DepthProfile(
        role=role,
        metric=metric,
        blocks=tuple(blocks),
        values=tuple(values),
        slope=slope,
        slope_low=low,
        slope_high=high,
        roughness=median(abs(b - a) for a, b in pairwise(values)),
        outside=outside,
    )
