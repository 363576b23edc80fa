"""Files in and out: whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from frog.errors import FrogError, ReportError, UsageError
from frog.serial import (
    comparison_from_json,
    record_from_json,
    report_from_json,
    series_from_json,
)
from frog.types import Comparison, ModelReport, Series


def write_whole(data: bytes, path: str | Path) -> None:
    """Write to a temporary name beside ``path``, then rename: an earlier file stays intact.

    Raises :class:`~frog.errors.FrogError` when the disk is full, :class:`~frog.errors.UsageError`
    when the folder does not exist or must not be written to.
    """
    path = Path(path)
    if path.is_dir():
        raise UsageError(f"{path}: must be a file, got a folder: give a file name in it")
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    except (FileNotFoundError, NotADirectoryError):
        raise UsageError(
            f"{path}: its folder must exist, got {path.parent}: make it, or choose another"
        ) from None
    except PermissionError:
        raise UsageError(f"{path}: its folder must be writable: choose another") from None
    except OSError as error:
        raise FrogError(
            f"{path}: could not be written ({error.strerror}); nothing was lost"
        ) from None
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise FrogError(
            f"{path}: could not be written ({error.strerror}); the earlier file is untouched: "
            "free some space and run again"
        ) from None
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
