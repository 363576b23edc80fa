"""The search for the tail against a slow twin; planted truth, invariances, statuses."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.errors import UnknownName, UsageError
from frog.numerics.powerlaw import (
    BAND,
    MIN_TAIL,
    fit_power_law,
    fit_weightwatcher,
)
from frog.numerics.tail_batch import best_distances, best_tails
from frog.numerics.tail_scan import TailScan
from frog.types import FitStatus

from .spectra_families import FAMILIES, bulk_and_spikes

spectra = st.builds(
    lambda family, n, seed: np.sort(family(np.random.default_rng(seed), n)),
    st.sampled_from(FAMILIES),
    st.integers(6, 300),
    st.integers(0, 10_000),
)


# ------------------------------------------------------------------------------ slow twin


def plain_scan(logs, min_tail, resolution=0.0):
    """b and D of every start by the definition, one loop, no bounds."""
    n = len(logs)
    slopes, distances = np.zeros(n), np.ones(n)
    total = 0.0
    sums = np.zeros(n)
    for i in range(n - 2, -1, -1):
        total += (logs[i + 1] - logs[i]) * (n - 1 - i)
        sums[i] = total
    for i in range(n - min_tail + 1):
        if logs[-1] - logs[i] <= resolution or sums[i] <= 0.0:
            continue
        size = n - i
        slopes[i] = size / sums[i]
        model = 1.0 - np.exp(-slopes[i] * (logs[i:] - logs[i]))
        distances[i] = np.abs(model - np.arange(size) / size).max()
    return slopes, distances


@settings(max_examples=150, deadline=None)
@given(spectra, st.sampled_from([2, 5, 20]))
def test_search_equals_the_slow_twin(x, min_tail):
    fit = fit_power_law(x, min_tail=min_tail)
    slopes, distances = plain_scan(np.log(x / x[-1]), min_tail, np.finfo(float).eps * len(x))
    if len(x) < min_tail:
        assert fit.status is FitStatus.TOO_FEW
        return
    if not slopes.any():
        assert fit.status is FitStatus.DEGENERATE
        return
    start = int(distances.argmin())
    assert fit.xmin == x[start]
    assert fit.n_tail == len(x) - start
    assert fit.ks == distances[start]
    assert fit.alpha == 1.0 + slopes[start]
    within = slopes[(distances <= BAND * fit.ks) & (slopes > 0)]
    assert (fit.band_low, fit.band_high) == (1.0 + within.min(), 1.0 + within.max())
    away = (slopes > 0) & (np.abs(slopes - slopes[start]) > fit.stderr * (1 + 1e-9))
    if away.any():
        assert fit.ks_gap == pytest.approx(distances[away].min() - fit.ks, abs=1e-15)
    shorter = np.log(x / x[-1])[:-1]
    slopes, distances = plain_scan(shorter, min_tail, np.finfo(float).eps * len(x))
    if slopes.any():
        assert fit.without_top == 1.0 + slopes[distances.argmin()]


@settings(max_examples=60, deadline=None)
@given(spectra, st.sampled_from([2, 5, 20]), st.integers(0, 100))
def test_batch_equals_one_by_one(x, min_tail, seed):
    logs = np.log(x)
    rows = logs[np.sort(np.random.default_rng(seed).integers(len(x), size=(7, len(x))), axis=1)]
    rows -= rows[:, -1:]
    slopes, sizes = best_tails(rows, min_tail=min_tail, resolution=1e-14)
    distances = best_distances(rows, min_tail=min_tail, resolution=1e-14)
    for row, slope, size, distance in zip(rows, slopes, sizes, distances, strict=True):
        scan = TailScan(row, min_tail=min_tail, resolution=1e-14)
        start = scan.best()
        if start < 0:
            assert math.isnan(slope) and size == 0 and math.isinf(distance)
        else:
            found = (scan.slopes[start], len(x) - start, scan.distance(start))
            assert (slope, size, distance) == found


def test_first_start_wins_on_ties():
    # Two equal distances by construction: the same tail shape at both starts.
    logs = np.log(np.sort(np.repeat([1.0, 2.0, 4.0, 8.0, 16.0], 8)))
    logs -= logs[-1]
    _, distances = plain_scan(logs, 2)
    assert TailScan(logs).best() == int(distances.argmin())


# ------------------------------------------------------------------- truth and invariances


@pytest.mark.parametrize("alpha", [2.0, 3.0, 4.0, 6.0])
@pytest.mark.parametrize("estimator", ["ks", "hill", "tpl"])
def test_planted_alpha(alpha, estimator):
    rng = np.random.default_rng(1)
    x = np.exp(rng.standard_exponential(20_000) / (alpha - 1.0))
    fit = fit_power_law(x, estimator=estimator)
    assert fit.ok
    assert abs(fit.alpha - alpha) < 4.0 * fit.stderr
    assert fit.stderr < 0.06 * alpha


@pytest.mark.parametrize("factor", [1e-12, 1e-3, 0.5, 7.0, 1e12])
@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_knows_no_scale(family, factor):
    x = family(np.random.default_rng(3), 120)
    a, b = fit_power_law(x), fit_power_law(factor * x)
    assert b.alpha == pytest.approx(a.alpha, rel=1e-12)
    assert b.ks == pytest.approx(a.ks, rel=1e-12)
    assert b.xmin == pytest.approx(factor * a.xmin, rel=1e-12)
    assert b.n_tail == a.n_tail


def test_a_power_scales_alpha_less_one():
    x = np.random.default_rng(4).pareto(2.0, 300) + 1.0
    a, b = fit_power_law(x), fit_power_law(x**3)
    assert b.alpha - 1.0 == pytest.approx((a.alpha - 1.0) / 3.0, rel=1e-12)
    assert (b.ks, b.n_tail) == (pytest.approx(a.ks, rel=1e-10), a.n_tail)


def test_order_does_not_matter():
    x = np.random.default_rng(5).pareto(2.0, 100) + 1.0
    assert fit_power_law(x) == fit_power_law(np.sort(x)[::-1])


def test_extras_can_be_left_out():
    x = np.random.default_rng(6).pareto(2.0, 100) + 1.0
    full, short = fit_power_law(x), fit_power_law(x, extras=False)
    assert (short.alpha, short.xmin, short.ks) == (full.alpha, full.xmin, full.ks)
    assert math.isnan(short.band_low) and math.isnan(short.without_top)
    assert full.band_low <= full.alpha <= full.band_high and full.ks_gap >= 0.0


def test_min_tail_changes_nothing_where_the_tail_is_long_enough():
    for seed in range(20):
        x = bulk_and_spikes(np.random.default_rng(seed), 150)
        free = fit_power_law(x, min_tail=2)
        bound = fit_power_law(x)
        assert bound.n_tail >= MIN_TAIL
        if free.n_tail >= MIN_TAIL:
            assert bound.alpha == free.alpha


# ------------------------------------------------------------------------------ statuses


@pytest.mark.parametrize("estimator", ["ks", "hill", "tpl"])
@pytest.mark.parametrize(
    ("values", "status"),
    [
        ([], FitStatus.TOO_FEW),
        ([1.0, 2.0, 3.0], FitStatus.TOO_FEW),
        (np.append(np.zeros(100), np.arange(1.0, 5.0)), FitStatus.TOO_FEW),
        (np.zeros(50), FitStatus.DEGENERATE),
        (-np.ones(50), FitStatus.DEGENERATE),
        (np.ones(50), FitStatus.DEGENERATE),
        (np.linspace(1.0, 1.0 + 1e-14, 50), FitStatus.DEGENERATE),
        (np.append(np.ones(50), np.nan), FitStatus.NONFINITE),
        (np.append(np.ones(50), np.inf), FitStatus.NONFINITE),
    ],
)
def test_failures_have_a_status(values, status, estimator):
    fit = fit_power_law(np.array(values), estimator=estimator)
    assert fit.status is status
    assert not fit.ok and math.isnan(fit.alpha) and fit.n_tail == 0


def test_equal_values_at_the_top_are_no_tail():
    rng = np.random.default_rng(7)
    x = np.concatenate([rng.pareto(2.0, 80) + 1.0, np.full(40, 1e3) * (1 + 1e-16)])
    fit = fit_power_law(x)
    assert fit.ok and fit.alpha < 100.0


def test_cut_is_relative_by_default_and_absolute_on_request():
    x = np.append(np.random.default_rng(8).pareto(2.0, 99) + 1.0, 0.0) * 1e-9
    assert fit_power_law(x).ok
    assert fit_power_law(x, cut=1e-5).status is FitStatus.TOO_FEW
    assert fit_weightwatcher(x).status is FitStatus.TOO_FEW
    assert fit_power_law(x, cut=2e-9).alpha != fit_power_law(x).alpha


@pytest.mark.parametrize(
    "arguments",
    [{"min_tail": 1}, {"cut": "absolute"}, {"cut": -1.0}, {"cut": math.nan}],
)
def test_arguments_out_of_range(arguments):
    with pytest.raises(UsageError):
        fit_power_law(np.arange(1.0, 50.0), **arguments)


def test_unknown_estimator():
    with pytest.raises(UnknownName, match="Did you mean 'hill'"):
        fit_power_law(np.arange(1.0, 50.0), estimator="hil")
