"""The columns of the page: what a metric is called, how it is coloured, in which order."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from frog.types import Settings

WIDE = 100.0
"""A positive metric whose largest value is this many times the smallest is coloured by its log."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One metric of a page: ``title`` as short as a table's head, ``help`` in words.

    ``scale`` is ``linear``, ``log`` or ``diverging`` (about zero); ``band`` names the two columns
    that bound it; ``usual`` the range to shade. ``group`` is the heading in drop-down lists.
    """

    key: str
    title: str
    help: str
    scale: str = "linear"
    band: tuple[str, str] | None = None
    usual: tuple[float, float] | None = None
    group: str = ""


TITLES = {
    "alpha": ("α", "exponent of the power law fitted to the tail"),
    "alpha_low": ("α low", "lower end of alpha's 95 % interval"),
    "alpha_high": ("α high", "upper end of alpha's 95 % interval"),
    "alpha_band_low": ("α band low", "smallest alpha over all xmin that fit nearly as well"),
    "alpha_band_high": ("α band high", "largest alpha over all xmin that fit nearly as well"),
    "alpha_without_top": ("α without λ₁", "alpha when the largest eigenvalue is left out"),
    "sigma": ("σ(α)", "standard error of alpha at fixed xmin"),
    "D": ("D", "distance of the tail from the fitted law (Kolmogorov-Smirnov)"),
    "goodness": ("p", "share of synthetic samples that fit worse"),
    "xmin": ("xmin", "eigenvalue where the fitted tail begins"),
    "xmax": ("xmax", "largest eigenvalue in the fitted tail"),
    "num_pl_spikes": ("tail size", "number of eigenvalues in the fitted tail"),
    "Lambda": ("Λ", "exponential cut-off of a truncated power law"),
    "alpha_weighted": ("α̂", "alpha-hat: alpha · log₁₀ λ₁"),
    "log_alpha_norm": ("log α-norm", "log₁₀ Σ λ^α"),
    "norm": ("‖W‖²", "squared Frobenius norm"),
    "log_norm": ("log ‖W‖²", "log₁₀ of the squared Frobenius norm"),
    "lambda_max": ("λ₁", "largest eigenvalue of WᵀW"),
    "spectral_norm": ("σ₁²", "squared spectral norm: the largest eigenvalue"),
    "log_spectral_norm": ("log λ₁", "log₁₀ of the largest eigenvalue"),
    "sv_max": ("σ₁", "largest singular value"),
    "sv_min": ("σ min", "smallest singular value"),
    "stable_rank": ("stable rank", "‖W‖² / λ₁: number of directions of full weight"),
    "entropy": ("entropy", "evenness of the spectrum, 0 (one direction) to 1 (all alike)"),
    "matrix_rank": ("rank", "singular values above the rounding error"),
    "rank_loss": ("rank loss", "directions lost: min(m, n) less the rank"),
    "weak_rank_loss": ("weak rank loss", "eigenvalues below 1e-6"),
    "num_evals": ("eigenvalues", "number of eigenvalues"),
    "M": ("smaller side", "smaller side of the matrix"),
    "N": ("larger side", "larger side of the matrix"),
    "Q": ("Q", "aspect ratio, at least 1"),
    "rf": ("kernel positions", "positions of a convolution's kernel"),
    "spikes": ("spikes", "eigenvalues beyond the bulk edge"),
    "num_spikes": ("spikes (MP fit)", "eigenvalues beyond the fitted bulk and its fluctuation"),
    "sigma_mp": ("bulk scale", "scale of the fitted Marchenko-Pastur law; 1 for a random matrix"),
    "bulk_min": ("bulk low", "lower edge of the fitted Marchenko-Pastur law"),
    "bulk_max": ("bulk high", "upper edge of the fitted Marchenko-Pastur law"),
    "mp_softrank": ("MP soft rank", "upper edge of the bulk over λ₁; about 1 for a random matrix"),
    "bulk_ks": ("D (bulk)", "distance between the bulk and its Marchenko-Pastur law"),
    "bulk_share": ("bulk share", "share of ‖W‖² that lies in the bulk"),
    "max_rand_eval": ("λ₁ shuffled", "largest eigenvalue with the entries in random order"),
    "rand_distance": ("distance to random", "distance between the spectrum and the shuffled one"),
    "ww_softrank": ("soft rank", "λ₁ of the shuffled matrix over λ₁"),
    "ww_maxdist": ("λ₁ − shuffled", "largest eigenvalue less that of the shuffled matrix"),
    "alpha_hill": ("α Hill", "exponent of the upper half of the eigenvalues, by Hill's estimator"),
    "randomness": (
        "randomness",
        "(α Hill − 1) over its random median: 1 is like random",
    ),
    "num_traps": ("traps", "correlation traps: shuffled eigenvalues beyond the bulk"),
}
FIRST = ("alpha", "alpha_weighted", "stable_rank", "log_spectral_norm", "log_norm", "D", "entropy")
BANDS = (("{}_low", "{}_high"), ("{}_band_low", "{}_band_high"))
CHANGES = {
    "drift": ("drift", "‖W′ − W‖ / ‖W‖ (Frobenius)"),
    "rotation_left": ("rotation, left", "turn of the leading left singular directions, 0 to 1"),
    "rotation_right": ("rotation, right", "turn of the leading right singular directions, 0 to 1"),
    "spectral_share": ("spectral share", "‖W′ − W‖₂ / ‖W′ − W‖: 1 is a change of rank one"),
    "intruders": ("intruders", "new leading directions that no old one resembles"),
    "scale_z": ("scale z", "robust z-score of the change of scale within the role"),
}


def metric_columns(tables: Iterable[Mapping[str, float]], settings: Settings) -> list[Column]:
    """A column for each metric that some layer has a number for, the telling ones first."""
    numbers = _gathered(tables)
    return [
        Column(
            key=key,
            title=_title(key)[0],
            help=_title(key)[1],
            scale=scale_of(numbers[key]),
            band=_band(key, numbers),
            usual=settings.usual_alpha if key == "alpha" else None,
        )
        for key in _ordered(numbers)
    ]


def change_columns(tables: Iterable[Mapping[str, float]]) -> list[Column]:
    """A column for the difference of each metric, coloured about zero."""
    numbers = _gathered(tables)
    return [
        Column(
            key=f"change:{key}",
            title=f"Δ {_title(key)[0]}",
            help=f"change (after − before) of: {_title(key)[1]}",
            scale="diverging",
            band=("change:alpha_low", "change:alpha_high") if key == "alpha" else None,
            group="change",
        )
        for key in _ordered(numbers)
    ]


def scale_of(values: Sequence[float]) -> str:
    """``log`` for positive numbers that span two decades, else ``linear``."""
    least, most = min(values), max(values)
    return "log" if least > 0 and most / least >= WIDE else "linear"


def _gathered(tables: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    numbers: dict[str, list[float]] = {}
    for table in tables:
        for key, value in table.items():
            if math.isfinite(value):
                numbers.setdefault(key, []).append(value)
    return numbers


def _ordered(keys: Iterable[str]) -> list[str]:
    known = list(keys)
    return [k for k in FIRST if k in known] + [k for k in known if k not in FIRST]


def _title(key: str) -> tuple[str, str]:
    return TITLES.get(key) or CHANGES.get(key) or (key.replace("_", " "), key)


def _band(key: str, numbers: Mapping[str, object]) -> tuple[str, str] | None:
    for low, high in BANDS:
        pair = low.format(key), high.format(key)
        if all(name in numbers for name in pair):
            return pair
    return None
