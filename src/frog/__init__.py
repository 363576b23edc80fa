"""Measure the weights of a neural network without data; fine-tune only those that matter."""

from typing import TYPE_CHECKING

from frog.version import __version__

if TYPE_CHECKING:
    from frog.api import (
        Choice,
        Flow,
        Run,
        allocate,
        analyze,
        apply_delta,
        compare,
        diff,
        flow,
        gate,
        inspect,
        merge_reports,
        select,
    )
    from frog.errors import FrogError, ModelError, ReportError, UsageError
    from frog.tuning import Tuner
    from frog.types import (
        Budget,
        Catalogue,
        Comparison,
        Farms,
        GateResult,
        LayerReport,
        ModelReport,
        Noise,
        Plan,
        Policy,
        Selection,
        Series,
        Settings,
        SparseDelta,
        WeightMatrix,
    )

_HOMES = {
    "Budget": "frog.types",
    "Catalogue": "frog.types",
    "Choice": "frog.api",
    "Comparison": "frog.types",
    "Farms": "frog.types",
    "Flow": "frog.api",
    "FrogError": "frog.errors",
    "GateResult": "frog.types",
    "LayerReport": "frog.types",
    "ModelError": "frog.errors",
    "ModelReport": "frog.types",
    "Noise": "frog.types",
    "Plan": "frog.types",
    "Policy": "frog.types",
    "ReportError": "frog.errors",
    "Run": "frog.api",
    "Selection": "frog.types",
    "Series": "frog.types",
    "Settings": "frog.types",
    "SparseDelta": "frog.types",
    "Tuner": "frog.tuning",
    "UsageError": "frog.errors",
    "WeightMatrix": "frog.types",
    "allocate": "frog.api",
    "analyze": "frog.api",
    "apply_delta": "frog.api",
    "compare": "frog.api",
    "diff": "frog.api",
    "flow": "frog.api",
    "gate": "frog.api",
    "inspect": "frog.api",
    "merge_reports": "frog.api",
    "select": "frog.api",
}

__all__ = [
    "Budget",
    "Catalogue",
    "Choice",
    "Comparison",
    "Farms",
    "Flow",
    "FrogError",
    "GateResult",
    "LayerReport",
    "ModelError",
    "ModelReport",
    "Noise",
    "Plan",
    "Policy",
    "ReportError",
    "Run",
    "Selection",
    "Series",
    "Settings",
    "SparseDelta",
    "Tuner",
    "UsageError",
    "WeightMatrix",
    "__version__",
    "allocate",
    "analyze",
    "apply_delta",
    "compare",
    "diff",
    "flow",
    "gate",
    "inspect",
    "merge_reports",
    "select",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `frog --help` need not pay for the numerics."""
    if name not in _HOMES:
        raise AttributeError(f"module 'frog' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
