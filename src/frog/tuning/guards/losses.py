"""A series of losses against its best: noisy ones through a median, small ones with a floor."""

from __future__ import annotations

import itertools
import math
import statistics
from typing import Any

from frog.numerics.drift import MAD_TO_STD

SPARED = 0.5
"""A best below this share of the first level counts as that: near zero, ratios mean nothing."""

NOISE_FROM = 50
"""Values before the newest window that tell the noise of a series."""

FEWEST = 20
"""Values that are needed to know the noise."""

EARLY = 2.0
"""Times the first level that count as its noise, before the noise is known."""

CLEAR = 9.0
"""Standard errors of a median that a rise must exceed: the best is the smallest of many medians."""


class Losses:
    """One series of losses: its level is the median of the last ``window`` values.

    ``before`` is the best level so far, or half the first level where that is larger; while too
    few values are there to know the noise, it is twice the first level.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.recent: list[float] = []
        self.first = math.nan
        self.best = math.nan

    def add(self, value: float) -> tuple[float, float, float] | None:
        """(level, what it is held against, how clear of noise: 1 is enough), or None at first."""
        keep = self.window + NOISE_FROM
        self.recent = [*self.recent[-keep + 1 :], value]
        if not math.isfinite(value):
            return value, self.best, math.inf
        newest = self.recent[-self.window :]
        if len(newest) < min(self.window, 3):
            return None
        level = statistics.median(newest)
        if math.isnan(self.first):
            self.first = self.best = level
        noise = self._noise()
        before = max(self.best, SPARED * self.first)
        if noise is None:
            before = EARLY * self.first
        clear = (level - before) / noise if noise else math.inf
        self.best = min(self.best, level)
        return level, before, clear

    def _noise(self) -> float | None:
        """The rise of a level that would be clear of noise; None for too few values."""
        if self.window == 1:
            return 0.0
        older = self.recent[: -self.window]
        if len(older) < FEWEST:
            return None
        steps = [abs(b - a) for a, b in itertools.pairwise(older)]
        spread = MAD_TO_STD * statistics.median(steps) / math.sqrt(2.0)
        return CLEAR * 1.25 * spread / math.sqrt(self.window)

    def forget_recent(self) -> None:
        """The weights were put back: the newest values belong to others."""
        self.recent = self.recent[: -self.window]

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"recent": list(self.recent), "first": self.first, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.recent = list(state["recent"])
        self.first, self.best = state["first"], state["best"]
