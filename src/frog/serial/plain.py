"""Plain values for JSON and back, and the validation of what was read."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from frog.errors import ReportError
from frog.types import Settings


def text_of(data: Any) -> str:
    """Plain values as JSON text, two-space indented, without NaN."""
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


REPORT_MAKER = "frog analyze --json"


def parse(text: str | bytes, origin: str, *, make: str = REPORT_MAKER) -> Any:
    """JSON text as plain values; ``origin`` names the file in errors, ``make`` its command."""
    try:
        return json.loads(text, parse_constant=refuse_constant, parse_float=finite)
    except (ValueError, RecursionError) as error:
        raise ReportError(
            f"{origin}: must be a JSON file of frog, got text that is not JSON ({error}): "
            f"write it again with {make}"
        ) from None


def parse_file(path: Any, what: str, *, make: str) -> Any:
    """A JSON file as plain values; errors say ``what`` it must be and which command makes it."""
    try:
        text = Path(path).read_bytes()
    except FileNotFoundError:
        raise ReportError(f"{path}: no such file; {make} makes one") from None
    except OSError as error:
        raise ReportError(f"{path}: must be {what}, cannot be read ({error.strerror})") from None
    return parse(text, str(path), make=make)


def check_header(data: Any, format: str, version: int, origin: str, *, make: str) -> None:
    """Refuse another make of file or a later version; ``make`` is the command that writes one."""
    if not isinstance(data, dict) or data.get("format") != format:
        got = data.get("format") if isinstance(data, dict) else type(data).__name__
        raise ReportError(
            f'{origin}: must be a file with "format": "{format}", got {shown(got)}: '
            f"write one with {make}"
        )
    found = data.get("version")
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise ReportError(f"{origin}: version must be a whole number from 1, got {shown(found)}")
    if found > version:
        raise ReportError(
            f"{origin}: version must be at most {version}, got {shown(found)}: "
            "a later frog wrote it; upgrade with pip install --upgrade frog"
        )


def validated(kind: type, data: Any, origin: str, *, make: str = REPORT_MAKER) -> Any:
    """A record from plain values; an error names the place in the file."""
    from pydantic import ValidationError

    try:
        return adapter(kind).validate_python(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise ReportError(
            f"{origin}: {place}: {first['msg'].lower()}, got {shown(first['input'])}: "
            f"the file is damaged or was edited; write it again with {make}"
        ) from None


def settings_from(data: Any, origin: str, *, make: str = REPORT_MAKER) -> Any:
    """Settings from plain values, all of them finite; what is no dictionary is left to others.

    Elsewhere null stands for NaN. A setting is never unknown: "nan", or an integer beyond
    float64, is an error here rather than when the record is written again.
    """
    if not isinstance(data, dict):
        return data
    settings = validated(Settings, data, f"{origin}: settings", make=make)
    try:
        json.dumps(asdict(settings), allow_nan=False)
    except ValueError:
        raise ReportError(
            f"{origin}: settings: every number must be finite: "
            f"the file is damaged or was edited; write it again with {make}"
        ) from None
    return settings


@lru_cache
def adapter(kind: type) -> Any:
    """The validator of a record, made once."""
    from pydantic import TypeAdapter  # reading only: writing a report need not pay for it

    return TypeAdapter(kind)


def null(value: Any) -> Any:
    """A copy with NaN and infinities as None, tuples as lists, mappings as dictionaries."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, str) and not value.isascii():
        # a path need not be UTF-8, nor a tensor's name be sound; the file always is
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, Mapping):
        return {key: null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [null(item) for item in value]
    return value


def nan(value: Any) -> Any:
    """A copy of a flat dictionary with None as NaN."""
    if not isinstance(value, dict):
        return value
    return {key: number(item) for key, item in value.items()}


def number(value: Any) -> Any:
    """NaN for None, and for what JSON's own notation makes infinite (1e999)."""
    infinite = isinstance(value, float) and math.isinf(value)
    return math.nan if value is None or infinite else value


def numbers(value: Any) -> Any:
    """A list with None as NaN."""
    return [number(x) for x in value] if isinstance(value, list) else value


def curve(value: Any) -> Any:
    """A curve with None as NaN, in its lists too."""
    if not isinstance(value, dict):
        return value
    return {key: numbers(number(item)) for key, item in value.items()}


def finite(text: str) -> float:
    """A number that float64 can hold: 1e999 would come back as infinity."""
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"{text} is beyond the range of numbers")
    return value


def refuse_constant(word: str) -> None:
    """NaN and Infinity are words of Python's JSON, not of JSON."""
    raise ValueError(f"{word} is no JSON")


def shown(value: Any) -> str:
    """The beginning of a value as it stands in the file."""
    if isinstance(value, list | dict):
        return f"a {'list' if isinstance(value, list) else 'dictionary'} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"


def get(value: Any, key: str) -> Any:
    """The value of a key, None where there is no dictionary."""
    return value.get(key) if isinstance(value, dict) else None


def each(value: Any, change: Any) -> Any:
    """``change`` applied to every item of a list; what is no list stays as it is."""
    return [change(item) for item in value] if isinstance(value, list) else value
