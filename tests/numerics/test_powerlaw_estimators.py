"""The Hill and the truncated estimator: by hand, by truth, by the likelihood itself."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.integrate import quad

from frog.numerics.powerlaw import fit_power_law
from frog.numerics.truncated import fit_truncated
from frog.types import FitStatus


def test_hill_by_hand():
    fit = fit_power_law(np.array([1.0, 2.0, 4.0, 8.0, 16.0]), estimator="hill", min_tail=2)
    # n = 5: the tail starts at index 2, at 4; logs over 4: 0, ln 2, 2 ln 2.
    assert fit.alpha == pytest.approx(1.0 + 3.0 / (3.0 * math.log(2.0)))
    assert (fit.xmin, fit.n_tail) == (4.0, 3)
    assert fit.without_top == pytest.approx(1.0 + 2.0 / math.log(2.0))


@pytest.mark.parametrize("aspect", [1, 2, 8])
def test_hill_of_random_matrices_is_known(aspect):
    # The tail of a random matrix depends on its shape alone: what alpha says of it is geometry.
    rng = np.random.default_rng(9)
    alphas = []
    for _ in range(8):
        g = rng.standard_normal((512, 512 // aspect))
        alphas.append(fit_power_law(np.linalg.eigvalsh(g.T @ g), estimator="hill").alpha)
    assert np.mean(alphas) == pytest.approx({1: 2.13, 2: 2.70, 8: 4.54}[aspect], abs=0.2)


def test_truncated_law_finds_its_parameters():
    rng = np.random.default_rng(10)
    t = rng.pareto(0.8, 200_000) + 1.0
    t = np.sort(t[rng.random(len(t)) < np.exp(-0.05 * (t - 1.0))])
    fit = fit_truncated(3.0 * t)
    assert abs(fit.alpha - 1.8) < 4.0 * fit.stderr
    assert fit.rate == pytest.approx(0.05 / 3.0, rel=0.05)
    assert fit.ks < 2.0 / math.sqrt(len(t))


def test_truncated_law_beats_its_neighbours():
    rng = np.random.default_rng(11)
    t = np.sort(rng.pareto(1.5, 3000) + 1.0)
    t = t[t < 20.0]
    fit = fit_truncated(t)
    r = fit.rate * fit.xmin

    def likelihood(a, r):
        constant, _ = quad(lambda v: v**-a * math.exp(-r * v), 1.0, np.inf)
        return -math.log(constant) - a * np.log(t / t[0]).mean() - r * (t / t[0]).mean()

    best = likelihood(fit.alpha, r)
    for da, dr in [(0.01, 0), (-0.01, 0), (0, 0.003), (0, -0.003), (0.01, -0.003)]:
        assert likelihood(fit.alpha + da, r + dr) < best


def test_truncated_law_without_a_cut_off_is_the_plain_one():
    fit = fit_power_law(np.append(np.geomspace(1.0, 10.0, 200), 1e6), estimator="tpl")
    plain = fit_power_law(np.append(np.geomspace(1.0, 10.0, 200), 1e6))
    if fit.rate == 0.0:
        assert fit.alpha == pytest.approx(plain.alpha)


def test_truncated_law_without_optimum():
    # A tail far thinner than any power: a narrow half-normal would need a negative alpha.
    fit = fit_truncated(np.linspace(1.0, 1.5, 200))
    assert fit.status is FitStatus.NO_OPTIMUM
    assert math.isnan(fit.alpha)
