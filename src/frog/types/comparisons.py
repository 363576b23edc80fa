"""Models before and after: changes by layer, series of checkpoints, gates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from frog.types.reports import Finding, ModelReport, Settings
from frog.types.spectra import NAN
from frog.types.strategies import Strategy


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where one side of a comparison came from; ``weights`` says whether they were at hand."""

    path: str
    digest: str
    format: str
    settings: Settings
    weights: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerChange:
    """One matrix before and after.

    ``before`` and ``after`` hold the values of both reports, ``change`` their differences
    (after - before). ``alpha_change_low``..``alpha_change_high`` is the joint 95 % interval of
    the difference of alpha. What needs the weights is NaN where only reports were at hand, and
    ``missing`` then gives the reason by name:

    - ``drift``: ||W' - W||_F / ||W||_F;  ``spectral_share``: ||W' - W||_2 / ||W' - W||_F
    - ``rotation_left``, ``rotation_right``: 1 - ||U_k'^T U_k||_F^2 / k of the leading directions
    - ``intruders``: leading left singular vectors of W' that no old one resembles

    ``scale``: ``""``, ``collapse``, or ``compensated`` (undone by the gain of the neighbouring
    normalisation, or by the matrix that it is multiplied with); ``scale_z`` the robust z-score
    behind it. ``identical``: the same bytes.
    ``curve_before`` and ``curve_after`` are the curves of both layer reports.
    """

    name: str
    role: str
    block: int | None
    shape: tuple[int, ...]
    params: int
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    change: Mapping[str, float] = field(default_factory=dict)
    alpha_change_low: float = NAN
    alpha_change_high: float = NAN
    drift: float = NAN
    spectral_share: float = NAN
    rotation_left: float = NAN
    rotation_right: float = NAN
    intruders: float = NAN
    scale: str = ""
    scale_z: float = NAN
    verdicts_before: tuple[str, ...] = ()
    verdicts_after: tuple[str, ...] = ()
    missing: Mapping[str, str] = field(default_factory=dict)
    identical: bool = False
    curve_before: Mapping[str, list[float] | float] | None = None
    curve_after: Mapping[str, list[float] | float] | None = None


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Comparison:
    """A model after against a model before; ``verdict`` is one sentence.

    ``only_before`` and ``only_after`` list what has no partner of the same name and shape, with
    the reason. ``summary`` maps the names of both summaries to ``{before, after, change}`` in
    flat keys: ``alpha_before``, ``alpha_after``, ``alpha_change``, ...
    """

    before: Origin
    after: Origin
    frog_version: str
    layers: tuple[LayerChange, ...]
    only_before: Mapping[str, str] = field(default_factory=dict)
    only_after: Mapping[str, str] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()
    summary: Mapping[str, int | float] = field(default_factory=dict)
    verdict: str = ""
    notes: tuple[str, ...] = ()

    def table(self, *, sort: str | None = None) -> Any:
        """A Rich table, a row a changed layer; ``sort`` names a column."""
        from frog.report.changes import change_table

        return change_table(self, sort=sort)

    def to_json(self, path: Any = None) -> str:
        """The comparison as JSON text; also written to ``path`` where one is given."""
        from frog.report.files import write_json
        from frog.serial import comparison_to_json

        text = comparison_to_json(self)
        if path is not None:
            write_json(text, path)
        return text

    def to_html(self, path: Any = None) -> str:
        """The comparison as one self-contained page; also written to ``path``."""
        from frog.report.page import comparison_page, write_page

        return write_page(comparison_page(self), path)

    @staticmethod
    def from_json(path: Any) -> Comparison:
        """Read what :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.report.files import read_comparison

        return read_comparison(path)

    def __str__(self) -> str:
        from frog.report.text import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"<Comparison of {self.after.path} with {self.before.path}: {self.verdict}>"

    def _repr_html_(self) -> str:
        from frog.report.page import comparison_fragment

        return comparison_fragment(self)


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Series:
    """More than two models in order: checkpoints of a run, or several strategies from one base.

    ``labels`` and ``steps`` name the members (a step is the number in a checkpoint's name, else
    the place); ``reports`` are their measurements; ``comparisons[i]`` holds ``reports[i + 1]``
    against the first. ``strategies[i]`` says what it took to get from the first to
    ``reports[i + 1]``, where :func:`frog.compare_runs` made the series; else there are none.
    ``verdict`` is one sentence.
    """

    labels: tuple[str, ...]
    steps: tuple[float, ...]
    reports: tuple[ModelReport, ...]
    comparisons: tuple[Comparison, ...]
    strategies: tuple[Strategy, ...] = ()
    verdict: str = ""
    notes: tuple[str, ...] = ()

    @property
    def unlike_rows(self) -> tuple[str, ...]:
        """Labels of strategies whose quality was measured otherwise than that of the first run."""
        return tuple(row.label for row in self.strategies if row.unlike)

    def table(self) -> Any:
        """A Rich table, a row a member."""
        from frog.report.changes import series_table

        return series_table(self)

    def to_json(self, path: Any = None) -> str:
        """The series as JSON text; also written to ``path`` where one is given."""
        from frog.report.files import write_json
        from frog.serial import series_to_json

        text = series_to_json(self)
        if path is not None:
            write_json(text, path)
        return text

    def to_html(self, path: Any = None) -> str:
        """The series as one self-contained page; also written to ``path``."""
        from frog.report.page import series_page, write_page

        return write_page(series_page(self), path)

    @staticmethod
    def from_json(path: Any) -> Series:
        """Read what :meth:`to_json` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.report.files import read_series

        return read_series(path)

    def __str__(self) -> str:
        from frog.report.text import as_text

        return as_text(self)

    def __repr__(self) -> str:
        return f"<Series of {len(self.reports)} models: {self.verdict}>"

    def _repr_html_(self) -> str:
        from frog.report.page import series_fragment

        return series_fragment(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """One rule of a policy that does not hold: which, where, what was measured, the limit."""

    rule: str
    severity: str
    layer: str
    value: float
    limit: float
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateResult:
    """Whether a model passes a policy: every breach, and how many rules were checked.

    Breaches of the severity ``fail_on`` or a graver one fail it. ``unmeasured`` names what could
    not be measured, or not be compared with the baseline.
    """

    path: str
    passed: bool
    checked: int
    fail_on: str = "error"
    breaches: tuple[Breach, ...] = ()
    unmeasured: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def to_json(self, path: Any = None) -> str:
        """Every breach as JSON text; also written to ``path`` where one is given."""
        from frog.report.files import write_json
        from frog.serial.policy import gate_to_json

        text = gate_to_json(self)
        if path is not None:
            write_json(text, path)
        return text

    def __str__(self) -> str:
        from frog.report.text import as_text

        return as_text(self)
