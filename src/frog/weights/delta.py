"""Sparse deltas: made from two states of a model, applied, undone; exact to the bit."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xxhash

from frog.errors import UsageError
from frog.types import SparseDelta, TensorDelta
from frog.weights.stored import StoredTensor, TensorList

WORDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
"""Bytes of an element -> the unsigned integers that hold its bits."""

SLAB = 1 << 22
"""Elements that are compared or digested at a time."""


@dataclass(frozen=True, slots=True)
class Touched:
    """Entries of one tensor before and after: flat ``index`` (k,), bit patterns (k,) each.

    ``whole`` gives the bits of the whole tensor as it is now, flat.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    index: np.ndarray
    old: np.ndarray
    new: np.ndarray
    whole: Callable[[], np.ndarray]


def diff_tensors(before: TensorList, after: TensorList) -> SparseDelta:
    """What turns ``before`` into ``after``, tensor by tensor; one of each is in memory at a time.

    Raises :class:`~frog.errors.UsageError` where they do not hold the same tensors.
    """
    ours = {tensor.name: tensor for tensor in before.tensors}
    theirs = {name: tensor for tensor in after.tensors for name in (tensor.name, *tensor.aliases)}
    _refuse_unequal(ours, theirs, {x.name for x in after.tensors}, before, after)
    found = []
    for name, tensor in ours.items():
        made = _compare(tensor, theirs[name])
        if made is not None:
            found.append(made)
    return SparseDelta(path=before.path, tensors=tuple(found))


def delta_of(
    touched: Iterable[Touched], path: str, facts: Mapping[str, Any] | None = None
) -> SparseDelta:
    """The delta of entries that are known with their bits before and after.

    Entries whose bits are equal are left out, and tensors without any.
    """
    made = []
    for item in touched:
        xor = item.old ^ item.new
        changed = np.flatnonzero(xor)
        if not len(changed):
            continue
        order = changed[np.argsort(item.index[changed], kind="stable")]
        index = item.index[order]
        whole = item.whole()
        after = digest(whole, item.shape, item.dtype)
        before_bits = whole.copy()
        before_bits[index] ^= xor[order]
        made.append(
            TensorDelta(
                tensor=item.tensor,
                shape=item.shape,
                dtype=item.dtype,
                index=index.astype(_index_type(len(whole))),
                xor=xor[order],
                before=digest(before_bits, item.shape, item.dtype),
                after=after,
            )
        )
    return SparseDelta(path=path, tensors=tuple(made), facts=dict(facts or {}))


def digest(bits: np.ndarray, shape: tuple[int, ...], dtype: str) -> str:
    """Digest of a tensor: shape, dtype, and its bytes in order (xxh3, 128 bits)."""
    seal = xxhash.xxh3_128(f"{dtype}{tuple(shape)}".encode())
    flat = bits.reshape(-1)
    for start in range(0, len(flat), SLAB):
        seal.update(np.ascontiguousarray(flat[start : start + SLAB]).tobytes())
    return seal.hexdigest()


def bits_of(tensor: StoredTensor) -> np.ndarray:
    """The bit patterns of a whole tensor, flat, unsigned; a copy."""
    codes = np.array(tensor.codes(), order="C", copy=True)
    return codes.reshape(-1).view(WORDS[codes.dtype.itemsize])


def apply_bits(bits: np.ndarray, delta: TensorDelta) -> np.ndarray:
    """Change flat bit patterns in place: base <-> tuned."""
    bits[delta.index] ^= delta.xor
    return bits


def check_base(delta: SparseDelta, tensors: TensorList, *, revert: bool = False) -> None:
    """Refuse a model that is not the base (or for ``revert`` the tuned state) of the delta.

    Every touched tensor is digested before anything is written. Raises
    :class:`~frog.errors.UsageError`.
    """
    known = {name: tensor for tensor in tensors.tensors for name in (tensor.name, *tensor.aliases)}
    for part in delta.tensors:
        tensor = known.get(part.tensor)
        if tensor is None or tensor.shape != part.shape or tensor.dtype != part.dtype:
            got = "none" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            same = Path(delta.path).resolve() == Path(tensors.path).resolve()
            told = (
                "with the new head that the run began with: frog delta revert TUNED DELTA -o BASE "
                "gives that model" if same and not revert else f"for {delta.path}"
            )  # fmt: skip
            raise UsageError(
                f"{tensors.path}: {part.tensor} must be {part.dtype} {part.shape} as in the delta, "
                f"got {got}: the delta was made {told}"
            )
        bits = bits_of(tensor)
        if bits.dtype != part.xor.dtype:
            raise UsageError(
                f"{tensors.path}: {part.tensor} must have bit patterns of {bits.dtype} in the "
                f"delta, got {part.xor.dtype}: the delta is damaged; make it again"
            )
        found = digest(bits, part.shape, part.dtype)
        wanted, other = (part.after, part.before) if revert else (part.before, part.after)
        if found == wanted:
            continue
        if found == other:
            done = "reverted already" if revert else "applied already"
            raise UsageError(f"{tensors.path}: the delta is {done} ({part.tensor} says so)")
        state = "the tuned model" if revert else "its base"
        raise UsageError(
            f"{tensors.path}: {part.tensor} does not hold the bits of {state}: the delta was made "
            f"for {delta.path} and fits nothing else"
        )


def _compare(before: StoredTensor, after: StoredTensor) -> TensorDelta | None:
    old, new = bits_of(before), bits_of(after)
    index = np.concatenate(list(_unequal(old, new)) or [np.empty(0, dtype=np.int64)])
    if not len(index):
        return None
    return TensorDelta(
        tensor=before.name,
        shape=before.shape,
        dtype=before.dtype,
        index=index.astype(_index_type(len(old))),
        xor=old[index] ^ new[index],
        before=digest(old, before.shape, before.dtype),
        after=digest(new, after.shape, after.dtype),
    )


def _unequal(old: np.ndarray, new: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(old), SLAB):
        here = np.flatnonzero(old[start : start + SLAB] != new[start : start + SLAB])
        if len(here):
            yield here + start


def _index_type(size: int) -> type[np.signedinteger]:
    return np.int32 if size < 2**31 else np.int64


def _refuse_unequal(
    ours: Mapping[str, StoredTensor],
    theirs: Mapping[str, StoredTensor],
    after_names: set[str],
    before: TensorList,
    after: TensorList,
) -> None:
    aliases = {alias for tensor in ours.values() for alias in tensor.aliases}
    gone = [name for name in ours if name not in theirs]
    come = [name for name in after_names if name not in ours and name not in aliases]
    if gone or come:
        said = [f"only in {before.path}: {', '.join(gone[:3])}"] if gone else []
        said += [f"only in {after.path}: {', '.join(sorted(come)[:3])}"] if come else []
        raise UsageError(
            f"a delta must join models of the same tensors, got {len(gone) + len(come)} without a "
            f"partner ({'; '.join(said)})"
        )
    for name, tensor in ours.items():
        other = theirs[name]
        if (tensor.shape, tensor.dtype) != (other.shape, other.dtype):
            raise UsageError(
                f"{name} must be the same on both sides, got {tensor.dtype} {tensor.shape} and "
                f"{other.dtype} {other.shape}: save both in one dtype"
            )


def unlike_base(delta: SparseDelta, tensors: TensorList, known: dict[str, str]) -> tuple[int, str]:
    """How many tensors of a delta could be held against a model, and the first that differs.

    A model that was loaded with a task's head has a prefix before the names of its base, and
    tensors that the base lacks: those say nothing. ``known`` keeps digests from call to call.
    """
    by_name = {
        name: tensor for tensor in tensors.tensors for name in (tensor.name, *tensor.aliases)
    }
    checked = 0
    for part in delta.tensors:
        tensor = by_name.get(part.tensor) or by_name.get(part.tensor.partition(".")[2])
        if tensor is None or tensor.shape != part.shape or tensor.dtype != part.dtype:
            continue
        if tensor.name not in known:
            known[tensor.name] = digest(bits_of(tensor), part.shape, part.dtype)
        checked += 1
        if known[tensor.name] != part.before:
            return checked, tensor.name
    return checked, ""
