"""Merge: the reports of all shards become the report of the whole."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from frog.errors import ReportError
from frog.metrics.whole import complete, digest_of
from frog.types import LayerReport, ModelReport


def merge_reports(reports: Sequence[ModelReport]) -> ModelReport:
    """Join the reports of all shards of one model into the report of the whole.

    Raises :class:`~frog.errors.ReportError` when a part is missing, double, or of other settings.
    """
    if not reports:
        raise ReportError("merging needs at least one report, got none")
    first = reports[0]
    for report in reports:
        _check_part(report, first)
    count = first.shard[1] if first.shard else 0
    parts = sorted(report.shard[0] for report in reports if report.shard)
    if len(parts) != count or parts != list(range(1, count + 1)):
        got = ", ".join(str(part) for part in parts)
        raise ReportError(f"merging needs the parts 1 to {count}, each once, got {got}")
    layers = _join_layers(reports)
    findings = tuple(finding for report in reports for finding in report.findings)
    digest = digest_of(layers)
    return complete(replace(first, layers=layers, digest=digest, findings=findings, shard=None))


def _check_part(report: ModelReport, first: ModelReport) -> None:
    """Raise :class:`~frog.errors.ReportError` unless both are parts of one measurement."""
    if report.shard is None:
        raise ReportError(
            f"every report must be a part (--shard i/n), got a whole one of {report.path}"
        )
    for what in ("path", "format", "frog_version", "settings"):
        mine, theirs = getattr(report, what), getattr(first, what)
        if mine != theirs:
            raise ReportError(
                f"parts must be of one model, with the same settings and version of frog, got "
                f"{what} {mine!r} beside {theirs!r}: measure all parts with the same flags"
            )
    if first.shard is not None and report.shard[1] != first.shard[1]:
        raise ReportError(
            f"parts must be of one division, got part {report.shard[0]} of {report.shard[1]} "
            f"beside one of {first.shard[1]}: measure all with the same --shard i/n"
        )


def _join_layers(reports: Sequence[ModelReport]) -> tuple[LayerReport, ...]:
    """The layers of all parts by position: skipped ones are in every part, others in one."""
    by_position: dict[int, LayerReport] = {}
    for report in reports:
        for layer in report.layers:
            other = by_position.get(layer.position)
            if other is None:
                by_position[layer.position] = layer
            elif layer.skipped is None or other.name != layer.name:
                raise ReportError(
                    f"position {layer.position} must be in one part, got {other.name} and "
                    f"{layer.name}: measure all parts again"
                )
    absent = next((i for i in range(len(by_position)) if i not in by_position), None)
    if absent is not None:
        raise ReportError(f"position {absent} is in no part: measure all parts again")
    return tuple(by_position[i] for i in range(len(by_position)))
