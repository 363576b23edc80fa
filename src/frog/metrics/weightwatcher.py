"""WeightWatcher 0.7.7's numbers, its conventions and quirks included (``--compat``).

What differs from the default mode, and why the default differs, is in docs/compatibility.md.
"""

from __future__ import annotations

import math

import numpy as np

from frog.metrics.probe import Probe
from frog.metrics.shape import WEAK
from frog.numerics.powerlaw import fit_weightwatcher
from frog.numerics.spectrum import SVD_LIMIT, singular_values_svd
from frog.types import FitStatus, PowerLawFit, WeightMatrix

MIN_EVALS = 8
MAX_EVALS = 15_000
MAX_SIDE = 50_000
ENTROPY_EPS = 1e-10
SMALL_VALUES_ERROR = 1e-8
"""Relative error of the smallest eigenvalue above which the SVD is asked instead of the Gram."""


def why_skipped(matrix: WeightMatrix) -> str | None:
    """WeightWatcher's reason for leaving a matrix out, or ours for not doing as it does."""
    if matrix.kind in ("conv1d", "conv3d"):
        return "WeightWatcher's reading of 1-D and 3-D kernels is not reproduced"
    if matrix.kind != "adapter" and matrix.tensor.rsplit(".", 1)[-1] != "weight":
        return "WeightWatcher reads only parameters that are called weight"
    count = min(_slice_shape(matrix)) * _kernel_size(matrix)
    if count < MIN_EVALS:
        return f"WeightWatcher skips fewer than {MIN_EVALS} eigenvalues: {count}"
    if count > MAX_EVALS:
        return f"WeightWatcher skips more than {MAX_EVALS} eigenvalues: {count}"
    if max(matrix.shape) > MAX_SIDE:
        return f"WeightWatcher skips sides beyond {MAX_SIDE}: {max(matrix.shape)}"
    return None


def measure_as_weightwatcher(probe: Probe) -> tuple[dict[str, float], PowerLawFit]:
    """The numeric columns of WeightWatcher's default table, and the fit behind them."""
    slices = _singular_values(probe)
    singular_values = np.sort(np.concatenate(slices))
    if not np.isfinite(singular_values).all():
        fit = PowerLawFit(estimator="ks", status=FitStatus.NONFINITE)
        return {name: math.nan for name in ("alpha", "D", "norm")}, fit
    eigenvalues = np.square(singular_values)
    fit = fit_weightwatcher(eigenvalues)
    m_out, n_in = _slice_shape(probe.matrix)
    large, small = max(m_out, n_in), min(m_out, n_in)
    eps = np.finfo(np.float64).eps
    total, top = float(eigenvalues.sum()), float(eigenvalues[-1])
    rank = int((singular_values > singular_values[-1] * large * eps).sum())
    values = {
        "N": float(large),
        "M": float(small),
        "Q": large / small,
        "rf": float(_kernel_size(probe.matrix)),
        "num_evals": float(len(eigenvalues)),
        "sv_max": float(singular_values[-1]),
        # WeightWatcher takes the largest of the slices' minima
        "sv_min": float(max(s[-1] for s in slices)),
        "lambda_max": top,
        "spectral_norm": top,
        "norm": total,
        "log_norm": _log10(total),
        "log_spectral_norm": _log10(top),
        "stable_rank": total / top if top > 0 else math.nan,
        "alpha": fit.alpha,
        "xmin": fit.xmin,
        "xmax": fit.xmax,
        "D": fit.ks,
        "sigma": fit.stderr,
        "num_pl_spikes": float(fit.n_tail) if fit.ok else math.nan,
        "alpha_weighted": fit.alpha * _log10(top),
        "log_alpha_norm": _log_alpha_norm(eigenvalues, fit.alpha),
        "entropy": _entropy(eigenvalues, total, rank),
        "matrix_rank": float(rank),
        "rank_loss": float(sum(len(s) - (s > s[0] * large * eps).sum() for s in slices)),
        "weak_rank_loss": float((eigenvalues < WEAK).sum()),
    }
    return values, fit


def _singular_values(probe: Probe) -> list[np.ndarray]:
    """Descending singular values: of the matrix, or of each position of a 2-D kernel."""
    matrix = probe.matrix
    if matrix.kind != "conv2d" or matrix.view is None:
        values = probe.spectrum.eigenvalues
        elements = matrix.shape[0] * matrix.shape[1]
        coarse = len(values) > 0 and (
            values[-1] * SMALL_VALUES_ERROR < np.finfo(np.float64).eps * values[0]
        )
        if coarse and probe.spectrum.method == "gram64" and elements <= SVD_LIMIT:
            return [singular_values_svd(matrix.loader, matrix.shape).singular_values]
        return [probe.spectrum.singular_values]
    out, inner = _slice_shape(matrix)
    kernel = matrix.loader.load().astype(np.float64).reshape(out, inner, -1)
    if not np.isfinite(kernel).all():
        return [np.full(1, math.nan)]
    stacked = np.moveaxis(kernel, 2, 0) * math.sqrt(0.5)
    return list(np.linalg.svd(stacked, compute_uv=False))


def _slice_shape(matrix: WeightMatrix) -> tuple[int, int]:
    if matrix.kind == "conv2d" and matrix.view is not None:
        return matrix.view.tensor_shape[0], matrix.view.tensor_shape[1]
    return matrix.shape


def _kernel_size(matrix: WeightMatrix) -> int:
    if matrix.kind == "conv2d" and matrix.view is not None:
        return math.prod(matrix.view.tensor_shape[2:])
    return 1


def _entropy(eigenvalues: np.ndarray, total: float, rank: int) -> float:
    if not total > 0:
        return math.nan
    share = eigenvalues / total + ENTROPY_EPS
    return float(-(share * np.log(share)).sum() / math.log(rank + ENTROPY_EPS))


def _log_alpha_norm(eigenvalues: np.ndarray, alpha: float) -> float:
    top = eigenvalues[-1]
    if math.isnan(alpha) or not top > 0:
        return math.nan
    return math.log10(float(((eigenvalues / top) ** alpha).sum())) + alpha * math.log10(top)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else math.nan
