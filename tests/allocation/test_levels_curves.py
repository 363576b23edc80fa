"""The allocators over measured curves against brute force."""

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from scipy.optimize import LinearConstraint, milp

from frog.allocation.levels import ALLOCATORS, dynamic, greedy, integer
from frog.errors import UsageError
from frog.types.levels import Allocation, Curve, Unit

EXACT = [dynamic, integer]
Exact = Callable[..., Allocation]


def random_curves(seed: int, *, units: int = 6, levels: int = 4) -> list[Curve]:
    """Curves that need be neither monotone nor convex, every third case with ties and a pin."""
    rng = np.random.default_rng(seed)
    curves = []
    for place in range(units):
        params = int(rng.integers(50, 5000))
        costs = rng.exponential(size=levels) * 10.0 ** rng.uniform(-2, 1)
        if seed % 2:
            costs = np.sort(costs)[::-1]
        unit = Unit(
            name=f"u{place}",
            params=params,
            tie="together" if seed % 3 and place in (1, 4) else None,
            pin=4 if seed % 3 == 2 and place == 3 else None,
        )
        bits = (2, 3, 4, 8)[:levels]
        sizes = tuple(params * b + int(rng.integers(0, 40)) for b in bits)
        curves.append(Curve(unit=unit, levels=bits, costs=tuple(costs.tolist()), sizes=sizes))
    return curves


def every_way(curves: list[Curve]) -> list[tuple[float, int]]:
    """(cost, size) of all combinations that keep ties and pins."""
    found = []
    for picks in itertools.product(*(range(len(c.levels)) for c in curves)):
        levels: dict[str, float] = {}
        for curve, k in zip(curves, picks, strict=True):
            level, unit = curve.levels[k], curve.unit
            if (
                unit.pin not in (None, level)
                or levels.setdefault(unit.tie or unit.name, level) != level
            ):
                break
        else:
            both = list(zip(curves, picks, strict=True))
            found.append((sum(c.costs[k] for c, k in both), sum(c.sizes[k] for c, k in both)))
    return found


@pytest.mark.parametrize("seed", range(60))
def test_exact_allocators_equal_brute_force(seed: int) -> None:
    curves = random_curves(seed)
    ways = every_way(curves)
    sizes = [size for _, size in ways]
    share = np.random.default_rng(seed).uniform()
    for budget in (min(sizes), int(min(sizes) + share * (max(sizes) - min(sizes))), max(sizes)):
        best = min(cost for cost, size in ways if size <= budget)
        for allocate in (*EXACT, greedy):
            made = allocate(curves, budget=budget)
            check(made, curves, budget)
            if allocate is not greedy:
                assert made.cost == pytest.approx(best, rel=1e-9), allocate.__name__
            else:
                assert made.cost is not None and made.cost >= best * (1 - 1e-9)


def check(made: Allocation, curves: list[Curve], budget: int) -> None:
    """The sizes and the cost are those of the levels; ties, pins and the budget are kept."""
    places = [c.levels.index(x) for c, x in zip(curves, made.levels, strict=True)]
    assert made.sizes == tuple(c.sizes[k] for c, k in zip(curves, places, strict=True))
    assert made.cost == pytest.approx(sum(c.costs[k] for c, k in zip(curves, places, strict=True)))
    assert made.size <= budget
    ties: dict[str, float] = {}
    for curve, level in zip(curves, made.levels, strict=True):
        assert curve.unit.pin in (None, level)
        assert ties.setdefault(curve.unit.tie or curve.unit.name, level) == level


@pytest.mark.parametrize("allocate", EXACT)
def test_the_optimum_that_no_price_reaches_is_found(allocate: Exact) -> None:
    """A knapsack whose best set leaves out the item of best ratio."""

    def item(name: str, worth: float, size: int) -> Curve:
        return Curve(
            unit=Unit(name=name, params=size), levels=(0, 1), costs=(worth, 0.0), sizes=(0, size)
        )

    curves = [item("best ratio", 11.0, 6), item("left", 9.0, 5), item("right", 9.0, 5)]
    assert allocate(curves, budget=10).levels == (0, 1, 1)
    assert greedy(curves, budget=10).levels == (1, 0, 0)


@pytest.mark.parametrize("allocate", EXACT)
def test_budget_is_kept_to_the_bit_where_sizes_are_large(allocate: Exact) -> None:
    """One bit too few for both large levels: a relative tolerance would let them pass."""
    size = 10**10 + 1
    curves = [
        Curve(unit=Unit(name=x, params=size), levels=(0, 1), costs=(c, 0.0), sizes=(0, size))
        for x, c in (("a", 2.0), ("b", 3.0))
    ]
    assert allocate(curves, budget=2 * size).levels == (1, 1)
    made = allocate(curves, budget=2 * size - 1)
    assert made.levels == (0, 1)
    assert made.cost == 2.0


@pytest.mark.parametrize("allocate", [*EXACT, greedy])
def test_what_changes_no_damage_is_still_spent(allocate: Exact) -> None:
    flat = Curve(
        unit=Unit(name="a", params=1), levels=(2, 4, 8), costs=(1.0, 1.0, 1.0), sizes=(2, 4, 8)
    )
    assert allocate([flat], budget=7).levels == (4,)


@pytest.mark.parametrize("allocate", [*EXACT, greedy])
def test_a_budget_below_the_smallest_levels_is_refused_with_the_range(allocate: Exact) -> None:
    curve = Curve(unit=Unit(name="a", params=1), levels=(2, 4), costs=(2.0, 1.0), sizes=(200, 400))
    with pytest.raises(UsageError, match=r"between 200 .* and 400 .*got 199"):
        allocate([curve], budget=199)


def test_wrong_curves_are_refused() -> None:
    def one(**changes: object) -> Curve:
        kept = {
            "unit": Unit(name="a", params=1),
            "levels": (2, 4),
            "costs": (2.0, 1.0),
            "sizes": (2, 4),
        }
        return Curve(**{**kept, **changes})  # pyright: ignore[reportArgumentType]

    for wrong, words in [
        ([], "at least one curve"),
        ([one(costs=(1.0,))], "distinct levels"),
        ([one(levels=(2, 2))], "distinct levels"),
        ([one(costs=(1.0, float("nan")))], "finite costs"),
        ([one(unit=Unit(name="a", params=1, pin=3))], "a pin must be one of"),
        (
            [
                one(unit=Unit(name="a", params=1, tie="t")),
                one(unit=Unit(name="b", params=1, tie="t"), levels=(3, 8)),
            ],
            "level in common",
        ),
    ]:
        with pytest.raises(UsageError, match=words):
            dynamic(wrong, budget=100)


@pytest.mark.parametrize("seed", range(3))
def test_both_exact_allocators_agree_on_a_hundred_units(seed: int) -> None:
    curves = random_curves(seed, units=100)
    budget = int(np.mean([sum(c.sizes[0] for c in curves), sum(c.sizes[-1] for c in curves)]))
    first, second = dynamic(curves, budget=budget), integer(curves, budget=budget)
    assert first.cost == pytest.approx(second.cost, rel=1e-8)
    check(first, curves, budget)
    check(second, curves, budget)


def test_the_registry_says_what_each_needs() -> None:
    needs = {name: each.needs for name, each in ALLOCATORS.items()}
    assert needs == {
        **dict.fromkeys(["dynamic", "integer", "greedy"], "curves"),
        **dict.fromkeys(["linear_map", "proportional", "two_level", "water_filling"], "scores"),
    }
    assert all(each.words and each.source for each in ALLOCATORS.values())


def test_too_many_states_are_refused_with_another_allocator(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Damage that is all but proportional to size: nothing dominates and no bound bites."""
    monkeypatch.setattr("frog.allocation.levels.states.MOST_STATES", 1000)
    rng = np.random.default_rng(0)
    curves = []
    for place in range(12):
        params = int(rng.integers(10**5, 5 * 10**7))
        sizes = tuple(params * bits for bits in (2, 3, 4))
        costs = tuple(float(4 * params - size + 10**6 * (size < 4 * params)) for size in sizes)
        unit = Unit(name=str(place), params=params)
        curves.append(Curve(unit=unit, levels=(2, 3, 4), costs=costs, sizes=sizes))
    budget = 3 * sum(c.unit.params for c in curves)
    with pytest.raises(UsageError, match=r"1,000 states.*'integer'"):
        dynamic(curves, budget=budget)
    assert integer(curves, budget=budget).size <= budget


def test_a_solver_that_oversteps_the_budget_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A solver with a tolerance of one unit of size gives (1, 1) first, which does not fit."""
    asked = []

    def tolerant(worth: np.ndarray, **problem: Any) -> Any:
        one, size, *cuts = problem.pop("constraints")
        loose = LinearConstraint(size.A, size.lb, size.ub + 1)
        asked.append(len(cuts))
        return milp(worth, constraints=[one, loose, *cuts], **problem)

    monkeypatch.setattr("frog.allocation.levels.highs.milp", tolerant)
    curves = [
        Curve(unit=Unit(name=x, params=size), levels=(0, 1), costs=(c, 0.0), sizes=(0, size))
        for x, c, size in (("a", 2.0, 6), ("b", 3.0, 7))
    ]
    assert integer(curves, budget=12).levels == (0, 1)
    assert asked == [0, 1]
