"""A report survives being written and read; a file of another make is refused by name."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import frog
from frog.errors import ReportError
from frog.serial import REPORT_VERSION, report_from_json, report_to_json
from frog.types import ModelReport
from tests.report.reports import REPORTS

STORED = Path(__file__).parent / "report" / "report_v1.json"
LAW = settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@LAW
@given(REPORTS)
def test_reading_gives_back_what_was_written(report: ModelReport) -> None:
    text = report_to_json(report)
    again = report_from_json(text, "r.json")
    assert repr(again) == repr(report), "repr, because NaN equals NaN there"
    assert report_to_json(again) == text


def test_a_measured_report_survives(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Linear(64, 200), torch.nn.Conv2d(8, 16, 3))
    with torch.no_grad():
        model[1].weight[0, 0, 0, 0] = math.nan
    report = frog.analyze(model, frog.Settings(save_spectra=True))
    text = report.to_json(tmp_path / "r.json")
    again = frog.ModelReport.from_json(tmp_path / "r.json")
    assert repr(again) == repr(report)
    assert again.to_json() == text == (tmp_path / "r.json").read_text()


def test_the_file_is_plain_json(minilm: Path) -> None:
    report = frog.analyze(minilm, include="layer.0", run=frog.Run(cache=None))
    text = report.to_json()

    def refuse(word: str) -> None:
        raise AssertionError(f"{word} is no JSON")

    data = json.loads(text, parse_constant=refuse)
    assert text.isascii()
    assert list(data) == [
        "format", "version", "frog_version", "source", "settings", "shard", "summary", "notes",
        "layers", "pairs", "pathways", "profiles", "ranking", "findings",
    ]  # fmt: skip
    promised = {
        "name", "aliases", "role", "block", "shape", "dtype", "params", "skipped", "values",
        "null", "fit_status", "verdicts", "curve",
    }  # fmt: skip
    for layer in data["layers"]:
        assert promised <= set(layer)
        if layer["curve"]:
            assert len(layer["curve"]["eigenvalue"]) == len(layer["curve"]["survival"]) <= 256
    assert report_from_json(text, "r").to_json() == text


def test_version_1_stays_readable() -> None:
    report = frog.ModelReport.from_json(STORED)
    assert report.format == "safetensors"
    by_name = {layer.name.split(".")[1]: layer for layer in report.layers}
    assert by_name["sound"].values["alpha"] == pytest.approx(3.3, abs=2)
    assert by_name["sound"].fit_status == "ok"
    assert math.isnan(by_name["few"].values["alpha"])
    assert by_name["few"].fit_status == "too_few"
    assert by_name["broken"].failed
    assert by_name["bias"].skipped
    assert [finding.kind for finding in report.findings if finding.severity == "error"] == [
        "nonfinite"
    ]
    assert report.summary["layers_total"] == 4
    assert json.loads(STORED.read_text())["version"] == 1


def test_keys_that_are_not_ours_are_ignored() -> None:
    data = json.loads(STORED.read_text())
    data["mine"] = {"x": 1}
    data["settings"]["later"] = True
    for layer in data["layers"]:
        layer["colour"] = "red"
        layer["null"]["more"] = [1]
    for finding in data["findings"]:
        finding["url"] = "https://example.org"
    report = report_from_json(json.dumps(data), "r.json")
    assert repr(report) == repr(frog.ModelReport.from_json(STORED))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"format": "frog-compare"}, ("frog-report", "'frog-compare'")),
        ({"format": None}, ("frog-report", "None")),
        ({"version": REPORT_VERSION + 1}, ("at most", "upgrade")),
        ({"version": 0}, ("whole number from 1", "0")),
        ({"version": True}, ("whole number", "True")),
        ({"version": "1"}, ("whole number", "'1'")),
        ({"layers": 3}, ("layers", "got 3")),
        ({"layers": [3]}, ("layers.0",)),
        ({"layers": [[]]}, ("layers.0", "a list of 0")),
        ({"shard": [3, 2]}, ("1 <= i <= n", "(3, 2)")),
        ({"shard": [1]}, ("shard",)),
        ({"summary": [1]}, ("summary",)),
        ({"settings": None}, ("settings",)),
        ({"settings": {"farms": {"ratio": "nan"}}}, ("settings", "finite")),
        ({"settings": {"farms": {"ratio": 10**400}}}, ("settings",)),
        ({"source": "here"}, ("path",)),
    ],
)
def test_the_error_names_file_place_and_value(change: dict, words: tuple[str, ...]) -> None:
    data = {**json.loads(STORED.read_text()), **change}
    with pytest.raises(ReportError) as caught:
        report_from_json(json.dumps(data), "some/file.json")
    for word in ("some/file.json", *words):
        assert word in str(caught.value)


def test_names_that_are_not_unicode_are_written_readably(tmp_path: Path) -> None:
    report = replace(frog.ModelReport.from_json(STORED), path="folder-\udcff", notes=("\ud800",))
    report.to_json(tmp_path / "r.json")
    assert frog.ModelReport.from_json(tmp_path / "r.json").path == "folder-\\udcff"
