"""What the pages say at a glance: health, what changed most, errors of a member, one order."""

from __future__ import annotations

import math
from dataclasses import replace

from frog.report.page.comparison_view import comparison_context
from frog.report.page.report_view import report_context
from frog.report.page.series_view import series_context
from frog.types import Finding, Series
from tests.report.synthetic import a_comparison, a_report, a_series


def test_a_comparison_says_at_a_glance_whether_it_is_healthy() -> None:
    comparison = a_comparison(2)
    warned = comparison.findings[0]
    words = {
        (): "no warning",
        (replace(warned, severity="info"),): "no warning",
        (warned,): "look closer",
        (warned, replace(warned, severity="error")): "not healthy",
    }
    for findings, word in words.items():
        context = comparison_context(replace(comparison, findings=findings))
        assert context["health"][1] == word
    without = replace(a_comparison(2, weights=False), findings=())
    assert comparison_context(without)["health"][1] == "no warning, drift not measured"


def test_a_comparison_names_what_changed_most() -> None:
    comparison = a_comparison(2)
    told = {x["title"]: x for x in comparison_context(comparison)["standouts"]}
    drifted = max(range(len(comparison.layers)), key=lambda i: comparison.layers[i].drift)
    assert told["most drift"]["at"] == drifted
    assert told["most drift"]["text"] == f"{100 * comparison.layers[drifted].drift:.3g} %"
    still = [replace(x, drift=0.0, change={"alpha": 0.0}) for x in comparison.layers]
    fallen = replace(still[1], change={"alpha": -1.5, "log_norm": -math.inf})
    told = comparison_context(replace(comparison, layers=(still[0], fallen)))["standouts"]
    assert [(x["title"], x["text"], x["at"]) for x in told] == [("largest Δ α", "−1.5", 1)]


def test_a_member_of_a_series_counts_what_is_new_against_the_first() -> None:
    series = a_series(3, 2)
    name = series.reports[1].measured[0].name
    error = Finding(kind="scale-collapse", certainty="certain", severity="error", layer=name,
                    value=-1.0, threshold=-0.6, text="it fell")  # fmt: skip
    first, *others = series.comparisons
    changed = replace(series, comparisons=(replace(first, findings=(error,)), *others))

    def errors(series: Series) -> list[int]:
        return [x["severities"][0]["n"] for x in series_context(series)["members"]]

    none = replace(series, comparisons=tuple(replace(x, findings=()) for x in series.comparisons))
    assert [a - b for a, b in zip(errors(changed), errors(none), strict=True)] == [0, 1, 0]
    known = replace(series.reports[1], findings=(*series.reports[1].findings, error))
    both = replace(changed, reports=(series.reports[0], known, series.reports[2]))
    assert errors(both) == errors(changed), "what is in both lists counts once"


def test_what_all_places_go_by_stands_once() -> None:
    ranked = [
        replace(x, reason=f"place {x.place} of 20 by largest alpha: alpha {x.score}")
        for x in a_report(4).ranking
    ]
    words = report_context(replace(a_report(4), ranking=tuple(ranked)))
    assert words["ranked_by"] == "largest alpha"
    assert [facts for _, facts, _ in words["ranking"]] == [f"alpha {x.score}" for x in ranked]
    ranked[1] = replace(ranked[1], reason="place 2 of 20 by chance: so it fell")
    words = report_context(replace(a_report(4), ranking=tuple(ranked)))
    assert words["ranked_by"] == ""
    assert [facts for _, facts, _ in words["ranking"]] == [x.reason for x in ranked]
