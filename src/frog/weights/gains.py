"""Normalisation weights, found by name and read as the vector that multiplies."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from frog.types import Gain
from frog.weights.norm_table import ADDS_ONE
from frog.weights.stored import StoredTensor

BATCH_NORM_EPS = 1e-5
"""torch's default: a file does not say which one a model uses."""


class Vectors:
    """The one-dimensional tensors of a model by name, as gains."""

    def __init__(self, tensors: Iterable[StoredTensor], config: Mapping[str, Any]) -> None:
        self._found = {x.name: x for x in tensors if len(x.shape) == 1 and x.unsupported is None}
        kinds = [config, *(x for x in config.values() if isinstance(x, Mapping))]
        self._adds_one = any(ADDS_ONE.fullmatch(str(x.get("model_type", ""))) for x in kinds)

    def __iter__(self) -> Any:
        return iter(self._found)

    def length(self, name: str) -> int:
        """Number of entries; 0 where there is no such vector."""
        return self._found[name].shape[0] if name in self._found else 0

    def norm(self, name: str, side: str, length: int) -> tuple[Gain, ...]:
        """The gain of a LayerNorm or RMSNorm, or none where no vector of that length is there.

        A vector of one head's size is repeated over the heads.
        """
        size = self.length(name)
        if not size or length % size:
            return ()
        tensor, one = self._found[name], 1.0 if self._adds_one else 0.0

        def load() -> np.ndarray:
            return np.tile(_values(tensor) + one, length // size)

        return (Gain(side=side, tensor=name, load=load),)

    def batch_norm(self, name: str, length: int) -> tuple[Gain, ...]:
        """weight / sqrt(running variance + eps) of a BatchNorm behind a layer, on its output."""
        prefix = name.removesuffix(".weight")
        variance = self._found.get(f"{prefix}.running_var")
        weight = self._found.get(name)
        if variance is None or weight is None or variance.shape != (length,):
            return ()

        def load() -> np.ndarray:
            return _values(weight) / np.sqrt(_values(variance) + BATCH_NORM_EPS)

        return (Gain(side="output", tensor=name, load=load),)

    def is_batch_norm(self, name: str) -> bool:
        """Whether a weight has running statistics beside it."""
        return f"{name.removesuffix('.weight')}.running_var" in self._found

    def has_bias(self, name: str) -> bool:
        """Whether a weight has a bias of its own beside it."""
        return f"{name.removesuffix('.weight')}.bias" in self._found


def common_parts(first: str, second: str) -> int:
    """How many components two names share at their beginning."""
    count = 0
    for a, b in zip(first.split("."), second.split("."), strict=False):
        if a != b:
            break
        count += 1
    return count


def natural_key(name: str) -> tuple[tuple[str, int], ...]:
    """Sorts numbers in a name as numbers: ``2.weight`` before ``10.weight``."""
    return tuple((x, -1) if not x.isdigit() else ("", int(x)) for x in re.split(r"(\d+)", name))


def _values(tensor: StoredTensor) -> np.ndarray:
    return np.array(tensor.decode(tensor.codes()), dtype=np.float64)
