"""Comparisons and series of any content, and small ones made by hand."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

from frog.types import (
    Comparison,
    Finding,
    LayerChange,
    LayerReport,
    ModelReport,
    Origin,
    Series,
    Settings,
)
from tests.report.reports import (
    COUNTS,
    CURVES,
    FINDINGS,
    NAMES,
    NUMBERS,
    REPORTS,
    SETTINGS,
    WORDS,
)

VALUES = st.dictionaries(NAMES, NUMBERS, max_size=3)
REASONS = st.dictionaries(WORDS, WORDS, max_size=2)
CHANGES = st.builds(
    LayerChange,
    name=WORDS,
    role=WORDS,
    block=st.none() | COUNTS,
    shape=st.lists(COUNTS, max_size=4).map(tuple),
    params=COUNTS,
    before=VALUES,
    after=VALUES,
    change=VALUES,
    alpha_change_low=NUMBERS,
    alpha_change_high=NUMBERS,
    drift=NUMBERS,
    spectral_share=NUMBERS,
    rotation_left=NUMBERS,
    rotation_right=NUMBERS,
    intruders=NUMBERS,
    scale=st.sampled_from(["", "collapse", "compensated"]),
    scale_z=NUMBERS,
    verdicts_before=st.lists(WORDS, max_size=2).map(tuple),
    verdicts_after=st.lists(WORDS, max_size=2).map(tuple),
    missing=REASONS,
    identical=st.booleans(),
    curve_before=st.none() | CURVES,
    curve_after=st.none() | CURVES,
)
ORIGINS = st.builds(
    Origin, path=WORDS, digest=WORDS, format=WORDS, settings=SETTINGS, weights=st.booleans()
)
COMPARISONS = st.builds(
    Comparison,
    before=ORIGINS,
    after=ORIGINS,
    frog_version=WORDS,
    layers=st.lists(CHANGES, max_size=3).map(tuple),
    only_before=REASONS,
    only_after=REASONS,
    findings=st.lists(FINDINGS, max_size=2).map(tuple),
    summary=st.dictionaries(NAMES, NUMBERS | COUNTS, max_size=4),
    verdict=WORDS,
    notes=st.lists(WORDS, max_size=2).map(tuple),
)


@st.composite
def _series(draw: st.DrawFn) -> Series:
    reports = draw(st.lists(REPORTS, max_size=3))
    n = len(reports)
    return Series(
        labels=tuple(draw(st.lists(WORDS, min_size=n, max_size=n))),
        steps=tuple(draw(st.lists(NUMBERS, min_size=n, max_size=n))),
        reports=tuple(reports),
        comparisons=tuple(
            draw(st.lists(COMPARISONS, min_size=max(n - 1, 0), max_size=max(n - 1, 0)))
        ),
        verdict=draw(WORDS),
        notes=tuple(draw(st.lists(WORDS, max_size=2))),
    )


SERIES = _series()


# ------------------------------------------------------------------------- made by hand


def origin(path: str, **more: Any) -> Origin:
    """One side of a comparison."""
    known = {"digest": "d", "format": "safetensors", "settings": Settings(), "weights": True}
    return Origin(path=path, **{**known, **more})


def layer_report(name: str, block: int | None, **more: Any) -> LayerReport:
    """A measured layer; values may be given as ``values=``."""
    known: dict[str, Any] = {
        "kind": "linear",
        "role": "q",
        "shape": (64, 64),
        "dtype": "float32",
        "params": 4096,
        "fit_status": "ok",
        "verdicts": ("trained",),
        "digest": name,
        "values": {"alpha": 3.0, "alpha_weighted": 2.0, "stable_rank": 9.0, "log_norm": 1.0},
    }
    return LayerReport(name=name, block=block, **{**known, **more})


def report(path: str, layers: tuple[LayerReport, ...], **more: Any) -> ModelReport:
    """A report of these layers; the summary is that of the first."""
    summary = dict(layers[0].values) if layers else {}
    known: dict[str, Any] = {"digest": "d", "format": "safetensors", "frog_version": "0"}
    known |= {"settings": Settings(), "summary": {**summary, "layers_fitted": len(layers)}}
    return ModelReport(path=path, layers=layers, **{**known, **more})


def change(name: str, block: int | None, **more: Any) -> LayerChange:
    """A changed layer with the numbers of one whose alpha rose by 0.5."""
    known: dict[str, Any] = {
        "role": "q",
        "shape": (64, 64),
        "params": 4096,
        "before": {"alpha": 3.0, "log_norm": 1.0, "log_spectral_norm": 0.5, "stable_rank": 9.0},
        "after": {"alpha": 3.5, "log_norm": 1.1, "log_spectral_norm": 0.6, "stable_rank": 8.0},
        "change": {"alpha": 0.5, "log_norm": 0.1, "log_spectral_norm": 0.1, "stable_rank": -1.0},
        "alpha_change_low": -0.2,
        "alpha_change_high": 1.2,
        "drift": 0.1,
        "spectral_share": 0.4,
        "rotation_left": 0.05,
        "rotation_right": 0.06,
        "intruders": 0.0,
        "scale_z": 1.0,
        "verdicts_before": ("trained",),
        "verdicts_after": ("trained",),
    }
    return LayerChange(name=name, block=block, **{**known, **more})


def comparison(*layers: LayerChange, **more: Any) -> Comparison:
    """A comparison of these layers."""
    known: dict[str, Any] = {
        "before": origin("base"),
        "after": origin("tuned"),
        "frog_version": "0",
        "verdict": "Mildly changed: drift 0.1, no new findings.",
        "summary": {
            "alpha_before": 3.0,
            "alpha_after": 3.5,
            "alpha_change": 0.5,
            "layers_fitted_before": 4,
            "layers_fitted_after": 4,
            "layers_fitted_change": 0,
        },
    }
    return Comparison(layers=layers, **{**known, **more})


def finding(kind: str, layer: str = "", **more: Any) -> Finding:
    """A warning that is certain."""
    known: dict[str, Any] = {"certainty": "certain", "severity": "warning", "value": 0.7}
    known |= {"threshold": 0.3, "text": f"{layer or 'the model'}: {kind} 0.7 is above 0.3"}
    return Finding(kind=kind, layer=layer, **{**known, **more})


def tuning_run(members: int = 4) -> Series:
    """A series in which alpha falls and drift grows."""
    reports = tuple(
        report(
            f"run/checkpoint-{100 * i}",
            (layer_report("h.0.q.weight", 0, values={"alpha": 4 - 0.2 * i, "stable_rank": 9.0,
                                                     "alpha_weighted": 2.0 - 0.1 * i}),),
        )
        for i in range(members)
    )  # fmt: skip
    comparisons = tuple(
        comparison(
            change("h.0.q.weight", 0, drift=0.1 * i),
            after=origin(f"run/checkpoint-{100 * i}"),
            summary={
                "drift_total": 0.1 * i,
                "alpha_change": -0.2 * i,
                "alpha_before": 4.0,
                "alpha_after": 4 - 0.2 * i,
            },
        )
        for i in range(1, members)
    )
    return Series(
        labels=tuple(f"checkpoint-{100 * i}" for i in range(members)),
        steps=tuple(100.0 * i for i in range(members)),
        reports=reports,
        comparisons=comparisons,
        verdict="Alpha falls at every step.",
    )


NAN = math.nan
