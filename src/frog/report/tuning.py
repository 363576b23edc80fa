"""Fine-tuning runs in the terminal: what one would do, and what came of one."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from frog.report.plans import plan_table
from frog.report.words import printable, quantity
from frog.types.recipes import HeadFit, LearningRate, MemoryEstimate, TunePlan, TuneResult

FIRST = ("accuracy", "f1", "perplexity", "spearman", "accuracy@1")
LOWER = ("loss", "token_loss", "perplexity")
"""Metrics that are better when they are lower."""

PERCENT = ("accuracy", "f1", "accuracy@1", "mrr")
WHOLE_SHOWN = 3


def preview_view(plan: TunePlan, *, everything: bool = False) -> RenderableType:
    """Data, plan, trainable weights, rate with its reason, steps and memory of a run to come."""
    recipe = plan.recipe
    table = _pairs()
    rows = ", ".join(f"{n:,} {split}" for split, n in plan.rows.items())
    table.add_row("task", f"{recipe.task} · {rows}")
    epochs = f"{plan.epochs:.3g} epoch{'' if plan.epochs == 1 else 's'}"
    table.add_row("steps", f"{plan.steps:,} of {plan.batch} rows each · {epochs}")
    table.add_row("trains", trains(plan.trainable, plan.params, plan.whole))
    table.add_row("rate", rate_text(plan.rate))
    table.add_row("head", head_text(plan.head))
    table.add_row("keeps", kept_text(plan.keep_change))
    table.add_row("output", printable(recipe.output))
    parts: list[RenderableType] = [table, ""]
    if plan.selection is not None:
        parts += [plan_table(plan.plan, everything=everything), ""]
    parts += [_memory(plan.memory)]
    parts += [Text(printable(f"note: {note}"), style="dim") for note in plan.notes]
    return Group(*parts)


def result_view(result: TuneResult) -> RenderableType:
    """The task before and after, what was changed, how long it took."""
    name = "/".join(Path(result.model).parts[-2:])
    head = Text.assemble(
        (printable(Path(result.output).name), "bold"),
        f" · {result.task} · tuned from {printable(name)}",
    )
    facts = _pairs()
    share = result.changed / result.params if result.params else 0.0
    facts.add_row(
        "changed", f"{result.changed:,} of {quantity(result.params)} weights ({share:.3%})"
    )
    if result.verdict:
        facts.add_row("compared", printable(result.verdict))
    facts.add_row("rate", rate_text(result.rate))
    if result.head is not None:
        facts.add_row("head", head_text(result.head))
    if result.keep_change < 1:
        facts.add_row("kept", kept_text(result.keep_change))
    resumed = f", resumed at {result.resumed_at:,}" if result.resumed_at else ""
    facts.add_row("time", f"{result.steps:,} steps in {duration(result.seconds)}{resumed}")
    if result.stopped:
        facts.add_row("stopped", printable(result.stopped))
    elif result.alarms:
        facts.add_row("alarms", f"{result.alarms}: certificate.json tells of them")
    metrics = _metrics(result)
    parts = [head, "", *([metrics, ""] if metrics else []), facts]
    notes = [Text(printable(f"note: {note}"), style="dim") for note in result.notes]
    if not metrics:
        notes.insert(0, Text("note: no validation or test rows, so nothing was measured", "dim"))
    return Group(*parts, *notes)


def trains(trainable: int, params: int, whole: Mapping[str, int]) -> str:
    """How many weights train, and which parameters train whole.

    >>> trains(1010, 100_000, {"head.weight": 10})
    '1,010 of 100 k weights (1.010%): 1,000 chosen, 10 whole (head.weight)'
    """
    share = f"{trainable:,} of {quantity(params)} weights ({trainable / params:.3%})"
    if not whole:
        return share
    total = sum(whole.values())
    named = ", ".join(list(whole)[:WHOLE_SHOWN])
    more = f" and {len(whole) - WHOLE_SHOWN} more" if len(whole) > WHOLE_SHOWN else ""
    return printable(f"{share}: {trainable - total:,} chosen, {total:,} whole ({named}{more})")


def rate_text(rate: LearningRate) -> str:
    """The learning rate and where it comes from; a reason that begins with it stands alone."""
    value = f"{rate.value:.3g}"
    return rate.reason if rate.reason.startswith(("lr ", value)) else f"{value}: {rate.reason}"


def head_text(head: HeadFit | None) -> str:
    """How a new head is fitted before the rest, and after.

    >>> head_text(HeadFit(names=("head.weight",), steps=60, rate=1e-3))
    'new, fitted alone for 60 steps first, from a rate of 0.001'
    >>> head_text(HeadFit(names=("head.weight",), steps=60, rate=1e-3, last=1))
    'new, fitted alone for 60 steps first and 1 step last, from a rate of 0.001'
    >>> head_text(None)
    'none is fitted alone'
    """
    if head is None:
        return "none is fitted alone"
    told = [
        f"{steps:,} step{'' if steps == 1 else 's'} {when}"
        for steps, when in ((head.steps, "first"), (head.last, "last"))
        if steps
    ]
    return f"new, fitted alone for {' and '.join(told)}, from a rate of {head.rate:.3g}"


def kept_text(share: float | None) -> str:
    """What is kept of the change of the tuned weights.

    >>> kept_text(0.6), kept_text(1.0)
    ('60% of the change of the tuned weights', 'all of the change')
    >>> kept_text(None)
    'as much of the change as the loss asks for at the end'
    """
    if share is None:
        return "as much of the change as the loss asks for at the end"
    if share == 1:
        return "all of the change"
    return f"{100 * share:.3g}% of the change of the tuned weights"


def duration(seconds: float) -> str:
    """A time as people say it.

    >>> duration(3.21), duration(75), duration(7300)
    ('3.2 s', '1 min 15 s', '2 h 1 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Bytes in decimal units.

    >>> size(90_900_000), size(512)
    ('90.9 MB', '512 B')
    """
    for one, unit in ((10**9, "GB"), (10**6, "MB"), (10**3, "kB")):
        if count >= one:
            return f"{count / one:.3g} {unit}"
    return f"{count} B"


def _pairs() -> Table:
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column()
    return table


def _memory(memory: MemoryEstimate) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("memory of a step", no_wrap=True)
    table.add_column("about", justify="right", no_wrap=True)
    table.add_column("")
    rows = memory.batch
    for name, count, what in (
        ("weights", memory.weights, "the model as it is loaded"),
        ("gradients", memory.gradients, "of what trains"),
        ("optimizer", memory.optimizer, "its state, as counted on a small vector"),
        ("selection", memory.indices, "places and old values of the chosen weights"),
        ("one dense gradient", memory.transient, "at most; for a moment, one matrix at a time"),
        ("activations", memory.activations, f"rough: the longest of some rows, x {rows}"),
        ("total", memory.total, ""),
    ):
        table.add_row(name, size(count), Text(what, style="dim"))
    left = "Not counted: libraries, a GPU's context, data, scratch space, evaluation."
    return Group(table, Text(left, style="dim"))


def _metrics(result: TuneResult) -> Table | None:
    if not result.after:
        return None
    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("rows", no_wrap=True)
    table.add_column("metric", no_wrap=True)
    for title in ("before", "after", "change"):
        table.add_column(title, justify="right", no_wrap=True)
    for split, metrics in result.after.items():
        for i, name in enumerate(_ordered(metrics, result.metric)):
            before = result.before.get(split, {}).get(name, math.nan)
            style = "bold" if name == result.metric else ""
            after = metrics[name]
            table.add_row(
                split if i == 0 else "", Text(name, style), metric_value(name, before),
                Text(metric_value(name, after), style), metric_change(name, before, after),
            )  # fmt: skip
    return table


def _ordered(metrics: Mapping[str, float], first: str) -> Iterator[str]:
    names = [name for name in metrics if name != "candidates"]
    yield from sorted(names, key=lambda x: (x != first, x not in FIRST, names.index(x)))


def metric_value(name: str, value: float) -> str:
    """A metric as people read it: shares in percent, a dash where there is none."""
    if math.isnan(value):
        return "–"
    return f"{100 * value:.1f} %" if name in PERCENT else f"{value:.4g}"


def metric_change(name: str, before: float, after: float, *, higher: bool | None = None) -> Text:
    """The change, green for the better and red for the worse; ``higher`` says which is better."""
    if math.isnan(before) or math.isnan(after):
        return Text("–")
    change = after - before
    text = f"{100 * change:+.1f}" if name in PERCENT else f"{change:+.3g}"
    rises = name not in LOWER if higher is None else higher
    better = change > 0 if rises else change < 0
    style = "" if change == 0 else "green" if better else "red"
    return Text(text.replace("-", "−"), style=style)
