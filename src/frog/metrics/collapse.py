"""Scale collapse: a few layers change their scale while the others hardly change. Two-sided.

Against a reference by the change of each layer, within one model by its neighbours in depth.
What the limits rest on: docs/design-notes/006-scale-collapse-and-drift.md.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from frog.numerics.drift import robust_z
from frog.numerics.outliers import (
    CHANGE_LIMIT,
    FEWEST,
    SPREAD_FLOOR,
    Z_LIMIT,
    groups_of,
    z_by_group,
)
from frog.types import Edge, Finding, LayerReport

OUTLIER = "scale-outlier"

NEIGHBOUR_LIMIT = {"log_norm": 1.0, "log_effective_rank": 0.5}
"""The same within one model, where healthy layers differ by far more. The largest eigenvalue is
not asked: in healthy language models a few layers have one that is a hundred times the others'."""

NEIGHBOURS = 6
"""Nearest layers of the same role, in depth, that a layer is held against."""

WORDS = {
    "log_norm": "squared Frobenius norm",
    "log_spectral_norm": "largest eigenvalue",
    "log_effective_rank": "effective rank",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """How far one layer stands apart: the size of which that is most true, and by how much.

    ``change`` is in decades (log10), against the reference or the neighbours; ``limit`` what
    counts; ``flagged`` whether change and z are beyond their limits. A layer that became all zero
    has ``change`` -inf, one that was has +inf, and neither has a z.
    """

    quantity: str
    change: float
    z: float
    limit: float
    flagged: bool


def sizes(layer: LayerReport) -> dict[str, float]:
    """Norms and number of directions of a layer, in decades; NaN where it has none.

    ``log_effective_rank`` = H / ln 10 with H = -sum p ln p, p = lambda / sum lambda: the logarithm
    of the number of directions that the matrix uses. The column ``entropy`` is H / ln(rank),
    which *rises* when a layer is cut to few directions, for the rank falls too. Source: Roy &
    Vetterli 2007, "The effective rank", EUSIPCO.
    """
    values = layer.values
    rank = values.get("matrix_rank", math.nan)
    if math.isnan(rank):  # not resolved: entropy was normalised by all directions
        rank = values.get("M", math.nan)
    even = values.get("entropy", math.nan)
    return {
        "log_norm": values.get("log_norm", math.nan),
        "log_spectral_norm": values.get("log_spectral_norm", math.nan),
        "log_effective_rank": even * math.log10(rank) if rank > 1 else math.nan,
    }


def is_zero(layer: LayerReport) -> bool:
    """Whether all entries are zero: such a layer has no scale, and takes part in no comparison."""
    return layer.skipped is None and layer.values.get("norm", math.nan) == 0.0


# ------------------------------------------------------------------ against a reference


def against_reference(
    pairs: Sequence[tuple[LayerReport, LayerReport]],
) -> dict[str, Scale]:
    """For each pair (before, after) of one layer, by name: did its scale change unlike the others'?

    d_l = change of log10 of both norms and of the effective rank; z_l the robust z-score of d_l
    among the layers of its role (roles of fewer than 5: with their like), and among all layers;
    the larger counts, so that a whole role which collapses together is seen. Flagged for
    |z| > 4 and |d| > 0.6 (norms) or 0.3 (effective rank). Layers that are zero on both sides are
    left out.
    """
    found = _to_or_from_zero(pairs)
    there = [(b, a) for b, a in pairs if not is_zero(b) and not is_zero(a)]
    groups = groups_of([after.role for _, after in there])
    moved = [(sizes(before), sizes(after)) for before, after in there]
    best: dict[str, Scale] = {}
    for quantity, limit in CHANGE_LIMIT.items():
        changes = np.array([after[quantity] - before[quantity] for before, after in moved])
        z_all = robust_z(changes, SPREAD_FLOOR)
        z_role = z_by_group(changes, groups)
        for (_, after), change, *z_both in zip(there, changes, z_all, z_role, strict=True):
            z = _farthest(z_both)
            if not math.isnan(change):
                best[after.name] = _more_telling(
                    best.get(after.name),
                    Scale(
                        quantity=quantity,
                        change=float(change),
                        z=z,
                        limit=limit,
                        flagged=abs(change) > limit and abs(z) > Z_LIMIT,
                    ),
                )
    return found | best


def outside(changes: Mapping[str, float], others: Mapping[str, Sequence[float]]) -> bool:
    """Whether changes by quantity would be flagged beside those of other layers."""
    found = beside(changes, others)
    return found is not None and found.flagged


def beside(changes: Mapping[str, float], others: Mapping[str, Sequence[float]]) -> Scale | None:
    """The most telling of the changes of one layer beside those of others; None without any."""
    best = None
    for quantity, change in changes.items():
        z = float(robust_z([change, *others[quantity]], SPREAD_FLOOR)[0])
        if math.isnan(change):
            continue
        limit = CHANGE_LIMIT[quantity]
        flagged = abs(change) > limit and abs(z) > Z_LIMIT
        best = _more_telling(
            best,
            Scale(quantity=quantity, change=float(change), z=z, limit=limit, flagged=flagged),
        )
    return best


def undone_by_partner(
    edges: Iterable[Edge], pairs: Sequence[tuple[LayerReport, LayerReport]]
) -> dict[str, str]:
    """Flagged layers whose change of scale another flagged one undoes, and that one's name.

    Only where the model multiplies the two: q with k, v with o, and up with down behind a gate
    (v and up pass no function on their way). Undone when the changes of both norms add up to no
    more than their limits, and neither effective rank changed by more than its own.
    """
    edges = list(edges)
    flagged = {name for name, scale in against_reference(pairs).items() if scale.flagged}
    change = {
        after.name: {x: sizes(after)[x] - sizes(before)[x] for x in CHANGE_LIMIT}
        for before, after in pairs
        if after.name in flagged and not is_zero(before) and not is_zero(after)
    }
    role = {after.name: after.role for _, after in pairs}
    gated = {x.reader for x in edges if x.kind == "activation" and role.get(x.writer) == "gate"}
    found: dict[str, str] = {}
    for edge in edges:
        one, other = change.get(edge.writer), change.get(edge.reader)
        linear = edge.kind == "activation" and role.get(edge.writer) == "up"
        linear = edge.kind in ("qk", "ov") or (linear and edge.reader in gated)
        if one is None or other is None or not linear:
            continue
        rank = CHANGE_LIMIT["log_effective_rank"]
        shape = max(abs(x["log_effective_rank"]) for x in (one, other)) <= rank
        norms = ("log_norm", "log_spectral_norm")
        if shape and all(abs(one[x] + other[x]) <= CHANGE_LIMIT[x] for x in norms):
            found |= {edge.writer: edge.reader, edge.reader: edge.writer}
    return found


def _to_or_from_zero(pairs: Sequence[tuple[LayerReport, LayerReport]]) -> dict[str, Scale]:
    found = {}
    for before, after in pairs:
        if is_zero(before) != is_zero(after):
            change = -math.inf if is_zero(after) else math.inf
            found[after.name] = Scale(
                quantity="log_norm",
                change=change,
                z=math.nan,
                limit=CHANGE_LIMIT["log_norm"],
                flagged=True,
            )
    return found


def _farthest(values: Iterable[float]) -> float:
    there = [float(value) for value in values if not math.isnan(value)]
    return max(there, key=abs) if there else math.nan


def _more_telling(one: Scale | None, other: Scale) -> Scale:
    """The flagged one, else the one with the larger |z|; of flagged ones the larger change."""
    if one is None:
        return other
    if one.flagged != other.flagged:
        return one if one.flagged else other
    size = (lambda x: abs(x.change)) if one.flagged else (lambda x: abs(np.nan_to_num(x.z)))
    return other if size(other) > size(one) else one


# --------------------------------------------------------------------- within one model


def within_model(layers: Iterable[LayerReport]) -> dict[str, Scale]:
    """For each layer of a role with at least 5, by name: does its scale stand out among them?

    x_l = log10(||W||_F^2 / sqrt(m n)) (and log10 of the effective rank / min(m, n)); the change
    is x_l less the median of its 6 nearest in depth of the same role, z its robust z-score among
    the same differences of that role. Flagged for |z| > 4 and a change beyond 1 decade (0.5 for
    the effective rank). All-zero layers, embeddings and heads are left out.
    """
    by_role: dict[str, list[LayerReport]] = defaultdict(list)
    for layer in sorted(layers, key=lambda layer: layer.position):
        judged = layer.skipped is None and layer.averaged and len(layer.shape) == 2
        if judged and not is_zero(layer) and not math.isnan(sizes(layer)["log_norm"]):
            by_role[layer.role].append(layer)
    found: dict[str, Scale] = {}
    for role, members in by_role.items():
        if len(members) < FEWEST or role.endswith("?"):
            continue
        for quantity, limit in NEIGHBOUR_LIMIT.items():
            changes = _from_neighbours([_for_any_shape(layer, quantity) for layer in members])
            z = robust_z(changes, SPREAD_FLOOR)
            for layer, change, score in zip(members, changes, z, strict=True):
                if not math.isnan(change):
                    found[layer.name] = _more_telling(
                        found.get(layer.name),
                        Scale(
                            quantity=quantity,
                            change=float(change),
                            z=float(score),
                            limit=limit,
                            flagged=abs(change) > limit and abs(score) > Z_LIMIT,
                        ),
                    )
    return found


def with_scale_outliers(
    findings: Iterable[Finding], layers: Sequence[LayerReport], *, part: bool = False
) -> list[Finding]:
    """The findings, with those about scale within the model made anew.

    The report of a ``part`` gets none: it lacks the neighbours.
    """
    kept = [finding for finding in findings if finding.kind != OUTLIER]
    return kept if part else [*kept, *scale_outliers(layers)]


def scale_outliers(layers: Sequence[LayerReport]) -> tuple[Finding, ...]:
    """A finding ``scale-outlier`` for each layer whose scale stands out in its own model.

    Possible, never certain: a normalisation beside it may undo its scale, and only a comparison
    with the weights at hand (``frog compare``) looks there. A layer that is all zero has no
    scale; it is left out, and told.
    """
    zero = tuple(
        Finding(
            kind=OUTLIER,
            certainty="certain",
            severity="info",
            layer=layer.name,
            value=0.0,
            threshold=0.0,
            text=f"{layer.name} is all zero: it adds nothing, has no scale, and is left out when "
            "its neighbours are judged; it can be pruned",
        )
        for layer in layers
        if is_zero(layer)
    )
    return zero + tuple(
        Finding(
            kind=OUTLIER,
            certainty="possible",
            severity="warning",
            layer=name,
            value=scale.change,
            threshold=math.copysign(scale.limit, scale.change),
            text=f"{name} stands out: its {WORDS[scale.quantity]} is {factor(scale.change)} that "
            f"of its neighbours of the same role (z {scale.z:.3g}; limit {factor(scale.limit)} "
            "or its inverse); compare it with a reference, or look at the normalisation beside it",
        )
        for name, scale in within_model(layers).items()
        if scale.flagged
    )


def factor(decades: float) -> str:
    """A change in decades as a factor, in words.

    >>> factor(-2.0), factor(0.3), factor(2.0)
    ('0.01 times', '2 times', '100 times')
    """
    times = 10**decades
    return f"{times:.0f} times" if 99.5 <= times < 1e4 else f"{times:.2g} times"


def _for_any_shape(layer: LayerReport, quantity: str) -> float:
    m, n = layer.shape
    unit = math.sqrt(m * n) if quantity == "log_norm" else min(m, n)
    return sizes(layer)[quantity] - math.log10(unit)


def _from_neighbours(values: Sequence[float]) -> np.ndarray:
    """Each value less the median of its nearest in the given order, itself left out."""
    x = np.asarray(values, dtype=np.float64)
    out = np.full(len(x), np.nan)
    there = np.flatnonzero(np.isfinite(x))
    for i in there:
        others = there[there != i]
        near = others[np.argsort(np.abs(others - i), kind="stable")][:NEIGHBOURS]
        if len(near):
            out[i] = x[i] - np.median(x[near])
    return out
