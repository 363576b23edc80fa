"""Measure the weights of a neural network without data."""

from typing import TYPE_CHECKING

from frog.version import __version__

if TYPE_CHECKING:
    from frog.api import Flow, Run, analyze, compare, flow, gate, inspect, merge_reports
    from frog.errors import FrogError, ModelError, ReportError, UsageError
    from frog.types import (
        Catalogue,
        Comparison,
        Farms,
        GateResult,
        LayerReport,
        ModelReport,
        Policy,
        Series,
        Settings,
        WeightMatrix,
    )

_HOMES = {
    "Catalogue": "frog.types",
    "Comparison": "frog.types",
    "Farms": "frog.types",
    "Flow": "frog.api",
    "FrogError": "frog.errors",
    "GateResult": "frog.types",
    "LayerReport": "frog.types",
    "ModelError": "frog.errors",
    "ModelReport": "frog.types",
    "Policy": "frog.types",
    "ReportError": "frog.errors",
    "Run": "frog.api",
    "Series": "frog.types",
    "Settings": "frog.types",
    "UsageError": "frog.errors",
    "WeightMatrix": "frog.types",
    "analyze": "frog.api",
    "compare": "frog.api",
    "flow": "frog.api",
    "gate": "frog.api",
    "inspect": "frog.api",
    "merge_reports": "frog.api",
}

__all__ = [
    "Catalogue",
    "Comparison",
    "Farms",
    "Flow",
    "FrogError",
    "GateResult",
    "LayerReport",
    "ModelError",
    "ModelReport",
    "Policy",
    "ReportError",
    "Run",
    "Series",
    "Settings",
    "UsageError",
    "WeightMatrix",
    "__version__",
    "analyze",
    "compare",
    "flow",
    "gate",
    "inspect",
    "merge_reports",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `frog --help` need not pay for the numerics."""
    if name not in _HOMES:
        raise AttributeError(f"module 'frog' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
