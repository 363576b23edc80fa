"""The graph of the pairs, and its heaviest paths from the input side to the output side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from statistics import NormalDist, fmean

from frog.metrics.flow import strictest_reading
from frog.types import Pair, Pathway, WeightMatrix

LEVEL = 0.01
"""Chance that any edge of a random net of the same size passes for one above the null."""

FADE = 0.5
"""What is left of the weight of an edge, when the next path is looked for, once it is in one."""

READ_ONLY = ("q", "k", "v", "q_down", "kv_down", "in", "z", "o_gate", "gate", "up")
WRITE_ONLY = ("o", "out", "down")
INPUT = ("embedding", "patch")


def heaviest(
    pairs: Sequence[Pair], matrices: Mapping[str, WeightMatrix], *, top: int = 5
) -> tuple[tuple[Pathway, ...], tuple[str, ...]]:
    """The ``top`` paths of largest mean edge weight, heaviest first, and notes.

    A path runs from a matrix that nothing writes to (a token embedding where there is one) to one
    that nothing reads (a head, a pooler) or to the last that writes into the residual stream. Its
    edges lie above their null (:func:`threshold`); where no path does without others, they are let
    in, with a note, and where no edge at all lies above the null there is no path. Of several heads
    between two matrices it takes the heaviest. Edges between queries and keys steer attention but
    carry nothing on, and are in no path. Each further path is the heaviest once the edges of the
    paths before it weigh half: paths that differ in one step only would say little. Equal weights
    go by name.

    They are the heaviest paths, not critical ones: on the two real models that were tried, ablating
    them did not reliably hurt more than random changes of the same rank and norm (design note 005).
    """
    limit = threshold(len(pairs))
    carrying = [pair for pair in pairs if pair.kind != "qk"]
    above = [pair for pair in carrying if _above(pair, limit)]
    if not carrying:
        return (), ()
    sources, sinks = _ends(carrying, matrices)
    found = _distinct(_heaviest_heads(above, sources), sources, sinks, top)
    if found:
        return found, ()
    share = f"flow: {len(above)} of {len(carrying)} edges lie above the null (z > {limit:.1f})"
    if above:
        found = _distinct(_heaviest_heads(carrying, sources), sources, sinks, top)
    if not found:
        return (), (f"{share}: no pathway",)
    note = "no path from input to output runs over them alone, so pathways use weaker ones too"
    return found, (f"{share}; {note}",)


def _distinct(
    edges: Mapping[tuple[str, str], tuple[float, int | None]],
    sources: set[str],
    sinks: set[str],
    top: int,
) -> tuple[Pathway, ...]:
    faded = {key: weight for key, (weight, _) in edges.items()}
    found: list[Pathway] = []
    for _ in range(4 * top):
        path = _heaviest_path(faded, sources, sinks)
        if path is None or len(found) == top:
            break
        steps = list(pairwise(path))
        for step in steps:
            faded[step] -= abs(faded[step]) * (1 - FADE)
        pathway = _pathway(path, [edges[step] for step in steps])
        if pathway not in found:
            found.append(pathway)
    return tuple(sorted(found, key=lambda x: (-x.weight, x.layers)))


def threshold(edges: int) -> float:
    """z beyond which an edge is above the null: one in a hundred random nets has such an edge.

    One-sided, for this number of edges (Bonferroni), as if z were normal; at least 3.

    >>> round(threshold(200), 2)
    3.89
    """
    return max(3.0, NormalDist().inv_cdf(1 - LEVEL / max(edges, 1)))


def _above(pair: Pair, limit: float) -> bool:
    reading = strictest_reading(pair.overlaps)
    return reading is not None and reading.z > limit and pair.weight > 0


def _ends(pairs: Sequence[Pair], matrices: Mapping[str, WeightMatrix]) -> tuple[set[str], set[str]]:
    """Where paths begin and where they may end; a tied embedding is both, the end marked."""
    roles = {name: matrices[name].role for pair in pairs for name in (pair.writer, pair.reader)}
    writers, readers = {x.writer for x in pairs}, {x.reader for x in pairs}
    inputs = {x for x in writers if roles[x] in INPUT}
    first = writers - readers
    sources = inputs or {x for x in first if roles[x] not in WRITE_ONLY} or first
    ends = {x for x in readers - writers if roles[x] not in READ_ONLY} | (readers & inputs)
    onward: dict[str, set[str]] = {}
    for pair in pairs:
        if pair.kind == "residual":
            onward.setdefault(pair.writer, set()).add(pair.reader)
    # What leaves the stream may be its end itself, as in a model of sentence embeddings.
    last = {writer for writer, read_by in onward.items() if read_by <= ends} - sources
    return sources, {_end(x) if x in inputs else x for x in ends} | last


def _end(name: str) -> str:
    """The node of a tied embedding as the head."""
    return f"{name}\0"


def _heaviest_heads(
    pairs: Sequence[Pair], sources: set[str]
) -> dict[tuple[str, str], tuple[float, int | None]]:
    edges: dict[tuple[str, str], tuple[float, int | None]] = {}
    for pair in pairs:
        key = (pair.writer, _end(pair.reader) if pair.reader in sources else pair.reader)
        if key not in edges or pair.weight > edges[key][0]:
            edges[key] = (pair.weight, pair.head)
    return edges


def _heaviest_path(
    weights: Mapping[tuple[str, str], float], sources: set[str], sinks: set[str]
) -> list[str] | None:
    """The path of largest mean weight, by dynamic programming over its number of steps.

    best[s][x] is the largest sum over paths of s steps from a source to x. The mean of the best
    over all s is the best mean, for a mean is a sum over a fixed number.
    """
    into: dict[str, list[str]] = {}
    for writer, reader in sorted(weights):
        into.setdefault(reader, []).append(writer)
    best: list[dict[str, tuple[float, str]]] = [{x: (0.0, "") for x in sources}]
    finished: tuple[float, int, str] | None = None
    while best[-1] and len(best) <= len(into) + 1:
        now: dict[str, tuple[float, str]] = {}
        for reader, writers in into.items():
            reached = [x for x in writers if x in best[-1]]
            if reached:
                sums = [(best[-1][x][0] + weights[x, reader], x) for x in reached]
                now[reader] = max(sums, key=lambda x: x[0])
        best.append(now)
        for sink in sorted(sinks & now.keys()):
            mean = now[sink][0] / (len(best) - 1)
            if finished is None or mean > finished[0]:
                finished = (mean, len(best) - 1, sink)
    if finished is None:
        return None
    _, steps, node = finished
    path = [node]
    for step in range(steps, 0, -1):
        node = best[step][node][1]
        path.append(node)
    return path[::-1]


def _pathway(path: Sequence[str], steps: Sequence[tuple[float, int | None]]) -> Pathway:
    weights = [weight for weight, _ in steps]
    return Pathway(
        layers=tuple(name.removesuffix("\0") for name in path),
        heads=tuple(head for _, head in steps),
        weight=fmean(weights),
        weakest=min(weights),
    )
