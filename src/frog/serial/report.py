"""Reports to plain dictionaries and back."""

from __future__ import annotations

import math
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
    numbers,
    parse,
    settings_from,
    text_of,
    validated,
)
from frog.types import Finding, LayerReport, ModelReport

REPORT_FORMAT = "frog-report"
REPORT_VERSION = 1


def report_to_json(report: ModelReport) -> str:
    """The report file as text, two-space indented, without NaN."""
    return text_of(report_to_dict(report))


def report_to_dict(report: ModelReport) -> dict[str, Any]:
    """The report file as a dictionary of plain values."""
    return {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "frog_version": report.frog_version,
        "source": null({"path": report.path, "digest": report.digest, "format": report.format}),
        "settings": asdict(report.settings),
        "shard": report.shard,
        "summary": null(report.summary),
        "notes": null(report.notes),
        "layers": [layer_to_dict(layer) for layer in report.layers],
        "pairs": [null(asdict(pair)) for pair in report.pairs],
        "pathways": [null(asdict(pathway)) for pathway in report.pathways],
        "profiles": [null(asdict(profile)) for profile in report.profiles],
        "ranking": [null(asdict(ranked)) for ranked in report.ranking],
        "findings": [finding_to_dict(finding) for finding in report.findings],
    }


def layer_to_dict(layer: LayerReport) -> dict[str, Any]:
    """One layer of the report file."""
    plain = {f.name: getattr(layer, f.name) for f in fields(layer) if f.name != "null"}
    alpha = layer.null.get("alpha")
    plain["null"] = {
        "percentile": alpha.percentile if alpha else math.nan,
        "low": alpha.low if alpha else math.nan,
        "high": alpha.high if alpha else math.nan,
        "looks": {name: asdict(look) for name, look in layer.null.items()},
    }
    return null(plain)


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """One finding of the report file."""
    return null(asdict(finding))


def report_from_json(text: str | bytes, origin: str) -> ModelReport:
    """Parse and validate a report file; ``origin`` names it in errors."""
    return report_from_dict(parse(text, origin), origin)


def report_from_dict(data: Any, origin: str) -> ModelReport:
    """Validate a dictionary as :func:`report_to_dict` makes it."""
    check_header(data, REPORT_FORMAT, REPORT_VERSION, origin, make="frog analyze MODEL --json FILE")
    source = data.get("source")
    flat = {
        "path": get(source, "path"),
        "digest": get(source, "digest"),
        "format": get(source, "format"),
        "frog_version": data.get("frog_version"),
        "settings": settings_from(data.get("settings"), origin),
        "shard": data.get("shard"),
        "summary": nan(data.get("summary")),
        "notes": data.get("notes", []),
        "layers": each(data.get("layers"), _layer_fields),
        "findings": each(data.get("findings"), nan),
        "pairs": each(data.get("pairs", []), _pair_fields),
        "pathways": each(data.get("pathways", []), nan),
        "profiles": each(data.get("profiles", []), _profile_fields),
        "ranking": each(data.get("ranking", []), nan),
    }
    report: ModelReport = validated(ModelReport, flat, origin)
    if report.shard is not None and not 1 <= report.shard[0] <= report.shard[1]:
        raise ReportError(f"{origin}: shard must be [i, n] with 1 <= i <= n, got {report.shard}")
    return report


def layer_from_dict(data: Any, origin: str) -> LayerReport:
    """Validate one layer as :func:`layer_to_dict` makes it."""
    return validated(LayerReport, _layer_fields(data), origin)


def finding_from_dict(data: Any, origin: str) -> Finding:
    """Validate one finding."""
    return validated(Finding, nan(data), origin)


def _layer_fields(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    looks_ = get(data.get("null"), "looks")
    looks = {k: nan(v) for k, v in looks_.items()} if isinstance(looks_, dict) else looks_
    if data.get("seconds", 0.0) is None:
        data = {**data, "seconds": math.nan}
    return {
        **data,
        "values": nan(data.get("values")),
        "null": looks or {},
        "curve": curve(data.get("curve")),
        "spectrum": numbers(data.get("spectrum")),
    }


def _pair_fields(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    overlaps = data.get("overlaps")
    if isinstance(overlaps, dict):
        overlaps = {name: nan(overlap) for name, overlap in overlaps.items()}
    # a head is None where there is none: only numbers become NaN
    numbers_ = nan({key: data.get(key) for key in ("gain", "weight")})
    return {**data, **numbers_, "overlaps": overlaps}


def _profile_fields(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    return {**nan(data), "values": numbers(data.get("values"))}
