"""What there is: the members of the registries, for tables and documents."""

from __future__ import annotations

from typing import Any

from frog.types import GRANULARITIES


def list_metrics() -> list[dict[str, Any]]:
    """Every metric: name, symbol, meaning, which way is better, scale degree, source."""
    from frog.metrics import METRICS

    return [
        {
            "name": name,
            "symbol": metric.symbol,
            "meaning": metric.meaning,
            "better": metric.better,
            "degree": metric.degree,
            "source": metric.source,
        }
        for name, metric in METRICS.items()
    ]


def list_rankings() -> list[dict[str, Any]]:
    """Every way to order layers by what tuning them may give: name, meaning, source.

    ``default`` marks the one that reports use; controls know nothing of the weights.
    """
    from frog.metrics.ranking import AUTO, RANKINGS

    return [
        {
            "name": name,
            "meaning": ranking.meaning,
            "source": ranking.source,
            "default": name == AUTO,
        }
        for name, ranking in RANKINGS.items()
    ]


def list_scores() -> list[dict[str, Any]]:
    """Every score of single weights: name, meaning, what it needs, source."""
    from frog.selection.scores import AUTO, SCORES

    return [
        {
            "name": name,
            "meaning": score.meaning,
            "needs": score.needs,
            "source": score.source,
            "default": name == AUTO,
        }
        for name, score in SCORES.items()
    ]


def list_rules() -> list[dict[str, Any]]:
    """Every rule that splits a budget: name, meaning, knobs with defaults, source."""
    from frog.allocation.rules import AUTO, RULES

    return [
        {
            "name": name,
            "meaning": rule.meaning,
            "knobs": rule.knobs,
            "source": rule.source,
            "default": name == AUTO,
        }
        for name, rule in RULES.items()
    ]


def list_granularities() -> list[dict[str, Any]]:
    """What can be chosen as a whole."""
    meanings = {
        "element": "single weights",
        "row": "all weights of an output",
        "column": "all weights of an input",
        "block": "rectangles of weights, 16 x 16 where nothing else is said",
    }
    return [
        {"name": name, "meaning": meanings[name], "default": name == "element"}
        for name in GRANULARITIES
    ]


def list_tasks() -> list[dict[str, Any]]:
    """What a recipe can fine-tune for: name, meaning, keys of its data, metrics."""
    from frog.recipes import TASKS

    return [
        {
            "name": name,
            "meaning": task.meaning,
            "keys": list(task.keys),
            "metrics": list(task.metrics),
            "default": False,
        }
        for name, task in TASKS.items()
    ]


def list_ways() -> list[dict[str, Any]]:
    """Every way to draw layers: name, what it draws more often, source; rankings draw, too."""
    from frog.allocation.odds import WAYS

    return [
        {
            "name": name,
            "meaning": way.words,
            "source": way.source,
            "default": name == "uniform",
        }
        for name, way in WAYS.items()
    ]


def list_guards() -> list[dict[str, Any]]:
    """Every guard of a run: name, meaning, action and interval where nothing else is said.

    ``default`` marks those that ``guards="auto"`` means.
    """
    from frog.tuning.guards import AUTO, GUARDS

    made = {name: kind() for name, kind in GUARDS.items()}
    return [
        {
            "name": name,
            "meaning": (guard.__doc__ or "").strip().split("\n")[0],
            "action": guard.action,
            "every": guard.every,
            "default": name in AUTO,
        }
        for name, guard in made.items()
    ]


def list_allocators() -> list[dict[str, Any]]:
    """Every rule of ``frog plan bits`` and ``frog plan prune``: name, meaning, purposes, source."""
    from frog.allocation.levels import ALLOCATORS
    from frog.allocation.levels.deciding import RULES

    alone = {"name": "uniform", "meaning": "one level for all", "needs": "nothing", "source": ""}
    rows = [alone] + [
        {"name": name, "meaning": x.words, "needs": x.needs, "source": x.source}
        for name, x in ALLOCATORS.items()
    ]
    return [
        {
            **row,
            "purposes": [purpose for purpose, names in RULES.items() if row["name"] in names],
            "default": row["name"] == "dynamic",
        }
        for row in rows
    ]


def list_unit_scores() -> list[dict[str, Any]]:
    """Every score of units of compression: name, meaning, what it needs, direction, source.

    ``direction`` says which end is kept; a minus before the name turns it round.
    """
    from frog.compression.scores import UNIT_SCORES

    return [
        {
            "name": name,
            "meaning": score.meaning,
            "needs": score.needs,
            "direction": score.direction,
            "source": score.source,
            "default": False,
        }
        for name, score in UNIT_SCORES.items()
    ]
