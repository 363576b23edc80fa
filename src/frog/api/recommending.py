"""Recommend: what was measured of a model becomes actions, a budget, an extent, and a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from os import PathLike
from typing import Any

import numpy as np

from frog.allocation.actions import Outlook, actions_of, in_plan, with_effects
from frog.allocation.amount import amount_of, extent_of, size_of
from frog.allocation.plan import split, targets
from frog.allocation.rules import Rule
from frog.api.measuring import Run, analyze
from frog.errors import ReportError, UnknownName, UsageError
from frog.metrics.ranking import rank
from frog.report.files import names_record, read_report
from frog.types import (
    POLICIES,
    Action,
    Allotment,
    Budget,
    LayerReport,
    ModelReport,
    Plan,
    Recommendation,
    Workload,
)
from frog.version import __version__


def recommend(
    model: ModelReport | str | PathLike[str] | Any,
    workload: Workload | None = None,
    *,
    over_parameterised: str = "open",
    include: str | None = None,
    exclude: str | None = None,
    roles: Collection[str] = (),
    run: Run | None = None,
) -> Recommendation:
    """What is worth doing with a model: ranked actions, how much to tune, and for how long.

    ``model`` is a report, a saved one (``.json``), or a model, which is then measured (no data, no
    forward pass). ``workload`` says what is known of the tuning to come; the budget grows with
    it. ``over_parameterised``: ``open`` names the choice, ``tune``, ``prune`` and ``bits`` make it.
    ``include``, ``exclude`` and ``roles`` narrow what may be tuned, as in :func:`allocate`.

    The plan that follows is ``.plan``, ready for :func:`frog.select`. The formulas, and how little
    is known of some of them: docs/recommend.md. Raises :class:`~frog.errors.UsageError` for a
    pattern that matches nothing, :class:`~frog.errors.UnknownName` for an unknown choice.

    >>> import torch, frog
    >>> _ = torch.manual_seed(0)
    >>> found = recommend(torch.nn.Linear(256, 256, bias=False))
    >>> found.actions[0].kind, [x.kind for x in found.actions[0].options]
    ('choose', ['tune-harder', 'prune', 'lower-bits'])
    """
    if over_parameterised not in POLICIES:
        raise UnknownName("choice for over-parameterised layers", over_parameterised, POLICIES)
    report = _in_order(_report(model, run))
    work = workload or Workload()
    kept, left_out = _targets(report, include, exclude, roles)
    outlook = Outlook(
        report=report,
        left_out=left_out,
        places={x.layer: x for x in rank(kept)},
        policy=over_parameterised,
    )
    actions = actions_of(outlook)
    by_name = {x.layer: x for x in actions if x.layer}
    tuned = [layer for layer in kept if in_plan(by_name[layer.name])]
    amount = amount_of(size_of(tuned), work, untrained=outlook.untrained)
    plan = _plan(report, tuned, by_name, amount.share, left_out) if tuned else None
    assert plan is None or plan.total == amount.count, "the plan gives out what is recommended"
    return Recommendation(
        path=report.path,
        digest=report.digest,
        frog_version=__version__,
        policy=over_parameterised,
        workload=work,
        actions=with_effects(
            actions,
            {} if plan is None else {x.name: x.count for x in plan.layers},
            {x.name: x.params for x in kept},
            amount.share,
        ),
        amount=amount,
        extent=extent_of(tuned, amount, work, report.settings),
        plan=plan,
        notes=tuple(_notes(report, actions, tuned, work)),
    )


def _report(model: Any, run: Run | None) -> ModelReport:
    if isinstance(model, ModelReport):
        return model
    return read_report(model) if names_record(model) else analyze(model, run=run)


def _in_order(report: ModelReport) -> ModelReport:
    """The layers by their place in the listing: what is recommended must not hang on their order.

    Raises :class:`~frog.errors.ReportError` where two have one name.
    """
    layers = tuple(sorted(report.layers, key=lambda x: (x.position, x.name)))
    seen: set[str] = set()
    for layer in layers:
        if layer.name in seen or not layer.name:
            raise ReportError(
                f"every layer of {report.path} must have a name of its own, got {layer.name!r} "
                "twice or empty: measure the model again"
            )
        seen.add(layer.name)
    return replace(report, layers=layers)


def _targets(
    report: ModelReport, include: str | None, exclude: str | None, roles: Collection[str]
) -> tuple[list[LayerReport], dict[str, str]]:
    """Who may be tuned; a report in which nobody may is no error, unless the user narrowed it."""
    try:
        return targets(report, include=include, exclude=exclude, roles=roles)
    except UsageError:
        if include is not None or exclude is not None or roles:
            raise
        none = "is not targeted: an embedding or a head, or nothing was measured"
        return [], {x.name: x.skipped or none for x in report.layers}


def _plan(
    report: ModelReport,
    tuned: Sequence[LayerReport],
    by_name: Mapping[str, Action],
    share: float,
    left_out: Mapping[str, str],
) -> Plan:
    """The tune plan: even shares, more for what is tuned harder."""
    density = np.array([_density(by_name[x.name]) for x in tuned])
    uneven = bool((density != 1.0).any())
    rule: str | Rule = "uniform"
    if uneven:
        rule = Rule(
            name="recommended",
            words="more for over-parameterised layers, by degree",
            source="FROG",
            function=lambda layers: density,
        )
    # a head that include names is tuned too: the rule of split for such has been kept already
    asked = replace(report, layers=tuple(replace(x, averaged=True) for x in tuned))
    made = split(asked, Budget.trainable(share), rule)
    even = made.total / made.params
    refused = {x.layer: f"{x.kind}: {x.reason}" for x in by_name.values() if not in_plan(x)}
    return replace(
        made,
        layers=tuple(_told(x, by_name[x.name], even) for x in made.layers),
        left_out=refused | dict(left_out),
        notes=("made by frog recommend",),
    )


def _density(action: Action) -> float:
    return 1.0 + action.degree if action.kind == "tune-harder" else 1.0


def _told(row: Allotment, action: Action, even: float) -> Allotment:
    if action.kind != "tune-harder":
        return replace(row, reason="even share")
    times = row.share / even
    return replace(row, reason=f"{times:.2f} of the even share: over-parameterised, as chosen")


def _notes(
    report: ModelReport,
    actions: Sequence[Action],
    tuned: Sequence[LayerReport],
    work: Workload,
) -> list[str]:
    notes = []
    if report.shard is not None:
        notes.append("the report is of a part of the model: merge the parts first (frog merge)")
    if report.settings.usual_alpha is None:
        notes.append(
            "alpha of this estimator or window has no usual range: nothing here rests on it"
        )
    if not report.measured:
        notes.append("the report holds no measured matrix")
    elif not tuned:
        notes.append("nothing is left to tune: see the actions")
    if tuned and not work.bits:
        notes.append("say how much data there is (--tokens, --examples): the budget grows with it")
    undecided = sum(x.kind == "choose" and not in_plan(x) for x in actions)
    if undecided:
        notes.append(
            f"{undecided} over-parameterised {'layer waits' if undecided == 1 else 'layers wait'} "
            "for your choice (--over-parameterised tune, prune or bits) and "
            f"{'is' if undecided == 1 else 'are'} left out of the plan"
        )
    if any(x.kind == "mend" and x.certainty == "certain" for x in actions):
        notes.append("mend the faults before anything else")
    return notes
