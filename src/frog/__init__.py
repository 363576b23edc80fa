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
        export_delta,
        flow,
        gate,
        inspect,
        layer_rates,
        merge_reports,
        recommend,
        select,
        tune,
    )
    from frog.api.sampling import LayerSampler
    from frog.errors import FrogError, ModelError, ReportError, UsageError
    from frog.tuning import Tuner, collect_gradients, fit_head
    from frog.types import (
        Alarm,
        Budget,
        Catalogue,
        Certificate,
        Comparison,
        Farms,
        GateResult,
        Gradient,
        LayerReport,
        ModelReport,
        Noise,
        Plan,
        Policy,
        Rate,
        Recommendation,
        Selection,
        Series,
        Settings,
        SparseDelta,
        WeightMatrix,
        Workload,
    )

_HOMES = {
    "Alarm": "frog.types",
    "Budget": "frog.types",
    "Catalogue": "frog.types",
    "Certificate": "frog.types",
    "Choice": "frog.api",
    "Comparison": "frog.types",
    "Farms": "frog.types",
    "Flow": "frog.api",
    "FrogError": "frog.errors",
    "GateResult": "frog.types",
    "Gradient": "frog.types",
    "LayerReport": "frog.types",
    "LayerSampler": "frog.api.sampling",
    "ModelError": "frog.errors",
    "ModelReport": "frog.types",
    "Noise": "frog.types",
    "Plan": "frog.types",
    "Policy": "frog.types",
    "Recommendation": "frog.types",
    "Rate": "frog.types",
    "ReportError": "frog.errors",
    "Run": "frog.api",
    "Selection": "frog.types",
    "Series": "frog.types",
    "Settings": "frog.types",
    "SparseDelta": "frog.types",
    "Tuner": "frog.tuning",
    "UsageError": "frog.errors",
    "WeightMatrix": "frog.types",
    "Workload": "frog.types",
    "allocate": "frog.api",
    "analyze": "frog.api",
    "apply_delta": "frog.api",
    "collect_gradients": "frog.tuning",
    "compare": "frog.api",
    "diff": "frog.api",
    "export_delta": "frog.api",
    "fit_head": "frog.tuning",
    "flow": "frog.api",
    "gate": "frog.api",
    "inspect": "frog.api",
    "layer_rates": "frog.api",
    "merge_reports": "frog.api",
    "recommend": "frog.api",
    "select": "frog.api",
    "tune": "frog.api",
}

__all__ = [
    "Alarm",
    "Budget",
    "Catalogue",
    "Certificate",
    "Choice",
    "Comparison",
    "Farms",
    "Flow",
    "FrogError",
    "GateResult",
    "Gradient",
    "LayerReport",
    "LayerSampler",
    "ModelError",
    "ModelReport",
    "Noise",
    "Plan",
    "Policy",
    "Rate",
    "Recommendation",
    "ReportError",
    "Run",
    "Selection",
    "Series",
    "Settings",
    "SparseDelta",
    "Tuner",
    "UsageError",
    "WeightMatrix",
    "Workload",
    "__version__",
    "allocate",
    "analyze",
    "apply_delta",
    "collect_gradients",
    "compare",
    "diff",
    "export_delta",
    "fit_head",
    "flow",
    "gate",
    "inspect",
    "layer_rates",
    "merge_reports",
    "recommend",
    "select",
    "tune",
]


def __getattr__(name: str) -> object:
    """Import a public name at its first use: `frog --help` need not pay for the numerics."""
    if name not in _HOMES:
        raise AttributeError(f"module 'frog' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return __all__
