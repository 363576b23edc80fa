"""The gate: each kind of rule on reports and comparisons made by hand."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from frog.errors import UsageError
from frog.metrics.gate import evaluate
from frog.types import Comparison, Finding, GateResult, LayerReport, ModelReport, Settings
from tests.metrics.policies import policy_of
from tests.report.comparisons import NAN, change, comparison, finding, layer_report, report


def layer(name: str, alpha: float, role: str = "q", params: int = 100) -> LayerReport:
    status = "too_few" if math.isnan(alpha) else "ok"
    values = {"alpha": alpha, "stable_rank": 9.0}
    return layer_report(name, 0, role=role, params=params, values=values, fit_status=status)


def model(*alphas: float, findings: tuple[Finding, ...] = (), **more: Any) -> ModelReport:
    """A model whose layers h.0, h.1, ... have these alphas; odd ones have role v."""
    layers = tuple(
        layer(f"h.{i}", alpha, role="qv"[i % 2], params=100 * (i + 1))
        for i, alpha in enumerate(alphas)
    )
    return replace(report("m", layers, findings=findings), **more)


def gated(text: str, measured: ModelReport, against: Comparison | None = None) -> GateResult:
    return evaluate(policy_of(text), measured, against)


def found(text: str, measured: ModelReport, against: Comparison | None = None) -> list[tuple]:
    """What each breach says: rule, layer, severity, value, limit."""
    result = gated(text, measured, against)
    return [(x.rule, x.layer, x.severity, x.value, x.limit) for x in result.breaches]


# ------------------------------------------------------------------------------- limits


def test_a_value_outside_its_range_is_a_breach_with_layer_value_and_limit() -> None:
    assert found("limits: {alpha: {min: 2, max: 6}}", model(1.5, 2, 6, 7)) == [
        ("limits.alpha", "h.0", "error", 1.5, 2.0),
        ("limits.alpha", "h.3", "error", 7.0, 6.0),
    ]
    (breach,) = gated("limits: {alpha: {max: 6}}", model(7)).breaches
    assert breach.text == "h.0: alpha 7 is above 6"
    assert not gated("limits: {alpha: {max: 6}}", model(7)).passed
    assert gated("limits: {alpha: {max: 7}}", model(7)).passed, "the limit itself is allowed"


def test_layers_and_roles_select() -> None:
    three = model(7, 8, 9)
    assert [x[1] for x in found("limits: {alpha: {max: 6, role: v}}", three)] == ["h.1"]
    assert [x[1] for x in found("limits: {alpha: {max: 6, layers: '[02]$'}}", three)] == [
        "h.0",
        "h.2",
    ]
    both = "limits: {alpha: {max: 6, layers: '[12]$', role: [q, k]}}"
    assert [x[1] for x in found(both, three)] == ["h.2"]


def test_a_pattern_that_matches_nothing_is_refused_with_its_line() -> None:
    with pytest.raises(UsageError, match=r"policy\.yaml:3: limits\.alpha\.layers: 'mpl'.*h\.0"):
        gated("limits:\n  alpha: {max: 6, layers: mpl}", model(3))


@pytest.mark.parametrize(
    ("of", "share", "passes"),
    [
        ("layers", 0.49, False),
        ("layers", 0.5, True),
        ("params", 0.59, False),
        ("params", 0.6, True),
    ],
)
def test_a_share_may_lie_outside(of: str, share: float, passes: bool) -> None:
    """h.1 and h.3 of four: half of the layers, 600 of 1000 parameters."""
    text = f"limits: {{alpha: {{max: 6, share: {share}, of: {of}}}}}"
    result = gated(text, model(3, 7, 3, 9))
    assert result.passed == passes
    if not passes:
        (breach,) = result.breaches
        assert breach.value == (0.5 if of == "layers" else 0.6)
        assert breach.limit == share
        assert "2 of 4 layers" in breach.text
        assert "the worst: h.3: alpha 9 is above 6" in breach.text


def test_a_missing_number_is_no_breach_but_is_told() -> None:
    result = gated("limits: {alpha: {max: 6}}", model(3, NAN, NAN))
    assert result.passed
    assert result.breaches == ()
    (note,) = result.notes
    assert note == "limits.alpha: not checked in 2 of 3 layers, which have no alpha (too few)"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("limits: {alpha: {max: 6}}", "no number named alpha (too few)"),
        ("limits: {alpha: {max: 6, role: gate}}", "no layer of role gate"),
        ("summary: {alpha_weighted: {max: 6}}", "no number named alpha_weighted"),
    ],
)
def test_a_rule_that_could_be_checked_nowhere_warns(text: str, words: str) -> None:
    measured = model(NAN, NAN)
    measured = replace(measured, summary={})
    result = gated(text, measured)
    (breach,) = result.breaches
    assert (breach.severity, result.passed) == ("warning", True)
    assert words in breach.text
    assert not gated(f"{text}\nfail_on: warning", measured).passed


def test_means_of_the_model() -> None:
    measured = replace(model(3), summary={"alpha": 5.0})
    assert found("summary: {alpha: {max: 4}}", measured) == [
        ("summary.alpha", "", "error", 5.0, 4.0)
    ]
    assert found("summary: {alpha: {min: 4}}", measured) == []


# ------------------------------------------------------------------------------- changes


def against(*changes: float, **more: Any) -> Comparison:
    """Layers whose alpha, 4 before, changed by so much."""
    return comparison(
        *(
            change(f"h.{i}", 0, before={"alpha": 4.0}, after={"alpha": 4.0 + x},
                   change={"alpha": x}, drift=abs(x) / 10)
            for i, x in enumerate(changes)
        ),
        **more,
    )  # fmt: skip


def test_changes_are_sizes_and_have_directions() -> None:
    three = model(4, 4, 4)
    moved = against(-2.0, 0.5, 2.0)
    cases = {
        "{max: 1}": ["h.0", "h.2"],
        "{max: 1, direction: up}": ["h.2"],
        "{max: 1, direction: down}": ["h.0"],
        "{relative: 0.4}": ["h.0", "h.2"],
        "{relative: 0.1, direction: up}": ["h.1", "h.2"],
        "{max: 1, relative: 0.1, direction: up}": ["h.2", "h.1", "h.2"],
    }
    for rule, layers in cases.items():
        assert [x[1] for x in found(f"changes: {{alpha: {rule}}}", three, moved)] == layers, rule
    assert found("changes: {drift: {max: 0.1}}", three, moved)[0][3] == 0.2
    (breach,) = gated("changes: {alpha: {max: 1, direction: up}}", three, moved).breaches
    assert breach.text == "h.2: change of alpha 2 is above 1"


def test_means_change_too() -> None:
    summary = {"alpha_before": 4.0, "alpha_change": -1.0}
    one = against(0.0, summary=summary)
    assert found("summary_changes: {alpha: {max: 0.5}}", model(3), one) == [
        ("summary_changes.alpha", "", "error", 1.0, 0.5)
    ]
    assert found("summary_changes: {alpha: {max: 0.5, direction: up}}", model(3), one) == []
    assert found("summary_changes: {alpha: {relative: 0.2}}", model(3), one)[0][3] == 0.25


def test_the_drift_of_all_layers() -> None:
    moved = against(0.0, summary={"drift_total": 0.3, "scale_collapses": 1})
    text = "summary_changes: {drift_total: {max: 0.2}, scale_collapses: {max: 0}}"
    result = gated(text, model(3), moved)
    assert [x.text for x in result.breaches] == [
        "the model: drift_total 0.3 is above 0.2",
        "the model: scale_collapses 1 is above 0",
    ]


def test_a_change_from_zero_is_beyond_every_share() -> None:
    moved = comparison(change("h.0", 0, before={"alpha": 0.0}, change={"alpha": 1.0}))
    assert found("changes: {alpha: {relative: 9}}", model(3), moved)[0][3] == math.inf
    same = comparison(change("h.0", 0, before={"alpha": 0.0}, change={"alpha": 0.0}))
    assert found("changes: {alpha: {relative: 9}}", model(3), same) == []


def test_changes_need_a_baseline() -> None:
    with pytest.raises(UsageError, match=r"policy\.yaml:3: changes\.drift must have a baseline"):
        gated("changes:\n  drift: {max: 1}", model(3))


def test_drift_without_weights_warns_with_the_reason() -> None:
    blind = comparison(change("h.0", 0, drift=NAN, missing={"drift": "needs weights"}))
    (breach,) = gated("changes: {drift: {max: 1}}", model(3), blind).breaches
    assert breach.severity == "warning"
    assert "(needs weights)" in breach.text


# ------------------------------------------------------------------------------ findings


def test_findings_have_the_severity_of_the_policy() -> None:
    measured = model(
        3, 3,
        findings=(
            finding("over-parameterised", "h.0"),
            finding("nonfinite", "h.1", severity="error"),
            finding("trained", "h.1", severity="info"),
        ),
    )  # fmt: skip
    assert [x[:3] for x in found("", measured)] == [
        ("findings.nonfinite", "h.1", "error"),
        ("findings.over-parameterised", "h.0", "warning"),
    ], "the gravest first"
    strict = "findings: {over-parameterised: error, nonfinite: ignore, "
    strict += "trained: {severity: info, info: true}}"
    assert [x[:3] for x in found(strict, measured)] == [
        ("findings.over-parameterised", "h.0", "error"),
        ("findings.trained", "h.1", "info"),
    ]
    first = gated("", measured).breaches[0]
    assert (first.value, first.limit) == (0.7, 0.3)
    assert first.text == "h.1: nonfinite 0.7 is above 0.3"


def test_what_the_report_calls_info_counts_on_request() -> None:
    """A change of scale that the next gain undoes is certain, and no harm."""
    undone = finding("scale-collapse", "h.0", severity="info")
    measured = model(3, 3, findings=(undone, finding("scale-collapse", "h.1")))
    assert [x[1] for x in found("", measured)] == ["h.1"]
    text = "findings: {scale-collapse: {severity: error, info: true}}"
    assert [x[1] for x in found(text, measured)] == ["h.0", "h.1"]
    share = "findings: {scale-collapse: {severity: error, share: 0.5}}"
    assert gated(share, measured).passed, "one of two"


def test_certain_findings_only() -> None:
    measured = model(3, findings=(finding("untrained", "", certainty="possible"),))
    assert gated("", measured).passed
    assert not gated("findings: {untrained: error}", measured).passed


@pytest.mark.parametrize(("share", "passes"), [(0.4, False), (0.5, True)])
def test_a_share_of_the_layers_may_have_a_finding(share: float, passes: bool) -> None:
    bad = tuple(finding("over-trained", f"h.{i}") for i in (0, 1))
    text = f"findings: {{over-trained: {{severity: error, share: {share}}}}}"
    result = gated(text, model(3, 3, 3, 3, findings=bad))
    assert result.passed == passes
    if not passes:
        assert "2 of 4 layers (50%) are over-trained" in result.breaches[0].text


def test_a_finding_of_the_whole_model_is_in_no_share() -> None:
    both = (finding("untrained", ""), finding("untrained", "h.0"))
    text = "findings: {untrained: {severity: error, share: 0.9}}"
    (breach,) = gated(text, model(3, 3, findings=both)).breaches
    assert (breach.layer, breach.value) == ("", 0.7)


def test_findings_of_the_comparison_count_once() -> None:
    same = finding("correlation-trap", "h.0")
    found_twice = comparison(change("h.0", 0), findings=(same, finding("scale-collapse", "h.0")))
    kinds = [x[0] for x in found("", model(3, findings=(same,)), found_twice)]
    assert kinds == ["findings.scale-collapse", "findings.correlation-trap"]


# ------------------------------------------------------------------ ignored and left out


def test_ignored_layers_are_seen_by_no_rule_and_told() -> None:
    text = "limits: {alpha: {max: 6}}\nignore:\n  - {layers: '0$', reason: tied to the head}\n"
    measured = model(9, 3, findings=(finding("nonfinite", "h.0"),))
    result = gated(text, measured, against(5.0, 0.0))
    assert result.passed
    assert result.notes == ("policy.yaml:4: 0$: 1 ignored (tied to the head)",)
    stale = gated("ignore: [{layers: nothing, reason: x}]", measured)
    assert "matches no layer" in stale.notes[0]
    assert not stale.passed


def test_layers_without_a_partner() -> None:
    alone = comparison(only_before={"h.k": "only in base"}, only_after={"h.v": "only in tuned"})
    result = gated("", model(3), alone)
    assert [(x.rule, x.layer, x.severity) for x in result.breaches] == [
        ("unmatched", "h.k", "warning"),
        ("unmatched", "h.v", "warning"),
    ]
    assert result.passed
    assert result.unmeasured == ("h.k", "h.v")
    assert not gated("unmatched: error", model(3), alone).passed
    assert gated("unmatched: ignore", model(3), alone).unmeasured == ()
    exempt = "ignore: [{layers: '[kv]$', reason: new heads}]"
    assert gated(exempt, model(3), alone).unmeasured == ()


def test_what_could_not_be_measured_is_named() -> None:
    broken = layer_report("h.9", 0, skipped="failed: truncated", values={})
    measured = replace(model(3), layers=(*model(3).layers, broken))
    assert gated("", measured).unmeasured == ("h.9",)
    assert gated("ignore: [{layers: '9', reason: known}]", measured).unmeasured == ()


@pytest.mark.parametrize("fail_on", ["error", "warning"])
@pytest.mark.parametrize("severity", ["error", "warning", "info"])
def test_what_fails_is_as_grave_as_fail_on(fail_on: str, severity: str) -> None:
    text = f"fail_on: {fail_on}\nlimits: {{alpha: {{max: 1, severity: {severity}}}}}"
    result = gated(text, model(3))
    assert len(result.breaches) == 1
    fails = severity == "error" or severity == fail_on
    assert result.passed == (not fails)


def test_rules_are_counted() -> None:
    text = "limits: {alpha: [{max: 6}, {min: 2}]}\nsummary: {alpha: {max: 9}}"
    by_default = gated("", model(3)).checked
    assert gated(text, model(3)).checked == by_default + 3
    assert gated("", model(3), against(0.0)).checked == by_default + 1
    assert gated("findings: {drift: ignore}", model(3)).checked == by_default - 1


# ------------------------------------------------------------------------------ settings


@pytest.mark.parametrize(
    ("text", "measured", "words"),
    [
        ("limits: {alpha: {max: 6}}", Settings(estimator="hill"), "estimator must be 'ks'"),
        ("limits: {alpha: {max: 6}}", Settings(window="farms"), "window must be 'full'"),
        ("summary: {alpha: {max: 6}}", Settings(compat="weightwatcher"), "compat must be None"),
        ("settings: {bootstrap: 50}", Settings(bootstrap=0), "bootstrap must be 50"),
        ("settings: {estimator: hill}", Settings(), "estimator must be 'hill'"),
    ],
)
def test_a_threshold_belongs_to_its_settings(text: str, measured: Settings, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        gated(text, model(3, settings=measured))


def test_settings_that_agree_or_do_not_matter() -> None:
    hill = Settings(estimator="hill")
    assert gated("", model(3, settings=hill)).passed, "no limit, no threshold"
    text = "settings: {estimator: hill}\nlimits: {alpha: {max: 6}}"
    assert gated(text, model(3, settings=hill)).passed
    assert gated("limits: {alpha: {max: 6}}", model(3, settings=Settings(seed=5))).passed
