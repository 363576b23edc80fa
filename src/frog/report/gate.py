"""The outcome of a gate for people: a line a breach, what was not checked, PASS or FAIL."""

from __future__ import annotations

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.report.terminal import MARKS
from frog.report.words import count, printable
from frog.types import GateResult


def gate_panel(result: GateResult) -> RenderableType:
    """A line a breach, the gravest first, then one line that says PASS or FAIL."""
    parts: list[RenderableType] = []
    if result.breaches:
        grid = Table.grid(padding=(0, 1))
        grid.add_column(no_wrap=True)
        grid.add_column()
        for breach in result.breaches:
            mark, colour = MARKS[breach.severity]
            text = Text.assemble((f"{breach.rule}  ", "bold"), printable(breach.text))
            grid.add_row(Text(mark, style=colour), text)
        parts += [grid]
    parts += [Text(printable(f"note: {note}"), style="dim") for note in result.notes]
    return Group(*parts, _end(result))


def _end(result: GateResult) -> Text:
    tally = [
        count(sum(breach.severity == severity for breach in result.breaches), severity)
        for severity in ("error", "warning")
    ]
    word, style = ("PASS", "bold green") if result.passed else ("FAIL", "bold red")
    end = f"  {result.path}: {count(result.checked, 'rule')} checked, {' and '.join(tally)}"
    if result.unmeasured:
        end += f", {count(len(result.unmeasured), 'tensor')} not checked"
    return Text.assemble((word, style), printable(end))
