"""Compare: models or saved reports, before against after, or several in order."""

from __future__ import annotations

import dataclasses
import re
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from os import PathLike
from pathlib import Path
from types import MappingProxyType
from typing import Any

from frog.api.flowing import check_flow, with_flow
from frog.api.measuring import Run, check, device_of, left_out, measure_listed, restrict
from frog.errors import UsageError
from frog.metrics.changes import verdict_of_series
from frog.metrics.collapse import (
    WORDS,
    against_reference,
    beside,
    is_zero,
    sizes,
    undone_by_partner,
)
from frog.metrics.compare import Weighing, check_alike, compare_reports
from frog.metrics.pairing import Pairing, pair, pair_reports
from frog.metrics.schedule import Measured, cost, default_jobs
from frog.metrics.weighing import at_one_precision, rescaled_by_gain, undone_by_gain, weigh
from frog.metrics.whole import complete
from frog.types import (
    Catalogue,
    Comparison,
    LayerReport,
    ModelReport,
    Series,
    Settings,
    WeightMatrix,
    Wiring,
)
from frog.weights.catalogue import catalogue
from frog.weights.source import list_tensors
from frog.weights.stored import TensorList
from frog.weights.wiring import wire

_STEP = re.compile(r"(?:checkpoint|ckpt|step|epoch|iter|iteration)s?[-_.=]?(\d+)", re.IGNORECASE)


@dataclass(frozen=True, kw_only=True)
class _Member:
    """One side: a model that is listed, or the report of one that is not at hand."""

    label: str
    opened: tuple[Any, Any] = (None, None)
    listed: Catalogue | None = None
    tensors: TensorList | None = None
    report: ModelReport | None = None
    notes: tuple[str, ...] = ()


def compare(before: Any, after: Any, *more: Any, settings: Settings | None = None,
            base: Any = None, include: str | None = None, exclude: str | None = None,
            run: Run | None = None) -> Comparison | Series:  # fmt: skip
    """Compare a model with the one it came from; more than two become a series.

    Each argument is a model as for :func:`~frog.analyze` (path, hub id, ``nn.Module``, state
    dict, adapter), a :class:`~frog.types.ModelReport`, or the path of a saved one. Models give
    everything; reports alone give what needs no weights, the rest is NaN with the reason. An
    adapter stands for its base with the adapter added: ``base``, else the first argument where
    that is a model. In a series each member is compared with the first.

    ``settings`` must be those of the reports; without it a report's own hold for all. ``include``
    and ``exclude`` are regular expressions over names. No forward pass is made. Matrices of
    different types are compared at the coarser one. Raises :class:`~frog.errors.ModelError` for
    a model that cannot be read, :class:`~frog.errors.ReportError` for a file that is no report of
    ours, and :class:`~frog.errors.UsageError` for reports of other settings.

    >>> import torch
    >>> model = torch.nn.Linear(64, 256, bias=False)
    >>> old = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    >>> compare(old, model).verdict
    'Nothing changed: the layer is identical.'
    """
    run = run or Run()
    if run.shard is not None:
        raise UsageError("a comparison needs whole models, got a shard: leave shard out")
    given = [_opened(model) for model in (before, after, *more)]
    settings = _settings(given, settings)
    members = [
        _member(model, first=given[0], base=base, settings=settings, patterns=(include, exclude))
        for model in given
    ]
    if base is not None and all(member.opened[1] is None for member in members):
        raise UsageError("base is for adapters, got no adapter among the models: leave it out")
    members = _at_one_precision(members) if not run.cluster else members
    # after an interruption layers in flight still write there: no error of its removal hides it
    with tempfile.TemporaryDirectory(prefix="frog-", ignore_cleanup_errors=True) as folder:
        # equal layers of several models are measured once
        kept = run if run.cache else replace(run, cache=folder)
        reports = [_measured(member, settings, kept) for member in members]
    comparisons = [
        _compared((members[0], member), (reports[0], report), run)
        for member, report in zip(members[1:], reports[1:], strict=True)
    ]
    if len(comparisons) == 1:
        return comparisons[0]
    labels = unlike([member.label for member in members])
    return Series(
        labels=labels,
        steps=_steps(labels),
        reports=tuple(reports),
        comparisons=tuple(comparisons),
        verdict=verdict_of_series(labels, comparisons),
        notes=tuple(dict.fromkeys(note for x in comparisons for note in x.notes)),
    )


# --------------------------------------------------------------------------- the members


def _opened(model: Any) -> Any:
    """A saved report becomes a report; everything else stays what it is."""
    if isinstance(model, str | PathLike):
        path = Path(model).expanduser()
        if path.suffix == ".json" and not path.name.endswith(".index.json"):
            return ModelReport.from_json(path)
    return model


def _settings(given: Sequence[Any], settings: Settings | None) -> Settings:
    """The settings for what is still to be measured; the reports must have been made with them."""
    reports = [x for x in given if isinstance(x, ModelReport)]
    if settings is None:
        settings = reports[0].settings if reports else Settings()
    check(settings)
    check_flow(settings)
    wanted = ModelReport(path="this comparison", digest="", format="", frog_version="",
                         settings=settings, layers=())  # fmt: skip
    for report in reports:
        check_alike(report, wanted)
    return settings


def _member(model: Any, *, first: Any, base: Any, settings: Settings,
            patterns: tuple[str | None, str | None]) -> _Member:  # fmt: skip
    if isinstance(model, ModelReport):
        return _Member(label=_label(model.path), report=_selected(model, patterns))
    tensors, notes = list_tensors(model), ()
    if tensors.adapters:
        base = _base_of(tensors, model, first=first, base=base)
        if base is not None:
            tensors = list_tensors(model, base=base)
            notes = (f"{_label(model)} is an adapter: compared as its base with the adapter added",)
        else:
            notes = (f"{_label(model)} is an adapter without a base: its update alone is compared",)
    else:
        base = None
    listed = catalogue(tensors, as_weightwatcher=settings.compat == "weightwatcher")
    return _Member(
        label=_label(tensors.path),
        opened=(model, base),
        listed=restrict(listed, *patterns),
        tensors=tensors,
        notes=notes,
    )


def _base_of(tensors: TensorList, model: Any, *, first: Any, base: Any) -> Any:
    """The base of an adapter: as given, else the first model; None where the first is an adapter.

    Two adapters without a base are compared as updates: nothing else is known of them.
    """
    if base is not None:
        return base
    if first is not model and not isinstance(first, ModelReport):
        return None if list_tensors(first).adapters else first
    if first is model:
        return None
    named = (tensors.config or {}).get("base_model_name_or_path")
    if isinstance(named, str) and Path(named).expanduser().exists():
        return named
    raise UsageError(
        f"{tensors.path} is an adapter, and the model before is a saved report: name the model "
        f"that the adapter was trained on with base="
        + (f" (its config says {named})" if named else "")
    )


def _selected(report: ModelReport, patterns: tuple[str | None, str | None]) -> ModelReport:
    """The report without the layers that the patterns leave out."""
    reasons = left_out([layer.name for layer in report.measured], *patterns)
    if not reasons:
        return report
    kept = replace(
        report,
        layers=tuple(x for x in report.layers if x.name not in reasons),
        findings=tuple(x for x in report.findings if x.layer not in reasons),
    )
    return complete(kept)


def _at_one_precision(members: Sequence[_Member]) -> list[_Member]:
    """Matrices that are partners, each at the coarsest type of all; a remark where that rounds.

    An adapter's sum is left as it is: rounding it to the base's type would round the update away.
    """
    first = members[0]
    if first.listed is None:
        return list(members)
    found = [first]
    for member in members[1:]:
        if member.listed is None or member.opened[1] is not None:
            found.append(member)
            continue
        pairing = pair(first.listed.matrices, member.listed.matrices)
        own = {x.name: x for x in member.listed.matrices}
        reference = {x.name: x for x in (found[0].listed or first.listed).matrices}
        remarks: list[str] = []
        for one, other in pairing.pairs:
            before, after, remark = at_one_precision(reference[one], own[other])
            if remark:
                dtypes = f"{reference[one].dtype} and {own[other].dtype}"
                remarks.append(f"{dtypes}, {remark}")
            reference[one], own[other] = before, after
        found[0] = _with_matrices(found[0], reference)
        notes = tuple(f"{remarks.count(x)} layers: {x}" for x in dict.fromkeys(remarks))
        found.append(replace(_with_matrices(member, own), notes=(*member.notes, *notes)))
    return found


def _with_matrices(member: _Member, matrices: Mapping[str, WeightMatrix]) -> _Member:
    assert member.listed is not None
    same_order = tuple(matrices[x.name] for x in member.listed.matrices)
    return replace(member, listed=dataclasses.replace(member.listed, matrices=same_order))


def _measured(member: _Member, settings: Settings, run: Run) -> ModelReport:
    if member.report is not None:
        return member.report
    assert member.listed is not None and member.tensors is not None
    report = measure_listed(member.listed, settings, run, opened=member.opened)
    return with_flow(report, member.tensors, member.listed) if settings.flow else report


# ------------------------------------------------------------------------------- a pair


def _compared(
    members: tuple[_Member, _Member], reports: tuple[ModelReport, ModelReport], run: Run
) -> Comparison:
    pairing = pair_reports(reports[0].layers, reports[1].layers)
    weights = (members[0].listed is not None, members[1].listed is not None)
    weighing = Weighing(weights=weights)
    if all(weights):
        weighing = replace(
            weighing,
            changes=dict(_weighed(members, reports, pairing, run)),
            **_with_gains(members, reports, pairing),
        )
    return compare_reports(
        *reports,
        weighing=weighing,
        pairing=pairing,
        notes=(*members[0].notes, *members[1].notes, *_types_note(reports, pairing)),
    )


def _weighed(members: tuple[_Member, _Member], reports: tuple[ModelReport, ModelReport],
             pairing: Pairing, run: Run) -> list:  # fmt: skip
    """Drift, rotation and intruders of all pairs that are not the same bytes."""
    rows = _rows(reports)
    pairs = [
        _matrices(members, one, other)
        for one, other in pairing.pairs
        if not rows[0][one].digest or rows[0][one].digest != rows[1][other].digest
    ]
    if run.on_start is not None and pairs:
        run.on_start({after.name: 4 * cost(after) for _, after in pairs})
    found = []
    on_cpu = device_of(run.device) == "cpu"
    jobs = run.jobs or (default_jobs() if on_cpu else 1)
    for name, change in weigh(pairs, k=reports[0].settings.flow_rank, jobs=jobs):
        found.append((name, change))
        if run.on_layer is not None:
            run.on_layer(Measured(layer=rows[1][name], findings=(), fingerprint="", cached=False))
    return found


def _with_gains(
    members: tuple[_Member, _Member],
    reports: tuple[ModelReport, ModelReport],
    pairing: Pairing,
) -> dict[str, dict]:
    """``compensated`` and ``by_gain`` of a :class:`Weighing`.

    Flagged layers whose change of scale a normalisation beside them undoes, or the matrix that
    they are multiplied with; and layers that are not flagged but change their scale together with
    the normalisation before them.
    """
    rows = _rows(reports)
    pairs = [(rows[0][one], rows[1][other]) for one, other in pairing.pairs]
    flagged = {name for name, scale in against_reference(pairs).items() if scale.flagged}
    wirings = [_wiring(member) for member in members]
    partner = {other: one for one, other in pairing.pairs}
    first, second = ({x.name: x for x in m.listed.matrices} for m in members if m.listed)
    compensated: dict[str, str] = {}
    rescaled: dict[str, tuple[dict[str, float], str]] = {}
    for one, name in pairing.pairs:
        gains = wirings[0].gains.get(one, ()), wirings[1].gains.get(name, ())
        if not gains[0] or not gains[1] or is_zero(rows[0][one]) or is_zero(rows[1][name]):
            continue
        if name not in flagged:
            changes, gain = rescaled_by_gain((first[one], second[name]), gains)
            if gain:
                rescaled[name] = changes, gain
            continue
        others = _changes_of([(b, a) for b, a in pairs if a.name != name])
        undone = undone_by_gain((first[one], second[name]), gains, others)
        if undone:
            compensated[name] = undone
    by_gain = {}
    for name, (changes, gain) in rescaled.items():
        others = _changes_of([(b, a) for b, a in pairs if a.name != name], rescaled)
        scale = beside(changes, others)
        if scale is None or not scale.flagged:
            continue
        own = _changes_of([(rows[0][partner[name]], rows[1][name])])[scale.quantity][0]
        if abs(scale.change - own) > scale.limit:  # else it is the layer itself that changed
            by_gain[name] = scale, gain
    moved = undone_by_partner(wirings[1].edges, pairs)
    return {"compensated": moved | compensated, "by_gain": by_gain}


def _wiring(member: _Member) -> Wiring:
    assert member.tensors is not None and member.listed is not None
    return wire(member.tensors, member.listed)


def _changes_of(
    pairs: Sequence[tuple[LayerReport, LayerReport]],
    known: Mapping[str, tuple[Mapping[str, float], str]] = MappingProxyType({}),
) -> dict[str, list[float]]:
    """Changes of the sizes of layers by quantity; ``known`` ones with their gains."""
    found = []
    for before, after in pairs:
        one, other = sizes(before), sizes(after)
        own = {name: other[name] - one[name] for name in WORDS}
        found.append(known[after.name][0] if after.name in known else own)
    return {name: [x[name] for x in found] for name in WORDS}


def _rows(
    reports: tuple[ModelReport, ModelReport],
) -> tuple[dict[str, LayerReport], dict[str, LayerReport]]:
    return {x.name: x for x in reports[0].layers}, {x.name: x for x in reports[1].layers}


def _matrices(
    members: tuple[_Member, _Member], before: str, after: str
) -> tuple[WeightMatrix, WeightMatrix]:
    first, second = (member.listed for member in members)
    assert first is not None and second is not None
    return (
        next(x for x in first.matrices if x.name == before),
        next(x for x in second.matrices if x.name == after),
    )


def _types_note(reports: tuple[ModelReport, ModelReport], pairing: Pairing) -> tuple[str, ...]:
    """Remark on types that still differ: a report has no weights to round."""
    rows = _rows(reports)
    kinds = [(rows[0][one].dtype, rows[1][other].dtype) for one, other in pairing.pairs]
    return tuple(
        f"{kinds.count(both)} layers are {both[0]} before and {both[1]} after, compared as measured"
        for both in dict.fromkeys(kinds)
        if both[0] != both[1]
    )


# ----------------------------------------------------------------------- names and steps


def _label(path: Any) -> str:
    """A short name of a model: the last part of its path, or its class."""
    text = str(path) if isinstance(path, str | PathLike) else type(path).__name__
    parts = [part for part in text.replace("\\", "/").split("/") if part]
    name = parts[-1] if parts else text
    plain = ("model.safetensors", "pytorch_model.bin", "model.pt", "report.json")
    return parts[-2] if name in plain and len(parts) > 1 else name


def unlike(labels: Sequence[str]) -> tuple[str, ...]:
    """Labels that are all different: equal ones are counted."""
    return tuple(
        label if labels.count(label) == 1 else f"{label} ({list(labels[: i + 1]).count(label)})"
        for i, label in enumerate(labels)
    )


def _steps(labels: Sequence[str]) -> tuple[float, ...]:
    """The number in each checkpoint's name; the place where not all but the first have one.

    >>> _steps(["base", "checkpoint-100", "checkpoint-200"]), _steps(["a", "b"])
    ((0.0, 100.0, 200.0), (0.0, 1.0))
    """
    found = [_STEP.search(label) for label in labels]
    if all(found[1:]):
        return tuple(float(x[1]) if x else 0.0 for x in found)
    return tuple(float(place) for place in range(len(labels)))
