"""Whether the scale of one layer changed unlike that of the others: limits, groups, z-scores.

Shared by the comparison of two models and by the guard that watches a run. What the limits rest
on: docs/design-notes/006-scale-collapse-and-drift.md.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from frog.numerics.drift import center_and_spread, robust_z

Z_LIMIT = 4.0
"""Robust z-score beyond which a layer differs from the others."""

SPREAD_FLOOR = 0.05
"""Smallest spread that a z-score divides by, in decades: others that moved by nothing at all
would make every change an outlier."""

CHANGE_LIMIT = {"log_norm": 0.6, "log_spectral_norm": 0.6, "log_effective_rank": 0.3}
"""Smallest change against a reference that counts, in decades: a factor of 2 in the Frobenius norm
or the largest singular value (both stand squared here), or in the number of directions."""

FEWEST = 5
"""Layers that a role needs to be judged by itself."""

LIKE = {
    "attention": ("q", "k", "v", "o", "qkv", "kv", "q_up", "q_down", "kv_up", "kv_down", "o_gate"),
    "feed-forward": ("gate", "up", "down", "gate_up"),
    "convolution": ("conv", "patch"),
}
"""Roles that are pooled when one of them has fewer than :data:`FEWEST` layers."""


def groups_of(roles: Sequence[str]) -> list[str]:
    """The group of each layer: its role, else its like, else everything.

    >>> groups_of(["q"] * 5 + ["k", "v"])[4:]
    ['role q', 'attention', 'attention']
    """
    family = {role: name for name, like in LIKE.items() for role in like}
    likes = [family.get(role, "other") for role in roles]
    groups = []
    for role, like in zip(roles, likes, strict=True):
        if list(roles).count(role) >= FEWEST:
            groups.append(f"role {role}")
        else:
            groups.append(like if likes.count(like) >= FEWEST else "all")
    # a layer that is alone in "all" is held against all layers by the other z-score
    return groups


def z_by_group(values: np.ndarray, groups: Sequence[str]) -> np.ndarray:
    """z-scores among each group, whose spread is at least that of the whole model.

    The spread of five values by themselves is a poor witness, and where the whole model changes
    much, nothing collapses *while the others hardly change*.
    """
    z = np.full(len(values), np.nan)
    there = values[np.isfinite(values)]
    spread = center_and_spread(there)[1] if len(there) else 0.0
    for group in set(groups):
        inside = [i for i, name in enumerate(groups) if name == group]
        alone = len(inside) == len(groups)
        z[inside] = robust_z(values[inside], SPREAD_FLOOR if alone else max(SPREAD_FLOOR, spread))
    return z
