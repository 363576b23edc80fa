"""Files in and out: whole or not at all."""

from __future__ import annotations

from pathlib import Path

from frog.errors import ReportError
from frog.serial import (
    comparison_from_json,
    record_from_json,
    report_from_json,
    series_from_json,
)
from frog.serial.whole_file import write_whole
from frog.types import Comparison, ModelReport, Series


def write_json(text: str, path: str | Path) -> None:
    """Write the text of a report or a comparison as UTF-8."""
    write_whole(text.encode(), path)


def read_report(path: str | Path) -> ModelReport:
    """Read a report file; :class:`~frog.errors.ReportError` names what is wrong with it."""
    return report_from_json(_content(path), str(path))


def read_comparison(path: str | Path) -> Comparison:
    """Read a comparison file; :class:`~frog.errors.ReportError` names what is wrong with it."""
    return comparison_from_json(_content(path), str(path))


def read_series(path: str | Path) -> Series:
    """Read a series file; :class:`~frog.errors.ReportError` names what is wrong with it."""
    return series_from_json(_content(path), str(path))


def read_record(path: str | Path) -> ModelReport | Comparison | Series:
    """Read a report, a comparison or a series, as its ``format`` says."""
    return record_from_json(_content(path), str(path))


def names_record(model: object) -> bool:
    """Whether the name of a model means a saved file of ours: ``.json``, but no shard index.

    >>> names_record("before.json"), names_record("model.safetensors.index.json")
    (True, False)
    """
    if not isinstance(model, str | Path):
        return False
    name = str(model).lower()
    return name.endswith(".json") and not name.endswith(".index.json")


def _content(path: str | Path) -> bytes:
    path = Path(path)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ReportError(
            f"{path}: no such file; frog analyze MODEL --json FILE makes one"
        ) from None
    except OSError as error:
        raise ReportError(
            f"{path}: must be a JSON file that frog wrote, cannot be read ({error.strerror})"
        ) from None
