"""What a person reads: within the width, whole words, what matters first."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from rich.cells import cell_len
from rich.console import Console

import frog
from frog.report.terminal import layer_table, summary_panel
from frog.types import Finding, ModelReport
from tests.report.reports import REPORTS
from tests.test_serial import STORED


def printed(report: ModelReport, width: int, **options: object) -> str:
    """The summary and the table as a terminal of this width shows them."""
    out = io.StringIO()
    console = Console(file=out, width=width, highlight=False, force_terminal=False)
    console.print(summary_panel(report))
    console.print(layer_table(report, width=width, **options))  # type: ignore[arg-type]
    return out.getvalue()


@pytest.fixture(scope="module")
def measured(minilm: Path) -> ModelReport:
    return frog.analyze(minilm, frog.Settings(bootstrap=0))


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_every_line_fits_and_every_column_is_whole(measured: ModelReport, width: int) -> None:
    text = printed(measured, width)
    lines = text.splitlines()
    assert max(cell_len(line.rstrip()) for line in lines) <= width
    rows = [line for line in lines if "384×384" in line]
    assert len(rows) == 25, "24 projections and the pooler: no row is folded"
    assert all("…" not in line.split("384×384")[1] for line in rows), "no number is cut"
    assert "\ufffd" not in text
    header = next(line for line in lines if "shape" in line and "verdict" in line)
    assert ("stable rank" in header) == (width >= 100)
    assert ("interval" in header) == (width >= 80)


def test_the_summary_says_what_was_fitted_and_what_was_found(measured: ModelReport) -> None:
    text = " ".join(printed(measured, 80).split())
    assert "39 matrices · 22.7 M parameters · float32" in text
    assert "37 of 37 matrices in the means · 2 outside" in text
    assert "1 with too few eigenvalues" in text
    assert "65 tensors not measured" in text
    assert "pooler.dense.weight cannot be told from a random matrix" in text
    assert text.index("over-parameterised") < text.index("certainly trained")


def test_rows_are_in_natural_order_or_by_a_column(measured: ModelReport) -> None:
    blocks = [
        line.split()[0]
        for line in printed(measured, 80).splitlines()
        if "output.dense" in line and "384×1536" in line
    ]
    assert blocks == ["0", "1", "2", "3", "4", "5"]
    rows = printed(measured, 80, sort="alpha").splitlines()
    shown = [line for line in rows if "×" in line]
    assert "attention.self.value" in shown[0], "2.43, the smallest"
    assert "token_type" in shown[-1] or "…" in shown[-1], "without alpha, at the end"
    assert "… 29 more layers" in " ".join(printed(measured, 80, limit=10).split())


def test_a_few_findings_of_a_kind_are_shown_the_rest_counted() -> None:
    report = frog.ModelReport.from_json(STORED)
    finding = Finding(
        kind="drift",
        certainty="certain",
        severity="warning",
        layer="a",
        value=1.0,
        threshold=0.0,
        text="text of [bold]a finding[/bold] :smile:",
    )
    text = printed(replace(report, findings=(finding,) * 9), 80)
    assert text.count("text of [bold]a finding[/bold] :smile:") == 3
    assert "6 more findings of kind drift" in text


def test_a_model_without_matrices(tmp_path: Path) -> None:
    text = printed(frog.analyze(torch.nn.LayerNorm(8)), 80)
    assert "nothing measured" in text
    assert "nan" not in text


@settings(
    max_examples=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(REPORTS)
def test_any_report_can_be_shown(report: ModelReport) -> None:
    for width in (40, 80, 120):
        text = printed(report, width)
        assert "\x1b" not in text
        assert max((cell_len(line) for line in text.splitlines()), default=0) <= width


def test_html_for_notebooks(measured: ModelReport) -> None:
    assert "attention.self.query" in printed(measured, 80)
    assert measured.table().row_count == 39
