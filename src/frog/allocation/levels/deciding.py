"""A rule by name carried out: the allocator gets curves, or a score in the form it asks for.

    uniform           one level for all, as far as the budget allows
    dynamic, integer, greedy        by measured curves
    water_filling, two_level        bits by a score
    linear_map, proportional        sparsity by a score

Scores are importances: higher means keep.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from fractions import Fraction

from frog.allocation.fill import fill
from frog.allocation.levels import ALLOCATORS
from frog.errors import UnknownName, UsageError
from frog.types.level_plans import LevelRule
from frog.types.levels import Allocation, Curve, Unit

CURVES = ("dynamic", "integer", "greedy")
RULES = {
    "bits": ("uniform", *CURVES, "water_filling", "two_level"),
    "prune": ("uniform", *CURVES, "linear_map", "proportional"),
}
SCORES = {"water_filling": "rounding-error", "two_level": "lim", "linear_map": "alpha",
          "proportional": "zeroth-order"}  # fmt: skip
"""The score of each allocator by scores, unless asked otherwise."""

KNOBS = {"linear_map": ("spread", "cap"), "proportional": ("most",), "two_level": ("low", "high")}

BEYOND = 0.1
"""What a unit may lose beyond the sparsity of all in ``proportional`` (ECoFLaP's scripts)."""


def settled_rule(rule: LevelRule, action: str, *, calibrated: bool) -> LevelRule:
    """The rule with what ``auto`` and an empty score mean; UsageError where it cannot be.

    >>> settled_rule(LevelRule.named("linear_map"), "prune", calibrated=False).score
    'alpha'
    """
    name = rule.allocator
    if name == "auto":
        name = "dynamic" if calibrated else "water_filling" if action == "bits" else "uniform"
    if name not in RULES[action]:
        raise UnknownName(f"rule of a plan of {action}", name, ("auto", *RULES[action]))
    if rule.score and name not in SCORES:
        raise UsageError(f"the rule '{name}' takes no score, got '{rule.score}': leave it out")
    if name in CURVES and not calibrated:
        raise UsageError(
            f"the rule '{name}' goes by measured damage and needs data: give calibration, on the "
            "command line --calibration FILE"
        )
    for knob in rule.knobs:
        if knob not in KNOBS.get(name, ()):
            known = ", ".join(KNOBS.get(name, ())) or "none"
            raise UsageError(f"the rule '{name}' has no knob '{knob}', it has: {known}")
    return replace(rule, allocator=name, score=rule.score or SCORES.get(name, ""))


def check_budget(budget: float, action: str, levels: Sequence[float]) -> None:
    """UsageError for a budget out of range."""
    low, high = (min(levels), max(levels)) if action == "bits" else (0.0, 1.0)
    inside = low <= budget <= high if action == "bits" else low <= budget < high
    if not inside:
        told = "bits a weight on average" if action == "bits" else "a share of the weights, below 1"
        raise UsageError(f"a budget must be {told}, in {low:g}..{high:g}, got {budget:g}")


def by_curves(rule: LevelRule, action: str, curves: Sequence[Curve], budget: float) -> Allocation:
    """Levels of least damage within the budget."""
    params = sum(x.unit.params for x in curves)
    whole = _kept(budget, params)
    if action == "bits":  # exact in the decimal digits of the budget
        whole = math.floor(Fraction(repr(float(budget))) * params)
    return ALLOCATORS[rule.allocator].function(curves, budget=whole)


def by_scores(
    rule: LevelRule,
    action: str,
    units: Sequence[Unit],
    importance: Mapping[str, float],
    *,
    budget: float,
    levels: Sequence[float],
) -> Allocation:
    """Levels by one importance per unit; all are equal for ``uniform``."""
    name, knobs = rule.allocator, rule.knobs
    given = [importance.get(unit.name, 1.0) for unit in units]
    if action == "prune":
        if name == "proportional":
            most = knobs.get("most", min(1.0, budget + BEYOND))
            return ALLOCATORS[name].function(units, given, sparsity=budget, most=most)
        if name == "uniform":
            return ALLOCATORS["linear_map"].function(units, given, sparsity=budget, spread=0.0)
        return ALLOCATORS[name].function(units, [-x for x in given], sparsity=budget, **knobs)
    if name == "two_level":
        below = [x for x in levels if x < budget] or [min(levels)]
        above = [x for x in levels if x > budget] or [max(levels)]
        low, high = knobs.get("low", max(below)), knobs.get("high", min(above))
        return ALLOCATORS[name].function(units, given, average=budget, low=int(low), high=int(high))
    if name == "uniform":
        losses = [1.0] * len(units)
    elif rule.score == "rounding-error":
        losses = [max(x, 1e-12) ** 2 for x in given]  # of a loss that adds up: squared
    elif rule.score == "zeroth-order":
        losses = [max(x, 1e-30) / u.params for x, u in zip(given, units, strict=True)]
    else:
        losses = given
    return ALLOCATORS["water_filling"].function(
        units, losses, average=budget, levels=[int(x) for x in levels]
    )


def exact(kept: Sequence[int], units: Sequence[Unit], budget: float) -> list[int]:
    """Kept weights raised until they add up to the budget: units lose less alike.

    Levels of a grid prune a little more than was asked. What no unit without a pin can take back
    stays pruned.

    >>> exact([50, 80], [Unit(name="a", params=100), Unit(name="b", params=100)], 0.3)
    [57, 83]
    """
    total = _kept(budget, sum(u.params for u in units))
    caps = [k if u.pin is not None else u.params for k, u in zip(kept, units, strict=True)]
    if sum(kept) >= total:
        return list(kept)
    pruned = [c - k for c, k in zip(caps, kept, strict=True)]
    back = fill(pruned, min(total - sum(kept), sum(pruned)), [0] * len(kept), pruned)
    return [k + b for k, b in zip(kept, back, strict=True)]


def _kept(sparsity: float, params: int) -> int:
    return round((1 - sparsity) * params)
