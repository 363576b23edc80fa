"""Deltas as files: gaps between changed entries, and XORed bit patterns, in one safetensors file.

Few tensors, whatever the model. ``gap.<bits>`` and ``xor.<bits>`` (unsigned, of that width) hold
those of all changed tensors, one after the other; ``digests`` (n, 2, 16) holds the digests before
and after as bytes. Whose they are and how many stands in the JSON under the metadata key ``frog``,
a list for each fact. Version 1, a pair of tensors for each changed one, is still read.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from frog.errors import ReportError, UsageError
from frog.serial.plain import get, null, shown
from frog.serial.tensors import read_tensors, write_tensors
from frog.types import SparseDelta, TensorDelta

DELTA_FORMAT, DELTA_VERSION = "frog-delta", 2
MAKER = "frog delta diff A B -o FILE"
COLUMNS = ("name", "shape", "dtype", "count", "gap_bits", "xor_bits")
WIDTHS = (8, 16, 32, 64)
DIGEST_BYTES = 16


def write_delta(delta: SparseDelta, path: Any) -> None:
    """Write a delta, whole or not at all.

    Raises :class:`~frog.errors.UsageError` for one made by hand that could not be read again.
    """
    try:
        _check_names(delta.tensors)
        for part in delta.tensors:
            _check(part)
    except ValueError as error:
        raise UsageError(f"the delta cannot be saved: {error}: make it with frog.diff") from None
    pieces: dict[str, list[np.ndarray]] = {}
    columns: dict[str, list[Any]] = {name: [] for name in COLUMNS}
    digests = b""
    for part in delta.tensors:
        gap = np.diff(part.index.astype(np.int64), prepend=np.int64(0))
        gap = gap.astype(np.min_scalar_type(int(gap.max(initial=0))))
        pieces.setdefault(f"gap.{_bits(gap)}", []).append(gap)
        pieces.setdefault(f"xor.{_bits(part.xor)}", []).append(part.xor)
        digests += bytes.fromhex(part.before + part.after)
        facts = (part.tensor, list(part.shape), part.dtype, len(gap), _bits(gap), _bits(part.xor))
        for column, value in zip(columns.values(), facts, strict=True):
            column.append(value)
    arrays = {name: np.concatenate(found) for name, found in pieces.items()}
    rows = np.frombuffer(digests, dtype=np.uint8)
    arrays["digests"] = rows.reshape(len(delta.tensors), 2, DIGEST_BYTES)
    about = {
        "format": DELTA_FORMAT,
        "version": DELTA_VERSION,
        "path": delta.path,
        "facts": dict(delta.facts),
        "tensors": columns,
    }
    text = json.dumps(null(about), allow_nan=False, separators=(",", ":"))
    write_tensors(arrays, {"frog": text}, path)


def read_delta(path: Any) -> SparseDelta:
    """Read a delta; :class:`~frog.errors.ReportError` names what is wrong with the file."""
    origin = str(path)
    about, arrays = read_tensors(Path(path), DELTA_FORMAT, DELTA_VERSION, make=MAKER)
    parts = _parts_of_version_1 if about["version"] == 1 else _parts
    made = tuple(parts(about.get("tensors"), arrays, origin))
    try:
        _check_names(made)
    except ValueError as error:
        raise _damaged(f"{origin}: tensors", str(error)) from None
    facts = about.get("facts")
    return SparseDelta(
        path=str(about.get("path", "")),
        tensors=made,
        facts=facts if isinstance(facts, dict) else {},
    )


def _parts(listed: Any, arrays: Mapping[str, np.ndarray], origin: str) -> Iterator[TensorDelta]:
    place = f"{origin}: tensors"
    rows = _rows(listed, place)
    begin: list[dict[str, int]] = []
    length: Counter[str] = Counter()
    for number, row in enumerate(rows):
        try:
            count = _whole(row["count"], "count")
            pair = [f"{key}.{_width(row[f'{key}_bits'], f'{key}_bits')}" for key in ("gap", "xor")]
        except ValueError as error:
            raise _damaged(f"{place}.{number}", str(error)) from None
        begin.append({name: length[name] for name in pair})
        length.update(dict.fromkeys(pair, count))
    _check_held(arrays, length, len(rows), origin)
    for number, (row, starts) in enumerate(zip(rows, begin, strict=True)):
        gap, xor = (arrays[name][start : start + row["count"]] for name, start in starts.items())
        try:
            shape = _shape(row["shape"])
            before, after = (digest.tobytes().hex() for digest in arrays["digests"][number])
            part = TensorDelta(
                tensor=row["name"], shape=shape, dtype=row["dtype"],
                index=_positions(gap, math.prod(shape)), xor=xor, before=before, after=after,
            )  # fmt: skip
            _check(part)
        except ValueError as error:
            raise _damaged(f"{place}.{number}", str(error)) from None
        yield part


def _rows(listed: Any, place: str) -> list[dict[str, Any]]:
    """The lists of facts as one dictionary for each tensor."""
    columns = [get(listed, name) for name in COLUMNS]
    for name, column in zip(COLUMNS, columns, strict=True):
        if not isinstance(column, list):
            raise _damaged(f"{place}.{name}", f"must be a list, got {shown(column)}")
    lengths = {name: len(column) for name, column in zip(COLUMNS, columns, strict=True)}
    if len(set(lengths.values())) > 1:
        raise _damaged(place, f"must be lists of one length, got {lengths}")
    return [dict(zip(COLUMNS, row, strict=True)) for row in zip(*columns, strict=True)]


def _check_held(
    arrays: Mapping[str, np.ndarray], length: Mapping[str, int], rows: int, origin: str
) -> None:
    """The file holds what the header counts, and nothing else."""
    wanted: dict[str, tuple[str, tuple[int, ...]]]
    wanted = {name: (f"uint{name.split('.')[1]}", (count,)) for name, count in length.items()}
    wanted["digests"] = ("uint8", (rows, 2, DIGEST_BYTES))
    for name in sorted({*wanted, *arrays}):
        held = arrays.get(name)
        got = None if held is None else (str(held.dtype), held.shape)
        if got != wanted.get(name):
            must, found = (
                "none" if x is None else f"{x[0]} of {x[1]}" for x in (wanted.get(name), got)
            )
            raise _damaged(f"{origin}: tensor {shown(name)}", f"must be {must}, got {found}")


def _positions(gap: np.ndarray, size: int) -> np.ndarray:
    """Positions from gaps. With each gap below ``size``, a sum beyond the range of the integers
    falls below the position before it: :func:`_check` sees that they do not ascend."""
    largest = int(gap.max(initial=0))
    if len(gap) and largest >= size:
        raise ValueError(f"gaps must be below {size}, the number of entries, got {largest}")
    return np.cumsum(gap, dtype=np.int64).astype(np.int32 if size < 2**31 else np.int64)


def _parts_of_version_1(
    listed: Any, arrays: Mapping[str, np.ndarray], origin: str
) -> Iterator[TensorDelta]:
    if not isinstance(listed, list):
        raise _damaged(f"{origin}: tensors", f"must be a list, got {shown(listed)}")
    for number, item in enumerate(listed):
        try:
            for name in (f"{number}.index", f"{number}.xor"):
                if name not in arrays:
                    raise ValueError(f"tensor {name} must be in the file, got none")
            tensor, shape, dtype, before, after = (
                get(item, key) for key in ("tensor", "shape", "dtype", "before", "after")
            )
            part = TensorDelta(
                tensor=tensor, shape=_shape(shape), dtype=dtype, index=arrays[f"{number}.index"],
                xor=arrays[f"{number}.xor"], before=before, after=after,
            )  # fmt: skip
            _check(part)
        except ValueError as error:
            raise _damaged(f"{origin}: tensors.{number}", str(error)) from None
        yield part


def _check_names(parts: Sequence[TensorDelta]) -> None:
    for name, times in Counter(part.tensor for part in parts).items():
        if times > 1:
            raise ValueError(f"each must be listed once, got {shown(name)} {times} times")


def _check(part: TensorDelta) -> None:
    """Raise ValueError for a part that is none: what must be what, and what it is."""
    for key in ("tensor", "dtype", "before", "after"):
        if not isinstance(value := getattr(part, key), str):
            raise ValueError(f"{key} must be a text, got {shown(value)}")
    for key in ("before", "after"):
        value = getattr(part, key)
        if len(value) != 2 * DIGEST_BYTES or set(value) - set("0123456789abcdef"):
            raise ValueError(
                f"{key} must be a digest of {2 * DIGEST_BYTES} hexadecimal digits, "
                f"got {shown(value)}"
            )
    index, xor, size = part.index, part.xor, math.prod(part.shape)
    if xor.dtype.kind != "u" or index.dtype.kind != "i":
        raise ValueError(
            f"indices must be signed and bit patterns unsigned, got {index.dtype} and {xor.dtype}"
        )
    if index.ndim != 1 or index.shape != xor.shape:
        raise ValueError(
            f"there must be one bit pattern for each index, got {xor.shape} for {index.shape}"
        )
    inside = not len(index) or (int(index[0]) >= 0 and int(index[-1]) < size)
    # compared, not subtracted: a difference may wrap
    if not inside or not bool((index[1:] > index[:-1]).all()):
        raise ValueError(f"indices must be ascending and lie in 0..{size - 1}, got others")


def _shape(value: Any) -> tuple[int, ...]:
    if not isinstance(value, list):
        raise ValueError(f"shape must be a list, got {shown(value)}")
    sides = tuple(_whole(side, "a side of the shape") for side in value)
    _whole(math.prod(sides), "the number of entries")
    return sides


def _whole(value: Any, what: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**63:
        raise ValueError(f"{what} must be a whole number from 0 to 2^63 - 1, got {shown(value)}")
    return value


def _width(value: Any, what: str) -> int:
    if not isinstance(value, int) or value not in WIDTHS:
        raise ValueError(f"{what} must be 8, 16, 32 or 64, got {shown(value)}")
    return value


def _bits(array: np.ndarray) -> int:
    return 8 * array.dtype.itemsize


def _damaged(place: str, what: str) -> ReportError:
    return ReportError(
        f"{place}: {what}: the file is damaged or was edited; write it again with {MAKER}"
    )


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
