"""Comparisons and series in the terminal: verdict first, largest change first, within the width."""

from __future__ import annotations

import csv
import math
from typing import Any

import pytest
from rich.cells import cell_len
from rich.console import Console

from frog.errors import UnknownName
from frog.report.changes import (
    SeriesPictures,
    change_table,
    comparison_panel,
    series_panel,
    series_table,
)
from frog.report.frames import write_csv
from tests.report.comparisons import change, comparison, finding, origin, tuning_run

LONG = "model.layers.{}.self_attn.some_very_long_projection_name_indeed.weight"


def shown(thing: Any, width: int = 80) -> str:
    console = Console(width=width, force_terminal=False, color_system=None, highlight=False)
    with console.capture() as capture:
        console.print(thing)
    return capture.get()


def several() -> Any:
    return comparison(
        change(LONG.format(0), 0, drift=0.01),
        change(LONG.format(1), 1, drift=0.9, scale="collapse"),
        change(LONG.format(10), 10, drift=0.0, identical=True),
        change(LONG.format(2), 2, drift=0.3, verdicts_after=("possibly over-trained",)),
        change("head.weight", None, drift=math.nan),
        only_before={"h.k.weight": "only in base", "h.v.weight": "shape (2, 2) here, (3, 3) there"},
        findings=(finding("scale-collapse", "h.1", severity="error"), finding("drift", "h.0")),
        notes=("dtypes differ",),
    )


def test_the_verdict_is_the_first_line_and_the_rest_follows() -> None:
    text = shown(comparison_panel(several()))
    assert text.startswith("Mildly changed")
    for words in (
        "before  base",
        "after   tuned",
        "5 layers compared · 1 identical · 2 tensors without a partner",
        "only before: h.k.weight, h.v.weight",
        "note: dtypes differ",
        "✖ h.1: scale-collapse 0.7",
        "! h.0: drift 0.7",
    ):
        assert words in text
    means = next(line for line in text.splitlines() if line.startswith("α "))
    assert means.split() == ["α", "3.00", "3.50", "+0.50"]
    assert "stable rank" not in text, "no such mean in this summary"


def test_the_largest_change_comes_first_and_identical_layers_are_counted() -> None:
    lines = shown(change_table(several())).splitlines()
    assert [line.split()[0] for line in lines[1:4]] == ["1", "2", "0"]
    assert "head" in lines[4], "without a number a layer comes last"
    assert lines[5].split() == ["=", "1", "identical", "layer"]
    assert "collapse" in lines[1]
    assert "over-trained?" in lines[2]


@pytest.mark.parametrize("width", [60, 80, 99, 100, 119, 120, 200])
def test_nothing_is_wider_than_the_terminal(width: int) -> None:
    for thing in (
        change_table(several(), width=width),
        comparison_panel(several()),
        series_table(tuning_run(), width=width),
        series_panel(tuning_run()),
    ):
        assert max(map(cell_len, shown(thing, width).splitlines())) <= width
    head = shown(change_table(several(), width=width), width).splitlines()[0]
    assert ("rotation" in head) == (width >= 100)
    assert ("intruders" in head) == (width >= 120)
    for word in ("drift", "Δα", "now"):
        assert word in head


def test_without_weights_the_change_of_alpha_orders_the_rows() -> None:
    nothing = {"drift": math.nan, "missing": {"drift": "needs weights"}}
    found = comparison(
        change("h.0.q", 0, change={"alpha": 0.1}, **nothing),
        change("h.1.q", 1, change={"alpha": -2.0}, **nothing),
        change("h.2.q", 2, change={}, **nothing),
        before=origin("a.json", weights=False),
    )
    lines = shown(change_table(found)).splitlines()
    assert [line.split()[0] for line in lines[1:]] == ["1", "0", "2"]
    assert "(a saved report: no weights)" in shown(comparison_panel(found))


def test_rows_can_be_sorted_by_any_number_and_limited() -> None:
    lines = shown(change_table(several(), sort="stable_rank", limit=2)).splitlines()
    assert lines[-2].split()[:2] == ["…", "2"]
    with pytest.raises(UnknownName, match="Did you mean 'rotation_left'"):
        change_table(several(), sort="rotation_lift")


def test_control_characters_do_not_reach_the_terminal() -> None:
    evil = "h.0.\x1b[2Jq"
    found = comparison(change(evil, 0), verdict="\x1b[2J", notes=("\x1b",), only_after={evil: "x"})
    assert "\x1b" not in shown(comparison_panel(found)) + shown(change_table(found))


def test_names_with_brackets_are_not_markup() -> None:
    found = comparison(change("h.0.c_attn.weight[red]", 0), before=origin("[bold]x[/bold]"))
    assert "c_attn[red]" in shown(change_table(found))
    assert "[bold]x[/bold]" in shown(comparison_panel(found))


def test_a_series_has_a_row_a_member() -> None:
    series = tuning_run(4)
    lines = shown(series_table(series)).splitlines()
    assert len(lines) == 5
    rows = [line.split() for line in lines[1:]]
    assert [row[0] for row in rows] == ["0", "100", "200", "300"]
    assert [row[2] for row in rows] == ["4.00", "3.80", "3.60", "3.40"]
    assert [row[5] for row in rows] == ["0.00", "0.10", "0.20", "0.30"]
    assert shown(series_panel(series)).startswith("Alpha falls at every step.")


def test_a_series_has_a_picture_of_each_number() -> None:
    lines = shown(SeriesPictures(tuning_run(4))).splitlines()
    assert [line.split() for line in lines] == [
        ["α", "█▆▃▁", "4.00", "→", "3.40"],
        ["α̂", "█▆▃▁", "2.00", "→", "1.70"],
        ["stable", "rank", "▅▅▅▅", "9.00", "→", "9.00"],
        ["drift", "▁▃▆█", "0.00", "→", "0.30"],
    ]
    assert max(map(cell_len, shown(SeriesPictures(tuning_run(300))).splitlines())) <= 80
    assert shown(SeriesPictures(tuning_run(2))) == "", "two points are no picture"


def test_records_give_their_tables() -> None:
    assert several().table(sort="drift").row_count == 5
    assert tuning_run().table().row_count == 4


def test_nothing_compared_is_no_error() -> None:
    nothing = comparison(summary={})
    assert "0 layers compared" in shown(comparison_panel(nothing))
    assert shown(change_table(nothing)).strip()


# --------------------------------------------------------------------------------- CSV


def table_of(record: Any, path: Any) -> list[dict[str, str]]:
    write_csv(record, path)
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_table_of_a_comparison_has_both_sides_and_the_difference(tmp_path) -> None:
    rows = table_of(several(), tmp_path / "c.csv")
    assert len(rows) == 5, "identical layers too"
    first = rows[0]
    assert (first["before_alpha"], first["after_alpha"], first["change_alpha"]) == (
        "3.0", "3.5", "0.5",
    )  # fmt: skip
    assert first["tensor"] == LONG.format(0)
    assert float(first["drift"]) == 0.01
    assert rows[4]["drift"] == "", "no number, no cell"
    assert rows[2]["identical"] == "True"


def test_the_table_of_a_series_has_a_row_a_member(tmp_path) -> None:
    rows = table_of(tuning_run(3), tmp_path / "s.csv")
    assert [row["label"] for row in rows] == ["checkpoint-0", "checkpoint-100", "checkpoint-200"]
    assert [row["alpha_change"] for row in rows] == ["", "-0.2", "-0.4"]
    assert [float(row["alpha"]) for row in rows] == [4.0, 3.8, 3.6]
    assert "alpha_before" not in rows[0]
