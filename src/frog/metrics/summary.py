"""The model as a whole: means over the layers that have a number, and how many those are."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from statistics import fmean, median

from frog.types import LayerReport

Summary = dict[str, int | float]

AVERAGED = (
    "alpha",
    "alpha_weighted",
    "log_alpha_norm",
    "log_norm",
    "log_spectral_norm",
    "stable_rank",
    "D",
)
CONDITIONS = (
    "over-parameterised",
    "possibly over-parameterised",
    "over-trained",
    "possibly over-trained",
    "fine",
    "unjudged",
)
WEIGHTWATCHER_FAILED = -1.0


def summarise(layers: Iterable[LayerReport], *, compat: str | None = None) -> Summary:
    """Plain, median and parameter-weighted means, each over the layers that have the number.

    Embeddings and heads stay outside. In compat mode all rows enter, as in WeightWatcher's
    ``get_summary``, failed fits with -1.
    """
    layers = tuple(layers)
    measured = [x for x in layers if x.skipped is None]
    if compat == "weightwatcher":
        return _weightwatcher(measured)
    averaged = [x for x in measured if x.averaged]
    summary: Summary = {}
    for name in AVERAGED:
        pairs = [(x.values.get(name, math.nan), x.params) for x in averaged]
        pairs = [(value, params) for value, params in pairs if not math.isnan(value)]
        values = [value for value, _ in pairs]
        summary[name] = _mean(values)
        summary[f"{name}_layers"] = len(values)
        if name in ("alpha", "alpha_weighted"):
            summary[f"{name}_median"] = median(values) if values else math.nan
            weights = [params for _, params in pairs]
            summary[f"{name}_by_params"] = fmean(values, weights) if values else math.nan
    alphas = [x.values.get("alpha", math.nan) for x in averaged]
    summary["layers_fitted"] = sum(not math.isnan(a) for a in alphas)
    summary["layers_averaged"] = len(averaged)
    summary["layers_measured"] = len(measured)
    summary["layers_total"] = len(layers)
    summary |= shares(measured)
    summary["params_measured"] = sum(x.params for x in measured)
    summary["params_total"] = sum(x.params for x in layers)
    return summary


def shares(measured: Sequence[LayerReport]) -> Summary:
    """Share of the measured parameters, 0 to 1, in the layers of each condition.

    >>> shares([])["params_fine"]
    nan
    """
    total = sum(x.params for x in measured)
    found: Summary = {}
    for condition in CONDITIONS:
        params = sum(x.params for x in measured if x.condition == condition)
        name = condition.replace(" ", "_").replace("-", "_")
        found[f"params_{name}"] = params / total if total else math.nan
    return found


def _weightwatcher(measured: Sequence[LayerReport]) -> Summary:
    summary: Summary = {}
    for name in AVERAGED:
        values = [x.values.get(name, math.nan) for x in measured]
        values = [WEIGHTWATCHER_FAILED if math.isnan(v) else v for v in values]
        summary[name] = _mean(values)
    summary["layers_fitted"] = sum(x.fit_status == "ok" for x in measured)
    summary["layers_measured"] = len(measured)
    return summary


def _mean(values: Sequence[float]) -> float:
    return fmean(values) if values else math.nan
