"""Recommendations in the terminal."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Sequence

from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from frog.report.words import brief, count, middle, printable, quantity
from frog.types import Action, Amount, Effect, Extent, Recommendation

SHOWN = 8
EVEN = 5
NAME = 44
COLOURS = {"mend": "bold red", "train": "bold yellow", "choose": "bold yellow"}
VERBS = {
    "mend": "mend",
    "train": "train whole",
    "choose": "your choice",
    "prune": "prune",
    "lower-bits": "lower bits",
    "tune-harder": "tune harder",
    "freeze": "freeze",
    "tune": "tune evenly",
    "leave": "leave alone",
}


def recommendation_view(found: Recommendation, *, everything: bool = False) -> RenderableType:
    """Budget, extent and actions, with the reasoning; nothing is wider than the terminal."""
    parts: list[RenderableType] = [Text(printable(found.path), "bold"), ""]
    parts += [*_amount(found.amount), "", *_extent(found.extent, found), ""]
    parts += [*_actions(found.actions, everything)]
    parts += [Text(printable(f"note: {note}"), style="dim") for note in found.notes]
    return Group(*parts)


def as_text(found: Recommendation, *, width: int = 80) -> str:
    """A recommendation as plain text, at most ``width`` columns wide."""
    out = io.StringIO()
    console = Console(file=out, width=width, color_system=None, highlight=False)
    console.print(recommendation_view(found))
    return "\n".join(line.rstrip() for line in out.getvalue().splitlines())


# -------------------------------------------------------------------------- how much


def _amount(amount: Amount) -> Iterable[RenderableType]:
    if not amount.count:
        yield Text.assemble(("Budget  ", "bold"), amount.reason)
        return
    yield Text.assemble(
        ("Budget  ", "bold"),
        (f"{amount.share:.2%}", "bold green"),
        f" of {quantity(amount.params)} weights = {amount.count:,} · AdamW state and delta "
        f"{_size(amount.optimizer_bytes)} each",
    )
    yield _wrapped(amount.reason)
    if math.isfinite(amount.rate):
        capped = " (at its cap)" if amount.rate == amount.rate_cap else ""
        yield _wrapped(
            f"learning rate {amount.rate:.2g}{capped}: the full rate {amount.full_rate:.2g} / "
            f"{amount.share:.3g}, at most {amount.rate_cap:.2g}"
        )
    table = _table("bound", "at least", "formula", "")
    for bound in amount.bounds:
        mark = Text("decides", "green") if bound.decides else Text("")
        table.add_row(bound.name, f"{bound.share:.2%}", bound.formula, mark)
    yield Padding(table, (0, 0, 0, 8), expand=False)
    for bound in amount.bounds:
        yield _wrapped(f"{bound.name}: {bound.evidence}", "dim")


def _size(n: int) -> str:
    return f"{quantity(n)}B" if n >= 1000 else f"{n} bytes"


# ---------------------------------------------------------------------------- how long


def _extent(extent: Extent, found: Recommendation) -> Iterable[RenderableType]:
    yield Text.assemble(("Extent  ", "bold"), *_after(extent, found))
    if extent.reason:
        yield _wrapped(extent.reason)
    if not extent.stops:
        return
    table = _table("watch", "limit", "stop or slow down where")
    for stop in extent.stops:
        limit = "–" if math.isnan(stop.limit) else f"{stop.limit:.2g}"
        table.add_row(stop.watch, limit, Text(stop.text))
    yield Padding(table, (0, 0, 0, 8), expand=False)
    for stop in extent.stops:
        yield _wrapped(f"{stop.watch}: {stop.evidence}", "dim")


def _after(extent: Extent, found: Recommendation) -> Iterable[str]:
    steps = found.workload.steps
    if steps is None or math.isnan(extent.change_low):
        yield "until the loss on held-out data no longer falls"
        return
    yield (
        f"after {count(steps, 'step')} the weights will have changed by "
        f"{extent.change_low:.2g} to {extent.change_high:.2g} of their norm (in our runs by some "
        "2 times the lower number)"
    )


# ----------------------------------------------------------------------------- actions


def _actions(actions: Sequence[Action], everything: bool) -> Iterable[RenderableType]:
    yield Text("Actions", "bold")
    if not actions:
        yield _wrapped("none: no matrix was measured")
    for kind in dict.fromkeys(x.kind for x in actions):
        members = [x for x in actions if x.kind == kind]
        plain = kind in ("tune", "leave")
        yield _head(kind, members)
        shown = members if everything else members[: EVEN if plain else SHOWN]
        for action in shown:
            yield from _action(action, whole=everything or not plain)
        if len(shown) < len(members):
            yield _wrapped(f"... {len(members) - len(shown)} more: --all", "dim")
        yield _wrapped(f"{members[0].source}; {members[0].evidence}", "dim")


def _head(kind: str, members: Sequence[Action]) -> Text:
    certain = sum(x.certainty == "certain" for x in members)
    sure = "" if certain == len(members) else f" ({certain} certain)"
    what = "the model" if kind == "train" else count(len(members), "layer") + sure
    weights = sum(x.effect.trainable for x in members)
    told = f" · {weights:,} weights train" if kind not in ("train", "mend") else ""
    head = Text.assemble("  ", (VERBS[kind], COLOURS.get(kind, "bold")), f"  {what}{told}")
    head.no_wrap = True
    return head


def _action(action: Action, *, whole: bool) -> Iterable[RenderableType]:
    line = Text(no_wrap=True, overflow="ellipsis")
    line.append(f"        {middle(printable(action.layer), NAME) or 'the model'}")
    if action.measure and math.isfinite(action.value):
        line.append(f"  {action.measure} {brief(action.value, 3)}")
        if math.isfinite(action.threshold):
            line.append(f" ({brief(action.threshold, 3)})")
    yield line
    if not whole:
        return
    yield Padding(
        Text(printable(f"{action.certainty}: {action.reason}")), (0, 0, 0, 10), expand=False
    )
    for option in action.options:
        yield Padding(Text(f"· {VERBS[option.kind]}: {option.reason}; {_told(option.effect)}"),
                      (0, 0, 0, 12), expand=False)  # fmt: skip


def _told(effect: Effect) -> str:
    facts = [f"{effect.trainable:,} weights train ({effect.change:+,})"]
    if effect.removed:
        facts.append(f"{effect.removed:,} removed")
    if effect.bits:
        facts.append(f"{effect.bits} bits a weight")
    return ", ".join(facts)


def _table(*titles: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for title in titles:
        table.add_column(title, justify="right" if title in ("at least", "limit") else "left")
    return table


def _wrapped(text: str, style: str = "") -> Padding:
    return Padding(Text(printable(text), style=style), (0, 0, 0, 8), expand=False)
