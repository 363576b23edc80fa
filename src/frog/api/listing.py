"""What there is: the members of the registries, for tables and documents."""

from __future__ import annotations

from typing import Any


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
