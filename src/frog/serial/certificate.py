"""Certificates of runs as JSON."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from frog.serial.plain import check_header, each, nan, null, number, parse_file, text_of, validated
from frog.types import Alarm, Certificate, Worst

CERTIFICATE_FORMAT, CERTIFICATE_VERSION = "frog-certificate", 1
MAKER = "tuner.certificate().to_json(FILE)"
NUMBERS = ("before", "now", "value", "limit", "used")
DERIVED = ("cost", "sound")


def certificate_to_dict(certificate: Certificate) -> dict[str, Any]:
    """A certificate as plain values; its cost and verdict are for the reader, not read back."""
    return {
        "format": CERTIFICATE_FORMAT,
        "version": CERTIFICATE_VERSION,
        **asdict(certificate),
        "cost": certificate.cost,
        "sound": certificate.sound,
    }


def certificate_to_json(certificate: Certificate) -> str:
    """A certificate as JSON text."""
    return text_of(null(certificate_to_dict(certificate)))


def read_certificate(path: Any) -> Certificate:
    """Read a certificate; :class:`~frog.errors.ReportError` names the place that is wrong."""
    return certificate_from_dict(parse_file(path, "a certificate", make=MAKER), str(path))


def certificate_from_dict(data: Any, origin: str) -> Certificate:
    """A certificate from plain values."""
    check_header(data, CERTIFICATE_FORMAT, CERTIFICATE_VERSION, origin, make=MAKER)
    left_out = {"format", "version", *DERIVED}
    plain = {key: value for key, value in data.items() if key not in left_out}
    for key, kind in (("worst", Worst), ("alarms", Alarm)):
        rows = each(plain.get(key, []), lambda row: _numbers(row))
        plain[key] = validated(tuple[kind, ...], rows, f"{origin}: {key}", make=MAKER)
    plain["seconds"] = nan(plain.get("seconds", {}))
    return validated(Certificate, plain, origin, make=MAKER)


def _numbers(row: Any) -> Any:
    if not isinstance(row, dict):
        return row
    return {key: number(value) if key in NUMBERS else value for key, value in row.items()}
