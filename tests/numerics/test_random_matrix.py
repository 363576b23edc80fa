"""The null: sampler, bulk, table and looks, each against a plain twin or a closed form."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from frog.errors import UsageError
from frog.numerics.null_table import beyond_table, facts, null_of
from frog.numerics.powerlaw import MIN_TAIL, fit_power_law
from frog.numerics.random_matrix import (
    LEVEL,
    LOOKS,
    bulk_edge,
    bulk_variance,
    count_spikes,
    edge_law,
    looks,
    marchenko_pastur_edges,
    marchenko_pastur_median,
    sample_wishart_eigenvalues,
)
from frog.types import FitStatus, PowerLawFit

NO_FIT = PowerLawFit(estimator="ks", status=FitStatus.TOO_FEW)


def eigenvalues_of(matrix_mn: np.ndarray) -> np.ndarray:
    """The plain twin: eigenvalues by a singular value decomposition, descending."""
    return np.square(np.linalg.svd(matrix_mn, compute_uv=False))


def percentiles(shape, count, seed, estimator="ks"):
    """Percentiles of all looks over random matrices: uniform if the table is right."""
    rng = np.random.default_rng(seed)
    found = {}
    for _ in range(count):
        x = sample_wishart_eigenvalues(shape, rng)
        fit = fit_power_law(x, shape=shape, estimator=estimator, extras=False)
        for name, look in looks(x, shape, fit).items():
            found.setdefault(name, []).append(look.percentile / 100)
    return found


class TestSampler:
    @pytest.mark.parametrize("shape", [(12, 12), (20, 60), (60, 20), (40, 44)])
    def test_same_distribution_as_dense_gaussian_matrices(self, shape):
        rng = np.random.default_rng(11)
        model = np.array([sample_wishart_eigenvalues(shape, rng) for _ in range(1500)])
        dense = np.array([eigenvalues_of(rng.standard_normal(shape)) for _ in range(1500)])
        numbers = (
            lambda x: x[:, 0],
            lambda x: x[:, -1],
            lambda x: x.sum(axis=1),
            lambda x: x[:, x.shape[1] // 2],
            lambda x: x.sum(axis=1) / x[:, 0],
        )
        for number in numbers:
            assert stats.ks_2samp(number(model), number(dense)).pvalue > 1e-3

    def test_moments(self):
        """E tr A = N r and E tr A^2 = N r (N + r + 1) for real Wishart matrices."""
        rng = np.random.default_rng(3)
        x = np.array([sample_wishart_eigenvalues((30, 70), rng) for _ in range(4000)])
        first, second = x.sum(axis=1), np.square(x).sum(axis=1)
        assert abs(first.mean() - 2100) < 4 * first.std() / math.sqrt(4000)
        assert abs(second.mean() - 2100 * 101) < 4 * second.std() / math.sqrt(4000)

    def test_descending_variance_and_one_row(self):
        a = sample_wishart_eigenvalues((40, 50), np.random.default_rng(0))
        b = sample_wishart_eigenvalues((50, 40), np.random.default_rng(0), variance=9.0)
        assert (np.diff(a) <= 0).all()
        np.testing.assert_allclose(b, 9.0 * a)
        assert sample_wishart_eigenvalues((1, 5), np.random.default_rng(0)).shape == (1,)


class TestBulk:
    @pytest.mark.parametrize("c", [1.0, 0.98, 0.5, 0.1, 0.003])
    def test_median_against_the_integrated_density(self, c):
        from scipy.integrate import quad

        low, high = (1 - math.sqrt(c)) ** 2, (1 + math.sqrt(c)) ** 2
        median = marchenko_pastur_median(round(c * 1000), 1000)

        def density(x):
            return math.sqrt(max((high - x) * (x - low), 0.0)) / (2 * math.pi * c * x)

        assert quad(density, median, high)[0] == pytest.approx(0.5, abs=1e-6)

    @pytest.mark.parametrize("shape", [(400, 400), (400, 1000), (60, 5000)])
    def test_edges_and_variance_of_random_matrices(self, shape):
        x = sample_wishart_eigenvalues(shape, np.random.default_rng(1), variance=0.04)
        low, high = marchenko_pastur_edges(shape, variance=0.04)
        assert bulk_variance(x, shape) == pytest.approx(0.04, rel=0.03)
        assert x[0] == pytest.approx(high, rel=0.05)
        assert x[-1] == pytest.approx(low, rel=0.1, abs=1e-3 * high)

    def test_variance_does_not_see_the_size_of_spikes(self):
        x = sample_wishart_eigenvalues((200, 400), np.random.default_rng(2))
        spiked = x.copy()
        spiked[:10] *= 1e6
        assert bulk_variance(spiked, (200, 400)) == bulk_variance(x, (200, 400))

    def test_planted_spikes_are_counted(self):
        rng = np.random.default_rng(4)
        noise = rng.standard_normal((200, 500))
        u, v = rng.standard_normal((200, 7)), rng.standard_normal((500, 7))
        u, v = np.linalg.qr(u)[0], np.linalg.qr(v)[0]
        strong = noise + 60.0 * u @ v.T
        weak = noise + 5.0 * u @ v.T  # below (mn)^(1/4) = 17.8: no method can see it
        assert count_spikes(eigenvalues_of(strong), (200, 500)) == 7
        assert count_spikes(eigenvalues_of(weak), (200, 500)) == 0
        assert count_spikes(eigenvalues_of(noise), (200, 500)) == 0

    def test_mostly_zero_spectrum_has_an_edge_above_rounding(self):
        x = np.zeros(100)
        x[:3] = (1.0, 0.5, 0.25)
        assert bulk_variance(x, (100, 300)) == 0.0
        assert 0.0 < bulk_edge(x, (100, 300)) < 1e-12
        assert count_spikes(x, (100, 300)) == count_spikes(x[:3], (100, 300)) == 3


class TestTable:
    def test_made_with_the_estimator_as_it_is(self):
        """If this fails: run tools/make_null_table.py again."""
        assert facts()["min_tail"] == MIN_TAIL

    @pytest.mark.parametrize("shape", [(2000, 2000), (1500, 4000), (2000, 60000)])
    @pytest.mark.parametrize(("p", "quantile"), [(0.05, -3.18), (0.5, -1.27), (0.95, 0.98)])
    def test_largest_eigenvalue_follows_tracy_widom(self, p, quantile, shape):
        """Order 1: Johnstone 2001, table 1. The noise of the bulk variance dies out slowly."""
        for name, tolerance in (("top_trace", 0.1), ("top_bulk", 0.2)):
            null = null_of(name, *shape)
            assert null is not None
            assert null.quantile(p) == pytest.approx(quantile, abs=tolerance), name

    @pytest.mark.parametrize("shape", [(33, 33), (55, 60), (100, 220), (40, 3000), (150, 151)])
    @pytest.mark.parametrize("estimator", ["ks", "hill"])
    def test_between_grid_points(self, shape, estimator):
        """Percentiles of fresh matrices at shapes off the grid are uniform."""
        found = percentiles(shape, 800, 20, estimator)
        for name in ("stable_rank", "alpha"):
            assert stats.kstest(found[name], "uniform").pvalue > 1e-3, name

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(384, 384), (512, 512), (300, 1100), (700, 900)])
    def test_between_grid_points_large(self, shape):
        found = percentiles(shape, 600, 21)
        for name in ("stable_rank", "alpha"):
            assert stats.kstest(found[name], "uniform").pvalue > 1e-3, name

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(384, 384), (512, 512), (300, 1100), (700, 900)])
    def test_hill_of_large_matrices_is_never_too_narrow(self, shape):
        """Its spread falls below what the table can follow; there the table is wider."""
        found = np.array(percentiles(shape, 400, 22, "hill")["alpha"])
        assert 0.35 < np.median(found) < 0.65
        assert ((found < 0.02) | (found > 0.98)).mean() < 0.06

    @pytest.mark.slow
    @pytest.mark.parametrize("shape", [(30, 30), (64, 64), (90, 400), (128, 130)])
    def test_share_outside_is_the_level(self, shape):
        """At a level of 6 %: 2 % a look, 2000 matrices, five standard errors."""
        rng = np.random.default_rng(7)
        outside = dict.fromkeys(LOOKS, 0)
        for _ in range(2000):
            x = sample_wishart_eigenvalues(shape, rng)
            fit = fit_power_law(x, shape=shape, extras=False)
            for name, look in looks(x, shape, fit, level=0.06).items():
                outside[name] += look.outside
        for name, count in outside.items():
            assert abs(count - 40) < 5 * math.sqrt(40), name

    def test_beyond_the_grid(self):
        null, last = null_of("ks", 20000, 20000), null_of("ks", 4096, 4096)
        assert null is not None and last is not None
        assert beyond_table("ks", (20000, 20000)) and not beyond_table("ks", (4096, 9000))
        assert not beyond_table("top_trace", (20000, 20000))
        assert null.quantile(0.1) < null.quantile(0.5) < null.quantile(0.9)
        spread = last.quantile(0.9) - last.quantile(0.1)
        assert null.quantile(0.9) - null.quantile(0.1) == pytest.approx(spread)
        assert null_of("tpl", 384, 384) is None
        assert null_of("ks", 20, 384) is None

    @given(
        r=st.integers(28, 9000),
        ratio=st.floats(1.0, 500.0),
        name=st.sampled_from(["top_trace", "top_bulk", "ks", "hill"]),
        p=st.floats(1e-6, 1 - 1e-6),
    )
    @settings(deadline=None)
    def test_quantile_and_percentile_are_inverse_and_rise(self, r, ratio, name, p):
        null = null_of(name, r, round(r * ratio))
        assert null is not None
        assert null.percentile(null.quantile(p)) == pytest.approx(100 * p, rel=1e-5)
        assert (np.diff(null.values) > 0).all()


class TestLooks:
    @given(
        scale=st.floats(-60, 60),
        seed=st.integers(0, 5),
        shape=st.sampled_from([(50, 50), (60, 200), (30, 41)]),
    )
    @settings(deadline=None, max_examples=30)
    def test_neither_scale_nor_transposition_matters(self, scale, seed, shape):
        x = sample_wishart_eigenvalues(shape, np.random.default_rng(seed))
        base = looks(x, shape, fit_power_law(x, shape=shape))
        y, turned = x * 10.0**scale, shape[::-1]
        other = looks(y, turned, fit_power_law(y, shape=turned))
        assert set(base) == set(other) == set(LOOKS)
        for name, look in base.items():
            assert other[name].value == pytest.approx(look.value, rel=1e-9)
            assert other[name].percentile == pytest.approx(look.percentile, rel=1e-6)
            assert (other[name].low, other[name].high) == (look.low, look.high)

    def test_percentiles_rise_with_the_value(self):
        shape = (64, 256)
        x = sample_wishart_eigenvalues(shape, np.random.default_rng(0))
        ranks, alphas = [], []
        for factor in np.geomspace(0.9, 30, 40):
            y = np.concatenate([[x[0] * factor], x[1:]])
            ranks.append(looks(y, shape, NO_FIT)["stable_rank"])
        for alpha in np.geomspace(1.01, 300, 40):
            fit = PowerLawFit(estimator="ks", status=FitStatus.OK, alpha=alpha)
            alphas.append(looks(x, shape, fit)["alpha"])
        for found in (ranks, alphas):
            found.sort(key=lambda look: look.value)
            places = [look.percentile for look in found]
            assert places == sorted(places)
            assert places[0] >= 0.0 and places[-1] <= 100.0
            inside = [LEVEL / 6 <= p / 100 <= 1 - LEVEL / 6 for p in places]
            assert inside == [not look.outside for look in found]

    def test_learnt_structure_is_outside(self):
        rng = np.random.default_rng(8)
        matrix = rng.standard_normal((96, 160)) + np.outer(
            rng.standard_normal(96), rng.standard_normal(160)
        )
        x = eigenvalues_of(matrix)
        found = looks(x, (96, 160), fit_power_law(x, shape=(96, 160)))
        assert found["stable_rank"].value < found["stable_rank"].low
        assert found["spikes"].value == 1.0

    def test_orthogonal_matrix_is_flatter_than_random(self):
        found = looks(np.ones(64), (64, 64), NO_FIT)
        assert found["stable_rank"].value == 64.0 > found["stable_rank"].high
        assert found["spikes"].value == 0.0

    def test_a_smaller_level_is_wider(self):
        x = sample_wishart_eigenvalues((64, 64), np.random.default_rng(0))
        fit = fit_power_law(x, shape=(64, 64))
        wide, narrow = (looks(x, (64, 64), fit, level=level) for level in (1e-4, 0.1))
        for name in ("stable_rank", "alpha"):
            assert wide[name].low < narrow[name].low < narrow[name].high < wide[name].high
        with pytest.raises(UsageError, match="level must be between 0 and 1, got 3"):
            looks(x, (64, 64), fit, level=3)

    @pytest.mark.parametrize(
        ("eigenvalues", "shape", "names"),
        [
            ([], (5, 7), set()),
            ([0.0, 0.0], (2, 9), set()),
            ([math.nan] * 3, (3, 3), set()),
            ([math.inf, 1.0], (2, 3), set()),
            ([4.0], (1, 50), set()),
            ([4.0, 1.0, 1.0], (3, 50), set()),
            ([4.0, 1.0, 1.0, 0.0], (4, 50), {"stable_rank"}),
            ([4.0] + [0.0] * 63, (64, 64), {"stable_rank", "spikes"}),
            ([4.0, 3.0], (64, 64), {"stable_rank", "spikes"}),
        ],
    )
    def test_odd_spectra(self, eigenvalues, shape, names):
        found = looks(np.array(eigenvalues), shape, NO_FIT)
        assert set(found) == names
        assert all(math.isfinite(look.percentile) for look in found.values())

    def test_rank_one_is_outside(self):
        found = looks(np.array([4.0] + [0.0] * 63), (64, 64), NO_FIT)
        assert found["stable_rank"].outside and found["spikes"].outside
        assert (found["stable_rank"].percentile, found["spikes"].value) == (0.0, 1.0)

    def test_alpha_of_another_law_has_no_null(self):
        x = sample_wishart_eigenvalues((64, 64), np.random.default_rng(0))
        truncated = PowerLawFit(estimator="tpl", status=FitStatus.OK, alpha=3.0)
        assert "alpha" not in looks(x, (64, 64), truncated)

    def test_width_of_the_edge_law(self):
        """For N = r the width tends to 2^(4/3) r^(1/3), the centre to 4 r."""
        centre, width = edge_law((10**6, 10**6))
        assert centre / 4e6 == pytest.approx(1, rel=1e-5)
        assert width / (2 ** (4 / 3) * 100) == pytest.approx(1, rel=1e-5)
