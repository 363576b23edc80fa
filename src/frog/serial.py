"""Records to plain dictionaries and back: the one place that knows the shape of the files.

NaN becomes ``null`` on the way out and ``null`` NaN on the way in, so that a file is plain JSON.
Reading validates: a file that is damaged, of another make or from a later version is a
:class:`~frog.errors.ReportError` that names the place.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, fields
from functools import lru_cache
from typing import Any

from frog.errors import ReportError
from frog.types import Finding, LayerReport, ModelReport

REPORT_FORMAT = "frog-report"
REPORT_VERSION = 1


def report_to_json(report: ModelReport) -> str:
    """The report file as text, two-space indented, without NaN."""
    return json.dumps(report_to_dict(report), indent=2, allow_nan=False) + "\n"


def report_to_dict(report: ModelReport) -> dict[str, Any]:
    """The report file as a dictionary of plain values."""
    return {
        "format": REPORT_FORMAT,
        "version": REPORT_VERSION,
        "frog_version": report.frog_version,
        "source": _null({"path": report.path, "digest": report.digest, "format": report.format}),
        "settings": asdict(report.settings),
        "shard": report.shard,
        "summary": _null(report.summary),
        "notes": _null(report.notes),
        "layers": [layer_to_dict(layer) for layer in report.layers],
        "pairs": [],
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
    return _null(plain)


def finding_to_dict(finding: Finding) -> dict[str, Any]:
    """One finding of the report file."""
    return _null(asdict(finding))


def report_from_json(text: str | bytes, origin: str) -> ModelReport:
    """Parse and validate a report file; ``origin`` names it in errors."""
    try:
        data = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
        return report_from_dict(data, origin)
    except ReportError:
        raise
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{origin}: must be a JSON report of frog, got text that is not JSON ({error}): "
            "write it again with frog analyze --json"
        ) from None


def report_from_dict(data: Any, origin: str) -> ModelReport:
    """Validate a dictionary as :func:`report_to_dict` makes it."""
    if not isinstance(data, dict) or data.get("format") != REPORT_FORMAT:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ReportError(
            f'{origin}: must be a report with "format": "{REPORT_FORMAT}", got {_shown(got)}: '
            "write one with frog analyze MODEL --json FILE"
        )
    version = data.get("version")
    if not isinstance(version, int) or isinstance(version, bool) or version < 1:
        raise ReportError(f"{origin}: version must be a whole number from 1, got {_shown(version)}")
    if version > REPORT_VERSION:
        raise ReportError(
            f"{origin}: version must be at most {REPORT_VERSION}, got {_shown(version)}: "
            "a later frog wrote it; upgrade with pip install --upgrade frog"
        )
    source = data.get("source")
    flat = {
        "path": _get(source, "path"),
        "digest": _get(source, "digest"),
        "format": _get(source, "format"),
        "frog_version": data.get("frog_version"),
        "settings": data.get("settings"),
        "shard": data.get("shard"),
        "summary": _nan(data.get("summary")),
        "notes": data.get("notes", []),
        "layers": _each(data.get("layers"), _layer_fields),
        "findings": _each(data.get("findings"), _nan),
    }
    report: ModelReport = _validated(ModelReport, flat, origin)
    if report.shard is not None and not 1 <= report.shard[0] <= report.shard[1]:
        raise ReportError(f"{origin}: shard must be [i, n] with 1 <= i <= n, got {report.shard}")
    return report


def layer_from_dict(data: Any, origin: str) -> LayerReport:
    """Validate one layer as :func:`layer_to_dict` makes it."""
    return _validated(LayerReport, _layer_fields(data), origin)


def finding_from_dict(data: Any, origin: str) -> Finding:
    """Validate one finding."""
    return _validated(Finding, _nan(data), origin)


def _layer_fields(data: Any) -> Any:
    if not isinstance(data, dict):
        return data
    null = _get(data.get("null"), "looks")
    looks = {k: _nan(v) for k, v in null.items()} if isinstance(null, dict) else null
    if data.get("seconds", 0.0) is None:
        data = {**data, "seconds": math.nan}
    return {
        **data,
        "values": _nan(data.get("values")),
        "null": looks or {},
        "curve": _curve(data.get("curve")),
        "spectrum": _numbers(data.get("spectrum")),
    }


def _validated(kind: type, data: Any, origin: str) -> Any:
    from pydantic import ValidationError

    try:
        return _adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReportError(
            f"{origin}: {place}: {first['msg'].lower()}, got {_shown(first['input'])}: "
            "the file is damaged or was edited; write it again with frog analyze --json"
        ) from None


@lru_cache
def _adapter(kind: type) -> Any:
    from pydantic import TypeAdapter  # reading only: writing a report need not pay for it

    return TypeAdapter(kind)


def _null(value: Any) -> Any:
    """A copy with NaN and infinities as None, tuples as lists, mappings as dictionaries."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str) and not value.isascii():
        # a path need not be UTF-8, nor a tensor's name be sound; the file always is
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: _null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_null(item) for item in value]
    return value


def _nan(value: Any) -> Any:
    """A copy of a flat dictionary with None as NaN."""
    if not isinstance(value, dict):
        return value
    return {key: _number(item) for key, item in value.items()}


def _number(value: Any) -> Any:
    """NaN for None, and for what JSON's own notation makes infinite (1e999)."""
    infinite = isinstance(value, float) and math.isinf(value)
    return math.nan if value is None or infinite else value


def _numbers(value: Any) -> Any:
    """A list with None as NaN."""
    return [_number(x) for x in value] if isinstance(value, list) else value


def _curve(value: Any) -> Any:
    """A curve with None as NaN, in its lists too."""
    if not isinstance(value, dict):
        return value
    return {key: _numbers(_number(item)) for key, item in value.items()}


def _finite(text: str) -> float:
    """A number that float64 can hold: 1e999 would come back as infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of numbers")
    return value


def _refuse_constant(word: str) -> None:
    raise ValueError(f"{word} is no JSON")


def _shown(value: Any) -> str:
    """The beginning of a value as it stands in the file."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'dictionary'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def _get(value: Any, key: str) -> Any:
    return value.get(key) if isinstance(value, dict) else None


def _each(value: Any, change: Any) -> Any:
    return [change(item) for item in value] if isinstance(value, list) else value
