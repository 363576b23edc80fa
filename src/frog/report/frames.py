"""A report as a data frame, CSV or Parquet, with WeightWatcher's column names; changes as CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import asdict
from importlib.util import find_spec
from typing import Any

from frog.errors import MissingPackage
from frog.serial.whole_file import write_whole
from frog.types import Comparison, LayerChange, LayerReport, ModelReport, Series, Strategy

LAYER_TYPES = {"linear": "dense", "head": "dense", "expert": "dense", "adapter": "dense"}
SIDES = ("_before", "_after")
FAILED_FIT = ("alpha", "D", "sigma", "xmin", "xmax", "num_pl_spikes")


def rows(report: ModelReport) -> list[dict[str, Any]]:
    """One dictionary a measured layer; in compat mode WeightWatcher's -1 for failed fits."""
    compat = report.settings.compat == "weightwatcher"
    return [_row(i, layer, compat) for i, layer in enumerate(report.measured)]


def to_pandas(report: ModelReport) -> Any:
    """A pandas data frame; :class:`~frog.errors.MissingPackage` without the extra ``table``."""
    try:
        import pandas
    except ModuleNotFoundError:
        raise MissingPackage("pandas", "table") from None
    return pandas.DataFrame(rows(report))


def change_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """One dictionary a layer: ``before_``, ``after_`` and ``change_`` of every number."""
    return [_change_row(layer) for layer in comparison.layers]


def member_rows(series: Series) -> list[dict[str, Any]]:
    """One dictionary a member: its step, its means, and their change against the first."""
    members = zip(series.labels, series.steps, series.reports, strict=True)
    table = []
    for i, (label, step, report) in enumerate(members):
        row = {"label": label, "step": step, "path": report.path, **report.summary}
        if i:
            against = series.comparisons[i - 1]
            row["verdict"] = against.verdict
            row |= {k: v for k, v in against.summary.items() if not k.endswith(SIDES)}
            if series.strategies:
                row |= _strategy_row(series.strategies[i - 1])
        table.append(row)
    return table


def _strategy_row(strategy: Strategy) -> dict[str, Any]:
    row = {k: v for k, v in asdict(strategy).items() if k not in ("label", "path")}
    row["missing"] = "; ".join(f"{name}: {reason}" for name, reason in strategy.missing.items())
    return row


def write_csv(record: ModelReport | Comparison | Series, path: Any) -> None:
    """Comma-separated values, 17 significant digits, empty where there is no number.

    A row a measured layer of a report, a row a layer of a comparison, a row a member of a series.
    """
    if isinstance(record, ModelReport):
        table = rows(record)
    else:
        table = change_rows(record) if isinstance(record, Comparison) else member_rows(record)
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, fieldnames=_columns(table), restval="")
    writer.writeheader()
    for row in table:
        writer.writerow({k: _cell(v) for k, v in row.items()})
    write_whole(text.getvalue().encode("utf-8", "backslashreplace"), path)


def write_parquet(report: ModelReport, path: Any) -> None:
    """Parquet with the report's source and settings in the file's metadata."""
    require_pyarrow()
    import pyarrow
    import pyarrow.parquet

    table = rows(report)
    columns = {name: [_unicode(row.get(name)) for row in table] for name in _columns(table)}
    arrow = pyarrow.table(columns)
    origin = {
        "frog.path": _unicode(report.path),
        "frog.digest": report.digest,
        "frog.version": report.frog_version,
        "frog.settings": json.dumps(asdict(report.settings)),
    }
    sink = pyarrow.BufferOutputStream()
    pyarrow.parquet.write_table(arrow.replace_schema_metadata(origin), sink)
    write_whole(sink.getvalue().to_pybytes(), path)


def require_pyarrow() -> None:
    """:class:`~frog.errors.MissingPackage` without the extra ``table``."""
    if find_spec("pyarrow") is None:
        raise MissingPackage("pyarrow", "table")


def _row(index: int, layer: LayerReport, compat: bool) -> dict[str, Any]:
    values = dict(layer.values)
    if compat and math.isnan(values.get("alpha", math.nan)):
        values.update(dict.fromkeys(FAILED_FIT, -1.0))
    row: dict[str, Any] = {
        "layer_id": index,
        "name": layer.name.removesuffix(".weight").rsplit(".", 1)[-1],
        "longname": layer.name.removesuffix(".weight"),
        "tensor": layer.name,
        "layer_type": LAYER_TYPES.get(layer.kind, layer.kind),
        "role": layer.role,
        "block": layer.block,
        "shape": "x".join(str(size) for size in layer.shape),
        "dtype": layer.dtype,
        "params": layer.params,
        "averaged": layer.averaged,
        "has_esd": True,
        **values,
        "status": "success" if layer.fit_status in ("ok", "") else "failed",
        "fit_status": layer.fit_status,
        "warning": _warning(values.get("alpha", math.nan)),
        "verdicts": " ".join(layer.verdicts),
    }
    for name, look in layer.null.items():
        row[f"null_{name}_percentile"] = look.percentile
    return row


def _change_row(layer: LayerChange) -> dict[str, Any]:
    row: dict[str, Any] = {
        "tensor": layer.name,
        "role": layer.role,
        "block": layer.block,
        "shape": "x".join(str(size) for size in layer.shape),
        "params": layer.params,
        "identical": layer.identical,
        "drift": layer.drift,
        "spectral_share": layer.spectral_share,
        "rotation_left": layer.rotation_left,
        "rotation_right": layer.rotation_right,
        "intruders": layer.intruders,
        "scale": layer.scale,
        "scale_z": layer.scale_z,
        "alpha_change_low": layer.alpha_change_low,
        "alpha_change_high": layer.alpha_change_high,
        "verdicts_before": " ".join(layer.verdicts_before),
        "verdicts_after": " ".join(layer.verdicts_after),
        "missing": "; ".join(f"{name}: {reason}" for name, reason in layer.missing.items()),
    }
    for name in dict.fromkeys((*layer.before, *layer.after, *layer.change)):
        for part in ("before", "after", "change"):
            row[f"{part}_{name}"] = getattr(layer, part).get(name)
    return row


def _warning(alpha: float) -> str:
    """WeightWatcher's word; it calls a failed fit (alpha -1) over-trained, compat mode too."""
    if alpha < 2.0:
        return "over-trained"
    return "under-trained" if alpha > 6.0 else ""


def _columns(table: list[dict[str, Any]]) -> list[str]:
    return list(dict.fromkeys(name for row in table for name in row))


def _unicode(value: Any) -> Any:
    """A text in which what is no Unicode is spelt out; other values as they are."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return value


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else value
