"""What a plan of compression is asked for, and the choice by curves: measured alone, in rounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from frog.allocation.levels import deciding
from frog.api.planned_units import Group, Located
from frog.api.sweeping import Round, measured, near, rounds_of
from frog.compression.pruning import count_at
from frog.compression.rounds import in_rounds, limited
from frog.errors import UsageError
from frog.types import ModelReport
from frog.types.level_plans import Calibration, LevelRule, Pruning, Quantisation, Targets
from frog.types.levels import Allocation, Curve

Damages = Mapping[str, Mapping[float, float]]
"""Squared relative error of the outputs, by unit and level."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a plan is made of, beside model and rule."""

    action: str
    budget: float
    how: Quantisation | Pruning
    targets: Targets
    calibration: Calibration | None
    report: ModelReport | None

    @property
    def levels(self) -> tuple[float, ...]:
        return self.how.levels


def by_curves(
    found: Located, groups: Sequence[Group], rule: LevelRule, asked: Asked, alone: Damages
) -> Allocation:
    """The allocator's choice by what was measured alone, and in rounds around its own plans."""
    calibration = asked.calibration
    assert calibration is not None

    def choose(curves: Sequence[Curve]) -> Allocation:
        return deciding.by_curves(rule, asked.action, curves, asked.budget)

    curves = [_curve(group, asked, alone.get(group.name, {})) for group in groups]
    rounds = rounds_of(asked.how, calibration)
    if not rounds:
        return choose(curves)
    levels = near(asked.how, asked.budget)
    try:
        choose([limited(x, levels) for x in curves])
    except UsageError:  # pins ask the others for more than that
        levels = asked.levels

    def around(plan: Allocation) -> list[Curve]:
        by_name = {group.name: level for group, level in zip(groups, plan.levels, strict=True)}
        told = Round(plan=by_name, levels=levels)
        again = measured(found, groups, asked.how, calibration, around=told)
        return [_curve(group, asked, again.get(group.name, {}), alone=False) for group in groups]

    return choose(in_rounds(curves, rounds=rounds, choose=choose, around=around))


def _curve(
    group: Group, asked: Asked, damage: Mapping[float, float], *, alone: bool = True
) -> Curve:
    """Of a unit that nothing was done to the damage is 0, if all others are whole too."""
    pin = group.unit.pin
    if pin is not None:
        levels = {pin: 0.0}
    else:
        levels = dict(damage)
        if asked.action == "prune" and 0.0 in asked.levels and (alone or not levels):
            levels[0.0] = 0.0
    if not levels:
        company = "" if alone else ", or ask for fewer rounds: all others are changed too"
        raise UsageError(
            f"{group.name} has no level at which the outputs are finite: leave it out with exclude"
            f"{company}"
        )
    order = sorted(levels)
    return Curve(
        unit=group.unit,
        levels=tuple(order),
        costs=tuple(levels[x] for x in order),
        sizes=tuple(sum(sizes_of(group, asked.action, x)) for x in order),
    )


def sizes_of(group: Group, action: str, level: float) -> list[int]:
    """Exact size of each matrix of a group at a level."""
    if action == "bits":
        return [int(level) * x.params for x in group.matrices]
    return [x.params - count_at(x.params, level) for x in group.matrices]
