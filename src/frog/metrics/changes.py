"""What a comparison found: collapse, drift, intruders, new verdicts; and its one sentence."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import TYPE_CHECKING

from frog.metrics.collapse import CHANGE_LIMIT, WORDS, Scale, factor
from frog.metrics.pairing import Pairing
from frog.types import Comparison, Finding, LayerChange, ModelReport, Pair

if TYPE_CHECKING:
    from frog.metrics.compare import Weighing

DRIFT_INFO = 0.5
DRIFT_WARNING = 1.0
"""Drift from which half of a layer is new, and from which the change is larger than the layer."""

GREAT_CHANGE = 1.0
"""Decades from which a scale collapse is an error: a factor of 10 in the squared norm."""

EDGE_Z = 4.0
EDGE_LOST = 0.5
"""A pathway is lost when an edge that stood out by 4 standard deviations keeps less than half of
its weight."""

NEW = ("nonfinite", "correlation-trap", "over-trained", "over-parameterised", "untrained")
"""Findings of the model after that are reported when the model before had no such one."""

READINGS = ("folded", "trimmed", "plain")


def findings_of(
    before: ModelReport,
    after: ModelReport,
    layers: Sequence[LayerChange],
    *,
    pairing: Pairing,
    scales: Mapping[str, Scale],
    weighing: Weighing,
) -> tuple[Finding, ...]:
    """Everything worth knowing about a change, gravest kind first, then in the model's order."""
    found: list[Finding] = []
    for layer in layers:
        if layer.scale:
            undone = weighing.compensated.get(layer.name, "")
            _, gain = weighing.by_gain.get(layer.name, (None, ""))
            found.append(_scale(layer, scales[layer.name], undone, gain))
    found += _new_findings(before, after, layers, dict(pairing.pairs))
    for layer in layers:
        found += _drift(layer)
        found += _intruders(layer)
    found += _lost_pathways(before, after, dict(pairing.pairs))
    rank = {"error": 0, "warning": 1, "info": 2}
    return tuple(sorted(found, key=lambda finding: rank[finding.severity]))


def verdict_of(comparison: Comparison) -> str:
    """One sentence: how much changed, what is wrong with it, or that nothing is.

    >>> from frog.metrics.changes import _joined
    >>> _joined(["a", "b", "c"])
    'a, b and c'
    """
    layers = comparison.layers
    if not layers:
        return "Nothing to compare: the two models share no measured layer."
    changed = [layer for layer in layers if not layer.identical or layer.scale]
    if not changed:
        many = len(layers) > 1
        same = f"all {len(layers)} layers are identical" if many else "the layer is identical"
        return f"Nothing changed: {same}{_alone(comparison)}."
    drifts = [x.drift for x in changed if not math.isnan(x.drift)]
    if drifts and max(drifts) == 0.0 and any(layer.scale for layer in changed):
        start = "No layer changed, but a normalisation before some did"
    elif drifts and max(drifts) == 0.0:
        start = "Nothing changed but the type of the weights"
    else:
        start = f"{len(changed)} of {_count(len(layers), 'layer')} changed"
        if drifts:
            start += f", by {_percent(median(drifts))} of their norm in the median"
    trouble = _trouble(comparison.findings)
    start += _alpha_words(changed)
    undone = sum(layer.scale == "compensated" for layer in layers)
    if undone:
        by = "its neighbour" if undone == 1 else "their neighbours"
        start += f"; {_count(undone, 'change')} of scale, undone by {by}"
    start += _alone(comparison)
    if trouble:
        return f"{start}: {'; '.join(trouble)}."
    together = [x for x in layers if not x.scale and _rescaled(x)]
    if together:
        return (
            f"{start}: {_count(len(together), 'layer')} changed in scale by more than a factor of "
            "two, together: with so many there is no telling which of them collapsed."
        )
    if not drifts:
        return f"{start}: no scale collapse and no new verdict; drift and intruders need weights."
    return f"{start}: no scale collapse, no intruder dimensions, no new verdict; it looks healthy."


def _rescaled(layer: LayerChange) -> bool:
    """Whether its norm changed by more than counts, be it alone or with all the others."""
    return abs(layer.change.get("log_norm", 0.0)) > CHANGE_LIMIT["log_norm"]


def verdict_of_series(labels: Sequence[str], comparisons: Sequence[Comparison]) -> str:
    """One sentence over a run: how far the last member is, and where trouble began.

    >>> verdict_of_series(["start"], [])
    'Nothing to compare: there is one model.'
    """
    if not comparisons:
        return "Nothing to compare: there is one model."
    last = comparisons[-1]
    drifts = [x.summary.get("drift_total", math.nan) for x in comparisons]
    start = f"{_count(len(labels), 'model')}, each against {labels[0]}"
    if not math.isnan(drifts[-1]):
        far = max(range(len(drifts)), key=lambda i: (not math.isnan(drifts[i]), drifts[i]))
        start += f": the last has moved by {_percent(drifts[-1])}"
        if far != len(drifts) - 1:
            start += f", {labels[far + 1]} farthest ({_percent(drifts[far])})"
    change = last.summary.get("alpha_change", math.nan)
    if not math.isnan(change):
        start += f"; mean alpha changed by {change:+.2g}"
    for label, comparison in zip(labels[1:], comparisons, strict=True):
        trouble = _trouble(comparison.findings)
        if trouble:
            return f"{start}; first trouble at {label}: {_joined(trouble)}."
    return f"{start}; no scale collapse, no intruder dimensions and no new verdict at any of them."


# ------------------------------------------------------------------------------ findings


def _scale(layer: LayerChange, scale: Scale, undone: str, gain: str = "") -> Finding:
    grew = "larger" if scale.change > 0 else "smaller"
    if math.isinf(scale.change):
        what = "is all zero now" if scale.change < 0 else "was all zero and is not any more"
    else:
        what = f"has {factor(scale.change)} the {WORDS[scale.quantity]} (limit " \
               f"{factor(scale.limit)} or its inverse; z {scale.z:.3g} among its like)"  # fmt: skip
    if undone:
        severity = "info"
        text = f"{layer.name} {what}; {undone} undoes it: compensated"
    else:
        severity = "error" if abs(scale.change) >= GREAT_CHANGE else "warning"
        advice = "restore it from the model before, or train it again" if grew == "smaller" else \
                 "look at its learning rate and weight decay"  # fmt: skip
        if gain:
            what += f" with {gain} before it, which changed"
            advice = "look at that gain"
        text = f"{layer.name} {what}: {advice}"
    return Finding(
        kind="scale-collapse",
        certainty="certain",
        severity=severity,
        layer=layer.name,
        value=scale.change,
        threshold=math.copysign(scale.limit, scale.change),
        text=text,
    )


def _drift(layer: LayerChange) -> list[Finding]:
    if not layer.drift > DRIFT_INFO:
        return []
    large = layer.drift > DRIFT_WARNING
    limit = DRIFT_WARNING if large else DRIFT_INFO
    words = "the change is larger than the layer was" if large else "most of it is new"
    return [
        Finding(
            kind="drift",
            certainty="certain",
            # what is undone beside it is no alarm, however far it moved
            severity="warning" if large and layer.scale != "compensated" else "info",
            layer=layer.name,
            value=layer.drift,
            threshold=limit,
            text=f"{layer.name} moved by {_percent(layer.drift)} of its norm "
            f"(limit {_percent(limit)}): {words}",
        )
    ]


def _intruders(layer: LayerChange) -> list[Finding]:
    if not layer.intruders > 0:
        return []
    return [
        Finding(
            kind="intruder-dimensions",
            certainty="certain",
            severity="warning",
            layer=layer.name,
            value=layer.intruders,
            threshold=0.0,
            text=f"{layer.name} has {_count(int(layer.intruders), 'intruder dimension')}: leading "
            "directions that no old one resembles (cosine below 0.5), which goes with "
            "forgetting; a smaller learning rate or a higher rank avoids them",
        )
    ]


def _new_findings(
    before: ModelReport,
    after: ModelReport,
    layers: Sequence[LayerChange],
    partners: Mapping[str, str],
) -> list[Finding]:
    """Findings of the model after on a compared layer that the layer before did not have."""
    known = {(partners[x.layer], x.kind): x.certainty for x in before.findings
             if x.layer in partners}  # fmt: skip
    by_name = {layer.name: layer for layer in layers if not layer.identical}
    found = []
    for finding in after.findings:
        layer = by_name.get(finding.layer)
        if layer is None or finding.kind not in NEW:
            continue
        was = known.get((finding.layer, finding.kind))
        if was is None:
            text = f"new: {finding.text}"
        elif (was, finding.certainty) == ("possible", "certain"):
            text = f"certain now: {finding.text}"
        else:
            continue
        found.append(_weighted(replace(finding, text=text), layer))
    return found


def _weighted(finding: Finding, layer: LayerChange) -> Finding:
    """A verdict that rests on alpha is no news when the change of alpha may be nothing."""
    low, high = layer.alpha_change_low, layer.alpha_change_high
    by_alpha = finding.value == layer.after.get("alpha")
    if not by_alpha or math.isnan(low) or low > 0.0 or high < 0.0:
        return finding
    text = (
        f"{finding.text}; but alpha may not have changed at all "
        f"(interval of the change {low:.2g} to {high:.2g})"
    )
    return replace(finding, certainty="possible", severity="info", text=text)


# ------------------------------------------------------------------------------ pathways


def _lost_pathways(
    before: ModelReport, after: ModelReport, partners: Mapping[str, str]
) -> list[Finding]:
    """Heaviest pathways of the model before of which an edge has lost its weight."""
    if not before.pairs or not after.pairs:
        return []
    now = {(x.writer, x.reader, x.head): x for x in after.pairs}
    found, told = [], set()
    for pathway in before.pathways:
        for place, (writer, reader) in enumerate(
            zip(pathway.layers, pathway.layers[1:], strict=False)
        ):
            if writer not in partners or reader not in partners or (writer, reader) in told:
                continue
            heads = pathway.heads[place : place + 2]
            old = _edge(before.pairs, writer, reader, heads)
            new = old and now.get((partners[writer], partners[reader], old.head))
            if old is None or new is None or _z(old) < EDGE_Z or old.weight <= 0:
                continue
            if new.weight < EDGE_LOST * old.weight:
                told.add((writer, reader))
                found.append(_lost(old, new))
    return found


def _edge(
    pairs: Iterable[Pair], writer: str, reader: str, heads: Sequence[int | None]
) -> Pair | None:
    """The heaviest edge between two layers, through one of the given heads where it has heads."""
    there = [
        x for x in pairs
        if (x.writer, x.reader) == (writer, reader) and (x.head is None or x.head in heads)
    ]  # fmt: skip
    return max(there, key=lambda x: x.weight, default=None)


def _z(pair: Pair) -> float:
    read = [pair.overlaps[name].z for name in READINGS if name in pair.overlaps]
    return read[0] if read else math.nan


def _lost(old: Pair, new: Pair) -> Finding:
    head = "" if old.head is None else f" (head {old.head})"
    left = f"{new.weight / old.weight:.0%}"
    return Finding(
        kind="pathway-lost",
        certainty="possible",
        severity="warning",
        layer=new.reader,
        value=new.weight,
        threshold=EDGE_LOST * old.weight,
        text=f"the pathway from {new.writer} to {new.reader}{head} has {left} of its weight "
        "before: what was written there is hardly read any more",
    )


# -------------------------------------------------------------------------- one sentence


def _trouble(findings: Sequence[Finding]) -> list[str]:
    """The grave findings in words, by kind."""
    grave = [x for x in findings if x.severity != "info"]
    by_kind: dict[str, list[str]] = {}
    for finding in grave:
        by_kind.setdefault(finding.kind, []).append(finding.layer)
    words = {
        "nonfinite": "NaN or Inf in",
        "scale-collapse": "scale collapse in",
        "correlation-trap": "new correlation traps in",
        "intruder-dimensions": "intruder dimensions in",
        "over-trained": "newly over-trained:",
        "over-parameterised": "newly over-parameterised:",
        "untrained": "like untrained now:",
        "drift": "changed by more than their norm:",
        "pathway-lost": "pathways lost into",
    }
    return [f"{text} {_names(by_kind[kind])}" for kind, text in words.items() if kind in by_kind]


def _names(names: Sequence[str]) -> str:
    different = list(dict.fromkeys(names))
    if len(different) <= 2:
        return _joined(different)
    return f"{different[0]} and {len(different) - 1} more layers"


def _alpha_words(changed: Sequence[LayerChange]) -> str:
    """How many layers' alpha changed beyond doubt, where any did."""
    sure = [x for x in changed if x.alpha_change_low > 0 or x.alpha_change_high < 0]
    if not sure:
        return ""
    moved = median([x.change["alpha"] for x in sure])
    return f"; alpha changed beyond its interval in {len(sure)} (median {moved:+.2g})"


def _alone(comparison: Comparison) -> str:
    alone = len(comparison.only_before) + len(comparison.only_after)
    return f"; {_count(alone, 'layer')} without a partner" if alone else ""


def _joined(words: Sequence[str]) -> str:
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")


def _percent(share: float) -> str:
    digits = 2 if share < 1 else 3
    return f"{100 * share:.{digits}g} %"
