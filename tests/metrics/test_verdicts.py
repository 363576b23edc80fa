"""What a user is told about a layer, for each combination of looks and alpha."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

import frog
from frog.metrics.verdicts import Evidence, judge
from frog.types import FitStatus, NullLook, PowerLawFit, Settings

FIT = PowerLawFit(
    estimator="ks", status=FitStatus.OK, alpha=3.0, band_low=2.5, band_high=3.5, n_tail=50
)
NO_FIT = PowerLawFit(estimator="ks", status=FitStatus.TOO_FEW)


def look(name, value, low, high):
    return NullLook(name=name, value=value, percentile=50.0, low=low, high=high)


def null(*, stable_rank=95.0, spikes=0.0, alpha=8.0):
    return {
        "stable_rank": look("stable_rank", stable_rank, 90.0, 100.0),
        "spikes": look("spikes", spikes, 0.0, 0.0),
        "alpha": look("alpha", alpha, 3.1, 60.0),
    }


def fit(alpha, low, high):
    return replace(FIT, alpha=alpha, low=low, high=high)


@pytest.mark.parametrize(
    ("found", "layer_fit", "words", "kinds"),
    [
        # like a random matrix
        (null(), fit(8.0, 4.0, 20.0), ("untrained", "over-parameterised"), ["certain"]),
        (null(), fit(5.0, 4.0, 7.0), ("untrained", "over-parameterised"), ["certain"]),
        ({"stable_rank": null()["stable_rank"]}, NO_FIT, ("possibly untrained",), ["possible"]),
        # trained, alpha in the usual range
        (null(stable_rank=40.0, spikes=5.0), FIT, ("trained",), ["certain"]),
        (null(spikes=1.0), NO_FIT, ("trained",), ["certain"]),
        (null(alpha=2.9), fit(2.9, 2.5, 3.5), ("trained",), ["certain"]),
        # trained, with a light tail
        (
            null(stable_rank=40.0, alpha=8.4),
            fit(8.4, 7.1, 9.9),
            ("trained", "over-parameterised"),
            ["certain", "certain"],
        ),
        (
            null(stable_rank=40.0, alpha=8.4),
            fit(8.4, 4.1, 9.9),
            ("trained", "possibly over-parameterised"),
            ["certain", "possible"],
        ),
        # heavy tails
        (
            null(stable_rank=10.0, alpha=1.6),
            fit(1.6, 1.5, 1.8),
            ("trained", "over-trained"),
            ["certain", "certain"],
        ),
        (
            null(stable_rank=10.0, alpha=1.6),
            fit(1.6, 1.5, 2.4),
            ("trained", "possibly over-trained"),
            ["certain", "possible"],
        ),
        # flatter than random
        (null(stable_rank=300.0), NO_FIT, ("possibly trained",), ["possible"]),
        (null(alpha=80.0), fit(5.0, 4.0, 5.5), ("possibly trained",), ["possible"]),
        # no looks: a zero matrix, one row
        ({}, NO_FIT, (), []),
        ({}, fit(7.0, 6.5, 8.0), ("over-parameterised",), ["certain"]),
    ],
)
def test_words_and_certainty(found, layer_fit, words, kinds):
    got, findings = judge("layer.3", Evidence(fit=layer_fit, null=found), Settings())
    assert got == words
    assert [finding.certainty for finding in findings] == kinds
    for finding in findings:
        assert finding.layer == "layer.3" and finding.text.startswith("layer.3 ")
        assert math.isfinite(finding.value) and math.isfinite(finding.threshold)
        assert finding.severity in ("info", "warning")
        if finding.certainty == "possible" or finding.kind == "trained":
            assert finding.severity == "info"


def test_small_alpha_that_random_matrices_have_too_is_only_possible():
    found = {**null(stable_rank=10.0), "alpha": look("alpha", 1.9, 1.7, 9.0)}
    words, findings = judge("x", Evidence(fit=fit(1.9, 1.8, 1.95), null=found), Settings())
    assert words == ("trained", "possibly over-trained")
    assert "random matrices of this shape have 1.7 to 9" in findings[1].text


def test_large_alpha_names_what_the_shape_alone_gives():
    found = {**null(stable_rank=10.0), "alpha": look("alpha", 8.0, 11.0, 290.0)}
    _, findings = judge("x", Evidence(fit=fit(8.0, 7.0, 9.0), null=found), Settings())
    assert findings[1].threshold == 6.0 and findings[1].value == 8.0
    assert "random matrices of this shape have 11 to 290" in findings[1].text


@pytest.mark.parametrize(
    ("estimator", "settings"),
    [
        ("hill", Settings(estimator="hill")),
        ("tpl", Settings(estimator="tpl")),
        ("ks", Settings(window="farms")),
    ],
)
def test_thresholds_belong_to_ks_on_the_full_window(estimator, settings):
    other = replace(fit(1.2, 1.1, 1.3), estimator=estimator)
    words, _ = judge("x", Evidence(fit=other, null=null(stable_rank=40.0)), settings)
    assert words == ("trained",)


def test_the_band_makes_nothing_certain():
    layer_fit = replace(FIT, alpha=7.0, band_low=6.5, band_high=8.0)
    words, _ = judge("x", Evidence(fit=layer_fit, null=null(stable_rank=40.0)), Settings())
    assert words == ("trained", "possibly over-parameterised")


def test_an_interval_that_is_missing_is_never_certain():
    layer_fit = replace(FIT, alpha=7.0, low=math.nan, high=math.nan)
    words, findings = judge("x", Evidence(fit=layer_fit, null=null(stable_rank=40.0)), Settings())
    assert words == ("trained", "possibly over-parameterised")
    assert "nan" not in findings[1].text


@pytest.mark.parametrize(
    ("value", "threshold", "said"), [(1.8, 2.0, "possibly trained"), (2.5, 2.2, "flatter than")]
)
def test_a_shape_fair_alpha_on_either_side_of_its_null_is_no_random_matrix(value, threshold, said):
    evidence = Evidence(fit=FIT, null=null(), hill=look("alpha_hill", value, 2.0, 2.2))
    words, findings = judge("x", evidence, Settings())
    assert words == ("possibly trained",)
    assert findings[0].threshold == threshold and said in findings[0].text


def test_a_power_law_without_spikes_is_never_certainly_untrained():
    # exponent 3 over all of 128 directions: its largest value often lies inside every other null
    rng = np.random.default_rng(0)
    for _ in range(9):
        u, v = (np.linalg.qr(rng.standard_normal((128, 128)))[0] for _ in range(2))
        w = (u * np.sqrt(rng.pareto(2.0, 128) + 1.0)) @ v.T
        layer = frog.analyze({"w.weight": torch.from_numpy(w)}).layers[0]
        assert layer.values["randomness"] > 1.3
        assert "untrained" not in layer.verdicts


def test_text_of_a_trained_layer():
    _, findings = judge(
        "h.0.attn", Evidence(fit=FIT, null=null(stable_rank=41.83, spikes=51.0)), Settings()
    )
    assert findings[0].text == (
        "h.0.attn is trained: stable rank 41.8 (random: 90 to 100), "
        "eigenvalues beyond the bulk 51 (random: 0)"
    )
    assert (findings[0].value, findings[0].threshold) == (41.83, 90.0)
