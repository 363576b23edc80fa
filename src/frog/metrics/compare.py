"""Two reports become a comparison: layer by layer, then the findings, the means, one sentence."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from statistics import median

from frog.errors import UsageError
from frog.metrics.changes import findings_of, verdict_of
from frog.metrics.collapse import Scale, against_reference, is_zero
from frog.metrics.pairing import Pairing, pair_reports
from frog.numerics.drift import NO_CHANGE, Change, difference_interval
from frog.types import Comparison, Finding, LayerChange, LayerReport, ModelReport, Origin
from frog.version import __version__

NEEDS_WEIGHTS = "needs weights"
NOT_FINITE = "NaN or Inf in the weights"
WEIGHED = ("drift", "spectral_share", "rotation_left", "rotation_right", "intruders")
DECIDING = ("estimator", "window", "compat")
"""Settings that two reports must share: numbers of different estimators are never compared."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """What the weights told: the change of each layer, and what undid a change of scale.

    Both by the layer's name in the second model. ``weights`` says which models were at hand
    themselves, not as a saved report. ``by_gain``: layers whose own scale hardly changed, but whose
    product with the gain before them did, and that gain's tensor.
    """

    weights: tuple[bool, bool] = (False, False)
    changes: Mapping[str, Change] = field(default_factory=dict)
    compensated: Mapping[str, str] = field(default_factory=dict)
    by_gain: Mapping[str, tuple[Scale, str]] = field(default_factory=dict)


def compare_reports(
    before: ModelReport,
    after: ModelReport,
    *,
    weighing: Weighing | None = None,
    pairing: Pairing | None = None,
    notes: Sequence[str] = (),
) -> Comparison:
    """A model after against a model before, from what was measured of each.

    ``weighing`` adds what needs the weights; without it drift, rotation and intruders are NaN,
    with the reason ``needs weights``, but for layers of the same bytes. Raises
    :class:`~frog.errors.UsageError` where the reports are of different estimators, windows or
    modes.

    >>> from frog.types import Settings
    >>> report = ModelReport(path="a", digest="", format="", frog_version="", settings=Settings(),
    ...                      layers=())
    >>> compare_reports(report, report).verdict
    'Nothing to compare: the two models share no measured layer.'
    """
    check_alike(before, after)
    weighing = weighing or Weighing()
    pairing = pairing or pair_reports(before.layers, after.layers)
    rows = (
        {x.name: x for x in before.layers if x.skipped is None},
        {x.name: x for x in after.layers if x.skipped is None},
    )
    pairs = [(rows[0][one], rows[1][other]) for one, other in pairing.pairs]
    scales = against_reference(pairs) | {name: x for name, (x, _) in weighing.by_gain.items()}
    layers = tuple(_layer(one, other, scales.get(other.name), weighing) for one, other in pairs)
    found = findings_of(before, after, layers, pairing=pairing, scales=scales, weighing=weighing)
    made = Comparison(
        before=_origin(before, weighing.weights[0]),
        after=_origin(after, weighing.weights[1]),
        frog_version=__version__,
        layers=layers,
        only_before=dict(pairing.only_before),
        only_after=dict(pairing.only_after),
        findings=found,
        summary=_summary(before, after, layers, pairs),
        notes=(
            *pairing.notes,
            *notes,
            *_zero_note(pairs),
            *_settings_note(before, after),
            *_flow_note(before, after, found),
        ),
    )
    return replace(made, verdict=verdict_of(made))


def check_alike(before: ModelReport, after: ModelReport) -> None:
    """Raise :class:`~frog.errors.UsageError` unless both reports' numbers mean the same."""
    for name in DECIDING:
        mine, theirs = getattr(before.settings, name), getattr(after.settings, name)
        if mine != theirs:
            raise UsageError(
                f"both models must be measured with the same {name}, got {mine!r} for "
                f"{before.path} and {theirs!r} for {after.path}: numbers of different kinds are "
                f"not compared; measure one of them again"
            )
    for report in (before, after):
        if report.shard is not None:
            part, parts = report.shard
            raise UsageError(
                f"a comparison needs whole reports, got part {part} of {parts} of {report.path}: "
                "join the parts with frog merge"
            )


# ----------------------------------------------------------------------- layer by layer


def _layer(
    before: LayerReport, after: LayerReport, scale: Scale | None, weighing: Weighing
) -> LayerChange:
    identical = bool(before.digest) and before.digest == after.digest
    change = NO_CHANGE if identical else weighing.changes.get(after.name)
    missing: dict[str, str] = {}
    if change is None:
        missing = dict.fromkeys(WEIGHED, NEEDS_WEIGHTS)
    else:
        missing = {
            name: _why(name, change, before, identical)
            for name in WEIGHED
            if math.isnan(getattr(change, name))
        }
    low, high = _alpha_interval(before, after)
    if identical and not math.isnan(after.values.get("alpha", math.nan)):
        low = high = 0.0
    flagged = scale is not None and scale.flagged
    undone = after.name in weighing.compensated
    return LayerChange(
        name=after.name,
        role=after.role,
        block=after.block,
        shape=after.shape,
        params=after.params,
        before=before.values,
        after=after.values,
        change=_differences(before.values, after.values),
        alpha_change_low=low,
        alpha_change_high=high,
        **{name: getattr(change, name) for name in WEIGHED if change is not None},
        scale="" if not flagged else "compensated" if undone else "collapse",
        scale_z=math.nan if scale is None else scale.z,
        verdicts_before=before.verdicts,
        verdicts_after=after.verdicts,
        missing=missing,
        identical=identical,
        curve_before=before.curve,
        curve_after=after.curve,
    )


def _differences(before: Mapping[str, float], after: Mapping[str, float]) -> dict[str, float]:
    return {name: after[name] - before[name] for name in after if name in before}


def _alpha_interval(before: LayerReport, after: LayerReport) -> tuple[float, float]:
    """Joint 95 % interval of the difference of alpha; NaN where one has no interval."""
    names = ("alpha", "alpha_low", "alpha_high")
    first, second = ([x.values.get(name, math.nan) for name in names] for x in (before, after))
    return difference_interval((first[0], first[1], first[2]), (second[0], second[1], second[2]))


def _why(name: str, change: Change, before: LayerReport, identical: bool) -> str:
    """Why a number that needs the weights has no value although they were at hand."""
    if identical or change.drift == 0.0:
        return "nothing changed"
    if is_zero(before):
        return "the layer before is all zero"
    if math.isnan(change.drift):
        return NOT_FINITE
    return "the layer after is all zero" if name != "spectral_share" else "nothing changed"


# ---------------------------------------------------------------------------- the whole


def _summary(
    before: ModelReport,
    after: ModelReport,
    layers: Sequence[LayerChange],
    pairs: Sequence[tuple[LayerReport, LayerReport]],
) -> dict[str, int | float]:
    """Both summaries and their difference, and what the layers say together.

    ``drift_total`` is ||W' - W||_F / ||W||_F of all compared layers as one vector.
    """
    summary: dict[str, int | float] = {}
    for name, value in before.summary.items():
        if name in after.summary:
            other = after.summary[name]
            summary |= {
                f"{name}_before": value,
                f"{name}_after": other,
                f"{name}_change": other - value,
            }
    drifts = [layer.drift for layer in layers if not math.isnan(layer.drift)]
    intruders = [layer.intruders for layer in layers if not math.isnan(layer.intruders)]
    return summary | {
        "layers_compared": len(layers),
        "layers_identical": sum(layer.identical for layer in layers),
        "layers_zero": sum(is_zero(x) or is_zero(y) for x, y in pairs),
        "drift_median": median(drifts) if drifts else math.nan,
        "drift_max": max(drifts, default=math.nan),
        "drift_total": _total_drift(layers),
        "intruders": sum(intruders) if intruders else math.nan,
        "scale_collapses": sum(layer.scale == "collapse" for layer in layers),
        "scale_compensated": sum(layer.scale == "compensated" for layer in layers),
    }


def _total_drift(layers: Sequence[LayerChange]) -> float:
    changed = [x for x in layers if not x.identical]
    if changed and all(math.isnan(x.drift) for x in changed):
        return math.nan  # without weights the layers that did not change are all that is known
    weighed = [(x.drift, x.before.get("norm", math.nan)) for x in layers]
    weighed = [(drift, norm) for drift, norm in weighed if not math.isnan(drift + norm)]
    size = sum(norm for _, norm in weighed)
    moved = sum(drift**2 * norm for drift, norm in weighed)
    return math.sqrt(moved / size) if size > 0 else math.nan


def _origin(report: ModelReport, weights: bool) -> Origin:
    return Origin(
        path=report.path,
        digest=report.digest,
        format=report.format,
        settings=report.settings,
        weights=weights,
    )


def _zero_note(pairs: Sequence[tuple[LayerReport, LayerReport]]) -> tuple[str, ...]:
    zero = [after.name for before, after in pairs if is_zero(before) and is_zero(after)]
    if not zero:
        return ()
    which = "1 layer is" if len(zero) == 1 else f"{len(zero)} layers are"
    return (f"{which} all zero before and after, and left out of the search for scale collapse: "
            + ", ".join(zero),)  # fmt: skip


def _flow_note(
    before: ModelReport, after: ModelReport, found: Sequence[Finding]
) -> tuple[str, ...]:
    """What became of the flow, where it was measured at all: no finding is an answer too."""
    with_pairs = [report for report in (before, after) if report.pairs]
    if not with_pairs:
        return ()
    if len(with_pairs) == 1:
        side = "before" if before.pairs else "after"
        return (f"flow: measured of the model {side} only, so lost pathways cannot be told",)
    lost = sum(finding.kind == "pathway-lost" for finding in found)
    return (f"flow: {lost or 'no'} edge{'' if lost == 1 else 's'} lost of the "
            f"{len(before.pathways)} heaviest pathways before",)  # fmt: skip


def _settings_note(before: ModelReport, after: ModelReport) -> tuple[str, ...]:
    names = ("precision", "min_evals", "bootstrap", "seed", "farms", "randomize")
    different = [
        name for name in names if getattr(before.settings, name) != getattr(after.settings, name)
    ]
    if not different:
        return ()
    return (f"measured with different {', '.join(different)}: small differences may come of it",)
