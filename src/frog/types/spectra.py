"""One matrix as measured: its spectrum, the fit of its tail, its place among random matrices."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass

import numpy as np

NAN = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """Singular values of one matrix, descending, float64, shape (r,).

    Eigenvalues are their squares, of the matrix as stored: no 1/n anywhere.
    ``method`` is how they were found (``gram64``, ``gram32``, ``svd64``, ``factors``);
    ``resolution`` the absolute error of an eigenvalue relative to the largest one.
    """

    singular_values: np.ndarray
    shape: tuple[int, int]
    method: str
    resolution: float

    @property
    def eigenvalues(self) -> np.ndarray:
        """Squared singular values, descending, float64, shape (r,)."""
        return np.square(self.singular_values)


class FitStatus(enum.Enum):
    """Outcome of a fit; the value is what to do about it."""

    OK = "fitted"
    TOO_FEW = "too few eigenvalues for a fit: pool equal layers, or lower min_evals"
    DEGENERATE = "the eigenvalues above the cut are all equal or all zero: there is no tail to fit"
    NONFINITE = "the matrix holds NaN or Inf: repair the checkpoint"
    NO_OPTIMUM = "the likelihood has no maximum inside the allowed range: use another estimator"

    @property
    def word(self) -> str:
        """The lower-case name that goes into files."""
        return self.name.lower()


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerLawFit:
    """A power law p(x) ~ x^-alpha fitted to the tail x >= xmin of a spectrum.

    ``ks`` is the Kolmogorov-Smirnov distance, ``stderr`` = (alpha - 1)/sqrt(n_tail) for ``ks``
    and ``hill``. ``band_low``..``band_high`` is the range of alpha over all xmin with a distance
    of at most 1.1 times the smallest; ``without_top`` the alpha when the largest eigenvalue is
    left out; ``low``..``high`` the bootstrap interval, NaN where none was drawn; ``goodness`` the
    share of synthetic samples that fit worse (NaN where not asked for); ``rate`` the exponential
    cut-off of a truncated power law. A failed fit is NaN throughout, with a status.
    """

    estimator: str
    status: FitStatus
    alpha: float = NAN
    xmin: float = NAN
    xmax: float = NAN
    ks: float = NAN
    stderr: float = NAN
    n_tail: int = 0
    rate: float = NAN
    band_low: float = NAN
    band_high: float = NAN
    without_top: float = NAN
    ks_gap: float = NAN
    low: float = NAN
    high: float = NAN
    goodness: float = NAN

    @property
    def ok(self) -> bool:
        """Whether alpha is a number."""
        return self.status is FitStatus.OK


@dataclass(frozen=True, slots=True, kw_only=True)
class NullLook:
    """One statistic of a layer against random matrices of its own shape.

    ``low`` and ``high`` bound the null at the level corrected for the number of looks;
    ``percentile`` (0..100) is the place of ``value`` in it. ``outside`` is the verdict.
    """

    name: str
    value: float
    percentile: float
    low: float
    high: float

    @property
    def outside(self) -> bool:
        """Whether the value is outside the null at the corrected level."""
        return self.value < self.low or self.value > self.high
