"""One matrix in, one row of the report out."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import numpy as np

from frog.metrics.probe import Probe, require_matrix
from frog.metrics.randomized import trap_finding
from frog.metrics.registry import METRICS
from frog.metrics.verdicts import Evidence, judge
from frog.metrics.weightwatcher import measure_as_weightwatcher, why_skipped
from frog.numerics.null_table import beyond_table
from frog.numerics.random_matrix import bulk_edge, looks
from frog.types import (
    Finding,
    FitStatus,
    LayerReport,
    PowerLawFit,
    Settings,
    SkippedTensor,
    WeightMatrix,
)

CURVE_POINTS = 256
CURVE_TAIL = 128


def measure(
    matrix: WeightMatrix, settings: Settings, *, device: str = "cpu"
) -> tuple[LayerReport, tuple[Finding, ...]]:
    """Measure one matrix: every column, the looks at its null, verdicts and findings."""
    started = time.perf_counter()
    require_matrix(matrix)
    probe = Probe(matrix, settings, device)
    bare = bare_row(matrix)
    findings: tuple[Finding, ...] = ()
    if settings.compat == "weightwatcher":
        reason = why_skipped(matrix)
        if reason is not None:
            return replace(bare, skipped=reason), ()
        values, fit = measure_as_weightwatcher(probe)
        row = replace(bare, values=values)
    else:
        fit = probe.fit = settle(*fitted_on(probe), probe.fit, settings)
        values = {name: metric(probe) for name, metric in METRICS.items()}
        null = looks(
            probe.eigenvalues, matrix.shape, fit, window=settings.window, farms=settings.farms
        )
        fitted = matrix.shape if probe.pool is None else probe.pool.shape
        if "alpha" in null and beyond_table(settings.estimator, fitted):
            probe.notes.append("the null of alpha is extrapolated: the table ends at r = 4096")
        evidence = Evidence(
            fit=fit,
            null=null,
            hill=probe.hill_null,
            randomness=probe.randomness,
            traps=trap_finding(matrix.name, probe.shuffled),
        )
        verdicts, findings = judge(matrix.name, evidence, settings)
        row = replace(bare, values=values, null=null, verdicts=verdicts)
    if fit.status is FitStatus.NONFINITE:
        row, findings = replace(row, verdicts=("nonfinite",)), (_nonfinite(matrix, probe),)
    return replace(
        row,
        fit_status=fit.status.word,
        notes=(*bare.notes, *probe.notes),
        curve=curve(probe, fit) if settings.curves else None,
        spectrum=_kept(probe) if settings.save_spectra else None,
        seconds=time.perf_counter() - started,
    ), findings


def fitted_on(probe: Probe) -> tuple[np.ndarray, tuple[int, int]]:
    """The values that a fit is resampled from, and the shape: of windows only what is not twice."""
    if probe.pool is None:
        return probe.eigenvalues, probe.shape
    return probe.pool.thinned(), probe.pool.shape


def settle(
    eigenvalues: np.ndarray, shape: tuple[int, int], fit: PowerLawFit, settings: Settings
) -> PowerLawFit:
    """Add to a fit what is drawn: the bootstrap interval and the goodness of fit."""
    if not fit.ok:
        return fit
    from frog.numerics.resampling import bootstrap, goodness_of_fit

    seed = settings.seed
    if settings.bootstrap:
        fit = bootstrap(eigenvalues, fit, resamples=settings.bootstrap, seed=seed, shape=shape)
    if settings.goodness:
        fit = goodness_of_fit(eigenvalues, fit, samples=settings.goodness, seed=seed, shape=shape)
    return fit


def skipped_row(tensor: SkippedTensor) -> LayerReport:
    """The row of a tensor that is not measured."""
    return LayerReport(
        name=tensor.name,
        kind="",
        role=tensor.role,
        block=tensor.block,
        shape=tensor.shape,
        dtype=tensor.dtype,
        params=tensor.params,
        aliases=tensor.aliases,
        averaged=False,
        skipped=tensor.reason,
        rule=tensor.rule,
    )


def curve(probe: Probe, fit: PowerLawFit) -> dict[str, Any] | None:
    """At most 256 log-spaced points of the survival function, the top 128 exact.

    Of the eigenvalues that the fit rests on; of windows, with the edge of a typical one's bulk.
    """
    values = probe.fitted
    if not probe.finite or len(values) == 0 or values[0] <= 0:
        return None
    n = len(values)
    if n <= CURVE_POINTS:
        picked = np.arange(n)
    else:
        rest = np.geomspace(CURVE_TAIL, n - 1, CURVE_POINTS - CURVE_TAIL).round().astype(int)
        picked = np.unique(np.concatenate([np.arange(CURVE_TAIL), rest]))
    return {
        "eigenvalue": [float(x) for x in values[picked]],
        "survival": [float(x) for x in (picked + 1) / n],
        "bulk_edge": float(_edge(probe)),
        "xmin": fit.xmin,
        "alpha": fit.alpha,
    }


def _edge(probe: Probe) -> float:
    if probe.pool is None:
        return bulk_edge(probe.eigenvalues, probe.shape)
    return bulk_edge(probe.pool.typical(), probe.pool.shape)


def bare_row(matrix: WeightMatrix) -> LayerReport:
    """A row that says which matrix it is of, without any number."""
    return LayerReport(
        name=matrix.name,
        kind=matrix.kind,
        role=matrix.role,
        block=matrix.block,
        shape=matrix.shape,
        dtype=matrix.dtype,
        params=matrix.params,
        aliases=matrix.aliases,
        averaged=matrix.averaged,
        rule=matrix.rule,
        notes=() if matrix.warning is None else (matrix.warning,),
    )


def _nonfinite(matrix: WeightMatrix, probe: Probe) -> Finding:
    count = probe.count_nonfinite()
    return Finding(
        kind="nonfinite",
        certainty="certain",
        severity="error",
        layer=matrix.name,
        value=float(count),
        threshold=0.0,
        text=f"{matrix.name} holds {count} NaN or Inf of {matrix.params} values: "
        "repair the checkpoint; the layer is left out of every mean",
    )


def _kept(probe: Probe) -> tuple[float, ...]:
    return tuple(float(value) for value in probe.spectrum.singular_values)
