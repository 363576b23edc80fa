"""Deltas as files: indices and XORed bit patterns in one safetensors file.

Tensor ``<n>.index`` (int32 or int64) and ``<n>.xor`` (unsigned) for the n-th changed tensor; its
name, shape, dtype and digests stand in the JSON under the metadata key ``frog``.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import ReportError
from frog.serial.plain import get, null, shown
from frog.serial.tensors import read_tensors, write_tensors
from frog.types import SparseDelta, TensorDelta

DELTA_FORMAT, DELTA_VERSION = "frog-delta", 1
MAKER = "frog delta diff A B -o FILE"


def write_delta(delta: SparseDelta, path: Any) -> None:
    """Write a delta, whole or not at all."""
    tensors: dict[str, np.ndarray] = {}
    for number, part in enumerate(delta.tensors):
        tensors[f"{number}.index"], tensors[f"{number}.xor"] = part.index, part.xor
    about = {
        "format": DELTA_FORMAT,
        "version": DELTA_VERSION,
        "path": delta.path,
        "facts": dict(delta.facts),
        "tensors": [
            {
                "tensor": part.tensor,
                "shape": list(part.shape),
                "dtype": part.dtype,
                "before": part.before,
                "after": part.after,
            }
            for part in delta.tensors
        ],
    }
    write_tensors(tensors, {"frog": json.dumps(null(about), allow_nan=False)}, path)


def read_delta(path: Any) -> SparseDelta:
    """Read a delta; :class:`~frog.errors.ReportError` names what is wrong with the file."""
    origin = str(path)
    about, arrays = read_tensors(Path(path), DELTA_FORMAT, DELTA_VERSION, make=MAKER)
    listed = get(about, "tensors")
    if not isinstance(listed, list):
        raise ReportError(f"{origin}: tensors must be a list, got {shown(listed)}")
    parts = [_part(item, arrays, i, f"{origin}: tensors.{i}") for i, item in enumerate(listed)]
    facts = about.get("facts")
    return SparseDelta(
        path=str(about.get("path", "")),
        tensors=tuple(parts),
        facts=facts if isinstance(facts, dict) else {},
    )


def _part(item: Any, arrays: dict[str, np.ndarray], number: int, place: str) -> TensorDelta:
    try:
        made = TensorDelta(
            tensor=str(item["tensor"]),
            shape=tuple(int(x) for x in item["shape"]),
            dtype=str(item["dtype"]),
            index=arrays[f"{number}.index"],
            xor=arrays[f"{number}.xor"],
            before=str(item["before"]),
            after=str(item["after"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise ReportError(f"{place} is damaged ({error!r}): write it again with {MAKER}") from None
    index, size = made.index, math.prod(made.shape)
    sound = (
        index.ndim == 1
        and index.dtype.kind == "i"
        and made.xor.dtype.kind == "u"
        and index.shape == made.xor.shape
        and (not len(index) or (index[0] >= 0 and index[-1] < size))
        and bool((np.diff(index) > 0).all())
    )
    if not sound:
        raise ReportError(
            f"{place}: indices must be ascending and lie in 0..{size - 1}, one bit pattern for "
            f"each: the file is damaged; write it again with {MAKER}"
        )
    return made


def is_delta(path: Any) -> bool:
    """Whether a file says in its header that it is a delta of ours; its arrays are not read."""
    from safetensors import SafetensorError, safe_open

    if not isinstance(path, str | Path) or Path(path).suffix != ".safetensors":
        return False
    try:
        if not Path(path).expanduser().is_file():  # a pipe would wait for a writer, for ever
            return False
        with safe_open(Path(path).expanduser(), framework="np") as file:
            about = json.loads((file.metadata() or {}).get("frog", "null"))
    except (SafetensorError, OSError, ValueError, RuntimeError, RecursionError):
        return False
    return get(about, "format") == DELTA_FORMAT
