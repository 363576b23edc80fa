"""Fine-tuned models of one base side by side: what their runs measured, what their weights say."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import mean
from typing import Any

from frog.types import Comparison, Strategy
from frog.types.recipes import TuneResult

SPLITS = ("test", "validation")
"""Where quality is read: rows that nothing was chosen by come first."""

OLD = "old"
QUALITY = ("quality_before", "quality_after")
FORGETTING = ("old_before", "old_after")
COSTS = ("trainable", "changed", "params", "memory", "seconds", "cpu_seconds", "steps",
         "learning_rate", "delta_bytes")  # fmt: skip
SPECTRAL = ("alpha_shift", "drift", "overlap", "intruders")
NO_RUN = "no output of frog tune"
SHARES = ("accuracy", "accuracy@1")
"""Metrics that count rows, so that their sampling error is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """One fine-tuned model: its comparison with the base, and what is known of its making.

    ``run`` is what frog tune measured, None for other models; ``known`` are numbers of a
    :class:`~frog.types.Strategy` that come from elsewhere.
    """

    label: str
    path: str
    comparison: Comparison
    kind: str = "model"
    run: TuneResult | None = None
    known: Mapping[str, Any] | None = None


def strategies_of(tried: Sequence[Tried]) -> tuple[Strategy, ...]:
    """A row each. Quality that was measured otherwise than that of the first run is left out.

    The first run's task, metric and rows set what is compared: another's number on other rows
    would stand in the column as if it meant the same.
    """
    runs = [x for x in tried if x.run is not None]
    first = runs[0] if runs else None
    split = _split(first.run) if first is not None and first.run is not None else ""
    holder = next((x for x in runs if x.run is not None and OLD in x.run.after), None)
    return tuple(_row(x, first, split, holder) for x in tried)


def strategy_notes(rows: Sequence[Strategy]) -> tuple[str, ...]:
    """What must be known to read the table: what is not comparable, and what may be chance."""
    notes = []
    for name, title in ((QUALITY[1], "quality"), (FORGETTING[1], "old rows")):
        for row in rows:
            reason = row.missing.get(name, "")
            if name in row.unlike:
                notes.append(f"{title} of {row.label}: {reason}: not compared")
    devices = {row.device: row.label for row in rows if row.device}
    if len(devices) > 1:
        told = ", ".join(f"{label} on {device}" for device, label in devices.items())
        notes.append(f"memory and time: {told}: not comparable")
    error = _sampling_error(rows)
    if error:
        notes.append(error)
    return tuple(notes)


def verdict_of_strategies(
    base: str, rows: Sequence[Strategy], comparisons: Sequence[Comparison]
) -> str:
    """One sentence: the range of quality, of forgetting and of drift, and where trouble is."""
    parts = [f"{len(rows)} strategies from {base}"]
    known = [row for row in rows if not math.isnan(row.quality_after)]
    if known:
        worst, best = _ends(known, "quality_after", better=known[0].higher)
        what = f"{known[0].metric} on {known[0].split} rows"
        if worst.quality_after == best.quality_after:
            parts.append(f"{what} {best.quality_after:.4g} ({_who(known)})")
        else:
            parts.append(f"{what} from {worst.quality_after:.4g} ({worst.label}) to "
                         f"{best.quality_after:.4g} ({best.label})")  # fmt: skip
    known = [row for row in rows if not math.isnan(row.old_change)]
    if known:
        worst, best = _ends(known, "old_change", better=known[0].higher)
        if worst.old_change == best.old_change:
            parts.append(f"on old rows it changed by {best.old_change:+.3g} ({_who(known)})")
        else:
            parts.append(f"on old rows it changed by {worst.old_change:+.3g} ({worst.label}) to "
                         f"{best.old_change:+.3g} ({best.label})")  # fmt: skip
    known = [row for row in rows if not math.isnan(row.drift)]
    if known:
        far, near = _ends(known, "drift", better=False)
        moved = f"the weights moved by {near.drift:.2%}"
        if far.drift == near.drift:
            parts.append(f"{moved} ({_who(known)})")
        else:
            parts.append(f"{moved} ({near.label}) to {far.drift:.2%} ({far.label})")
    pairs = zip(rows, comparisons, strict=True)
    ill = [x.label for x, y in pairs if any(f.severity != "info" for f in y.findings)]
    parts.append(f"look at what was found in {', '.join(ill)}" if ill else "nothing to warn of")
    return "; ".join([": ".join(parts[:2]), *parts[2:]]) + "."


# ----------------------------------------------------------------------------- one row


def _row(tried: Tried, first: Tried | None, split: str, holder: Tried | None) -> Strategy:
    spectral, missing = _spectral(tried.comparison)
    row = replace(Strategy(label=tried.label, path=tried.path, kind=tried.kind), **spectral)
    if tried.run is None:
        known = dict(tried.known or {})
        names = (*QUALITY, *FORGETTING, *COSTS)
        missing = {**{x: NO_RUN for x in names if x not in known}, **missing}
        return replace(row, **known, missing=missing)
    run = tried.run
    row = replace(
        row, mode=run.mode, task=run.task, metric=run.metric, higher=run.higher, split=split,
        device=run.device, trainable=float(run.trainable), changed=float(run.changed),
        params=float(run.params), memory=run.memory, seconds=run.seconds,
        cpu_seconds=run.cpu_seconds, steps=float(run.steps), learning_rate=run.rate.value,
        delta_bytes=float(run.delta_bytes) or math.nan,
    )  # fmt: skip
    for names, place, of, model in (
        (QUALITY, split, "rows", first), (FORGETTING, OLD, "old_rows", holder),
    ):  # fmt: skip
        why = _absent(run, place)
        other = "" if why else _unlike(tried, model, place)
        if why or other:
            missing |= dict.fromkeys(names, why or other)
            row = replace(row, unlike=(*row.unlike, *(names if other else ())))
            continue
        numbers = [getattr(run, x).get(place, {}).get(run.metric, math.nan)
                   for x in ("before", "after")]  # fmt: skip
        row = replace(row, **dict(zip(names, numbers, strict=True)),
                      **{of: run.rows.get(place, 0)})  # fmt: skip
    unknown = {x: "not recorded" for x in (*QUALITY, *FORGETTING, *COSTS)
               if math.isnan(getattr(row, x)) and x not in missing}  # fmt: skip
    return replace(row, missing={**missing, **unknown})


def _split(run: TuneResult) -> str:
    return next((x for x in SPLITS if run.metric in run.after.get(x, {})), "")


def _absent(run: TuneResult, place: str) -> str:
    """Why a run has no number there; nothing where it has one."""
    if not place:
        return "no test or validation rows in the recipe"
    return "" if place in run.after else f"no {place} rows in the recipe"


def _unlike(tried: Tried, model: Tried | None, place: str) -> str:
    """Why a run's number does not mean what the model run's does; nothing where it does."""
    if model is None or model is tried:
        return ""
    run, other = tried.run, model.run
    assert run is not None
    assert other is not None
    for word, mine, theirs in (("task", run.task, other.task),
                               ("metric", run.metric, other.metric)):  # fmt: skip
        if mine != theirs:
            return f"measured by the {word} {mine}, that of {model.label} by {theirs}"
    if not run.digests.get(place) or not other.digests.get(place):
        return f"which {place} rows were measured is not recorded"
    if run.digests[place] != other.digests[place]:
        return f"measured on other {place} rows than those of {model.label}"
    return ""


def _spectral(comparison: Comparison) -> tuple[dict[str, float | int], dict[str, str]]:
    """What the weights say of a model beside its base, and why a number is missing."""
    shifts = [abs(x.change.get("alpha", math.nan)) for x in comparison.layers]
    shifts = [x for x in shifts if not math.isnan(x)]
    overlaps = [
        1.0 - (x.rotation_left + x.rotation_right) / 2
        for x in comparison.layers
        if not math.isnan(x.rotation_left + x.rotation_right)
    ]
    numbers: dict[str, float | int] = {
        "alpha_shift": mean(shifts) if shifts else math.nan,
        "layers_fitted": len(shifts),
        "drift": float(comparison.summary.get("drift_total", math.nan)),
        "overlap": mean(overlaps) if overlaps else math.nan,
        "intruders": float(comparison.summary.get("intruders", math.nan)),
    }
    weighed = comparison.before.weights and comparison.after.weights
    missing = {
        name: "no layer has an alpha in both models" if name == "alpha_shift"
        else "nothing to compare" if weighed or not comparison.layers else "needs weights"
        for name in SPECTRAL
        if math.isnan(numbers[name])
    }  # fmt: skip
    return numbers, missing


def _who(rows: Sequence[Strategy]) -> str:
    return rows[0].label if len(rows) == 1 else "all" if len(rows) > 2 else "both"


def _ends(rows: Sequence[Strategy], name: str, *, better: bool) -> tuple[Strategy, Strategy]:
    """The worst and the best row by a number; ``better`` says whether more is."""
    order = sorted(rows, key=lambda row: getattr(row, name), reverse=not better)
    return order[0], order[-1]


def _sampling_error(rows: Sequence[Strategy]) -> str:
    """How far two accuracies on so many rows may differ by the draw of the rows alone."""
    known = [x for x in rows if x.metric in SHARES and not math.isnan(x.quality_after) and x.rows]
    if len(known) < 2:
        return ""
    p = min(max(mean(x.quality_after for x in known), 0.0), 1.0)
    half = 1.96 * math.sqrt(max(p * (1 - p), 1e-12) / known[0].rows)
    return (f"{known[0].metric} on {known[0].rows:,} rows is known to about ±{100 * half:.1f} "
            "points (95 %), and each run is one seed")  # fmt: skip
