"""Plans and selections in the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.report.words import count, middle, printable, quantity
from frog.types import Allotment, Plan, Selection

SHOWN = 12
NAME = 48


def plan_table(plan: Plan, *, everything: bool = False) -> RenderableType:
    """Who gets how much: by role, then the layers that get most of their own weights."""
    share = plan.total / plan.params if plan.params else 0.0
    head = Text.assemble(
        (printable(plan.path), "bold"),
        f"\n{plan.total:,} of {quantity(plan.params)} weights ({share:.2%}) in "
        f"{count(len(plan.layers), 'matrix')} · rule {plan.rule}",
    )
    lines: list[RenderableType] = [head, "", _by_role(plan.layers)]
    rows = sorted(plan.layers, key=lambda x: -x.share)
    rated = any(x.lr_ratio != 1.0 for x in rows)
    uneven = len({round(x.share, 4) for x in rows}) > 1 or rated
    if uneven or everything:
        shown = list(plan.layers) if everything else rows[:SHOWN]
        lines += ["", _layers(shown, share, rated)]
        if len(shown) < len(rows):
            lines.append(Text(f"... {len(rows) - len(shown)} more: --all", style="dim"))
    if plan.left_out:
        left = count(len(plan.left_out), "tensor")
        lines += ["", Text(f"{left} left out; the file of the plan says why", style="dim")]
    lines += [Text(printable(f"note: {note}"), style="dim") for note in plan.notes]
    return Group(*lines)


def selection_table(selection: Selection) -> RenderableType:
    """What was chosen, and what is worth knowing about it."""
    plan = selection.plan
    head = Text.assemble(
        (printable(selection.path), "bold"),
        f"\n{selection.count:,} weights in {count(len(selection.chosen), 'matrix')} · "
        f"score {selection.score} · {selection.granularity}s · rule {plan.rule} · "
        f"seed {selection.seed}",
    )
    counts = {x.name: x.count for x in selection.chosen}
    rows = [
        Allotment(
            name=x.name, role=x.role, block=x.block, shape=x.shape, params=x.params,
            count=counts.get(x.name, 0),
        )
        for x in plan.layers
    ]  # fmt: skip
    notes = [Text(printable(f"note: {note}"), style="dim") for note in selection.notes]
    return Group(head, "", _by_role(rows), *notes)


def _by_role(layers: Sequence[Allotment]) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("role")
    for title in ("matrices", "weights", "chosen", "share"):
        table.add_column(title, justify="right")
    roles = dict.fromkeys(x.role or "?" for x in layers)
    for role in roles:
        members = [x for x in layers if (x.role or "?") == role]
        params, chosen = sum(x.params for x in members), sum(x.count for x in members)
        table.add_row(
            Text(role), f"{len(members)}", quantity(params), f"{chosen:,}",
            f"{chosen / params:.3%}",
        )  # fmt: skip
    return table


def _layers(rows: Sequence[Allotment], mean: float, rated: bool) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("layer", no_wrap=True)
    for title in ("chosen", "share", "x even", *(("x rate",) if rated else ())):
        table.add_column(title, justify="right", no_wrap=True)
    for x in rows:
        name = middle(printable(x.name), NAME - 8 * rated)
        cells = [f"{x.count:,}", f"{x.share:.3%}", f"{x.share / mean:.2f}"]
        table.add_row(Text(name), *cells, *((f"{x.lr_ratio:.2f}",) if rated else ()))
    return table
