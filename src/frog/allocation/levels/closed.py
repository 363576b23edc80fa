"""Formulas that turn one score per unit into levels, without curves.

A pinned unit keeps its level and its part of the budget, and so do those tied to it. Tied units
share a level, by the mean of their scores by parameters (a tie by block is the published mean over
the block) or, in ``proportional``, by the sum; sparsities are equal to one weight of rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from frog.allocation.fill import fill
from frog.allocation.levels.choices import choices, raised
from frog.allocation.levels.registry import allocator
from frog.errors import UsageError
from frog.numerics.sparsity_map import sparsity_by_alpha
from frog.types.levels import Allocation, Curve, Unit


@allocator("linear_map", words="pruned in linear proportion to the score",
           source="Lu et al. 2024, AlphaPruning, NeurIPS", needs="scores")  # fmt: skip
def linear_map(
    units: Sequence[Unit],
    scores: Sequence[float],
    *,
    sparsity: float,
    spread: float = 0.3,
    cap: float = 1.0,
) -> Allocation:
    """Sparsity linear in the score, from 1 - spread to 1 + spread times a common factor.

    Kept weights are whole and sum to round((1 - sparsity) * params). ``cap`` bounds a unit's
    sparsity (to one weight of rounding); see :func:`~frog.numerics.sparsity_map.sparsity_by_alpha`.

    >>> units = [Unit(name="a", params=100), Unit(name="b", params=100)]
    >>> linear_map(units, [2.0, 4.0], sparsity=0.5, spread=0.2).sizes
    (60, 40)
    """
    units = _settled(units)
    free, left = _free(units, scores, sparsity)
    if not free:
        return _kept(units, free, [])
    params, means = [u.params for u in free], _means(free, scores, units)
    share = 1 - left / sum(params)
    wanted = sparsity_by_alpha(means, params, sparsity=share, spread=spread, cap=cap)
    kept = fill((1 - wanted) * params, left, [0] * len(free), params)
    return _kept(units, free, kept)


@allocator("proportional", words="kept in proportion to the score, above a floor",
           source="Sung et al. 2024, ECoFLaP, ICLR, arXiv:2310.02998", needs="scores")  # fmt: skip
def proportional(
    units: Sequence[Unit], scores: Sequence[float], *, sparsity: float, most: float
) -> Allocation:
    """Every unit keeps 1 - ``most`` of its weights, the rest goes in proportion to the score.

    What a full unit cannot take goes to the others. Rounded by largest remainder, so that the sum
    is exact (the published code overshoots). A score is the importance of the whole unit, >= 0.

    >>> units = [Unit(name="a", params=100), Unit(name="b", params=100)]
    >>> proportional(units, [3.0, 1.0], sparsity=0.5, most=0.6).sizes
    (55, 45)
    """
    if not sparsity <= most <= 1:
        raise UsageError(f"most must be in [sparsity, 1] = [{sparsity:g}, 1], got {most:g}")
    units = _settled(units)
    free, left = _free(units, scores, sparsity)
    importance = {u.name: float(x) for u, x in zip(units, scores, strict=True)}
    ties: dict[tuple[str, str], list[Unit]] = {}
    for unit in free:
        ties.setdefault(unit.tied, []).append(unit)
    score = np.array([math.fsum(importance[u.name] for u in tie) for tie in ties.values()])
    if not (np.isfinite(score).all() and (score >= 0).all()):
        raise UsageError("every score must be finite and 0 or more: it is a share of importance")
    params = np.array([sum(u.params for u in tie) for tie in ties.values()], dtype=np.int64)
    # ceil, but not by the rounding error of 1 - most
    floors = np.ceil(params * (1 - most) - 1e-9).astype(np.int64)
    if floors.sum() > left:  # floors rounded up, or pins, can ask for more than there is
        counts = fill(params, left, np.zeros_like(floors), params)
    else:
        rest = left - int(floors.sum())
        counts = floors + fill(score, rest, np.zeros_like(floors), params - floors)
    kept: dict[str, int] = {}
    for tie, count in zip(ties.values(), counts, strict=True):
        sizes = [u.params for u in tie]
        within = fill(sizes, int(count), [0] * len(tie), sizes)
        kept.update(zip((u.name for u in tie), within, strict=True))
    return _kept(units, free, [kept[u.name] for u in free])


@allocator("two_level", words="the highest scores get the high level",
           source="Dumitru et al. 2024, layer-wise quantization, arXiv:2406.17415",
           needs="scores")  # fmt: skip
def two_level(
    units: Sequence[Unit], scores: Sequence[float], *, average: float, low: int, high: int
) -> Allocation:
    """``high`` bits for the top n units by score, ``low`` for the rest.

    n is the largest with at most ``average`` bits per weight; for units of equal size
    n = L * (average - low) / (high - low), rounded down.

    >>> units = [Unit(name=x, params=10) for x in "abcd"]
    >>> two_level(units, [1.0, 4.0, 3.0, 2.0], average=3.5, low=2, high=4).levels
    (2, 4, 4, 4)
    """
    means = _means(units, scores, units)
    allowed = [low] if low == high else [low, high]
    curves = [_bits(u, allowed, 0.0) for u in units]
    budget = _whole(average, units)
    found = choices(curves, budget)
    row_mean = dict(zip(found.row, means, strict=True))
    taken = np.where(found.exists_gk, found.size_gk, np.iinfo(np.int64).max).argmin(axis=1)
    left = budget - found.size(taken)
    for row in sorted(row_mean, key=lambda g: -row_mean[g]):
        step = int(found.size_gk[row].max() - found.size_gk[row, taken[row]])
        if step > left:
            break
        taken[row], left = int(found.size_gk[row].argmax()), left - step
    done = found.allocation(taken)
    return Allocation(levels=done.levels, sizes=done.sizes)


@allocator("water_filling", words="bits by half the log of the score",
           source="BAQ, equal loss by the rate-distortion closed form", needs="scores")  # fmt: skip
def water_filling(
    units: Sequence[Unit], scores: Sequence[float], *, average: float, levels: Sequence[int]
) -> Allocation:
    """Bits of the loss model params * score * 2^(-2 bits), from the allowed ``levels``.

    :func:`ideal_bits`, rounded down to an allowed level, the rest spent by best ratio of loss to
    size. A score is a loss per parameter, > 0; ``average`` is in bits per weight.

    >>> units = [Unit(name=x, params=10) for x in "abc"]
    >>> water_filling(units, [16.0, 1.0, 1 / 16], average=4, levels=[2, 3, 4, 6, 8]).levels
    (6, 4, 2)
    """
    means = _means(units, scores, units)
    allowed = sorted({*levels, *(int(u.pin) for u in units if u.pin is not None)})
    budget = _whole(average, units)
    curves = [
        _bits(u, allowed if u.pin is not None else sorted(set(levels)), c)
        for u, c in zip(units, means, strict=True)
    ]
    found = choices(curves, budget)
    floor = [found.levels[row][0] for row in found.row]
    ceiling = [found.levels[row][-1] for row in found.row]
    params = [u.params for u in units]
    ideal = ideal_bits(means, params, average=average, low=floor, high=ceiling)
    taken = np.zeros(len(found.levels), dtype=np.int64)
    for row, bits in zip(found.row, ideal, strict=True):
        taken[row] = sum(x <= bits + 1e-9 for x in found.levels[row]) - 1
    return found.allocation(raised(found, taken, budget))


def ideal_bits(
    scores: Sequence[float],
    params: Sequence[int],
    *,
    average: float,
    low: Sequence[float] | float = 0.0,
    high: Sequence[float] | float = math.inf,
) -> np.ndarray:
    """Real bits (L,): clip(0.5 log2 c - theta, low, high), mean by parameters ``average``.

    Where no clip acts: average + 0.5 log2(c / geometric mean of c by parameters).

    >>> ideal_bits([4.0, 1.0, 0.25], [1, 1, 1], average=3.0).round(9)
    array([4., 3., 2.])
    """
    c, n = np.asarray(scores, dtype=np.float64), np.asarray(params, dtype=np.float64)
    if not (np.isfinite(c).all() and (c > 0).all()):
        raise UsageError(f"every score must be finite and above 0, got {c.min():g}: it is a loss")
    half, budget = 0.5 * np.log2(c), average * n.sum()
    floor, ceiling = np.broadcast_to(low, c.shape), np.broadcast_to(high, c.shape)
    if (n * ceiling).sum() <= budget:
        return np.array(ceiling, dtype=np.float64)
    if (n * floor).sum() > budget * (1 + 1e-12):
        raise UsageError(
            f"average must be at least {(n * floor).sum() / n.sum():g} bits per weight, the lowest "
            f"levels, got {average:g}: raise it, or lower the levels"
        )
    # what one unit alone could get: theta below it spends the budget whatever the other ceilings
    alone = (budget + np.abs(n * floor).sum()) / n.min() + np.ptp(half)
    ends = np.where(np.isfinite(ceiling), ceiling, alone)
    below = float((half - np.maximum(ends, floor)).min())
    above = float((half - floor).max())
    for _ in range(200):
        theta = 0.5 * (below + above)
        spent = float((n * np.clip(half - theta, floor, ceiling)).sum())
        below, above = (theta, above) if spent > budget else (below, theta)
    return np.clip(half - above, floor, ceiling)


def _settled(units: Sequence[Unit]) -> list[Unit]:
    """The units, a pin carried over to all that are tied to it."""
    pins: dict[tuple[str, str], float] = {}
    for unit in units:
        if unit.pin is not None and pins.setdefault(unit.tied, unit.pin) != unit.pin:
            raise UsageError(
                f"pins of tied units must be equal, got {pins[unit.tied]} and {unit.pin} in "
                f"'{unit.tie}': untie them, or pin them alike"
            )
    return [replace(u, pin=pins.get(u.tied)) for u in units]


def _free(
    units: Sequence[Unit], scores: Sequence[float], sparsity: float
) -> tuple[list[Unit], int]:
    """Units without a pin, and how many weights they may keep."""
    _means(units, scores, units)
    if not 0 <= sparsity <= 1:
        raise UsageError(f"sparsity must be in [0, 1], got {sparsity}")
    total = sum(u.params for u in units)
    pinned = sum(_pinned(u) for u in units if u.pin is not None)
    free = [u for u in units if u.pin is None]
    left, room = round((1 - sparsity) * total) - pinned, sum(u.params for u in free)
    if not 0 <= left <= room:
        lowest, highest = 1 - (pinned + room) / total, 1 - pinned / total
        raise UsageError(
            f"sparsity must be in [{lowest:.4g}, {highest:.4g}] with these pins, got {sparsity:g}"
        )
    return free, left


def _pinned(unit: Unit) -> int:
    if unit.pin is None or not 0 <= unit.pin <= 1:
        raise UsageError(f"the pin of '{unit.name}' must be a sparsity in [0, 1], got {unit.pin}")
    return round((1 - unit.pin) * unit.params)


def _kept(units: Sequence[Unit], free: Sequence[Unit], kept: Sequence[int]) -> Allocation:
    found = dict(zip((u.name for u in free), kept, strict=True))
    sizes = [found[u.name] if u.pin is None else _pinned(u) for u in units]
    levels = [1 - size / u.params for size, u in zip(sizes, units, strict=True)]
    return Allocation(levels=tuple(levels), sizes=tuple(sizes))


def _means(asked: Sequence[Unit], scores: Sequence[float], units: Sequence[Unit]) -> list[float]:
    """The score of each asked unit, of those tied their mean by parameters."""
    if len(scores) != len(units) or not units or len({u.name for u in units}) < len(units):
        raise UsageError(
            "there must be one score for each unit, at least one, and names that differ, "
            f"got {len(units)} units and {len(scores)} scores"
        )
    sums: dict[tuple[str, str], list[float]] = {}
    for unit, score in zip(units, scores, strict=True):
        if unit.params <= 0:
            raise UsageError(f"params of '{unit.name}' must be positive, got {unit.params}")
        both = sums.setdefault(unit.tied, [0.0, 0.0])
        both[0] += unit.params * float(score)
        both[1] += unit.params
    return [sums[u.tied][0] / sums[u.tied][1] for u in asked]


def _bits(unit: Unit, levels: Sequence[int], score: float) -> Curve:
    return Curve(
        unit=unit,
        levels=tuple(levels),
        costs=tuple(unit.params * score * 2.0 ** (-2 * x) for x in levels),
        sizes=tuple(unit.params * x for x in levels),
    )


def _whole(average: float, units: Sequence[Unit]) -> int:
    """Bits that an average allows, rounded down; exact in the decimal digits of ``average``."""
    return math.floor(Fraction(repr(float(average))) * sum(u.params for u in units))
