"""Our safetensors files: arrays, and one JSON header under the key ``frog``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import ReportError
from frog.serial.plain import check_header, finite, refuse_constant
from frog.serial.whole_file import write_whole


def write_tensors(arrays: Mapping[str, np.ndarray], metadata: dict[str, str], path: Any) -> None:
    """Write arrays and metadata, whole or not at all."""
    from safetensors.numpy import save

    write_whole(save(dict(arrays), metadata=metadata), path)


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """All arrays of any safetensors file; the errors of safetensors and numpy as they are."""
    from safetensors import safe_open

    with safe_open(path, framework="np") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118


def read_tensors(
    path: Path, format: str, version: int, *, make: str
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header and the arrays of a file of ours; :class:`ReportError` if it is none."""
    from safetensors import SafetensorError, safe_open

    origin = str(path)
    try:
        with safe_open(path, framework="np") as file:
            text = (file.metadata() or {}).get("frog")
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError:
        raise ReportError(f"{origin}: no such file; {make} makes one") from None
    except (SafetensorError, OSError, ValueError, TypeError) as error:
        raise ReportError(
            f"{origin}: must be a file that frog wrote, cannot be read ({error}): "
            f"write it again with {make}"
        ) from None
    try:
        strict = {"parse_constant": refuse_constant, "parse_float": finite}
        about = json.loads(text, **strict) if text is not None else {}
    except (ValueError, RecursionError):
        about = {}
    check_header(about, format, version, origin, make=make)
    return about, arrays
