"""From the cells of a sweep to curves for the allocators, and from their choice to a plan."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace

from frog.compression.curves import Cell, Level
from frog.compression.live import LiveUnit
from frog.errors import UsageError
from frog.types.levels import Allocation, Curve, Unit


def damage_curves(
    units: Iterable[LiveUnit],
    levels: Sequence[Level],
    cells: Iterable[Cell],
    *,
    ties: Mapping[str, str] | None = None,
) -> tuple[Curve, ...]:
    """A curve for every unit: the squared error at each of its levels that was measured.

    Squares add up where the errors of units do not lean to one side; their roots do not: costs
    must be squares for a sum of them to stand for the error of all. Around a plan the squares
    also hold its own, the same in every cell, which leaves the choice as it is. Levels at which
    an output was not finite are left out. ``ties`` gives units that share a level a common name.
    """
    known = {(x.unit, x.level): x.error for x in cells}
    made = []
    for unit in units:
        params = [math.prod(x.shape) for x in unit.matrices]
        found = [
            (level, known[unit.name, level.key])
            for level in levels
            if math.isfinite(known.get((unit.name, level.key), math.inf))
        ]
        if not found:
            raise UsageError(f"{unit.name} has no finite cell at these levels: sweep it, or others")
        made.append(
            Curve(
                unit=Unit(name=unit.name, params=sum(params), tie=(ties or {}).get(unit.name)),
                levels=tuple(float(level.value) for level, _ in found),
                costs=tuple(error**2 for _, error in found),
                sizes=tuple(sum(level.size(x) for x in params) for level, _ in found),
            )
        )
    return tuple(made)


def mean_curves(*rounds: Sequence[Curve]) -> tuple[Curve, ...]:
    """The mean cost of each unit at each level over rounds of measuring.

    A curve around a plan holds near that plan. Measured around the uniform plan, it makes a plan
    in which others are elsewhere; measured again around that one, and averaged, the choice is
    neither of a place that was left nor thrown from one to the next. Sizes, levels and ties must
    be the same in all rounds.
    """
    made = []
    for same in zip(*rounds, strict=True):
        if len({(x.unit, x.levels, x.sizes) for x in same}) > 1:
            raise UsageError(
                f"rounds must have the same levels of {same[0].unit.name}: leave out those that "
                "one has not"
            )
        costs = zip(*(x.costs for x in same), strict=True)
        made.append(replace(same[0], costs=tuple(math.fsum(x) / len(x) for x in costs)))
    return tuple(made)


def plan_of(
    units: Iterable[LiveUnit], levels: Iterable[Level], allocation: Allocation
) -> dict[str, Level]:
    """The level of every matrix, by name, of an allocation in the order of the units."""
    by_value = {float(level.value): level for level in levels}
    return {
        matrix.name: by_value[float(chosen)]
        for unit, chosen in zip(units, allocation.levels, strict=True)
        for matrix in unit.matrices
    }
