"""A series of losses against its best: noisy ones through a median, small ones with a floor."""

from __future__ import annotations

import math
import statistics
from typing import Any

SPARED = 0.5
"""A best below this share of the first level counts as that: near zero, ratios mean nothing."""


class Losses:
    """One series of losses: its level is the median of the last ``window`` values.

    ``before`` is the best level so far, or half the first level where that is larger.
    """

    def __init__(self, window: int) -> None:
        self.window = window
        self.recent: list[float] = []
        self.first = math.nan
        self.best = math.nan

    def add(self, value: float) -> tuple[float, float] | None:
        """(level, what it is held against), or None before there is a level."""
        self.recent = [*self.recent[-self.window + 1 :], value]
        if not math.isfinite(value):
            return value, self.before
        if len(self.recent) < min(self.window, 3):
            return None
        level = statistics.median(self.recent)
        if math.isnan(self.first):
            self.first = self.best = level
        held = level, self.before
        self.best = min(self.best, level)
        return held

    @property
    def before(self) -> float:
        """What the level is held against; NaN before the first."""
        return max(self.best, SPARED * self.first)

    def forget_recent(self) -> None:
        """The weights were put back: the last values belong to others."""
        self.recent = []

    def state_dict(self) -> dict[str, Any]:
        """All of it."""
        return {"recent": list(self.recent), "first": self.first, "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self.recent = list(state["recent"])
        self.first, self.best = state["first"], state["best"]
