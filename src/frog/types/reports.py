"""A model as measured: settings, layers, findings, the whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.types.flow import DepthProfile, Pair, Pathway, Ranked
from frog.types.matrices import FAILED
from frog.types.spectra import FitStatus, NullLook


@dataclass(frozen=True, slots=True, kw_only=True)
class Farms:
    """How a matrix is cut into windows of one aspect ratio (``window="farms"``).

    A window has ``side`` rows (at most what the matrix has) and ``ratio`` times as many on the
    longer side; ``per_dimension`` windows along each axis, at most ``budget`` in all, then drawn
    by the seed. Source: Hu et al. 2025, "Eigenspectrum analysis with fixed aspect ratio matrix
    sampling" (FARMS), ICML, arXiv:2506.06280; defaults those of its language-model runs.
    """

    side: int = 2000
    ratio: float = 1.0
    per_dimension: int = 10
    budget: int = 32


USUAL_ALPHA = (2.0, 6.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Everything that a measured number depends on; stored with every report.

    ``bootstrap`` is the number of resamples for the interval of each alpha, ``goodness`` that of
    synthetic samples for its goodness of fit, ``randomize`` that of element-wise permutations of
    each matrix; 0 means none. ``farms`` cuts the windows of ``window="farms"``. ``flow`` also
    measures the overlap of writers and readers, in the ``flow_rank`` leading directions.
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
    randomize: int = 0
    farms: Farms = field(default_factory=Farms)
    flow: bool = False
    flow_rank: int = 16

    @property
    def usual_alpha(self) -> tuple[float, float] | None:
        """The usual range of alpha in trained layers; None where these settings have none.

        It belongs to the estimator ``ks`` on the full window and to nothing else (Martin &
        Mahoney 2021, JMLR 22(165)).

        >>> Settings().usual_alpha, Settings(window="farms").usual_alpha
        ((2.0, 6.0), None)
        """
        return USUAL_ALPHA if (self.estimator, self.window) == ("ks", "full") else None


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

    @property
    def condition(self) -> str:
        """The layer's class: ``over-parameterised``, ``over-trained`` (each perhaps after
        ``possibly``), ``fine``, or ``unjudged`` where nothing could be said.

        What is certain comes before what is possible, over-parameterised before over-trained.
        """
        words = ("over-parameterised", "over-trained")
        for word in (*words, *(f"possibly {word}" for word in words)):
            if word in self.verdicts:
                return word
        return "fine" if "trained" in self.verdicts else "unjudged"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
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
    profiles: tuple[DepthProfile, ...] = ()
    ranking: tuple[Ranked, ...] = ()
    pairs: tuple[Pair, ...] = ()
    pathways: tuple[Pathway, ...] = ()

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

    def to_html(self, path: Any = None) -> str:
        """The report as one self-contained page; also written to ``path`` where one is given."""
        from frog.report.page import report_page, write_page

        return write_page(report_page(self), path)

    def __str__(self) -> str:
        from frog.report.text import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"<ModelReport of {self.path}: {len(self.measured)} layers measured>"

    def _repr_html_(self) -> str:
        from frog.report.page import report_fragment

        return report_fragment(self)

    @staticmethod
    def from_json(path: Any) -> ModelReport:
        """Read a report that :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if not."""
        from frog.report.files import read_report

        return read_report(path)
