"""The nouns that all rooms share.

Shape letters, one legend for all code: **m** rows (outputs), **n** columns (inputs),
**r** = min(m, n), **k** kept, **L** layers. A suffix names the shape of an array: ``W_mn``.

Records are values: they can be printed, compared, saved and edited, and know no model.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

NAN = math.nan

FAILED = "failed: "
"""How the reason begins when a tensor should have been measured and could not be read."""


# --------------------------------------------------------------------------- matrices


@dataclass(frozen=True, slots=True, kw_only=True)
class MatrixView:
    """How a matrix lies in its tensor: split axes, pick entries, name rows and columns.

    The tensor of ``tensor_shape`` is reshaped to ``grid``; ``index`` holds, for each grid axis,
    an integer (that slice) or ``(start, stop, step)``; the grid axes in ``rows``, flattened in
    that order, are the rows of the matrix, those in ``columns`` its columns.

    A plain (out, in) weight has ``grid == tensor_shape``, ``rows == (0,)``, ``columns == (1,)``.
    The arithmetic is in :mod:`frog.numerics.views`.
    """

    tensor_shape: tuple[int, ...]
    grid: tuple[int, ...]
    index: tuple[int | tuple[int, int, int], ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]


class Loader(Protocol):
    """Reads one matrix, whole or in slabs; holds no tensor between calls."""

    def load(self) -> np.ndarray:
        """The whole (m, n) matrix, float32 or float64."""
        ...

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        """Consecutive slabs of at most ``size`` rows (``axis=0``) or columns (``axis=1``)."""
        ...

    def fingerprint(self) -> str:
        """A digest of the matrix's stored bytes, shape and dtype: equal content, equal digest."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveParameter:
    """Where a matrix of a file lives in the loaded model: parameter name and view."""

    parameter: str
    view: MatrixView


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightMatrix:
    """A handle of one matrix: no tensor inside; it is loaded, measured, dropped.

    ``name`` is canonical: the tensor's name on disk, plus a slice where the tensor holds several
    matrices (``h.0.attn.c_attn.weight[q]``). ``kind`` says what the tensor is (``linear``,
    ``conv1d``, ``conv2d``, ``conv3d``, ``embedding``, ``head``, ``expert``, ``recurrent``,
    ``adapter``), ``role`` what it does in its block (``q``, ``k``, ``v``, ``o``, ``gate``,
    ``up``, ``down``, ...; ``matrix?`` when no rule knows it). Matrices with
    ``averaged=False`` (embeddings, heads, routers) are measured but stay outside model means.
    """

    name: str
    tensor: str
    kind: str
    role: str
    block: int | None
    shape: tuple[int, int]
    dtype: str
    params: int
    view: MatrixView | None
    loader: Loader = field(repr=False, compare=False)
    aliases: tuple[str, ...] = ()
    averaged: bool = True
    rule: str = ""
    warning: str | None = None
    live: LiveParameter | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SkippedTensor:
    """A tensor (or a part of one) that is not measured, with the reason."""

    name: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    dtype: str
    params: int
    reason: str
    aliases: tuple[str, ...] = ()
    rule: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalogue:
    """All that a model holds: every parameter is in one matrix or in one skipped tensor.

    ``path`` is what the user named (a path, a hub id, or the class of a live model). ``order``
    of both tuples is the order on disk. ``notes`` are remarks about the model as a whole.
    """

    path: str
    format: str
    matrices: tuple[WeightMatrix, ...]
    skipped: tuple[SkippedTensor, ...]
    config: Mapping[str, Any] | None = None
    notes: tuple[str, ...] = ()

    @property
    def params(self) -> int:
        """Number of parameters, measured and skipped."""
        return sum(x.params for x in self.matrices) + sum(x.params for x in self.skipped)


# ---------------------------------------------------------------------------- spectra


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


# ---------------------------------------------------------------------------- reports


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a measured number depends on; stored with every report.

    ``bootstrap`` is the number of resamples for the interval of each alpha, ``goodness`` that of
    synthetic samples for its goodness of fit; 0 means none.
    """

    estimator: str = "ks"
    window: str = "full"
    precision: str = "exact"
    compat: str | None = None
    min_evals: int = 50
    bootstrap: int = 200
    goodness: int = 0
    seed: int = 0
    curves: bool = True
    save_spectra: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something worth knowing, bound to a layer, a number and a threshold."""

    kind: str
    certainty: str
    severity: str
    layer: str
    value: float
    threshold: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerReport:
    """What was measured of one matrix, or why it was not.

    ``values`` maps the names of :mod:`frog.metrics` to numbers (NaN where one has no value),
    ``null`` the looks at the null by name, ``curve`` at most 256 points of the spectrum,
    ``spectrum`` all singular values where they were kept.
    ``position`` is the place in the listing of the model, ``digest`` that of the bytes.
    """

    name: str
    kind: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    dtype: str
    params: int
    aliases: tuple[str, ...] = ()
    averaged: bool = True
    skipped: str | None = None
    rule: str = ""
    values: Mapping[str, float] = field(default_factory=dict)
    null: Mapping[str, NullLook] = field(default_factory=dict)
    fit_status: str = ""
    verdicts: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    curve: Mapping[str, list[float] | float] | None = None
    spectrum: tuple[float, ...] | None = None
    seconds: float = 0.0
    position: int = 0
    digest: str = ""

    @property
    def failed(self) -> bool:
        """Whether the matrix should have been measured and could not be."""
        unread = self.skipped is not None and self.skipped.startswith(FAILED)
        return unread or self.fit_status == FitStatus.NONFINITE.word


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelReport:
    """The measurement of a model: layers, findings, summary, where it came from."""

    path: str
    digest: str
    format: str
    frog_version: str
    settings: Settings
    layers: tuple[LayerReport, ...]
    findings: tuple[Finding, ...] = ()
    summary: Mapping[str, int | float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    shard: tuple[int, int] | None = None

    @property
    def measured(self) -> tuple[LayerReport, ...]:
        """The layers that were measured."""
        return tuple(x for x in self.layers if x.skipped is None)

    @property
    def failed(self) -> tuple[LayerReport, ...]:
        """The layers that could not be read, or that hold NaN or Inf."""
        return tuple(x for x in self.layers if x.failed)

    def table(self, *, sort: str | None = None) -> Any:
        """A Rich table, a row a layer; ``sort`` names a column."""
        from frog.report.terminal import layer_table

        return layer_table(self, sort=sort)

    def to_pandas(self) -> Any:
        """A pandas data frame with WeightWatcher's column names, a row a measured layer."""
        from frog.report.frames import to_pandas

        return to_pandas(self)

    def to_json(self, path: Any = None) -> str:
        """The report as JSON text; also written to ``path`` where one is given."""
        from frog.report.files import write_json
        from frog.serial import report_to_json

        text = report_to_json(self)
        if path is not None:
            write_json(text, path)
        return text

    @staticmethod
    def from_json(path: Any) -> ModelReport:
        """Read a report that :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if not."""
        from frog.report.files import read_report

        return read_report(path)
