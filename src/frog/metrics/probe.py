"""One matrix under measurement: what is costly is computed once and shared by all metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import numpy as np

from frog.errors import ModelError
from frog.numerics.powerlaw import fit_power_law
from frog.numerics.spectrum import (
    SVD_LIMIT,
    singular_values_of_product,
    singular_values_svd,
    spectrum,
)
from frog.types import FitStatus, PowerLawFit, Settings, Spectrum, WeightMatrix

TAIL_ERROR = 1e-8
"""Largest error of the eigenvalue at xmin, relative to itself, that a fit may rest on."""

FAST_TAIL_ERROR = 1e-2
"""The same for ``precision="fast"``: alpha then is right to 1e-3."""


T = TypeVar("T")


class lazy(Generic[T]):
    """A value that is computed at its first use.

    ``functools.cached_property`` holds one lock for all instances in Python 3.11: two layers
    were never measured at the same time.
    """

    def __init__(self, function: Callable[[Any], T]) -> None:
        self.function = function
        self.__doc__ = function.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, probe: None, owner: type) -> lazy[T]: ...
    @overload
    def __get__(self, probe: object, owner: type) -> T: ...
    def __get__(self, probe: object | None, owner: type) -> lazy[T] | T:
        if probe is None:
            return self
        if self.name not in probe.__dict__:
            probe.__dict__[self.name] = self.function(probe)
        return probe.__dict__[self.name]

    def __set__(self, probe: object, value: T) -> None:
        probe.__dict__[self.name] = value


class Probe:
    """Lazily measures one matrix; made for one pass and then dropped."""

    def __init__(self, matrix: WeightMatrix, settings: Settings, device: str = "cpu") -> None:
        self.matrix = matrix
        self.settings = settings
        self.device = device
        self.notes: list[str] = []

    @property
    def shape(self) -> tuple[int, int]:
        """(m, n) of the matrix."""
        return self.matrix.shape

    @lazy
    def spectrum(self) -> Spectrum:
        """The singular values, at the resolution that the fit turned out to need."""
        return self._measured[0]

    @lazy
    def fit(self) -> PowerLawFit:
        """The power law of the tail, with standard error, band and leave-top-out."""
        return self._measured[1]

    @lazy
    def eigenvalues(self) -> np.ndarray:
        """Squared singular values, descending, float64, shape (r,)."""
        return self.spectrum.eigenvalues

    @lazy
    def finite(self) -> bool:
        """Whether every entry of the matrix is a finite number."""
        return bool(np.isfinite(self.spectrum.singular_values).all())

    @lazy
    def resolved(self) -> bool:
        """Whether the smallest eigenvalue stands above the error of the largest one."""
        values = self.eigenvalues
        if self.spectrum.method in ("svd64", "factors") or not self.finite or len(values) == 0:
            return True
        return bool(values[-1] > self.spectrum.resolution * values[0])

    def count_nonfinite(self) -> int:
        """Number of NaN and Inf entries; a second pass over the matrix."""
        slabs = self.matrix.loader.blocks(0, max(1, (1 << 22) // max(self.shape[1], 1)))
        return sum(int(slab.size - np.isfinite(slab).sum()) for slab in slabs)

    @lazy
    def _measured(self) -> tuple[Spectrum, PowerLawFit]:
        factors = getattr(self.matrix.loader, "factors", None)
        if factors is not None:
            return self._measured_product(*factors())
        precision = self.settings.precision
        found = spectrum(self.matrix.loader, self.shape, precision=precision, device=self.device)
        if np.isnan(found.singular_values).any() and precision == "fast":
            # may be a float32 overflow of the Gram matrix rather than NaN in the weights
            found = spectrum(self.matrix.loader, self.shape, device=self.device)
        fit = self._fit(found)
        if found.method == "gram32" and self._too_coarse(found, fit):
            found = spectrum(self.matrix.loader, self.shape, device=self.device)
            fit = self._fit(found)
        if found.method == "gram64" and precision == "exact" and self._too_coarse(found, fit):
            if self.shape[0] * self.shape[1] <= SVD_LIMIT:
                found = singular_values_svd(self.matrix.loader, self.shape)
                fit = self._fit(found)
            else:
                self.notes.append(
                    "smallest eigenvalues are below the resolution of the Gram matrix "
                    f"({found.resolution:.0e} of the largest)"
                )
        return found, fit

    def _measured_product(
        self, up_mk: np.ndarray, down_kn: np.ndarray, scale: float
    ) -> tuple[Spectrum, PowerLawFit]:
        with np.errstate(all="ignore"):
            if not (np.isfinite(up_mk).all() and np.isfinite(down_kn).all()):
                values = np.full(min(up_mk.shape[1], *self.shape), np.nan)
            else:
                values = singular_values_of_product(up_mk, down_kn, scale)
        found = Spectrum(
            singular_values=values,
            shape=self.shape,
            method="factors",
            resolution=(np.finfo(np.float64).eps * max(self.shape)) ** 2,
        )
        return found, self._fit(found)

    def _fit(self, found: Spectrum) -> PowerLawFit:
        estimator = self.settings.estimator
        if np.isnan(found.singular_values).any():
            return PowerLawFit(estimator=estimator, status=FitStatus.NONFINITE)
        if len(found.singular_values) < self.settings.min_evals:
            return PowerLawFit(estimator=estimator, status=FitStatus.TOO_FEW)
        return fit_power_law(found.eigenvalues, estimator=estimator, shape=found.shape)

    def _too_coarse(self, found: Spectrum, fit: PowerLawFit) -> bool:
        """Whether some number that is asked for rests on eigenvalues that are mostly error."""
        values = found.eigenvalues
        if len(values) == 0 or math.isnan(values[0]) or values[0] == 0.0:
            return False
        if found.method == "gram32":
            if fit.ok and fit.xmin / values[0] * FAST_TAIL_ERROR < found.resolution:
                return True
            return fit.ok and fit.ks_gap < 1e-5
        if values[-1] <= found.resolution * values[0]:
            return True
        return fit.ok and fit.xmin / values[0] * TAIL_ERROR < found.resolution


def require_matrix(matrix: WeightMatrix) -> None:
    """Refuse a matrix without entries: a checkpoint that holds one is damaged."""
    if 0 in matrix.shape:
        raise ModelError(f"{matrix.name}: must have at least one entry, got shape {matrix.shape}")
