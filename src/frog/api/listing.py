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
