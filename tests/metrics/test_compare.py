"""Reports alone become a comparison: differences, findings, means, and one sentence."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from frog.errors import UsageError
from frog.metrics.changes import verdict_of_series
from frog.metrics.compare import NEEDS_WEIGHTS, Weighing, compare_reports
from frog.numerics.drift import Change
from frog.types import Finding, LayerReport, ModelReport, Overlap, Pair, Pathway, Settings


def layer(name: str, alpha: float = 3.0, half: float = 0.5, **facts: object) -> LayerReport:
    values = {
        "alpha": alpha, "alpha_low": alpha - half, "alpha_high": alpha + half, "norm": 100.0,
        "log_norm": 2.0, "log_spectral_norm": 1.0, "entropy": 0.9, "matrix_rank": 50.0,
    }  # fmt: skip
    given = {
        "name": name, "kind": "linear", "role": "q", "block": 0, "shape": (50, 50),
        "dtype": "float32", "params": 2500, "values": values, "digest": f"{name}{alpha}",
        **facts,
    }  # fmt: skip
    return LayerReport(**given)  # type: ignore[arg-type]


def report(*layers: LayerReport, **facts: object) -> ModelReport:
    given = {"path": "m", "digest": "d", "format": "f", "frog_version": "0", "layers": layers,
             "settings": Settings(), "summary": {"alpha": 3.0, "layers": 2}, **facts}  # fmt: skip
    return ModelReport(**given)  # type: ignore[arg-type]


def finding(kind: str, name: str, **facts: object) -> Finding:
    given = {"kind": kind, "certainty": "certain", "severity": "warning", "layer": name,
             "value": 0.0, "threshold": 0.0, "text": f"{name} is {kind}", **facts}  # fmt: skip
    return Finding(**given)  # type: ignore[arg-type]


def test_what_needs_weights_is_nan_with_that_reason() -> None:
    made = compare_reports(report(layer("a", 3.0)), report(layer("a", 4.0)))
    row = made.layers[0]
    assert math.isnan(row.drift) and math.isnan(row.intruders) and math.isnan(row.rotation_left)
    assert set(row.missing.values()) == {NEEDS_WEIGHTS}
    assert set(row.missing) == {
        "drift", "spectral_share", "rotation_left", "rotation_right", "intruders",
    }  # fmt: skip
    assert "need weights" in made.verdict and not made.before.weights


def test_values_and_their_differences_and_the_joint_interval_of_alpha() -> None:
    made = compare_reports(report(layer("a", 3.0, 0.3)), report(layer("a", 4.0, 0.4)))
    row = made.layers[0]
    assert row.before["alpha"] == 3.0 and row.after["alpha"] == 4.0 and row.change["alpha"] == 1.0
    assert (row.alpha_change_low, row.alpha_change_high) == pytest.approx((0.5, 1.5))
    assert made.summary["alpha_before"] == 3.0 and made.summary["alpha_change"] == 0.0
    assert "alpha changed beyond its interval in 1 (median +1)" in made.verdict


def test_identical_bytes_are_exactly_unchanged() -> None:
    made = compare_reports(report(layer("a")), report(layer("a")))
    row = made.layers[0]
    assert row.identical and row.drift == 0.0 and row.rotation_left == 0.0 and row.intruders == 0.0
    assert row.alpha_change_low == row.alpha_change_high == 0.0
    assert row.missing == {"spectral_share": "nothing changed"}
    assert made.verdict == "Nothing changed: the layer is identical."


def test_layers_without_digest_are_not_taken_for_identical() -> None:
    made = compare_reports(report(layer("a", digest="")), report(layer("a", digest="")))
    assert not made.layers[0].identical


@pytest.mark.parametrize(
    "name, value", [("estimator", "hill"), ("window", "farms"), ("compat", "weightwatcher")]
)
def test_numbers_of_different_kinds_are_refused(name: str, value: str) -> None:
    other = report(layer("a"), settings=replace(Settings(), **{name: value}))
    with pytest.raises(UsageError, match=f"same {name}"):
        compare_reports(report(layer("a")), other)


def test_a_part_of_a_report_is_refused() -> None:
    with pytest.raises(UsageError, match="part 1 of 2"):
        compare_reports(report(layer("a")), report(layer("a"), shard=(1, 2)))


def test_small_differences_of_settings_are_told() -> None:
    other = report(layer("a"), settings=Settings(bootstrap=20, precision="fast"))
    assert "precision, bootstrap" in compare_reports(report(layer("a")), other).notes[-1]


def test_new_findings_are_reported_and_known_ones_are_not() -> None:
    before = report(layer("a", 3.0), layer("b", 3.0), findings=(finding("correlation-trap", "b"),))
    after = report(
        layer("a", 4.0),
        layer("b", 4.0),
        findings=(finding("correlation-trap", "a"), finding("correlation-trap", "b"),
                  finding("trained", "a", severity="info")),
    )  # fmt: skip
    made = compare_reports(before, after)
    assert [(x.kind, x.layer) for x in made.findings] == [("correlation-trap", "a")]
    assert made.findings[0].text.startswith("new: ")
    assert "new correlation traps in a" in made.verdict


def test_a_possible_verdict_that_becomes_certain_is_news() -> None:
    before = report(layer("a", 3.0), findings=(finding("over-trained", "a", certainty="possible"),))
    after = report(layer("a", 4.0), findings=(finding("over-trained", "a"),))
    assert [x.text for x in compare_reports(before, after).findings] == [
        "certain now: a is over-trained"
    ]
    assert not compare_reports(after, replace(before, layers=after.layers)).findings


def test_a_verdict_on_alpha_that_hardly_moved_is_only_possible() -> None:
    crossed = finding("over-trained", "a", value=1.9, threshold=2.0)
    after = report(layer("a", 1.9, 0.3), findings=(crossed,))
    made = compare_reports(report(layer("a", 2.05, 0.3)), after)
    assert [(x.certainty, x.severity) for x in made.findings] == [("possible", "info")]
    assert "may not have changed" in made.findings[0].text
    sure = compare_reports(report(layer("a", 3.5, 0.3)), after)
    assert [(x.certainty, x.severity) for x in sure.findings] == [("certain", "warning")]


def test_nonfinite_layers_are_errors_and_have_no_numbers() -> None:
    nan = dict.fromkeys(layer("a").values, math.nan)
    bad = layer("a", values=nan, digest="x", fit_status="nonfinite")
    after = report(bad, layer("b", 4.0), findings=(finding("nonfinite", "a", severity="error"),))
    made = compare_reports(report(layer("a"), layer("b")), after)
    assert made.findings[0].severity == "error" and "NaN or Inf in a" in made.verdict
    assert math.isnan(made.layers[0].change["alpha"]) and made.layers[0].scale == ""


def changed(**facts: float) -> Weighing:
    values = {"drift": 0.01, "spectral_share": 0.3, "rotation_left": 0.0, "rotation_right": 0.0,
              "intruders": 0.0, **facts}  # fmt: skip
    return Weighing(weights=(True, True), changes={"a": Change(**values, k=4)})


@pytest.mark.parametrize(
    "facts, kinds",
    [
        ({}, []),
        ({"drift": 0.6}, [("drift", "info")]),
        ({"drift": 1.5}, [("drift", "warning")]),
        ({"intruders": 2.0}, [("intruder-dimensions", "warning")]),
    ],
)
def test_findings_of_the_weights(facts: dict, kinds: list) -> None:
    made = compare_reports(report(layer("a")), report(layer("a", 3.1)), weighing=changed(**facts))
    assert [(x.kind, x.severity) for x in made.findings] == kinds
    assert ("looks healthy" in made.verdict) == all(x != "warning" for _, x in kinds)


def test_total_drift_is_that_of_all_layers_as_one_vector() -> None:
    one = Change(drift=0.3, spectral_share=1, rotation_left=0, rotation_right=0, intruders=0, k=1)
    weighing = Weighing(weights=(True, True), changes={"a": one, "b": replace(one, drift=0.4)})
    small = {**layer("b").values, "norm": 25.0}
    made = compare_reports(
        report(layer("a"), layer("b", values=small)), report(layer("a", 4.0), layer("b", 4.0)),
        weighing=weighing,
    )  # fmt: skip
    expected = math.sqrt((0.09 * 100 + 0.16 * 25) / 125)
    assert made.summary["drift_total"] == pytest.approx(expected)


def test_without_weights_there_is_no_total_drift() -> None:
    """Layers with equal bytes have drift 0 even so: they must not stand for those that changed."""
    same, old, new = layer("a", digest="1"), layer("b", digest="2"), layer("b", 4.0, digest="3")
    made = compare_reports(report(same, old), report(same, new))
    assert made.layers[0].drift == 0.0
    assert math.isnan(made.summary["drift_total"])
    assert compare_reports(report(same), report(same)).summary["drift_total"] == 0.0


def test_the_flow_is_told_of_even_where_nothing_was_lost() -> None:
    edge = Pair(writer="a", reader="b", kind="sequential", k=4, dimension=8, gain=1.0, weight=9.0)
    plain, measured = (
        report(layer("a"), layer("b")),
        replace(report(layer("a"), layer("b")), pairs=(edge,)),
    )
    assert not any("flow" in note for note in compare_reports(plain, plain).notes)
    assert any("no edges lost" in note for note in compare_reports(measured, measured).notes)
    assert any("of the model before only" in x for x in compare_reports(measured, plain).notes)


def test_zero_layers_are_left_out_and_named() -> None:
    zero = {"norm": 0.0, "log_norm": math.nan}
    dead = [layer("dead", values=zero, digest=x) for x in "12"]
    made = compare_reports(report(layer("a"), dead[0]), report(layer("a", 4.0), dead[1]))
    assert made.summary["layers_zero"] == 1
    assert "1 layer is all zero" in made.notes[0] and "dead" in made.notes[0]


def edge(weight: float, z: float = 9.0) -> Pair:
    seen = Overlap(value=0.5, expected=0.1, spread=0.01, z=z)
    return Pair(writer="a", reader="b", kind="residual", k=4, dimension=50,
                overlaps={"plain": seen}, gain=0.2, weight=weight)  # fmt: skip


@pytest.mark.parametrize("after, z, lost", [(0.3, 9.0, True), (0.8, 9.0, False), (0.3, 1.0, False)])
def test_pathways_that_lost_their_weight(after: float, z: float, lost: bool) -> None:
    path = Pathway(layers=("a", "b"), heads=(None, None), weight=1.0, weakest=1.0)
    old = report(layer("a"), layer("b"), pairs=(edge(1.0, z),), pathways=(path,))
    new = report(layer("a", 3.1), layer("b", 3.1), pairs=(edge(after),))
    kinds = [x.kind for x in compare_reports(old, new).findings]
    assert kinds == (["pathway-lost"] if lost else [])
    assert not compare_reports(replace(old, pairs=()), new).findings


def test_nothing_in_common() -> None:
    made = compare_reports(report(layer("a")), report(layer("b")))
    assert made.layers == () and list(made.only_before) == ["a"] and list(made.only_after) == ["b"]
    assert made.verdict == "Nothing to compare: the two models share no measured layer."


def test_the_sentence_of_a_series_names_where_trouble_began() -> None:
    fine = compare_reports(report(layer("a")), report(layer("a", 3.1)), weighing=changed())
    bad = compare_reports(
        report(layer("a")), report(layer("a", 3.2)), weighing=changed(intruders=3.0, drift=0.02)
    )
    assert verdict_of_series(["x", "y"], [fine]).endswith("no new verdict at any of them.")
    text = verdict_of_series(["x", "y", "z"], [fine, bad])
    assert "first trouble at z" in text and "2 %" in text and text.startswith("3 models")
