"""The closed forms: published values, analytic optima, exact sizes."""

import numpy as np
import pytest

from frog.allocation.levels import (
    ideal_bits,
    integer,
    linear_map,
    proportional,
    two_level,
    water_filling,
)
from frog.errors import UsageError
from frog.types.levels import Curve, Unit

LLAMA_7B = 4 * 4096**2 + 3 * 4096 * 11008
"""Weights of the linear layers of a block."""
# mean alphas of the blocks of LLaMA-7B, from the released metric cache of FARMS
ALPHAS = [
    2.711, 2.973, 3.136, 3.372, 3.441, 3.184, 3.248, 3.242, 3.128, 2.949, 3.059, 2.980, 2.958,
    3.131, 3.271, 3.283, 3.696, 3.788, 3.947, 3.777, 3.739, 4.095, 4.043, 4.134, 3.857, 4.358,
    4.315, 4.491, 4.285, 4.487, 4.106, 3.880,
]  # fmt: skip


def blocks(count: int, params: int = 1000) -> list[Unit]:
    return [Unit(name=f"b{place}", params=params) for place in range(count)]


def test_linear_map_gives_the_published_allocation_of_llama_7b() -> None:
    units = blocks(32, LLAMA_7B)
    made = linear_map(units, ALPHAS, sparsity=0.8, spread=0.2)
    # alphas are given to 5e-4, which is 1e-4 of sparsity
    golden = [0.6408, 0.6879, 0.7173, 0.7597, 0.7721, 0.9612, 0.8511]
    found = [made.levels[place] for place in (0, 1, 2, 3, 4, 27, 31)]
    assert found == pytest.approx(golden, abs=1e-4)
    assert made.size == round(0.2 * 32 * LLAMA_7B)


def test_linear_map_of_tied_matrices_is_that_of_their_mean() -> None:
    """Two matrices of a block with alphas around the block's mean: the block's sparsity."""
    units = [
        Unit(name=f"b{place}.{side}", params=500, tie=f"b{place}")
        for place in range(32)
        for side in "ab"
    ]
    alphas = [alpha + shift for alpha in ALPHAS for shift in (-1.0, 1.0)]
    tied = linear_map(units, alphas, sparsity=0.8, spread=0.2)
    whole = linear_map(blocks(32), ALPHAS, sparsity=0.8, spread=0.2)
    assert np.abs(np.repeat(whole.levels, 2) - tied.levels).max() <= 2 / 500
    assert tied.size == whole.size


@pytest.mark.parametrize("seed", range(30))
def test_sizes_of_pruning_are_exact(seed: int) -> None:
    rng = np.random.default_rng(seed)
    units = [
        Unit(
            name=f"u{place}",
            params=int(rng.integers(100, 9000)),
            tie="pair" if place in (2, 5) else None,
            pin=0.25 if place == 7 else None,
        )
        for place in range(12)
    ]
    scores, sparsity = rng.exponential(size=12).tolist(), float(rng.uniform(0.3, 0.7))
    wanted = round((1 - sparsity) * sum(u.params for u in units))
    for made in (
        linear_map(units, scores, sparsity=sparsity, spread=0.3),
        proportional(units, scores, sparsity=sparsity, most=sparsity + 0.2),
    ):
        assert made.size == wanted
        assert all(0 <= size <= u.params for size, u in zip(made.sizes, units, strict=True))
        assert made.levels[7] == pytest.approx(0.25, abs=1 / units[7].params)
        tied = [units[place].params for place in (2, 5)]
        assert made.levels[2] == pytest.approx(made.levels[5], abs=2 / min(tied))


def test_proportional_keeps_its_floor_and_hands_on_what_a_full_unit_cannot_take() -> None:
    units = blocks(3, 100)
    made = proportional(units, [100.0, 1.0, 1.0], sparsity=0.5, most=0.9)
    # floors 10 each; the first is full at 100, the other 30 are shared evenly
    assert made.sizes == (100, 25, 25)
    none = proportional(units, [1.0, 0.0, 0.0], sparsity=0.6, most=0.8)
    assert none.sizes == (80, 20, 20)


def test_two_level_gives_ten_of_forty_blocks_the_low_level() -> None:
    """The published example: 40 blocks at 3.5 bits on average are 30 at 4 and 10 at 2."""
    scores = np.random.default_rng(0).permutation(40).astype(float)
    made = two_level(blocks(40), scores.tolist(), average=3.5, low=2, high=4)
    assert [level == 4 for level in made.levels] == [score >= 10 for score in scores]
    assert made.size == 3500 * 40


def test_the_budget_of_an_average_is_exact_in_its_decimals() -> None:
    """Ten units at 3.3 bits: seven at 3 and three at 4, to the last of 3.3e16 bits."""
    units = blocks(10, 10**15)
    made = two_level(units, list(range(10)), average=3.3, low=3, high=4)
    assert made.levels == (3,) * 7 + (4,) * 3


def test_a_pin_holds_for_all_that_are_tied_to_it() -> None:
    units = [
        Unit(name="a", params=100, tie="t", pin=0.1),
        Unit(name="b", params=100, tie="t"),
        Unit(name="c", params=200),
        Unit(name="d", params=200),
    ]
    for made in (
        linear_map(units, [9.0, 9.0, 1.0, 1.0], sparsity=0.5, spread=0.2),
        proportional(units, [0.0, 0.0, 1.0, 1.0], sparsity=0.5, most=0.8),
    ):
        assert made.sizes == (90, 90, 60, 60)


def test_two_level_keeps_pins_and_ties() -> None:
    units = [
        Unit(name="a", params=10, pin=2),
        Unit(name="b", params=10, tie="t"),
        Unit(name="c", params=10, tie="t"),
        Unit(name="d", params=10),
    ]
    made = two_level(units, [9.0, 5.0, 1.0, 2.0], average=3.0, low=2, high=4)
    assert made.levels == (2, 4, 4, 2)


@pytest.mark.parametrize("seed", range(10))
def test_ideal_bits_are_the_analytic_ones_where_no_clip_acts(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, n = rng.lognormal(0, 2, 9), rng.integers(100, 9000, 9)
    log_mean = (n * np.log2(c)).sum() / n.sum()
    found = ideal_bits(c.tolist(), n.tolist(), average=4.0, low=-99.0, high=99.0)
    assert found == pytest.approx(4.0 + 0.5 * (np.log2(c) - log_mean), abs=1e-9)


@pytest.mark.parametrize("seed", range(10))
def test_clipped_bits_keep_the_average_and_equal_losses_inside(seed: int) -> None:
    rng = np.random.default_rng(seed)
    c, n = rng.lognormal(0, 4, 20), rng.integers(100, 9000, 20)
    bits = ideal_bits(c.tolist(), n.tolist(), average=4.0, low=2.0, high=8.0)
    assert (n * bits).sum() == pytest.approx(4.0 * n.sum())
    inside = (bits > 2 + 1e-9) & (bits < 8 - 1e-9)
    assert np.ptp(np.log2(c[inside]) - 2 * bits[inside]) < 1e-8
    assert bits.min() >= 2 and bits.max() <= 8


def test_an_unbounded_unit_takes_what_a_full_one_cannot() -> None:
    """By hand: 9 weights stop at 1 bit, so the last one has 40 - 9 = 31 bits."""
    bits = ideal_bits([1.0, 1.0], [9, 1], average=4.0, high=[1.0, np.inf])
    assert bits == pytest.approx([1.0, 31.0])


@pytest.mark.parametrize("seed", range(20))
def test_water_filling_on_levels_is_close_to_the_optimum_of_its_own_model(seed: int) -> None:
    rng = np.random.default_rng(seed)
    levels = (2, 3, 4, 6, 8)
    units = [Unit(name=f"u{x}", params=int(rng.integers(500, 9000))) for x in range(30)]
    scores = rng.lognormal(0, 2, 30).tolist()
    made = water_filling(units, scores, average=4.0, levels=levels)
    budget = 4 * sum(u.params for u in units)
    nexts = [
        u.params * (levels[levels.index(int(x)) + 1] - x)
        for u, x in zip(units, made.levels, strict=True)
        if x < levels[-1]
    ]
    assert budget - min(nexts) < made.size <= budget  # no further step fits
    curves = [
        Curve(
            unit=u,
            levels=levels,
            costs=tuple(u.params * c * 2.0 ** (-2 * x) for x in levels),
            sizes=tuple(u.params * x for x in levels),
        )
        for u, c in zip(units, scores, strict=True)
    ]
    best = integer(curves, budget=budget).cost
    assert best is not None and made.cost is not None
    assert best * (1 - 1e-9) <= made.cost <= best * 1.3


def test_infeasible_requests_say_what_is_possible() -> None:
    units = blocks(2, 100)
    with pytest.raises(UsageError, match=r"between 400 .* and 800"):
        water_filling(units, [1.0, 2.0], average=1.5, levels=[2, 4])
    with pytest.raises(UsageError, match="above 0"):
        water_filling(units, [1.0, 0.0], average=3, levels=[2, 4])
    with pytest.raises(UsageError, match=r"most must be in \[sparsity, 1\]"):
        proportional(units, [1.0, 2.0], sparsity=0.7, most=0.6)
    with pytest.raises(UsageError, match="one score for each unit"):
        two_level(units, [1.0], average=3, low=2, high=4)
    pinned = [Unit(name="a", params=100, pin=0.0), Unit(name="b", params=100)]
    with pytest.raises(UsageError, match=r"sparsity must be in \[0, 0.5\] with these pins"):
        linear_map(pinned, [1.0, 2.0], sparsity=0.6)
