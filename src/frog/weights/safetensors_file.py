"""One safetensors file: a checked header and mapped bytes.

Only the header is read; a tensor is mapped when asked for, so memory holds the pages that were
touched and no more. The library's own reader cannot give bfloat16 or float8 as numpy arrays, so
it checks and we map.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from frog.errors import ModelError
from frog.weights.dtypes import SAFETENSORS_TYPES
from frog.weights.stored import StoredTensor

AGAIN = "download or save it again"


def read_file(path: Path) -> list[StoredTensor]:
    """Tensors of one safetensors file in the order of their bytes."""
    header, start = _read_header(path)
    entries = [(k, v) for k, v in header.items() if k != "__metadata__"]
    entries.sort(key=lambda x: (x[1]["data_offsets"][0], x[0]))
    return [_stored(path, name, entry, start) for name, entry in entries]


def _read_header(path: Path) -> tuple[dict[str, Any], int]:
    """The header as a dict and the offset of the first data byte; all of it checked."""
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            prefix = file.read(8)
            length = int.from_bytes(prefix, "little")
            if len(prefix) < 8 or 8 + length > size:
                raise ModelError(_not_whole(path, size, prefix))
            text = file.read(length)
        # The library checks what makes mapping safe: types, shapes, offsets without gap or
        # overlap, and that the data end where the file ends.
        with safe_open(path, framework="np"):
            pass
        return json.loads(text, object_pairs_hook=_unique), 8 + length
    except SafetensorError as error:
        raise ModelError(
            f"{path}: not a whole safetensors file ({first_line(error)}); {AGAIN}"
        ) from None
    except OSError as error:
        raise ModelError(f"{path}: cannot be read ({first_line(error)})") from error
    except (ValueError, RecursionError) as error:
        raise ModelError(
            f"{path}: damaged safetensors header ({first_line(error)}); {AGAIN}"
        ) from error


def _not_whole(path: Path, size: int, prefix: bytes) -> str:
    """Message for a file that ends before its header does."""
    if size == 0:
        return f"{path}: the file is empty, expected safetensors; {AGAIN}"
    if prefix.startswith(b"version "):
        return f"{path}: a Git LFS pointer, not the weights; run 'git lfs pull'"
    length = int.from_bytes(prefix, "little")
    return (
        f"{path}: not a whole safetensors file: expected a header of {length:,} bytes, "
        f"the file has {size:,}; it is truncated or of another format: {AGAIN}"
    )


def _stored(path: Path, name: str, entry: Mapping[str, Any], start: int) -> StoredTensor:
    """One tensor of a checked header, unread."""
    shape = tuple(entry["shape"])
    kind = SAFETENSORS_TYPES.get(entry["dtype"])
    if kind is None:
        why = f"storage type {entry['dtype']} is not supported"
        nothing = np.dtype("u1")
        first, last = entry["data_offsets"]
        codes = mapped(path, nothing, (last - first,), start + first)
        word = str(entry["dtype"]).lower()
        return StoredTensor(name=name, shape=shape, dtype=word, codes=codes, unsupported=why)
    return StoredTensor(
        name=name,
        shape=shape,
        dtype=kind.word,
        codes=mapped(path, kind.codes, shape, start + entry["data_offsets"][0]),
        decode=kind.decode,
        unsupported=kind.unsupported,
    )


def mapped(
    path: Path, dtype: np.dtype, shape: tuple[int, ...], offset: int
) -> Callable[[], np.ndarray]:
    """A function that maps the bytes at ``offset`` of a file as an array of ``shape``."""

    def codes() -> np.ndarray:
        if 0 in shape:
            return np.empty(shape, dtype)
        try:
            # Copy on write: never reaches the file, and torch takes the array without a copy
            # (it warns about read-only ones).
            array = np.memmap(path, dtype, mode="c", offset=offset, shape=shape)
        except (OSError, ValueError) as error:
            raise ModelError(
                f"{path}: cannot be mapped ({first_line(error)}); it changed since it was listed"
            ) from error
        return array.view(np.ndarray)

    return codes


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A dict from JSON pairs; a name given twice is a :class:`ValueError`."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a name occurs twice")
    return result


def first_line(what: object) -> str:
    """The first line of a message, at most 200 characters, printable."""
    line = str(what).strip().splitlines()[0] if str(what).strip() else type(what).__name__
    return "".join(c if c.isprintable() else "?" for c in line)[:200]
