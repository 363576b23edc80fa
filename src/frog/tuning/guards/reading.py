"""What a guard measured, and how near that is to its limit."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """One value of one quantity: ``before`` is its value in health, ``limit`` where it ends.

    ``words`` complete "LAYER: ...". ``used`` is how much of the way from ``before`` to ``limit``
    the value went: beyond 1 is an alarm. It can be given where two conditions must hold.
    ``undo`` says that the very last step did it: restoring takes back that step only. ``act``
    replaces the guard's action for once; ``skip``: the step was left out, and that is all.
    """

    layer: str
    kind: str
    before: float
    value: float
    limit: float
    words: str
    used: float = math.nan
    undo: bool = False
    act: str = ""

    def __post_init__(self) -> None:
        if math.isnan(self.used):
            object.__setattr__(self, "used", used_of(self.before, self.value, self.limit))

    @property
    def beyond(self) -> bool:
        """Whether the value is beyond its limit, or no number."""
        return not self.used <= 1.0

    @property
    def text(self) -> str:
        """One sentence: what is where, beside its limit."""
        where = f"{self.layer}: " if self.layer else ""
        return (
            f"{where}{self.words} {self.value:.4g}, limit {self.limit:.4g} "
            f"(in health {self.before:.4g})"
        )


def used_of(before: float, value: float, limit: float) -> float:
    """(value - before) / (limit - before); infinite for NaN, and beyond a limit without way.

    >>> used_of(1.0, 0.75, 0.5), used_of(0.0, math.nan, 1.0), used_of(0.0, 2.0, 0.0)
    (0.5, inf, inf)
    """
    if math.isnan(value):
        return math.inf
    way = limit - before
    if way == 0 or math.isnan(way):
        return 0.0 if value == before else math.inf
    return (value - before) / way
