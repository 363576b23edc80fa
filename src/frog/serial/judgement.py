"""Judgements of plans as JSON."""

from __future__ import annotations

import math
from dataclasses import asdict
from typing import Any

from frog.errors import ReportError
from frog.serial.plain import check_header, null, parse_file, shown, text_of, validated
from frog.types.judgements import Judgement

JUDGEMENT_FORMAT, JUDGEMENT_VERSION = "frog-judgement", 1
MAKER = "judge(...).to_json(FILE)"


def judgement_to_dict(judgement: Judgement) -> dict[str, Any]:
    """A judgement as plain values; its verdict is for the reader, not read back."""
    return {
        "format": JUDGEMENT_FORMAT,
        "version": JUDGEMENT_VERSION,
        "verdict": judgement.verdict,
        **asdict(judgement),
    }


def judgement_to_json(judgement: Judgement) -> str:
    """A judgement as JSON text."""
    return text_of(_written(judgement_to_dict(judgement)))


def read_judgement(path: Any) -> Judgement:
    """Read a judgement; :class:`~frog.errors.ReportError` names the place that is wrong."""
    return judgement_from_dict(parse_file(path, "a judgement", make=MAKER), str(path))


def judgement_from_dict(data: Any, origin: str) -> Judgement:
    """A judgement from plain values."""
    check_header(data, JUDGEMENT_FORMAT, JUDGEMENT_VERSION, origin, make=MAKER)
    left_out = {"format", "version", "verdict"}
    plain = {key: value for key, value in data.items() if key not in left_out}
    found = validated(Judgement, plain, origin, make=MAKER)
    if found.by not in {x.measure for x in found.differences}:
        raise ReportError(
            f"{origin}: by must name a measure of the differences, got {shown(found.by)}"
        )
    return found


def _written(value: Any) -> Any:
    """What JSON has no numbers for, an endless error, as text: "inf", "-inf", "nan"."""
    if isinstance(value, dict):
        return {key: _written(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_written(item) for item in value]
    odd = isinstance(value, float) and not math.isfinite(value)
    return repr(value) if odd else null(value)
