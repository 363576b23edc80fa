"""The bulk: planted variance and planted spikes come back, for every aspect ratio."""

from __future__ import annotations

import math

import numpy as np
import pytest

from frog.numerics.bulk_fit import BulkFit, fit_bulk, marchenko_pastur_cdf
from frog.numerics.random_matrix import marchenko_pastur_edges, sample_wishart_eigenvalues

SHAPES = [(200, 200), (200, 400), (150, 1500), (100, 30_000)]


def spiked(shape: tuple[int, int], spikes: int, strength: float, seed: int = 0) -> np.ndarray:
    """Eigenvalues of noise of variance 0.04 plus equal singular values, strength over the limit."""
    rng = np.random.default_rng(seed)
    m, n = shape
    noise = 0.2 * rng.standard_normal(shape)
    u = np.linalg.qr(rng.standard_normal((m, spikes)))[0]
    v = np.linalg.qr(rng.standard_normal((n, spikes)))[0]
    size = strength * 0.2 * (m * n) ** 0.25
    return np.linalg.svd(noise + size * u @ v.T, compute_uv=False) ** 2


@pytest.mark.parametrize("shape", SHAPES)
def test_a_random_matrix_is_all_bulk(shape):
    x = sample_wishart_eigenvalues(shape, np.random.default_rng(1), variance=0.04)
    fit = fit_bulk(x, shape)
    assert fit.variance == pytest.approx(0.04, rel=0.03)
    assert (fit.low, fit.high) == pytest.approx(marchenko_pastur_edges(shape, fit.variance))
    assert fit.spikes == 0
    assert fit.share == pytest.approx(1.0)
    assert fit.ks < 0.03


@pytest.mark.parametrize("shape", SHAPES[:3])
@pytest.mark.parametrize("spikes", [1, 10, 30])
def test_planted_spikes_are_counted_and_do_not_move_the_bulk(shape, spikes):
    x = spiked(shape, spikes, strength=3.0)
    fit = fit_bulk(x, shape)
    assert fit.spikes == spikes
    assert fit.variance == pytest.approx(0.04, rel=0.04)
    assert fit.share == pytest.approx(x[spikes:].sum() / x.sum())
    huge = fit_bulk(np.append(x[:spikes] * 1e6, x[spikes:]), shape)
    assert huge.spikes == spikes
    assert huge.variance == pytest.approx(fit.variance, rel=1e-3)


def test_spikes_below_the_limit_cannot_be_seen():
    assert fit_bulk(spiked((200, 400), 1, strength=0.8), (200, 400)).spikes == 0


def test_a_spectrum_without_a_bulk_says_so():
    x = np.sort(np.random.default_rng(0).pareto(0.7, 300) + 1.0)[::-1]
    assert fit_bulk(x, (300, 900)).ks > 0.05  # random: 0.01


@pytest.mark.parametrize("scale", [1e-200, 1e-12, 1.0, 1e12, 1e200])
def test_scale_goes_through(scale):
    x = spiked((60, 90), 3, 3.0)
    plain, scaled = fit_bulk(x, (60, 90)), fit_bulk(x * scale, (60, 90))
    assert scaled.variance == pytest.approx(plain.variance * scale, rel=1e-9)
    assert (scaled.spikes, scaled.ks) == (plain.spikes, pytest.approx(plain.ks, abs=1e-9))


@pytest.mark.parametrize(
    "values",
    [np.zeros(20), np.full(20, np.nan), np.append(np.inf, np.ones(19)), np.ones(5), np.empty(0)],
)
def test_no_bulk_is_nan_throughout(values):
    assert all(math.isnan(getattr(fit_bulk(values, (20, 30)), x)) for x in BulkFit.__slots__)


def test_few_rows_have_no_bulk():
    assert math.isnan(fit_bulk(np.arange(7.0, 0.0, -1.0), (7, 9)).variance)


@pytest.mark.parametrize("shape", [(100, 100), (100, 250), (10, 10_000)])
def test_the_law_against_its_density(shape):
    """Slow twin: the density of the law, integrated by the trapezium rule."""
    low, high = marchenko_pastur_edges(shape)
    c, big = shape[0] / shape[1], shape[1]
    t = np.linspace(0.0, math.pi, 200_001)
    x = 0.5 * (low + high) - 0.5 * (high - low) * np.cos(t)
    inner = np.maximum((high - x) * (x - low), 0.0)
    step = np.diff(x)
    with np.errstate(divide="ignore", invalid="ignore"):
        density = np.nan_to_num(np.sqrt(inner) / (2 * math.pi * c * big * x), posinf=0.0)
    expected = np.append(0.0, np.cumsum(0.5 * step * (density[1:] + density[:-1])))
    np.testing.assert_allclose(marchenko_pastur_cdf(x, shape), expected, atol=2e-4)
