"""What a person reads: within the width, whole words, what matters first."""

from __future__ import annotations

import io
import math
from dataclasses import replace
from pathlib import Path
from statistics import median

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from rich.cells import cell_len
from rich.console import Console

import frog
from frog.metrics.ranking import rank
from frog.report.sparklines import BARS, PLAIN, by_block, folded, sparkline
from frog.report.terminal import layer_table, summary_panel
from frog.types import Finding, ModelReport
from tests.report.reports import REPORTS
from tests.report.synthetic import a_report
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


def test_the_summary_draws_alpha_over_depth(measured: ModelReport) -> None:
    line = next(x for x in printed(measured, 80).splitlines() if x.startswith("Depth"))
    bars, medians = line.split()[1], medians_by_block(measured)
    assert len(bars) == 6 and set(bars) <= set(BARS)
    assert bars[medians.index(max(medians))] == "█" and bars[medians.index(min(medians))] == "▁"
    assert "by block, 0 to 5" in line
    assert f"median {min(medians):.2f} to {max(medians):.2f}" in line


def medians_by_block(report: ModelReport) -> list[float]:
    return [
        median(
            x.values["alpha"]
            for x in report.measured
            if x.block == block and math.isfinite(x.values["alpha"])
        )
        for block in range(6)
    ]


def test_a_terminal_without_block_characters_gets_ascii(measured: ModelReport) -> None:
    out = io.TextIOWrapper(io.BytesIO(), encoding="latin-1", errors="replace")
    Console(file=out, width=80, force_terminal=False).print(summary_panel(measured))
    out.seek(0)
    line = next(x for x in out.read().splitlines() if x.startswith("Depth"))
    assert len(line.split()[1]) == 6 and set(line.split()[1]) <= set(PLAIN)


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_many_blocks_fit_into_the_line(width: int) -> None:
    report = a_report(126)
    lines = printed(report, width).splitlines()
    place = next(i for i, x in enumerate(lines) if x.startswith("Depth"))
    assert cell_len(lines[place].rstrip()) <= width
    words = " ".join(" ".join(lines[place : place + 3]).split())
    assert "by block, 0 to 125, " in words and " a bar" in words


def test_gaps_where_a_block_has_no_alpha() -> None:
    report = a_report(5)
    layers = tuple(
        replace(x, values={**x.values, "alpha": math.nan}) if x.block == 2 else x
        for x in report.layers
    )
    bars = sparkline(by_block(layers, "alpha")[1])
    assert len(bars) == 5 and bars[2] == " " and bars.count(" ") == 1
    assert by_block((), "alpha") == ([], [])
    assert sparkline([3.0, 3.0]) == "▅▅", "nothing to tell apart"
    assert folded([1.0, math.nan, math.nan, math.nan], 2)[0][0] == 1.0


def test_the_summary_shares_parameters_out_by_condition(measured: ModelReport) -> None:
    text = " ".join(printed(measured, 80).split())
    for condition in {x.condition for x in measured.measured}:
        share = measured.summary["params_" + condition.replace(" ", "_").replace("-", "_")]
        if share:
            shown = f"{100 * share:.1f} %" if share >= 0.001 else "under 0.1 %"
            assert f"{shown} {condition}" in text


def test_the_summary_names_the_layers_most_worth_tuning() -> None:
    report = a_report(4)
    text = " ".join(printed(report, 80).split())
    names = [
        x.layer.removeprefix("model.layers.").removesuffix(".weight").replace(".", " ", 1)
        for x in report.ranking[:4]
    ]
    shown = f"Tune first of {len(report.ranking)} layers: {', '.join(names[:3])}"
    assert shown in text and f"{shown}, {names[3]}" not in text
    ranked = replace(report, ranking=rank(report.layers, by="alpha_high"))
    assert "layers, by largest alpha: " in " ".join(printed(ranked, 80).split())
    assert "Tune" not in printed(replace(report, ranking=()), 80)


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


def test_the_same_advice_is_given_once() -> None:
    report = frog.ModelReport.from_json(STORED)
    finding = Finding(kind="drift", certainty="certain", severity="warning", layer="a", value=1.0,
                      threshold=0.0, text="a moved: take smaller steps")  # fmt: skip
    other = replace(finding, layer="b", text="b moved: take smaller steps")
    text = printed(replace(report, findings=(finding, other)), 80)
    assert "a moved: take smaller steps" in text and "b moved" in text
    assert text.count("take smaller steps") == 1


def test_findings_of_the_whole_model_are_not_counted_as_a_layer() -> None:
    report = frog.ModelReport.from_json(STORED)
    whole = Finding(kind="untrained", certainty="certain", severity="warning", layer="", value=1.0,
                    threshold=0.0, text="the model is untrained")  # fmt: skip
    trap = replace(whole, kind="correlation-trap", layer="a", text="a has traps")
    found = next(
        line for line in printed(replace(report, findings=(whole, trap)), 80).splitlines()
        if line.startswith("Found")
    )  # fmt: skip
    assert " ".join(found.split()) == "Found 1 certainly with correlation traps"


def test_a_share_is_never_rounded_to_nothing() -> None:
    report = frog.ModelReport.from_json(STORED)
    fine = replace(report.measured[0], params=10**6, verdicts=("trained",), fit_status="ok")
    one = replace(fine, name="x", params=1, verdicts=(), null={}, values={}, fit_status="too_few")
    text = " ".join(printed(replace(report, layers=(fine, one)), 80).split())
    assert "under 0.1 % unjudged" in text and " 0.0 %" not in text
    assert "Share" not in printed(replace(report, layers=(one,)), 80)


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
