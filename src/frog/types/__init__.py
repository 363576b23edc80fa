"""The nouns that all rooms share.

    matrices      what a model holds: matrices without their tensors, views, what is skipped
    wiring        which matrix writes what which other reads, and the gains between them
    spectra       one matrix as measured: spectrum, fit, place among random matrices
    reports       a model as measured: settings, layers, findings
    flow          pairs of matrices, pathways, a metric over depth
    comparisons   models before and after, series of them, gates
    strategies    ways to fine-tune one model, side by side
    policies      the rules of a gate
    plans         how much of a model may be trained, and its split over the matrices
    recommendations what is worth doing with a model, how much to tune, for how long
    selections    which weights are trained
    gradients     what a few batches say of the weights
    rates         the learning rate of a run, and what it was made from
    certificates  what guards saw and did while a model was tuned
    noise         noise on those that are not
    judgements    plans of compression against uniform ones of their size
    levels        units of compression, damage at each level, a choice of levels
    level_plans   bit widths or sparsities by unit, how and why
    deltas        the difference between two states of a model, entry by entry

Shape letters, one legend for all code: **m** rows (outputs), **n** columns (inputs),
**r** = min(m, n), **k** kept, **L** layers. A suffix names the shape of an array: ``W_mn``.

Records are values: they can be printed, compared, saved and edited, and know no model.
"""

from frog.types.certificates import RESPONSES, Alarm, Certificate, Worst
from frog.types.comparisons import (
    Breach,
    Comparison,
    GateResult,
    LayerChange,
    Origin,
    Series,
)
from frog.types.deltas import SparseDelta, TensorDelta
from frog.types.flow import DepthProfile, Overlap, Pair, Pathway, Ranked
from frog.types.gradients import Gradient, Gradients
from frog.types.level_plans import (
    Calibration,
    LevelPlan,
    LevelRule,
    PlannedMatrix,
    PlannedUnit,
    Pruning,
    Quantisation,
    Targets,
)
from frog.types.matrices import (
    FAILED,
    Catalogue,
    LiveParameter,
    Loader,
    MatrixView,
    SkippedTensor,
    WeightMatrix,
)
from frog.types.noise import Noise
from frog.types.plans import Allotment, Budget, Plan
from frog.types.policies import KINDS, SEVERITIES, Exemption, FindingRule, Limit, Policy
from frog.types.rates import Rate
from frog.types.recommendations import (
    ACTIONS,
    POLICIES,
    Action,
    Amount,
    Bound,
    Effect,
    Extent,
    Recommendation,
    Stop,
    Workload,
)
from frog.types.reports import Farms, Finding, LayerReport, ModelReport, Settings
from frog.types.selections import GRANULARITIES, Chosen, Selection
from frog.types.spectra import NAN, FitStatus, NullLook, PowerLawFit, Spectrum
from frog.types.strategies import Strategy
from frog.types.wiring import Edge, Gain, Heads, Wiring

__all__ = [
    "ACTIONS",
    "FAILED",
    "GRANULARITIES",
    "KINDS",
    "NAN",
    "POLICIES",
    "RESPONSES",
    "SEVERITIES",
    "Action",
    "Alarm",
    "Allotment",
    "Amount",
    "Bound",
    "Breach",
    "Budget",
    "Calibration",
    "Catalogue",
    "Certificate",
    "Chosen",
    "Comparison",
    "DepthProfile",
    "Edge",
    "Effect",
    "Exemption",
    "Extent",
    "Farms",
    "Finding",
    "FindingRule",
    "FitStatus",
    "Gain",
    "GateResult",
    "Gradient",
    "Gradients",
    "Heads",
    "LayerChange",
    "LayerReport",
    "LevelPlan",
    "LevelRule",
    "Limit",
    "LiveParameter",
    "Loader",
    "MatrixView",
    "ModelReport",
    "Noise",
    "NullLook",
    "Origin",
    "Overlap",
    "Pair",
    "Pathway",
    "Plan",
    "PlannedMatrix",
    "PlannedUnit",
    "Policy",
    "PowerLawFit",
    "Pruning",
    "Quantisation",
    "Ranked",
    "Rate",
    "Recommendation",
    "Selection",
    "Series",
    "Settings",
    "SkippedTensor",
    "SparseDelta",
    "Spectrum",
    "Stop",
    "Strategy",
    "Targets",
    "TensorDelta",
    "WeightMatrix",
    "Wiring",
    "Workload",
    "Worst",
]
