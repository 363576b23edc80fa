"""The outcome of a gate for people: a line a breach, what was not checked, PASS or FAIL."""

from __future__ import annotations

from rich.text import Text

from frog.report.terminal import MARKS
from frog.report.words import count, printable
from frog.types import GateResult


def gate_lines(result: GateResult) -> list[Text]:
    """A line a breach, the gravest first, then one line that says PASS or FAIL.

    A line is never broken: logs are searched by line.
    """
    lines = []
    for breach in result.breaches:
        mark, colour = MARKS[breach.severity]
        text = f"  {printable(breach.text)}".replace("\n", " ")
        lines.append(Text.assemble((f"{mark} ", colour), (breach.rule, "bold"), text))
    lines += [Text(printable(f"note: {note}"), style="dim") for note in result.notes]
    return [*lines, _end(result)]


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
