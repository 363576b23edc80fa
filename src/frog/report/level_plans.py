"""Plans of compression in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.report.words import brief, count, middle, percent, printable, quantity
from frog.types.judgements import Judgement
from frog.types.level_plans import LevelPlan, PlannedUnit, Quantisation, SweepPreview

SHOWN = 12
NAME = 44


def level_plan_table(plan: LevelPlan, *, everything: bool = False) -> RenderableType:
    """What each role gets, then the units that are farthest from the average."""
    bits = plan.action == "bits"
    reached = f"{plan.reached:.3f} bits a weight" if bits else f"{percent(plan.reached)} pruned"
    asked = f"{plan.budget:g}" if bits else percent(plan.budget)
    head = Text.assemble(
        (printable(plan.path), "bold"),
        f"\n{reached} (asked: {asked}) over {quantity(plan.params)} weights in "
        f"{count(len(plan.matrices), 'matrix')}\nrule {plan.rule} · {_how(plan)}",
    )
    lines: list[RenderableType] = [head, "", _by_role(plan)]
    shown = list(plan.units)
    if not everything:
        far = sorted(shown, key=lambda x: -abs(x.level - plan.reached))[:SHOWN]
        shown = [x for x in shown if x in far]
    if len({x.level for x in plan.units}) > 1 or everything:
        lines += ["", _units(shown, bits=bits)]
        if len(shown) < len(plan.units):
            lines.append(Text(f"... {len(plan.units) - len(shown)} more: --all", style="dim"))
    facts = []
    if plan.damage is not None:
        facts.append(f"expected squared error of the outputs: {brief(plan.damage, 3)}")
    if plan.left_out:
        facts.append(f"{count(len(plan.left_out), 'matrix')} left as they are")
    if facts:
        lines += ["", Text(" · ".join(facts))]
    lines += [Text(printable(f"note: {note}"), style="dim") for note in plan.notes]
    return Group(*lines)


def sweep_preview(preview: SweepPreview) -> RenderableType:
    """What would be done, and how long it takes."""
    head = Text.assemble(
        (printable(preview.path), "bold"),
        f"\nrule {preview.rule} · {count(preview.units, 'unit')} of "
        f"{count(preview.matrices, 'matrix')}, {quantity(preview.params)} weights · "
        f"{preview.left_out} left as they are",
    )
    if preview.seconds is None:
        return Group(head, Text("nothing is to be measured on data"))
    known = f", {preview.known} of them in the log" if preview.known else ""
    return Group(
        head,
        Text(
            f"{count(preview.cells, 'cell')} to measure{known}, {preview.seconds:.2g} s each: "
            f"about {duration(preview.total)}"
        ),
    )


def duration(seconds: float) -> str:
    """A stretch of time as people say it.

    >>> duration(42), duration(600), duration(9000)
    ('42 s', '10 min', '2.5 h')
    """
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _how(plan: LevelPlan) -> str:
    how = plan.how
    if isinstance(how, Quantisation):
        group = f"groups of {how.group}" if how.group else "whole rows"
        return f"{group}, {'symmetric' if how.symmetric else 'asymmetric'}"
    if how.pattern is not None:
        return f"{how.importance}, {how.pattern[0]} of {how.pattern[1]} stay"
    return f"{how.importance}, compared within a {how.within}"


def _by_role(plan: LevelPlan) -> Table:
    bits = plan.action == "bits"
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("role")
    levels = sorted({x.level for x in plan.units}) if bits else []
    titles = [f"{x:g} bit" for x in levels] if bits else ["least", "most"]
    for title in ("matrices", "weights", *titles, "mean"):
        table.add_column(title, justify="right", no_wrap=True)
    rows = [(x.role or "?", unit.level, x) for unit in plan.units for x in unit.matrices]
    for role in dict.fromkeys(role for role, _, _ in rows):
        members = [(level, x) for found, level, x in rows if found == role]
        params, size = sum(x.params for _, x in members), sum(x.size for _, x in members)
        if bits:
            cells = [str(sum(level == y for level, _ in members) or "") for y in levels]
            mean = f"{size / params:.2f}"
        else:
            shares = [1 - x.size / x.params for _, x in members]
            cells, mean = [percent(min(shares)), percent(max(shares))], percent(1 - size / params)
        table.add_row(Text(role), str(len(members)), quantity(params), *cells, mean)
    return table


def _units(units: Sequence[PlannedUnit], *, bits: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("unit", no_wrap=True)
    columns = ["weights", "bits" if bits else "pruned"]
    measured = any(x.damage is not None for x in units)
    scored = any(x.score is not None for x in units)
    columns += [*(("damage",) if measured else ()), *(("score",) if scored else ())]
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for x in units:
        level = f"{x.level:g}" if bits else percent(x.level)
        cells = [quantity(x.params), f"{level} (pin)" if x.pinned else level]
        cells += ["–" if x.damage is None else brief(x.damage, 3)] if measured else []
        cells += ["–" if x.score is None else brief(x.score, 3)] if scored else []
        table.add_row(Text(middle(printable(x.name), NAME)), *cells)
    return table


def judgement_table(judgement: Judgement, action: str) -> RenderableType:
    """The plan and those it was held against, a row each, and the verdict."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("")
    names = list(judgement.metrics)
    size = "bits in all" if action == "bits" else "weights kept"
    for title in (size, "error", "angle", *names):
        table.add_column(title, justify="right", no_wrap=True)
    if names:
        whole = [brief(judgement.metrics[x]) for x in names]
        table.add_row("unchanged", "", "0", "0", *whole)
    for x in judgement.plans:
        cells = [f"{x.size:,}", brief(x.error), brief(x.angle)]
        table.add_row(Text(x.name), *cells, *(brief(x.metrics[name]) for name in names))
    style = {"better": "green", "worse": "red"}.get(judgement.verdict, "")
    return Group(table, "", Text(judgement.sentence, style=style))
