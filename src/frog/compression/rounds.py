"""Curves measured in company: again and again around the plan that they lead to."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TypeVar

from frog.compression.damage import mean_curves
from frog.types.levels import Curve

PlanT = TypeVar("PlanT")


def in_rounds(
    alone: Sequence[Curve],
    *,
    rounds: int,
    choose: Callable[[Sequence[Curve]], PlanT],
    around: Callable[[PlanT], Sequence[Curve]],
) -> tuple[Curve, ...]:
    """Curves to decide by: the mean of ``alone`` and of ``rounds`` more.

    Each round chooses a plan by the mean so far and measures every unit around it, all others
    where the plan has them. Where harm is large units act together, and alone they say little of
    that; one round alone holds for a plan that is left at once (docs/compression-measured.md).

    >>> from frog.types.levels import Unit
    >>> def curve(*costs):
    ...     unit = Unit(name="w", params=8)
    ...     return Curve(unit=unit, levels=(2.0, 4.0), costs=costs, sizes=(16, 32))
    >>> in_rounds([curve(4, 0)], rounds=1, choose=len, around=lambda plan: [curve(8, 2)])[0].costs
    (6.0, 1.0)
    """
    seen = [tuple(alone)]
    for _ in range(rounds):
        seen.append(tuple(around(choose(_mean(seen)))))
    return _mean(seen)


def _mean(rounds: Sequence[Sequence[Curve]]) -> tuple[Curve, ...]:
    """Over the levels that all rounds have; a unit that has none in common keeps its first."""
    if len(rounds) == 1:
        return tuple(rounds[0])
    shared = []
    for same in zip(*rounds, strict=True):
        common = set.intersection(*(set(x.levels) for x in same))
        shared.append([limited(x, common) for x in same] if common else [same[0]] * len(same))
    return mean_curves(*zip(*shared, strict=True))


def limited(curve: Curve, levels: Collection[float]) -> Curve:
    """The curve at these levels, as it is where it has none of them."""
    places = [i for i, level in enumerate(curve.levels) if level in levels]
    if not places:
        return curve
    return replace(
        curve,
        levels=tuple(curve.levels[i] for i in places),
        costs=tuple(curve.costs[i] for i in places),
        sizes=tuple(curve.sizes[i] for i in places),
    )
