"""Matrices for tests: handles around arrays, with planted spectra."""

from collections.abc import Iterator

import numpy as np

from frog.numerics.views import plain
from frog.types import WeightMatrix


class ArrayLoader:
    """A loader around an array; counts what it gave, and refuses to be written to."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array.copy()
        self.array.setflags(write=False)
        self.largest_slab = 0

    def load(self) -> np.ndarray:
        return self.array

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.array.shape[axis], size):
            slab = self.array[start : start + size] if axis == 0 else (
                self.array[:, start : start + size]
            )  # fmt: skip
            self.largest_slab = max(self.largest_slab, slab.size)
            yield slab

    def fingerprint(self) -> str:
        return str(hash(self.array.tobytes()))


def handle(array: np.ndarray, name: str = "w", **facts: object) -> WeightMatrix:
    """A matrix handle around a 2-D array."""
    shape = (array.shape[0], array.shape[1])
    given = {
        "name": name,
        "tensor": name,
        "kind": "linear",
        "role": "matrix",
        "block": None,
        "shape": shape,
        "dtype": str(array.dtype),
        "params": array.size,
        "view": plain(shape),
        "loader": ArrayLoader(array),
        **facts,
    }
    return WeightMatrix(**given)  # type: ignore[arg-type]


def planted(shape: tuple[int, int], eigenvalues: np.ndarray, seed: int = 0) -> np.ndarray:
    """A matrix of random singular vectors with the given eigenvalues of W^T W."""
    rng = np.random.default_rng(seed)
    r = min(shape)
    left = np.linalg.qr(rng.standard_normal((shape[0], r)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], r)))[0]
    return (left * np.sqrt(eigenvalues)) @ right.T
