"""What a comparison needs the weights for: drift, rotation, intruders, and gains that undo."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from frog.metrics.collapse import CHANGE_LIMIT, WORDS, outside, sizes
from frog.metrics.measure import measure
from frog.metrics.schedule import in_parallel
from frog.numerics.drift import Change, change
from frog.types import Gain, LayerReport, Loader, Settings, WeightMatrix

DIGITS = {"float64": 52, "float32": 23, "float16": 10, "bfloat16": 7}
"""Binary digits of the types that a weight can be rounded to without a scale."""


@dataclass(frozen=True, slots=True)
class RoundedLoader:
    """A matrix as it would be in a coarser type."""

    loader: Loader
    dtype: str

    def load(self) -> np.ndarray:
        """The whole (m, n) matrix, rounded, float32 or float64."""
        return rounded(self.loader.load(), self.dtype)

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        """Consecutive slabs, rounded."""
        for slab in self.loader.blocks(axis, size):
            yield rounded(slab, self.dtype)

    def fingerprint(self) -> str:
        """A digest of the content and of the type that it is rounded to."""
        return f"{self.loader.fingerprint()}-{self.dtype}"


def rounded(values: np.ndarray, dtype: str) -> np.ndarray:
    """Values rounded to a type, to nearest and ties to even, in an array that numpy can hold.

    >>> rounded(np.array([1.0, 1.003, 1.005], dtype=np.float32), "bfloat16").tolist()
    [1.0, 1.0, 1.0078125]
    """
    import torch

    # a mapped file is read-only, which torch would warn of
    held = torch.from_numpy(np.array(values, order="C"))
    return held.to(getattr(torch, dtype)).to(held.dtype).numpy()


def at_one_precision(
    before: WeightMatrix, after: WeightMatrix
) -> tuple[WeightMatrix, WeightMatrix, str]:
    """Both matrices at the coarser of their types, and a remark; unchanged where types are equal.

    A type with a scale of its own (8 bits and fewer) cannot be rounded to from outside: then the
    finer one stays as it is, and the remark says so.
    """
    if before.dtype == after.dtype:
        return before, after, ""
    if before.dtype not in DIGITS or after.dtype not in DIGITS:
        return before, after, "compared as stored: one type has scales of its own"
    coarse = min(before.dtype, after.dtype, key=lambda dtype: DIGITS[dtype])
    remark = f"compared as {coarse}"
    return _as(before, coarse), _as(after, coarse), remark


def weigh(
    pairs: Sequence[tuple[WeightMatrix, WeightMatrix]], *, k: int, jobs: int
) -> Iterator[tuple[str, Change]]:
    """The change of each pair of matrices, by the second's name, a pair at a time in each job."""

    def one(both: tuple[WeightMatrix, WeightMatrix]) -> tuple[str, Change]:
        before, after = both
        found = change(before.loader.blocks, after.loader.blocks, after.shape, k=k)
        return after.name, found

    large_first = sorted(pairs, key=lambda both: -both[1].shape[0] * both[1].shape[1])
    yield from in_parallel(one, large_first, jobs)


def undone_by_gain(
    matrices: tuple[WeightMatrix, WeightMatrix],
    gains: tuple[Sequence[Gain], Sequence[Gain]],
    others: Mapping[str, Sequence[float]],
) -> str:
    """The normalisation whose gain undoes a change of scale, by its tensor's name, or ``""``.

    Compares diag(g_out) W diag(g_in) before and after: compensated when that product changed no
    more than the ``others`` did. A normalisation that itself did not change undoes nothing.
    """
    changed = [
        after.tensor
        for before, after in zip(*gains, strict=False)
        if not np.array_equal(before.load(), after.load())
    ]
    if not changed or len(gains[0]) != len(gains[1]):
        return ""
    changes = _effective_change(matrices, gains)
    if not all(np.isfinite(list(changes.values()))):
        return ""
    return "" if outside(changes, others) else ", ".join(changed)


def rescaled_by_gain(
    matrices: tuple[WeightMatrix, WeightMatrix],
    gains: tuple[Sequence[Gain], Sequence[Gain]],
) -> tuple[dict[str, float], str]:
    """Change of the sizes of W diag(g), g the gains before a reader, and the gain's tensor.

    Empty where no gain changed by the limit of a norm at any coordinate: by so much the product
    can change at most, with W as it was. Normalisations *behind* a matrix are not asked: what a
    BatchNorm stores follows the data.
    """
    one, other = ([g for g in own if g.side == "input"] for own in gains)
    if len(one) != len(other):
        return {}, ""
    changed = [
        after.tensor
        for before, after in zip(one, other, strict=True)
        if _decades(before.load(), after.load()) > CHANGE_LIMIT["log_norm"]
    ]
    if not changed:
        return {}, ""
    return _effective_change(matrices, (one, other)), ", ".join(changed)


def _decades(before: np.ndarray, after: np.ndarray) -> float:
    """Largest change of a squared gain, in decades; infinite where one became or was zero."""
    if before.shape != after.shape:
        return 0.0
    same = before == after
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.abs(2.0 * np.log10(np.abs(after / before)))
    return float(np.max(np.where(same, 0.0, np.nan_to_num(change, nan=0.0)), initial=0.0))


def _effective_change(
    matrices: tuple[WeightMatrix, WeightMatrix],
    gains: tuple[Sequence[Gain], Sequence[Gain]],
) -> dict[str, float]:
    before, after = (
        sizes(_effective(matrix, own)) for matrix, own in zip(matrices, gains, strict=True)
    )
    return {name: after[name] - before[name] for name in WORDS}


def _effective(matrix: WeightMatrix, gains: Sequence[Gain]) -> LayerReport:
    """The row of the matrix with its gains folded in: norms and shape, no fit."""
    product = matrix.loader.load().astype(np.float64)
    for gain in gains:
        g = gain.load()
        product *= g[:, None] if gain.side == "output" else g[None, :]
    settings = Settings(bootstrap=0, curves=False, min_evals=min(matrix.shape) + 2)
    row, _ = measure(replace(matrix, loader=_Held(product), dtype="float64"), settings)
    return row


@dataclass(frozen=True, slots=True)
class _Held:
    """A matrix in memory."""

    values: np.ndarray

    def load(self) -> np.ndarray:
        return self.values

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.values.shape[axis], size):
            part = slice(start, start + size)
            yield self.values[part] if axis == 0 else self.values[:, part]

    def fingerprint(self) -> str:
        return ""


def _as(matrix: WeightMatrix, dtype: str) -> WeightMatrix:
    if matrix.dtype == dtype:
        return matrix
    return replace(matrix, loader=RoundedLoader(matrix.loader, dtype), dtype=dtype)
