"""FARMS windows: the published cut against a literal slow twin, and what was mended."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from frog.numerics import null_table
from frog.numerics.powerlaw import MIN_TAIL, fit_power_law
from frog.numerics.windows import (
    at_ranks,
    effective_windows,
    plan_windows,
    pool_windows,
    window_shape,
)
from frog.types import Farms
from tests.matrices import ArrayLoader

GAUSSIAN_TABLE = {  # shape: hill alpha with windows of 64 x 64, and with windows of the small side
    (512, 512): (2.117, 2.132),
    (512, 256): (2.111, 2.116),
    (512, 128): (2.116, 2.115),
    (512, 64): (2.109, 2.109),
    (1024, 256): (2.121, 2.119),
    (2048, 512): (2.102, 2.119),
}


def pooled(array: np.ndarray, farms: Farms, **options: object) -> np.ndarray:
    return pool_windows(ArrayLoader(array), array.shape, farms, **options).eigenvalues  # type: ignore[arg-type]


def slow_twin(tall: np.ndarray, side: int, ratio: float, count: int) -> np.ndarray:
    """Every window of a tall matrix by its own SVD, loops as in the published description."""
    long, short = tall.shape
    n = min(side, short, math.floor(long / ratio))
    m = int(n * ratio)
    step_m, step_n = (max(1, (x - y) // (count - 1)) for x, y in ((long, m), (short, n)))
    rows, columns = (
        min(count, max(1, (x - y) // step + 1)) for x, y, step in
        ((long, m, step_m), (short, n, step_n))
    )  # fmt: skip
    values: list[float] = []
    for i in range(rows):
        for j in range(columns):
            top, left = min(i * step_m, long - m), min(j * step_n, short - n)
            window = tall[top : top + m, left : left + n]
            values += (np.linalg.svd(window, compute_uv=False) ** 2).tolist()
    return np.sort(values)[::-1]


@pytest.mark.parametrize("shape", [(90, 60), (60, 60), (61, 17), (200, 9)])
@pytest.mark.parametrize(("side", "ratio", "count"), [(20, 1.0, 4), (2000, 1.0, 10), (15, 2.0, 3)])
def test_pool_equals_the_slow_twin(shape, side, ratio, count):
    array = np.random.default_rng(0).standard_normal(shape)
    farms = Farms(side=side, ratio=ratio, per_dimension=count, budget=10_000)
    expected = slow_twin(array, side, ratio, count)
    if shape[0] == shape[1] and ratio != 1.0:  # which way is tall? both
        expected = np.sort(np.concatenate([expected, slow_twin(array.T, side, ratio, count)]))[::-1]
    for method in ("gram64", "svd64"):
        np.testing.assert_allclose(
            pooled(array, farms, method=method), expected, rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("shape", [(512, 512), (512, 128), (1024, 256), (512, 64)])
def test_gaussian_table(shape):
    check_gaussian(shape)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(512, 256), (2048, 512)])
def test_gaussian_table_the_rest(shape):
    check_gaussian(shape)


def check_gaussian(shape):
    array = np.random.default_rng(0).standard_normal(shape)
    small, whole = GAUSSIAN_TABLE[shape]
    for farms, expected in ((Farms(side=64, budget=100), small), (Farms(), whole)):
        alpha = fit_power_law(pooled(array, farms), estimator="hill").alpha
        assert alpha == pytest.approx(expected, abs=0.05)


def test_hill_is_the_median_rule_of_that_table():
    """alpha = 1 + (N - i) / (sum ln x_j - (N - i) ln x_i), i = int(N / 2), ascending from 0."""
    for n in (100, 101):
        x = np.sort(np.random.default_rng(n).pareto(1.5, n) + 1.0)
        i = int(n / 2)
        expected = 1 + (n - i) / (np.log(x[i:]).sum() - (n - i) * math.log(x[i]))
        assert fit_power_law(x, estimator="hill").alpha == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("shape", [(70, 40), (50, 50)])
@pytest.mark.parametrize("ratio", [0.5, 1.0, 2.0, 3.7])
@pytest.mark.parametrize("budget", [1, 7, 32])
def test_transposition_changes_nothing(shape, ratio, budget):
    array = np.random.default_rng(1).standard_normal(shape)
    farms = Farms(side=16, ratio=ratio, per_dimension=6, budget=budget)
    there = pooled(array, farms, seed=3)
    np.testing.assert_allclose(pooled(array.T.copy(), farms, seed=3), there, rtol=1e-9, atol=1e-12)


def test_windows_fit_whatever_the_ratio():
    """With the ratio applied after the clamp, the published windows start before the matrix."""
    for shape in ((40, 100), (100, 40), (50, 50), (1, 7), (3, 1000)):
        for ratio in (0.3, 1.0, 2.0, 5.0, 100.0):
            farms = Farms(side=2000, ratio=ratio)
            rows, columns = window_shape(shape, farms)
            assert 1 <= columns <= min(shape) and 1 <= rows <= max(shape)
            for window in plan_windows(shape, farms):
                tall = sorted(shape, reverse=True)
                assert 0 <= window.top <= tall[0] - window.rows
                assert 0 <= window.left <= tall[1] - window.columns


def test_one_window_per_dimension():
    array = np.random.default_rng(2).standard_normal((30, 20))
    found = pooled(array, Farms(side=10, per_dimension=1))
    expected = np.linalg.svd(array[:10, :10], compute_uv=False) ** 2
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_matrix_is_left_alone():
    array = np.random.default_rng(3).standard_normal((60, 40))
    loader = ArrayLoader(array)
    pool_windows(loader, (60, 40), Farms(side=20))
    np.testing.assert_array_equal(loader.load(), array)


def test_only_the_rows_in_work_are_read_at_once():
    loader = ArrayLoader(np.random.default_rng(4).standard_normal((20_000, 64)))
    pool_windows(loader, (20_000, 64), Farms(side=64, per_dimension=3))
    assert loader.largest_slab < 20_000 * 64 / 4


@pytest.mark.parametrize("shape", [(100, 300), (128, 128)])
def test_budget_is_kept_and_spread_evenly(shape):
    farms = Farms(side=20, budget=20)
    first, again = (plan_windows(shape, farms, seed=0) for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first) == 20
    assert set(first) != set(plan_windows(shape, farms, seed=1))
    for axis in ("top", "left"):
        used = [getattr(window, axis) for window in first]
        assert len(set(used)) == 10, "every row and column of windows takes part"
        assert max(used.count(x) for x in used) <= 4


def test_effective_windows_of_disjoint_and_of_equal_ones():
    disjoint = plan_windows((40, 10), Farms(side=10, per_dimension=4))
    assert effective_windows(disjoint) == pytest.approx(4.0)
    crowded = plan_windows((11, 10), Farms(side=10, per_dimension=10))
    assert 1.0 < effective_windows(crowded) < 1.2


def test_nonfinite_windows_are_nan_and_zero_ones_zero():
    array = np.ones((30, 10))
    array[3, 3] = np.nan
    for method in ("gram64", "gram32", "svd64"):
        assert np.isnan(pooled(array, Farms(side=10), method=method)).any()
        assert not pooled(np.zeros((30, 10)), Farms(side=10), method=method).any()


def test_thinning_keeps_the_distribution():
    array = np.random.default_rng(5).standard_normal((400, 100))
    pool = pool_windows(ArrayLoader(array), (400, 100), Farms())
    thin = pool.thinned()
    assert len(thin) == round(pool.effective * 100)
    assert len(pool.typical()) == 100
    quantiles = np.linspace(0.05, 0.95, 19)
    both = [np.quantile(x, quantiles) for x in (thin, pool.eigenvalues)]
    np.testing.assert_allclose(*both, rtol=0.05)
    assert at_ranks(thin, len(thin)).tolist() == thin.tolist()


def test_null_of_pools_is_of_this_code_and_joins_that_of_whole_matrices():
    """One window is a whole matrix; more windows narrow the null of ``hill``."""
    facts = json.loads(str(null_table._windows()["facts"]))
    assert facts["min_tail"] == MIN_TAIL
    for estimator in ("hill", "ks"):
        for shape in ((64, 64), (100, 400), (384, 1536)):
            whole = null_table.null_of(estimator, *shape)
            one, ten = (null_table.pooled_null_of(estimator, shape, k) for k in (1.0, 10.0))
            assert whole is not None and one is not None and ten is not None
            width = whole.quantile(0.84) - whole.quantile(0.16)
            assert one.quantile(0.5) == pytest.approx(whole.quantile(0.5), abs=0.2 * width)
            if estimator == "hill":  # ks takes a shorter tail of a larger pool
                assert ten.quantile(0.9) - ten.quantile(0.1) < 0.6 * width * 2.56 / 1.99
    assert null_table.pooled_null_of("tpl", (64, 64), 1.0) is None
    assert null_table.pooled_null_of("hill", (11, 64), 1.0) is None
    far = null_table.pooled_null_of("hill", (5000, 5000), 100.0)
    assert far is not None and math.isfinite(far.quantile(0.001))
