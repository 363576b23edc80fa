"""Comparisons and series to plain dictionaries and back."""

from __future__ import annotations

from dataclasses import asdict, fields
from typing import Any

from frog.errors import ReportError
from frog.serial.plain import (
    check_header,
    curve,
    each,
    get,
    nan,
    null,
    number,
    numbers,
    parse,
    settings_from,
    text_of,
    validated,
)
from frog.serial.report import REPORT_FORMAT, report_from_dict, report_to_dict
from frog.types import Comparison, LayerChange, ModelReport, Origin, Series, Strategy

COMPARISON_FORMAT = "frog-compare"
COMPARISON_VERSION = 1
SERIES_FORMAT = "frog-series"
SERIES_VERSION = 1
FORMATS = (REPORT_FORMAT, COMPARISON_FORMAT, SERIES_FORMAT)

COMPARE = "frog compare A B --json FILE"
SERIES = "frog compare A B C --json FILE"
_NUMBERS = tuple(f.name for f in fields(LayerChange) if f.type == "float")
_OF_STRATEGY = tuple(f.name for f in fields(Strategy) if f.type == "float")


def format_of(data: Any, origin: str) -> str:
    """Which of our files this is, by its ``format``; :class:`~frog.errors.ReportError` if none.

    >>> format_of({"format": "frog-compare", "version": 1}, "c.json")
    'frog-compare'
    """
    found = data.get("format") if isinstance(data, dict) else None
    if found not in FORMATS:
        got = repr(found)[:60] if isinstance(data, dict) else type(data).__name__
        raise ReportError(
            f'{origin}: "format" must be one of {", ".join(FORMATS)}, got {got}: '
            f"frog analyze and frog compare write them with --json"
        )
    return found


def record_from_json(text: str | bytes, origin: str) -> ModelReport | Comparison | Series:
    """Whatever of ours a file holds, validated; ``origin`` names it in errors."""
    data = parse(text, origin, make="frog analyze or frog compare, with --json")
    read = {
        REPORT_FORMAT: report_from_dict,
        COMPARISON_FORMAT: comparison_from_dict,
        SERIES_FORMAT: series_from_dict,
    }
    return read[format_of(data, origin)](data, origin)


# -------------------------------------------------------------------------- comparison


def comparison_to_json(comparison: Comparison) -> str:
    """The comparison file as text, two-space indented, without NaN."""
    return text_of(comparison_to_dict(comparison))


def comparison_to_dict(comparison: Comparison) -> dict[str, Any]:
    """The comparison file as a dictionary of plain values."""
    return {
        "format": COMPARISON_FORMAT,
        "version": COMPARISON_VERSION,
        "frog_version": comparison.frog_version,
        "before": _origin_to_dict(comparison.before),
        "after": _origin_to_dict(comparison.after),
        "verdict": null(comparison.verdict),
        "summary": null(comparison.summary),
        "notes": null(comparison.notes),
        "layers": [null(_plain(layer)) for layer in comparison.layers],
        "only_before": _reasons(comparison.only_before),
        "only_after": _reasons(comparison.only_after),
        "findings": [null(asdict(finding)) for finding in comparison.findings],
    }


def comparison_from_json(text: str | bytes, origin: str) -> Comparison:
    """Parse and validate a comparison file; ``origin`` names it in errors."""
    return comparison_from_dict(parse(text, origin, make=COMPARE), origin)


def comparison_from_dict(data: Any, origin: str) -> Comparison:
    """Validate a dictionary as :func:`comparison_to_dict` makes it."""
    check_header(data, COMPARISON_FORMAT, COMPARISON_VERSION, origin, make=COMPARE)
    flat = {
        "frog_version": data.get("frog_version"),
        "before": _origin_fields(data.get("before"), f"{origin}: before"),
        "after": _origin_fields(data.get("after"), f"{origin}: after"),
        "verdict": data.get("verdict"),
        "summary": nan(data.get("summary")),
        "notes": data.get("notes", []),
        "layers": each(data.get("layers"), _change_fields),
        "only_before": data.get("only_before", {}),
        "only_after": data.get("only_after", {}),
        "findings": each(data.get("findings"), nan),
    }
    return validated(Comparison, flat, origin, make=COMPARE)


def _plain(record: Any) -> dict[str, Any]:
    """The fields of a record; unlike ``asdict`` without copying what they hold."""
    return {f.name: getattr(record, f.name) for f in fields(record)}


def _reasons(names: Any) -> dict[str, str]:
    return {null(name): null(reason) for name, reason in names.items()}


def _origin_to_dict(origin: Origin) -> dict[str, Any]:
    return {
        "source": null({"path": origin.path, "digest": origin.digest, "format": origin.format}),
        "settings": asdict(origin.settings),
        "weights": origin.weights,
    }


def _origin_fields(data: Any, origin: str) -> Any:
    if not isinstance(data, dict):
        return data
    source = {name: get(data.get("source"), name) for name in ("path", "digest", "format")}
    settings = settings_from(data.get("settings"), origin, make=COMPARE)
    return {**source, "settings": settings, "weights": data.get("weights")}


def _change_fields(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    # a block is None where there is none: only numbers become NaN
    return {
        **data,
        **{name: number(data[name]) for name in _NUMBERS if name in data},
        **{name: nan(data.get(name)) for name in ("before", "after", "change")},
        **{name: curve(data.get(name)) for name in ("curve_before", "curve_after")},
    }


# ------------------------------------------------------------------------------ series


def series_to_json(series: Series) -> str:
    """The series file as text, two-space indented, without NaN."""
    return text_of(series_to_dict(series))


def series_to_dict(series: Series) -> dict[str, Any]:
    """The series file as a dictionary of plain values: whole reports and comparisons inside."""
    return {
        "format": SERIES_FORMAT,
        "version": SERIES_VERSION,
        "labels": null(series.labels),
        "steps": null(series.steps),
        "verdict": null(series.verdict),
        "notes": null(series.notes),
        "strategies": [null(asdict(row)) for row in series.strategies],
        "reports": [report_to_dict(report) for report in series.reports],
        "comparisons": [comparison_to_dict(comparison) for comparison in series.comparisons],
    }


def series_from_json(text: str | bytes, origin: str) -> Series:
    """Parse and validate a series file; ``origin`` names it in errors."""
    return series_from_dict(parse(text, origin, make=SERIES), origin)


def series_from_dict(data: Any, origin: str) -> Series:
    """Validate a dictionary as :func:`series_to_dict` makes it."""
    check_header(data, SERIES_FORMAT, SERIES_VERSION, origin, make=SERIES)
    parts = {
        name: _members(data.get(name), read, f"{origin}: {name}")
        for name, read in (("reports", report_from_dict), ("comparisons", comparison_from_dict))
    }
    flat = {
        "labels": data.get("labels"),
        "steps": numbers(data.get("steps")),
        "verdict": data.get("verdict"),
        "notes": data.get("notes", []),
        "strategies": each(data.get("strategies", []), _strategy_fields),
    }
    # its members are valid records already: only the frame is left
    frame: Series = validated(Series, {**flat, "reports": [], "comparisons": []}, origin,
                              make=SERIES)  # fmt: skip
    series = Series(
        labels=frame.labels,
        steps=frame.steps,
        verdict=frame.verdict,
        notes=frame.notes,
        strategies=frame.strategies,
        reports=parts["reports"],
        comparisons=parts["comparisons"],
    )
    lengths = len(series.labels), len(series.steps), len(series.reports)
    if len(set(lengths)) > 1 or max(len(series.reports) - 1, 0) != len(series.comparisons):
        raise ReportError(
            f"{origin}: labels, steps and reports must be of one length and comparisons one fewer, "
            f"got {', '.join(map(str, lengths))} and {len(series.comparisons)}: "
            f"write it again with {SERIES}"
        )
    if len(series.strategies) not in (0, len(series.comparisons)):
        raise ReportError(
            f"{origin}: strategies must be as many as comparisons or none, got "
            f"{len(series.strategies)} and {len(series.comparisons)}: write it again with {SERIES}"
        )
    return series


def _strategy_fields(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {**data, **{name: number(data[name]) for name in _OF_STRATEGY if name in data}}


def _members(data: Any, read: Any, origin: str) -> tuple[Any, ...]:
    """Every member of a list as a record; ``read`` checks one and names its place."""
    if not isinstance(data, list):
        raise ReportError(f"{origin} must be a list, got {type(data).__name__}")
    return tuple(read(item, f"{origin}.{i}") for i, item in enumerate(data))
