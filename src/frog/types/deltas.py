"""The difference between two states of a model, entry by entry."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TensorDelta:
    """The changed entries of one tensor, as it lies on disk.

    ``index`` (int32, or int64 beyond 2^31 entries; ascending, unique) are flat positions,
    ``xor`` (unsigned, as wide as the dtype) the old bit pattern XOR the new one. ``before`` and
    ``after`` are digests of the whole tensor's bytes.
    """

    tensor: str
    shape: tuple[int, ...]
    dtype: str
    index: np.ndarray = field(repr=False)
    xor: np.ndarray = field(repr=False)
    before: str
    after: str


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SparseDelta:
    """What turns a model into its tuned state, bit for bit, and back.

    The XOR of bit patterns is exact in every dtype (base + (new - base) is not in bf16), and
    applying it twice reverts it. Tensors are named as on disk, so that a delta fits every
    sharding of its base, and no other base: the digests say so. ``path`` is where the base came
    from; ``facts`` are words for the model card (rule, score, count, learning rate, ...).
    """

    path: str
    tensors: tuple[TensorDelta, ...]
    facts: Mapping[str, Any] = field(default_factory=dict)

    @property
    def count(self) -> int:
        """Number of changed entries."""
        return sum(len(tensor.index) for tensor in self.tensors)

    def save(self, path: Any) -> None:
        """Write as one safetensors file, whole or not at all (docs/deltas.md has the layout).

        A changed float32 weight takes 5 to 8 bytes: 4 for its bits, 1, 2 or 4 for the gap to the
        one before (8 beyond 2^32). A changed tensor takes 32 for its digests, and its facts.
        Raises :class:`~frog.errors.UsageError` for a delta made by hand that is none.
        """
        from frog.serial.delta import write_delta

        write_delta(self, path)

    @staticmethod
    def load(path: Any) -> SparseDelta:
        """Read what :meth:`save` wrote; :class:`~frog.errors.ReportError` if it is none."""
        from frog.serial.delta import read_delta

        return read_delta(path)
