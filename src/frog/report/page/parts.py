"""Pieces that several pages share: shares by condition, groups of findings, edges, settings."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import NormalDist, quantiles
from typing import Any

from frog.report.page.meanings import CONDITIONS, MARKS, MEANINGS, SEVERITIES
from frog.report.words import count, printable
from frog.types import Finding, LayerReport, Settings
from frog.types.flow import Pair, Pathway

MAX_EDGES = 5000
"""Edges that a page holds, heaviest first; the report file has all of them."""


def condition_shares(layers: Sequence[LayerReport]) -> list[dict[str, Any]]:
    """How many layers and parameters have each condition, the share of all measured ones."""
    total = sum(layer.params for layer in layers)
    rows = []
    for word in CONDITIONS:
        members = [layer for layer in layers if layer.condition == word]
        params = sum(layer.params for layer in members)
        if members:
            share = params / total if total else math.nan
            rows.append({"word": word, "layers": len(members), "params": params, "share": share})
    return rows


def severity_counts(findings: Sequence[Finding]) -> list[dict[str, Any]]:
    """How many findings of each severity there are, none left out."""
    tally = {severity: 0 for severity in SEVERITIES}
    for finding in findings:
        tally[finding.severity] = tally.get(finding.severity, 0) + 1
    return [{"severity": s, "mark": MARKS.get(s, "●"), "n": n} for s, n in tally.items()]


def finding_rows(findings: Sequence[Finding], places: Mapping[str, int]) -> list[dict[str, Any]]:
    """Findings as plain rows, the grave and certain first, each with the place of its layer."""
    rows = [
        {**asdict(f), "at": places.get(f.layer), "mark": MARKS.get(f.severity, "●")}
        for f in findings
    ]

    def grave(row: dict[str, Any]) -> tuple[int, str, bool]:
        known = row["severity"] in SEVERITIES
        rank = SEVERITIES.index(row["severity"]) if known else len(SEVERITIES)
        return rank, row["kind"], row["certainty"] != "certain"

    return sorted(rows, key=grave)


def meaning_table(findings: Iterable[Finding]) -> dict[str, dict[str, str]]:
    """Why each kind of finding matters and what to do, for the kinds that occur."""
    kinds = dict.fromkeys(finding.kind for finding in findings)
    return {kind: asdict(MEANINGS[kind]) for kind in kinds if kind in MEANINGS}


def edges(pairs: Sequence[Pair], places: Mapping[str, int]) -> dict[str, Any]:
    """Edges of the graph as lists, heaviest first; ``total`` counts those left out too."""
    known = [p for p in pairs if p.writer in places and p.reader in places]
    known.sort(key=lambda p: -p.weight if math.isfinite(p.weight) else math.inf)
    kept = known[:MAX_EDGES]
    readings = list(dict.fromkeys(name for p in kept for name in p.overlaps))
    return {
        "total": len(pairs),
        "writer": [places[p.writer] for p in kept],
        "reader": [places[p.reader] for p in kept],
        "kind": [p.kind for p in kept],
        "head": [p.head for p in kept],
        "k": [p.k for p in kept],
        "weight": [p.weight for p in kept],
        "gain": [p.gain for p in kept],
        "overlap": {r: [_of(p, r, "value") for p in kept] for r in readings},
        "expected": {r: [_of(p, r, "expected") for p in kept] for r in readings},
        "z": {r: [_of(p, r, "z") for p in kept] for r in readings},
    }


def least_z(n: int) -> float:
    """The z that with 99 % chance none of n random edges reaches, at least 3, to a tenth.

    >>> least_z(1), least_z(100)
    (3.0, 3.8)
    """
    return max(3.0, math.ceil(10 * NormalDist().inv_cdf(1 - 0.01 / max(n, 1))) / 10)


def paths(pathways: Sequence[Pathway], places: Mapping[str, int]) -> list[dict[str, Any]]:
    """The heaviest paths, layers by their place; one with a layer not listed is left out."""
    return [
        {
            "layers": [places[name] for name in path.layers],
            "heads": list(path.heads),
            "weight": path.weight,
            "weakest": path.weakest,
        }
        for path in pathways
        if all(name in places for name in path.layers)
    ]


def setting_words(settings: Settings) -> list[tuple[str, str]]:
    """Every setting and its value, nested ones with a dot."""
    rows: list[tuple[str, str]] = []
    for name, value in asdict(settings).items():
        if isinstance(value, dict):
            rows += [(f"{name}.{inner}", _word(v)) for inner, v in value.items()]
        else:
            rows.append((name, _word(value)))
    return rows


def short_path(path: str) -> str:
    """The last telling part of a path, for a title."""
    parts = [part for part in printable(path).replace("\\", "/").split("/") if part]
    return "/".join(parts[-2:]) if parts else "model"


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """The range that holds the middle half of the numbers; NaN for fewer than two."""
    numbers = [value for value in values if math.isfinite(value)]
    if len(numbers) < 2:
        return math.nan, math.nan
    low, _, high = quantiles(numbers, n=4, method="inclusive")
    return low, high


def counted(words: Mapping[str, str]) -> list[tuple[str, list[str]]]:
    """Names by reason, the most frequent reason first."""
    groups: dict[str, list[str]] = {}
    for name, reason in words.items():
        groups.setdefault(reason, []).append(name)
    return sorted(groups.items(), key=lambda item: -len(item[1]))


def method_words(settings: Settings) -> str:
    """How alpha was fitted, in one sentence."""
    fit = {
        "ks": "maximum likelihood, the tail's start by the smallest Kolmogorov-Smirnov distance",
        "hill": "the Hill estimator, the tail starting at the median eigenvalue",
        "tpl": "maximum likelihood of a power law with an exponential cut-off",
    }.get(settings.estimator, settings.estimator)
    window = {
        "full": "on the whole spectrum of each matrix",
        "farms": "on windows of one aspect ratio (FARMS), their spectra joined",
    }.get(settings.window, settings.window)
    interval = (
        f"its interval from {count(settings.bootstrap, 'resample')}, seed {settings.seed}"
        if settings.bootstrap
        else "no interval asked for"
    )
    return f"Alpha by {fit}, {window}; {interval}."


def _of(pair: Pair, reading: str, what: str) -> float:
    return getattr(pair.overlaps[reading], what) if reading in pair.overlaps else math.nan


def _word(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "none" if value is None else str(value)
