"""One matrix under measurement: what is costly is computed once and shared by all metrics."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Generic, TypeVar, overload

import numpy as np

from frog.errors import ModelError
from frog.numerics.bulk_fit import BulkFit, fit_bulk
from frog.numerics.powerlaw import fit_power_law
from frog.numerics.random_matrix import hill_look, hill_of_random
from frog.numerics.shuffling import Shuffled, shuffle
from frog.numerics.spectrum import (
    SVD_LIMIT,
    singular_values_of_product,
    singular_values_svd,
    spectrum,
)
from frog.numerics.windows import Pool, pool_windows
from frog.types import (
    NAN,
    FitStatus,
    NullLook,
    PowerLawFit,
    Settings,
    Spectrum,
    WeightMatrix,
)

TAIL_ERROR = 1e-8
"""Largest error of the eigenvalue at xmin, relative to itself, that a fit may rest on."""

FAST_TAIL_ERROR = 1e-2
"""The same for ``precision="fast"``: alpha then is right to 1e-3."""


FEWEST_HILL = 12
"""Eigenvalues that the shape-fair Hill alpha needs: for fewer there is no null to compare with."""

FULL = 0.9
"""Share of the eigenvalues above rounding that makes a matrix of full rank, for its null."""

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
        """The power law of the tail, with standard error, band and leave-top-out.

        With ``window="farms"`` that of the pooled windows.
        """
        return self._measured[1] if self.pool is None else self._pooled[1]

    @lazy
    def pool(self) -> Pool | None:
        """The pooled windows; None where the whole matrix is fitted."""
        return self._pooled[0] if self.settings.window == "farms" else None

    @lazy
    def fitted(self) -> np.ndarray:
        """The eigenvalues that the fit rests on, descending: of the matrix or of its windows."""
        if self.pool is None:
            return self.eigenvalues
        return self.pool.for_fit(self.settings.estimator)

    @lazy
    def hill(self) -> PowerLawFit:
        """The ``hill`` fit to the same eigenvalues, also where they are too few for the other."""
        failed = PowerLawFit(estimator="hill", status=FitStatus.TOO_FEW)
        shape = self.shape if self.pool is None else self.pool.shape
        if not self.finite or min(shape) < FEWEST_HILL:
            return failed
        values = self.eigenvalues if self.pool is None else self.pool.eigenvalues
        return fit_power_law(values, estimator="hill", min_tail=2, shape=shape, extras=False)

    @lazy
    def hill_null(self) -> NullLook:
        """Place of that alpha among random matrices of the same shape."""
        if self.pool is None:
            return hill_look(self.hill.alpha, self.shape)
        return hill_look(self.hill.alpha, self.pool.shape, windows=self.pool.effective)

    @lazy
    def hill_random(self) -> float:
        """Median of that alpha over random matrices of the same shape."""
        if self.pool is None:
            return hill_of_random(self.shape)
        return hill_of_random(self.pool.shape, windows=self.pool.effective)

    @lazy
    def randomness(self) -> float:
        """(alpha_hill - 1) over its median among random matrices; NaN where many values are zero:
        what is left then belongs to no matrix of this shape."""
        count = len(self.eigenvalues if self.pool is None else self.pool.eigenvalues)
        whole = len(self.eigenvalues) >= FULL * min(self.shape)
        if 2 * self.hill.n_tail < FULL * count or not whole:
            return NAN
        return (self.hill.alpha - 1.0) / (self.hill_random - 1.0)

    @lazy
    def bulk(self) -> BulkFit:
        """The Marchenko-Pastur law of the bulk."""
        return fit_bulk(self.eigenvalues, self.shape)

    @lazy
    def shuffled(self) -> Shuffled:
        """The matrix with its entries in random order, as often as was asked for."""
        if not self.settings.randomize or not self.finite:
            return Shuffled()
        return shuffle(
            self.matrix.loader,
            self.eigenvalues,
            self.shape,
            count=self.settings.randomize,
            seed=(self.settings.seed, self.matrix.name),
            device=self.device,
        )

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

    @lazy
    def _pooled(self) -> tuple[Pool, PowerLawFit]:
        loader, shape, settings = self.matrix.loader, self.shape, self.settings
        small = shape[0] * shape[1] <= SVD_LIMIT
        methods = ["gram32"] if settings.precision == "fast" else []
        methods += ["gram64", "svd64"] if small else ["gram64"]
        while True:
            method = methods.pop(0)
            pool = pool_windows(loader, shape, settings.farms, seed=settings.seed, method=method)
            fit = self._fit_pool(pool)
            error = FAST_TAIL_ERROR if method == "gram32" else TAIL_ERROR
            clear = not fit.ok or fit.xmin / pool.eigenvalues[0] * error >= pool.resolution
            if clear or not methods:
                return pool, fit

    def _fit_pool(self, pool: Pool) -> PowerLawFit:
        estimator = self.settings.estimator
        if np.isnan(pool.eigenvalues).any():
            return PowerLawFit(estimator=estimator, status=FitStatus.NONFINITE)
        if len(pool.thinned()) < self.settings.min_evals:
            return PowerLawFit(estimator=estimator, status=FitStatus.TOO_FEW)
        return fit_power_law(pool.for_fit(estimator), estimator=estimator, shape=pool.shape)

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
