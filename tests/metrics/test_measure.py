"""One matrix through the whole pass: guards, failures, curves, compat."""

import math

import numpy as np
import pytest

import frog
from frog.metrics.measure import measure
from frog.metrics.probe import Probe
from frog.types import Settings
from tests.matrices import handle, planted

QUICK = Settings(bootstrap=0)


def random_matrix(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape) / math.sqrt(shape[1])


def test_fast_falls_back_where_the_tail_reaches_below_its_resolution() -> None:
    eigenvalues = np.random.default_rng(0).pareto(0.55, 200) + 1.0  # alpha 1.55, 5 decades
    matrix = handle(planted((300, 200), np.sort(eigenvalues)[::-1]))
    probe = Probe(matrix, Settings(precision="fast"))
    assert probe.spectrum.method == "gram64"
    exact = Probe(matrix, Settings())
    assert probe.fit.alpha == pytest.approx(exact.fit.alpha, rel=1e-9)


def test_fast_stays_fast_where_it_may() -> None:
    eigenvalues = np.sort(np.random.default_rng(1).pareto(2.0, 200) + 1.0)[::-1]
    matrix = handle(planted((300, 200), eigenvalues).astype(np.float32))
    fast, exact = Probe(matrix, Settings(precision="fast")), Probe(matrix, Settings())
    assert fast.spectrum.method == "gram32"
    assert fast.fit.alpha == pytest.approx(exact.fit.alpha, rel=1e-3)


def test_exact_asks_the_svd_for_a_rank_deficient_matrix() -> None:
    array = random_matrix((120, 80))
    array[:, 70:] = array[:, :10]
    row, _ = measure(handle(array), QUICK)
    assert row.values["matrix_rank"] == 70
    assert row.values["rank_loss"] == 10
    assert Probe(handle(array), QUICK).spectrum.method == "svd64"


def test_fast_gives_no_value_for_what_it_cannot_resolve() -> None:
    array = planted((120, 80), np.r_[np.ones(40), np.full(40, 1e-8)])
    row, _ = measure(handle(array), Settings(bootstrap=0, precision="fast"))
    assert math.isnan(row.values["sv_min"])
    assert math.isnan(row.values["matrix_rank"])
    assert row.values["stable_rank"] == pytest.approx(40, rel=1e-5)


@pytest.mark.parametrize(
    ("array", "status"),
    [
        (np.zeros((80, 60)), "degenerate"),
        (np.ones((80, 60)), "degenerate"),
        (np.outer(np.arange(1, 81.0), np.arange(1, 61.0)), "degenerate"),
        (np.eye(60), "degenerate"),
        (np.ones((1, 60)), "too_few"),
        (random_matrix((60, 10)), "too_few"),
    ],
)
def test_matrices_without_a_tail(array: np.ndarray, status: str) -> None:
    row, _ = measure(handle(array), QUICK)
    assert math.isnan(row.values["alpha"])
    assert row.fit_status in (status, "too_few")
    assert row.values["norm"] == pytest.approx((array**2).sum())
    assert not row.failed


@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_nonfinite_is_counted_and_left_out(precision: str) -> None:
    array = random_matrix((90, 70)).astype(np.float32)
    array[1, 2], array[3, 4], array[5, 6] = np.nan, np.inf, -np.inf
    row, findings = measure(handle(array), Settings(precision=precision))
    assert row.failed
    assert row.verdicts == ("nonfinite",)
    assert findings[0].value == 3
    assert all(math.isnan(row.values[name]) for name in ("alpha", "norm", "stable_rank"))


def test_float32_overflow_of_the_gram_is_not_called_nonfinite() -> None:
    array = (random_matrix((90, 70)) * 1e25).astype(np.float32)
    row, _ = measure(handle(array), Settings(precision="fast", bootstrap=0))
    assert row.fit_status == "ok"


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_alpha_does_not_depend_on_scale(scale: float) -> None:
    array = planted((300, 200), np.sort(np.random.default_rng(5).pareto(2.0, 200) + 1)[::-1])
    plain, _ = measure(handle(array), QUICK)
    scaled, _ = measure(handle(array * scale), QUICK)
    assert scaled.values["alpha"] == pytest.approx(plain.values["alpha"], rel=1e-9)
    assert scaled.verdicts == plain.verdicts


def test_curve_is_exact_in_the_tail_and_small() -> None:
    array = random_matrix((900, 700))
    row, _ = measure(handle(array), QUICK)
    assert row.curve is not None
    eigenvalues = np.linalg.svd(array, compute_uv=False) ** 2
    assert row.curve["eigenvalue"][:128] == pytest.approx(eigenvalues[:128], rel=1e-9)
    assert len(row.curve["eigenvalue"]) <= 256
    assert row.curve["survival"][0] == pytest.approx(1 / 700)
    assert row.curve["eigenvalue"][-1] == pytest.approx(eigenvalues[-1], rel=1e-9)


def test_spectra_are_kept_on_request() -> None:
    row, _ = measure(handle(random_matrix((90, 70))), Settings(bootstrap=0, save_spectra=True))
    assert row.spectrum is not None
    assert len(row.spectrum) == 70


def test_what_is_drawn_is_drawn_by_the_seed_and_only_when_asked() -> None:
    array = planted((500, 400), np.sort(np.random.default_rng(0).pareto(2.0, 400) + 1)[::-1])
    plain = measure(handle(array), QUICK)[0].values
    assert math.isnan(plain["alpha_low"])
    assert math.isnan(plain["goodness"])
    drawn = Settings(bootstrap=50, goodness=40)
    first, again = (measure(handle(array), drawn)[0].values for _ in range(2))
    other = measure(handle(array), Settings(bootstrap=50, goodness=40, seed=1))[0].values
    assert first["alpha_low"] < first["alpha"] < first["alpha_high"]
    assert 0.0 <= first["goodness"] <= 1.0
    assert (first["alpha_low"], first["goodness"]) == (again["alpha_low"], again["goodness"])
    assert first["alpha_low"] != other["alpha_low"]
    assert {k: first[k] for k in ("alpha", "D", "sigma")} == {
        k: plain[k] for k in ("alpha", "D", "sigma")
    }


def test_alpha_hat_and_alpha_norm_by_their_formulas() -> None:
    array = planted((300, 200), np.sort(np.random.default_rng(7).pareto(1.5, 200) + 1)[::-1])
    values = measure(handle(array), QUICK)[0].values
    eigenvalues = np.linalg.svd(array, compute_uv=False) ** 2
    alpha = values["alpha"]
    assert values["alpha_weighted"] == pytest.approx(alpha * math.log10(eigenvalues[0]))
    assert values["log_alpha_norm"] == pytest.approx(math.log10((eigenvalues**alpha).sum()))


def test_minilm_reports_every_parameter_and_finds_the_unused_pooler(minilm: object) -> None:
    report = frog.analyze(minilm, Settings(bootstrap=0))
    assert sum(x.params for x in report.layers if x.role != "buffer") == 22_713_216
    pooler = next(x for x in report.layers if x.name == "pooler.dense.weight")
    assert "untrained" in pooler.verdicts
    trained = [x for x in report.measured if "encoder" in x.name and "trained" in x.verdicts]
    assert len(trained) >= 30
