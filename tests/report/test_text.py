"""Records as text: print() in Python says what the command line says, and repr() stays short."""

from __future__ import annotations

from dataclasses import replace

import pytest
from rich.cells import cell_len

from frog.report.text import as_text
from frog.types import Comparison, GateResult, Series
from tests.report.comparisons import change, comparison, tuning_run
from tests.report.synthetic import a_report

RECORDS = {
    "report": a_report(4),
    "comparison": comparison(change("model.layers.0.up.weight", 0, drift=0.5)),
    "series": tuning_run(),
}


@pytest.mark.parametrize("kind", RECORDS)
def test_print_gives_the_summary_and_the_table_within_80_columns(kind: str) -> None:
    record = RECORDS[kind]
    text = str(record)
    assert text == as_text(record) and len(text.splitlines()) > 8
    assert all(cell_len(line) <= 80 for line in text.splitlines())
    assert "\x1b" not in text
    assert not isinstance(record, Comparison | Series) or " ".join(record.verdict.split()) in (
        " ".join(text.split())
    )


@pytest.mark.parametrize("kind", RECORDS)
def test_repr_is_one_short_line(kind: str) -> None:
    assert len(repr(RECORDS[kind])) < 300 and "\n" not in repr(RECORDS[kind])
    assert repr(RECORDS[kind]).startswith(f"<{type(RECORDS[kind]).__name__}")


def test_a_gate_prints_its_lines() -> None:
    assert str(GateResult(path="m", passed=True, checked=3)).startswith("PASS  m: 3 rules checked")


def test_an_empty_report_prints() -> None:
    assert "0 matrices" in str(replace(RECORDS["report"], layers=(), ranking=()))
