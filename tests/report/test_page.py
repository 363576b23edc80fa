"""What the page says equals the report; hostile names stay text; equal records, equal bytes."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings

import frog
from frog.errors import UsageError
from frog.report.page import (
    comparison_fragment,
    comparison_page,
    report_fragment,
    report_page,
    series_fragment,
    series_page,
    write_page,
)
from frog.report.page.curves import unpacked
from frog.types import ModelReport, Series, Settings
from tests.report.reports import REPORTS
from tests.report.synthetic import a_comparison, a_report, a_series

HOSTILE = "h.0.</script><script>alert(1)</script><img src=x onerror=alert(1)>'\"&\x1b[2J\u202e.w"


class Reader(HTMLParser):
    """Tags with their attributes, and the text of elements that have an id or a data-number."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: dict[str, str] = {}
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append((tag, facts))
        marks = ("id", "data-number", "data-count", "data-condition")
        self.open = [facts[m] or "" for m in marks if m in facts] or self.open
        for name in self.open:
            self.texts.setdefault(name, "")

    def handle_data(self, data: str) -> None:
        for name in self.open:
            self.texts[name] += data


def read(page: str) -> Reader:
    reader = Reader()
    reader.feed(page)
    return reader


def block(page: str) -> dict[str, Any]:
    """The data block, as a program reads it."""
    found = re.search(r'<script type="application/json" id="frog-data">(.*?)</script>', page, re.S)
    assert found
    return json.loads(found[1])


def same(number: float | None, other: float | None) -> bool:
    if number is None or other is None or math.isnan(other):
        return number is None and (other is None or math.isnan(other))
    return number == other


REPORT = a_report(3)
PAGE = report_page(REPORT)


def test_every_number_of_every_layer_is_in_the_page() -> None:
    data, layers = block(PAGE), REPORT.measured
    assert data["layers"]["name"] == [x.name for x in layers]
    assert data["layers"]["block"] == [x.block for x in layers]
    assert data["layers"]["condition"] == [x.condition for x in layers]
    assert data["layers"]["params"] == [x.params for x in layers]
    shown = {metric["key"] for metric in data["metrics"]}
    for i, layer in enumerate(layers):
        for key, value in layer.values.items():
            if key in shown:
                assert same(data["values"][key][i], value), (layer.name, key)
            else:
                assert all(math.isnan(x.values[key]) for x in layers), key
        for name, look in layer.null.items():
            assert data["looks"][name]["low"][i] == look.low
            assert data["looks"][name]["high"][i] == look.high


def test_counts_of_findings_and_shares_of_parameters_are_those_of_the_report() -> None:
    reader = read(PAGE)
    tally = Counter(finding.severity for finding in REPORT.findings)
    for severity in ("error", "warning", "info"):
        assert reader.texts[severity].split()[0] == str(tally[severity])
    assert len(block(PAGE)["findings"]) == len(REPORT.findings)
    total = sum(x.params for x in REPORT.measured)
    for word in {x.condition for x in REPORT.measured}:
        share = sum(x.params for x in REPORT.measured if x.condition == word) / total
        assert f"{100 * share:.1f} %" in reader.texts[word]
    assert reader.texts["alpha"].strip().startswith(f"{REPORT.summary['alpha']:.2f}")


def test_shares_are_those_of_the_summary(resnet20: Path) -> None:
    report = frog.analyze(resnet20, frog.Settings(bootstrap=0, curves=False))
    reader = read(report_page(report))
    shares = {k: v for k, v in report.summary.items() if k.startswith("params_") and v}
    for word in {x.condition for x in report.measured}:
        name = "params_" + word.replace(" ", "_").replace("-", "_")
        assert f"{100 * shares[name]:.1f} %" in reader.texts[word]


def test_findings_point_to_their_layers() -> None:
    data = block(PAGE)
    for row in data["findings"]:
        assert data["layers"]["name"][row["at"]] == row["layer"]
    for row in data["ranking"]:
        assert data["layers"]["name"][row["at"]] == row["layer"]


def test_the_graph_is_that_of_the_report() -> None:
    data, names = block(PAGE), block(PAGE)["layers"]["name"]
    edges = data["edges"]
    assert edges["total"] == len(REPORT.pairs) == len(edges["writer"])
    told = Counter(
        (names[w], names[r], h, weight)
        for w, r, h, weight in zip(
            edges["writer"], edges["reader"], edges["head"], edges["weight"], strict=True
        )
    )
    assert told == Counter((p.writer, p.reader, p.head, p.weight) for p in REPORT.pairs)
    assert edges["weight"] == sorted(edges["weight"], reverse=True)
    assert [[names[i] for i in path["layers"]] for path in data["paths"]] == [
        list(path.layers) for path in REPORT.pathways
    ]


def test_without_flow_the_page_says_how_to_measure_it() -> None:
    page = report_page(a_report(2, flow=False))
    assert "frog analyze MODEL --flow" in page
    asked = replace(a_report(2, flow=False), settings=Settings(flow=True))
    assert "no pair of matrices was found" in report_page(asked)
    assert "flow-plot" not in page.split('<script type="text/plain"')[0].split("</style>")[1]


def test_skipped_tensors_are_listed_with_their_reason() -> None:
    page = PAGE.split('<script type="application/json"')[0]
    for layer in REPORT.layers:
        if layer.skipped is not None:
            assert f"<code>{layer.name}</code>" in page
    assert "a vector: a matrix has two axes" in page


def test_curves_come_back_as_they_were() -> None:
    for layer, made in zip(REPORT.measured, block(PAGE)["sides"][0]["curves"], strict=True):
        assert layer.curve is not None
        for name, got in zip(("eigenvalue", "survival"), unpacked(made), strict=True):
            wanted = layer.curve[name]
            assert got == pytest.approx(wanted, rel=1e-4)
        assert (made["xmin"], made["alpha"]) == (layer.curve["xmin"], layer.curve["alpha"])


def hostile_report() -> ModelReport:
    report = a_report(2)
    first = replace(
        report.layers[1],
        name=HOSTILE,
        role="<b>",
        notes=(HOSTILE,),
        aliases=(HOSTILE,),
        rule=HOSTILE,
    )
    skipped = replace(report.layers[-1], name=HOSTILE + "2", skipped=HOSTILE)
    finding = replace(
        report.findings[0], layer=HOSTILE, text=HOSTILE, kind=HOSTILE, severity="error"
    )
    ranked = replace(report.ranking[0], layer=HOSTILE, reason=HOSTILE)
    return replace(
        report,
        path=HOSTILE,
        notes=(HOSTILE, "\udcff"),
        layers=(first, *report.layers[2:-1], skipped),
        findings=(finding,),
        ranking=(ranked,),
        pairs=(replace(report.pairs[0], writer=HOSTILE),),
    )


def hostile_pages() -> dict[str, str]:
    report = hostile_report()
    comparison = a_comparison(2)
    layer = replace(
        comparison.layers[1], name=HOSTILE, missing={"drift": HOSTILE}, verdicts_after=(HOSTILE,)
    )
    comparison = replace(
        comparison,
        layers=(layer, *comparison.layers[2:]),
        verdict=HOSTILE,
        only_before={HOSTILE: HOSTILE},
        before=replace(comparison.before, path=HOSTILE),
    )
    series = a_series(2, 2)
    series = replace(series, labels=(HOSTILE, "b"), verdict=HOSTILE, reports=(report, report))
    return {
        "report": report_page(report),
        "comparison": comparison_page(comparison),
        "series": series_page(series),
        "report fragment": report_fragment(report),
        "comparison fragment": comparison_fragment(comparison),
        "series fragment": series_fragment(series),
    }


@pytest.mark.parametrize("which", list(hostile_pages()))
def test_hostile_names_stay_text(which: str) -> None:
    page = hostile_pages()[which]
    tags = read(page).tags
    scripts = [facts for tag, facts in tags if tag == "script"]
    if "fragment" in which:
        assert not scripts
    else:
        assert [facts.get("type") for facts in scripts] == ["application/json", "text/plain", None]
        assert HOSTILE.replace("\x1b", "\\x1b").replace("\u202e", "\\u202e") in json.dumps(
            block(page), ensure_ascii=False
        ).replace('\\"', '"').replace("\\\\", "\\")
    assert not [facts for tag, facts in tags if tag == "img" or "onerror" in facts]
    assert "\x1b" not in page and "\u202e" not in page
    assert "alert(1)</script>" not in page
    page.encode("utf-8")


@pytest.mark.parametrize("which", ["report", "comparison", "series"])
def test_pages_stand_alone(which: str) -> None:
    page = {
        "report": PAGE,
        "comparison": comparison_page(a_comparison(2)),
        "series": series_page(a_series(2, 2)),
    }[which]
    for tag, facts in read(page).tags:
        for name in ("src", "href", "data", "action", "srcset"):
            value = facts.get(name)
            assert value is None or value.startswith(("#", "data:,")), (tag, name, value)
    style = page.split("<style>")[1].split("</style>")[0]
    assert "url(" not in style and "@import" not in style


def test_the_same_record_gives_the_same_bytes() -> None:
    assert report_page(a_report(3)) == PAGE
    slower = replace(REPORT, layers=tuple(replace(x, seconds=9.0) for x in REPORT.layers))
    assert report_page(slower) == PAGE, "how long it took is no part of the result"
    assert comparison_page(a_comparison(2)) == comparison_page(a_comparison(2))
    assert series_page(a_series(2, 2)) == series_page(a_series(2, 2))


def test_five_hundred_layers_stay_small() -> None:
    report = a_report(72)
    assert len(report.measured) > 500
    assert len(report_page(report).encode()) < 6e6
    assert len(comparison_page(a_comparison(72)).encode()) < 6e6


def test_a_comparison_says_what_changed_and_what_is_missing() -> None:
    comparison = a_comparison(2, weights=False)
    page = comparison_page(comparison)
    data = block(page)
    for i, layer in enumerate(comparison.layers):
        assert same(data["values"]["change:alpha"][i], layer.change["alpha"])
        assert same(data["values"]["before:alpha"][i], layer.before["alpha"])
        assert same(data["values"]["after:alpha"][i], layer.after["alpha"])
        assert same(data["values"]["change:alpha_low"][i], layer.alpha_change_low)
    assert "drift" not in data["values"], "nothing was measured: no column of nothing"
    body = page.split('<script type="application/json"')[0]
    assert comparison.verdict in body
    assert f"drift ({len(comparison.layers)} layers)" in body and "needs weights" in body
    assert "model.old.weight" in body and "model.new.weight" in body
    whole = block(comparison_page(a_comparison(2)))
    assert same(whole["values"]["drift"][3], a_comparison(2).layers[3].drift)


def test_a_series_holds_every_member() -> None:
    series = a_series(3, 2)
    data = block(series_page(series))
    assert [m["label"] for m in data["members"]] == list(series.labels)
    for m, report in enumerate(series.reports):
        wanted = {x.name: x.values["alpha"] for x in report.measured}
        got = dict(zip(data["layers"]["name"], data["values"]["alpha"][m], strict=True))
        assert got == pytest.approx(wanted, rel=1e-6)
    assert data["values"]["drift"][0] == [None] * len(data["layers"]["name"])
    assert data["values"]["drift"][1][0] == pytest.approx(series.comparisons[0].layers[0].drift)


def test_a_series_whose_members_have_different_layers() -> None:
    series = a_series(2, 2)
    shorter = replace(series.reports[1], layers=series.reports[1].layers[:5])
    data = block(series_page(replace(series, reports=(series.reports[0], shorter))))
    assert data["values"]["alpha"][1][6] is None
    assert data["conditions"][1][6] is None


def test_nothing_to_show_is_a_page_too() -> None:
    empty = replace(REPORT, layers=(), findings=(), summary={}, ranking=(), pairs=(), pathways=())
    assert block(report_page(empty))["metrics"] == []
    nothing = Series(labels=(), steps=(), reports=(), comparisons=())
    assert "No verdict was given" in series_page(nothing)
    assert report_fragment(empty) and series_fragment(nothing)


def test_thresholds_are_shaded_only_for_their_estimator() -> None:
    def usual(report: ModelReport) -> Any:
        return next(m for m in block(report_page(report))["metrics"] if m["key"] == "alpha")[
            "usual"
        ]

    assert usual(REPORT) == [2.0, 6.0]
    for other in (
        replace(REPORT.settings, estimator="hill"),
        replace(REPORT.settings, window="farms"),
    ):
        assert usual(replace(REPORT, settings=other)) is None
        assert "belong to another estimator" in report_page(replace(REPORT, settings=other))


def test_write_page_writes_whole_files(tmp_path: Path) -> None:
    path = tmp_path / "page.html"
    assert write_page(PAGE, path) == PAGE
    assert path.read_text(encoding="utf-8") == PAGE
    assert REPORT.to_html(path) == PAGE
    with pytest.raises(UsageError, match="folder must exist"):
        write_page(PAGE, tmp_path / "no" / "page.html")
    assert write_page(PAGE, None) == PAGE


def test_notebooks_show_a_piece() -> None:
    piece = REPORT._repr_html_()
    assert "<script" not in piece and "<style" not in piece and len(piece) < 20_000
    assert f"{REPORT.summary['alpha']:.2f}" in piece
    warned = Counter(f.kind for f in REPORT.findings if f.severity == "warning")
    for kind, n in warned.items():
        assert n == 1 or f"and {n - 1} more of kind {kind}" in piece
    assert a_comparison(2).verdict in a_comparison(2)._repr_html_()
    assert "checkpoint-100" in a_series(2, 2)._repr_html_()


@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(REPORTS)
def test_any_report_is_a_page(report: ModelReport) -> None:
    page = report_page(report)
    data = block(page)
    assert len(data["layers"]["name"]) == len(report.measured)
    assert page.encode()
    assert report_fragment(report).encode()
