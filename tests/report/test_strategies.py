"""The table of strategies in the terminal, on the page and as a file."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from rich.cells import cell_len

from frog.errors import ReportError
from frog.report.text import as_text
from frog.serial import series_from_json, series_to_json
from frog.types import Series, Strategy
from tests.report.comparisons import tuning_run

LONG = "a-very-long-name-of-a-run-that-does-not-fit"


def table() -> Series:
    """Three strategies: one that gains, one that loses, one of which little is known."""
    good = Strategy(
        label=LONG, path="runs/a", kind="run", mode="select", task="text-classification",
        metric="accuracy", split="test", rows=500, old_rows=200, device="cpu",
        quality_before=0.5, quality_after=0.912, old_before=0.8, old_after=0.79, trainable=2e5,
        changed=2e5, params=2e7, memory=1.5e9, seconds=4000.0, cpu_seconds=7800.0, steps=100.0,
        learning_rate=3e-4, delta_bytes=1.6e6, alpha_shift=0.12, layers_fitted=30, drift=0.012,
        overlap=0.987, intruders=2.0,
    )  # fmt: skip
    bad = replace(good, label="bad", path="runs/b", quality_after=0.41, old_after=0.85)
    empty = {x: "<b>no run</b>" for x in ("quality_before", "quality_after", "memory", "seconds")}
    poor = Strategy(label="<i>plain</i>\x1b[2J", path="c", drift=0.5, missing=empty)
    series = tuning_run(4)
    return replace(
        series, strategies=(good, bad, poor), labels=("base", LONG, "bad", "<i>plain</i>\x1b[2J")
    )


@pytest.mark.parametrize("width", [60, 80, 88, 124, 160])
def test_the_table_fits(width: int) -> None:
    text = as_text(table(), width=width)
    if width >= 80:
        assert max(map(cell_len, text.splitlines())) <= width
    head = next(line for line in text.splitlines() if line.startswith("strategy")).split()
    assert ("overlap" in head) == (width >= 88)
    assert ("intruders" in head) == (width >= 124)


def test_the_table_says_what_its_numbers_are() -> None:
    text = as_text(table())
    row = next(line for line in text.splitlines() if line.startswith("bad"))
    for word in ("41.0 %", "−9.0", "+5.0", "1.0 %", "1.5 GB", "67 min", "0.12", "0.012"):
        assert word in row, (word, row)
    assert "on 500 test rows, 50.0 % before" in text and "on 200 rows of what was known" in text
    assert "<b>no run</b>" in text and "\x1b" not in text
    assert "→" not in text, "strategies have no order, so no pictures from first to last"


def test_the_file_gives_the_same_record_back() -> None:
    series = table()
    text = series_to_json(series)
    back = series_from_json(text, "s.json")
    assert series_to_json(back) == text
    assert math.isnan(back.strategies[2].memory)
    assert back.strategies[0] == series.strategies[0]


def test_a_file_with_too_few_strategies_is_refused() -> None:
    short = replace(table(), strategies=table().strategies[:1])
    with pytest.raises(ReportError, match="as many as comparisons or none, got 1 and 3"):
        series_from_json(series_to_json(short), "s.json")
    with pytest.raises(ReportError, match=r"strategies\.0"):
        text = series_to_json(table()).replace('"rows": 500', '"rows": "five"')
        series_from_json(text, "s.json")


def test_a_file_without_strategies_is_a_series_as_before() -> None:
    import json

    data = json.loads(series_to_json(tuning_run()))
    assert data.pop("strategies") == []
    assert series_from_json(json.dumps(data), "s.json").strategies == ()


def test_the_page_has_the_table_and_escapes_names() -> None:
    page = table().to_html()
    section = page.split('id="strategies"')[1].split("</section>")[0]
    assert "&lt;i&gt;plain&lt;/i&gt;" in section and "<i>plain" not in section
    assert 'class="worse"' in section and 'class="better"' in section
    assert 'title="&lt;b&gt;no run&lt;/b&gt;"' in section
    assert "91.2 %" in section and "0.987" in section
    assert 'id="strategies"' not in tuning_run().to_html()
    piece = table()._repr_html_()
    assert "91.2 %" in piece and "<i>plain" not in piece
