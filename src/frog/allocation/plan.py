"""From a budget and a rule to a plan."""

from __future__ import annotations

import math
import re
from collections.abc import Collection, Mapping

import numpy as np

from frog.allocation.fill import fill
from frog.allocation.rules import AUTO, RULES, Rule
from frog.errors import UnknownName, UsageError
from frog.types import Allotment, Budget, LayerReport, ModelReport, Plan


def split(
    report: ModelReport,
    budget: Budget,
    rule: str | Rule = "auto",
    *,
    include: str | None = None,
    exclude: str | None = None,
    roles: Collection[str] = (),
    knobs: Mapping[str, float] | None = None,
) -> Plan:
    """Split ``budget`` over the matrices of a report; the counts add up exactly.

    Raises :class:`~frog.errors.UsageError` for a budget out of range or a pattern that matches
    nothing, :class:`~frog.errors.UnknownName` for an unknown rule, knob or role.
    """
    chosen = rule if isinstance(rule, Rule) else RULES[AUTO if rule == "auto" else rule]
    layers, left_out = targets(report, include=include, exclude=exclude, roles=roles)
    total = budget.total(sum(layer.params for layer in layers))
    told = dict(knobs or {})
    density = chosen(layers, **told)
    unknown = ~np.isfinite(density)
    density = np.where(unknown, 1.0, np.maximum(density, 0.0))
    sizes = np.array([layer.params for layer in layers], dtype=np.float64)
    counts = fill(
        density * sizes,
        total,
        [math.ceil(budget.floor * layer.params) for layer in layers],
        [math.floor(budget.cap * layer.params) for layer in layers],
    )
    mean = total / float(sizes.sum())
    rows = tuple(
        Allotment(
            name=layer.name,
            role=layer.role,
            block=layer.block,
            shape=(int(layer.shape[0]), int(layer.shape[1])),
            params=layer.params,
            count=count,
            reason=_reason(chosen, bool(lost), count / layer.params, mean),
        )
        for layer, count, lost in zip(layers, counts, unknown, strict=True)
    )
    return Plan(
        path=report.path,
        digest=report.digest,
        rule=chosen.name,
        budget=budget,
        layers=rows,
        knobs=chosen.knobs | told,
        left_out=left_out,
        by_score=chosen.by_score,
    )


def targets(
    report: ModelReport,
    *,
    include: str | None = None,
    exclude: str | None = None,
    roles: Collection[str] = (),
) -> tuple[list[LayerReport], dict[str, str]]:
    """The matrices that may get something, and the reason for every other one.

    Embeddings and heads are targeted only where ``include`` names them.
    """
    known = sorted({layer.role for layer in report.measured if layer.role})
    for role in roles:
        if role not in known:
            raise UnknownName("role in this model", role, known)
    wanted, unwanted = _pattern("include", include), _pattern("exclude", exclude)
    kept: list[LayerReport] = []
    left: dict[str, str] = {}
    matched = {"include": False, "exclude": False}
    for layer in report.layers:
        inside = wanted is not None and wanted.search(layer.name) is not None
        outside = unwanted is not None and unwanted.search(layer.name) is not None
        matched["include"] |= inside
        matched["exclude"] |= outside
        why = _why_not(layer, inside, outside, wanted is not None, roles)
        if why is None:
            kept.append(layer)
        else:
            left[layer.name] = why
    for word, pattern in (("include", include), ("exclude", exclude)):
        if pattern is not None and not matched[word]:
            some = ", ".join(layer.name for layer in report.layers[:4])
            raise UsageError(
                f"{word} '{pattern}' must match the name of a matrix, matches none. Names here "
                f"are such as {some}"
            )
    if not kept:
        raise UsageError(
            "no matrix is left to train: "
            + "; ".join(dict.fromkeys(f"{name}: {why}" for name, why in list(left.items())[:4]))
        )
    return kept, left


def _why_not(
    layer: LayerReport, inside: bool, outside: bool, asked: bool, roles: Collection[str]
) -> str | None:
    if layer.skipped is not None:
        return layer.skipped
    if layer.failed:
        return "holds NaN or infinite weights"
    if len(layer.shape) != 2 or not layer.params or layer.params != math.prod(layer.shape):
        return "is no matrix"
    if outside:
        return "excluded by name"
    if asked and not inside:
        return "not included by name"
    if roles and layer.role not in roles:
        return f"role {layer.role} is not asked for"
    if not layer.averaged and not inside:
        return f"{layer.kind}: trained only where include names it"
    return None


def _reason(rule: Rule, lost: bool, share: float, mean: float) -> str:
    if rule.by_score:
        return "settled when the scores are known"
    if lost:
        return f"even share: the rule {rule.name} has no number for it"
    if rule.name == AUTO:
        return "even share"
    return f"{share / mean:.2f} of the even share by {rule.name}"


def _pattern(word: str, text: str | None) -> re.Pattern[str] | None:
    if text is None:
        return None
    try:
        return re.compile(text)
    except re.error as error:
        raise UsageError(f"{word} must be a regular expression, got '{text}' ({error})") from None
