"""Comparisons and series survive being written and read; what is none is refused by name."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from frog.errors import ReportError
from frog.serial import (
    comparison_from_json,
    comparison_to_dict,
    comparison_to_json,
    format_of,
    record_from_json,
    report_to_json,
    series_from_json,
    series_to_dict,
    series_to_json,
)
from frog.types import (
    Comparison,
    DepthProfile,
    ModelReport,
    Overlap,
    Pair,
    Pathway,
    Ranked,
    Series,
)
from tests.report.comparisons import (
    COMPARISONS,
    SERIES,
    change,
    comparison,
    finding,
    layer_report,
    report,
    tuning_run,
)
from tests.test_fuzz_report import KEYS, ODD, Placed, places, written

LAW = settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


def sound_comparison() -> Comparison:
    curve: dict[str, Any] = {"eigenvalue": [2.0, 1.0], "survival": [0.5, 1.0], "xmin": 1.0}
    missing = {"drift": "needs weights", "intruders": "needs weights"}
    return comparison(
        change("h.0.q", 0, curve_before=curve, curve_after=curve, scale="collapse"),
        change("norm", None, drift=math.nan, intruders=math.nan, missing=missing, identical=True),
        only_before={"h.0.k": "only in base"},
        findings=(finding("scale-collapse", "h.0.q"),),
        notes=("a note",),
    )


@LAW
@given(COMPARISONS)
def test_reading_a_comparison_gives_back_what_was_written(comparison: Comparison) -> None:
    text = comparison_to_json(comparison)
    again = comparison_from_json(text, "c.json")
    assert repr(again) == repr(comparison), "repr, because NaN equals NaN there"
    assert comparison_to_json(again) == text


@settings(LAW, max_examples=40)
@given(SERIES)
def test_reading_a_series_gives_back_what_was_written(series: Series) -> None:
    text = series_to_json(series)
    again = series_from_json(text, "s.json")
    assert repr(again) == repr(series)
    assert series_to_json(again) == text


def test_the_layout_is_that_of_the_interface() -> None:
    data = comparison_to_dict(sound_comparison())
    assert (data["format"], data["version"]) == ("frog-compare", 1)
    assert data["before"]["source"] == {"path": "base", "digest": "d", "format": "safetensors"}
    assert data["after"]["settings"]["estimator"] == "ks"
    first, second = data["layers"]
    assert first["before"]["alpha"] + first["change"]["alpha"] == first["after"]["alpha"]
    assert second["drift"] is None
    assert second["missing"]["drift"] == "needs weights"
    assert second["block"] is None
    assert data["findings"][0]["kind"] == "scale-collapse"
    assert data["summary"]["alpha_change"] == 0.5
    assert data["verdict"].endswith(".")
    assert series_to_dict(tuning_run())["comparisons"][0]["format"] == "frog-compare"


def test_records_write_themselves(tmp_path: Path) -> None:
    for record in (sound_comparison(), tuning_run()):
        text = record.to_json(tmp_path / "r.json")
        assert (tmp_path / "r.json").read_text() == text
        assert repr(record_from_json(text, "r.json")) == repr(record)
        assert repr(type(record).from_json(tmp_path / "r.json")) == repr(record)
    with pytest.raises(ReportError, match=r"r\.json.*frog-compare"):
        Comparison.from_json(tmp_path / "r.json")


def test_any_file_of_ours_is_told_by_its_format() -> None:
    texts = {
        "frog-report": report_to_json(report("m", (layer_report("w", 0),))),
        "frog-compare": comparison_to_json(sound_comparison()),
        "frog-series": series_to_json(tuning_run()),
    }
    kinds = {"frog-report": "ModelReport", "frog-compare": "Comparison", "frog-series": "Series"}
    for name, text in texts.items():
        assert format_of(json.loads(text), "x") == name
        assert type(record_from_json(text, "x")).__name__ == kinds[name]


@pytest.mark.parametrize("data", [{}, [], 3, None, {"format": ["frog-report"]}, {"format": "x"}])
def test_what_is_none_of_ours_is_refused(data: Any) -> None:
    with pytest.raises(ReportError, match=r"some/x.json.*frog-report, frog-compare, frog-series"):
        format_of(data, "some/x.json")


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"format": "frog-report"}, ("frog-compare", "'frog-report'", "frog compare A B")),
        ({"version": 2}, ("at most 1", "upgrade")),
        ({"version": True}, ("whole number",)),
        ({"layers": 3}, ("layers", "got 3", "frog compare A B")),
        ({"layers": [{}]}, ("layers.0.name",)),
        ({"before": None}, ("before", "None")),
        ({"after": {"source": {}}}, ("after.path",)),
        ({"summary": {"alpha": "x"}}, ("summary.alpha", "'x'")),
        ({"verdict": None}, ("verdict",)),
        ({"only_before": ["x"]}, ("only_before",)),
        ({"findings": [{"kind": 3}]}, ("findings.0",)),
    ],
)
def test_errors_of_a_comparison_name_file_place_and_value(edit: dict, words: tuple) -> None:
    data = {**comparison_to_dict(sound_comparison()), **edit}
    with pytest.raises(ReportError) as caught:
        comparison_from_json(json.dumps(data), "some/file.json")
    for word in ("some/file.json", *words):
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        ({"format": "frog-compare"}, ("frog-series", "frog compare A B C")),
        ({"reports": None}, ("reports", "must be a list")),
        ({"reports": [3]}, ("reports.0", "frog-report")),
        ({"labels": ["one"]}, ("one length", "got 1, 4, 4 and 3")),
        ({"comparisons": []}, ("one fewer", "4, 4, 4 and 0")),
        ({"steps": ["x"] * 4}, ("steps.0", "'x'")),
    ],
)
def test_errors_of_a_series_name_file_place_and_value(edit: dict, words: tuple) -> None:
    data = {**series_to_dict(tuning_run()), **edit}
    with pytest.raises(ReportError) as caught:
        series_from_json(json.dumps(data), "some/file.json")
    for word in ("some/file.json", *words):
        assert word in str(caught.value)


# -------------------------------------------------------------------- damaged in any way


def sound_report() -> ModelReport:
    """A report with all that flow adds."""
    overlap = Overlap(value=0.5, expected=0.1, spread=0.01, z=40.0)
    pair = Pair(writer="a", reader="b", kind="ov", k=4, dimension=64, gain=1.0, weight=2.0,
                overlaps={"plain": overlap}, head=0)  # fmt: skip
    path = Pathway(layers=("a", "b"), heads=(0, None), weight=2.0, weakest=2.0)
    profile = DepthProfile(role="q", metric="alpha", blocks=(0, 1), values=(3.0, math.nan),
                           slope=0.1, slope_low=0.0, slope_high=0.2, roughness=1.0,
                           outside=math.nan)  # fmt: skip
    ranked = Ranked(layer="a", place=1, score=0.5, reason="uneven spectrum")
    more = {"pairs": (pair,), "pathways": (path,), "profiles": (profile,), "ranking": (ranked,)}
    return report("m", (layer_report("a", 0), layer_report("b", 1)), **more)


SOUND = (
    comparison_to_json(sound_comparison()),
    series_to_json(tuning_run(2)),
    report_to_json(sound_report()),
)


@st.composite
def changed_files(draw: st.DrawFn) -> bytes:
    """A sound file of which some values are something else, gone or renamed."""
    data = json.loads(draw(st.sampled_from(SOUND)))
    for _ in range(draw(st.integers(1, 4))):
        everywhere = places(data)
        container, key = everywhere[draw(st.integers(0, len(everywhere) - 1))]
        what = draw(st.sampled_from(["odd", "odd", "gone", "renamed"]))
        if what == "gone":
            del container[key]
        elif what == "renamed" and isinstance(container, dict):
            container[draw(KEYS | st.text(max_size=3))] = container.pop(key)
        else:
            container[key] = Placed(draw(ODD))
    return written(data, []).encode("utf-8", "surrogatepass")


def read_or_refuse(content: bytes) -> None:
    origin = "folder/c.json"
    try:
        record = record_from_json(content, origin)
    except ReportError as error:
        assert str(error).startswith(origin)
        assert len(str(error)) < 1000
        return
    text = record.to_json()  # what could be read can be written, and read again
    assert record_from_json(text, origin).to_json() == text


@settings(LAW, max_examples=150)
@given(changed_files())
def test_any_file_is_a_record_or_refused(content: bytes) -> None:
    read_or_refuse(content)


@pytest.mark.slow
@settings(LAW, max_examples=5000)
@given(changed_files())
def test_any_file_is_a_record_or_refused_thoroughly(content: bytes) -> None:
    read_or_refuse(content)
