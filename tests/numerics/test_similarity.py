"""Leading directions and overlaps against decompositions, simulations and plain definitions."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from frog.errors import UsageError
from frog.numerics.similarity import (
    leading_directions,
    leading_eigenvectors,
    overlap,
    overlap_null,
    principal_angles,
)


class Held:
    """A matrix in memory, as a loader."""

    def __init__(self, matrix: np.ndarray) -> None:
        self.matrix = matrix

    def load(self) -> np.ndarray:
        return self.matrix

    def blocks(self, axis: int, size: int) -> Iterator[np.ndarray]:
        for start in range(0, self.matrix.shape[axis], size):
            cut = slice(start, start + size)
            yield self.matrix[cut] if axis == 0 else self.matrix[:, cut]

    def fingerprint(self) -> str:
        return ""


def random_basis(rng: np.random.Generator, n: int, k: int) -> np.ndarray:
    return np.linalg.qr(rng.standard_normal((n, k))).Q


@pytest.mark.parametrize("shape", [(60, 20), (20, 60), (33, 33), (5, 1)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_directions_are_those_of_the_decomposition(shape: tuple[int, int], side: str) -> None:
    matrix = np.random.default_rng(0).standard_normal(shape)
    k = min(4, min(shape))
    found = leading_directions(Held(matrix), shape, k, side=side)
    u, _, vt = np.linalg.svd(matrix)
    expected = u[:, :k] if side == "left" else vt[:k].T
    assert found.shape == expected.shape
    assert np.allclose(np.abs(np.sum(found * expected, axis=0)), 1.0, atol=1e-10)
    assert np.allclose(found.T @ found, np.eye(k), atol=1e-12)


def test_iteration_finds_what_the_decomposition_finds() -> None:
    rng = np.random.default_rng(1)
    matrix = rng.standard_normal((300, 400)) @ np.diag(np.arange(1, 401) ** -0.3)
    gram = matrix @ matrix.T
    values, vectors = np.linalg.eigh(gram)
    near, found = leading_eigenvectors(gram, 16, seed=3)
    assert np.allclose(near, values[::-1][:16], rtol=1e-10)
    assert overlap(found, vectors[:, -16:]) > 1 - 1e-10
    again = leading_eigenvectors(gram, 16, seed=3)[1]
    assert np.array_equal(found, again), "the seed decides"


@pytest.mark.parametrize("copies", [2, 9])
def test_repeated_eigenvalues_are_all_found(copies: int) -> None:
    rng = np.random.default_rng(4)
    basis = random_basis(rng, 200, 200)
    values = np.concatenate([np.full(copies, 5.0), np.full(3, 2.0), np.full(197 - copies, 0.5)])
    gram = (basis * values) @ basis.T
    near, found = leading_eigenvectors(gram, copies + 3)
    assert np.allclose(near, values[: copies + 3])
    assert overlap(found, basis[:, : copies + 3]) == pytest.approx(1.0)
    assert np.array_equal(leading_eigenvectors(np.zeros((200, 200)), 2)[0], [0.0, 0.0])


def test_what_is_not_finite_gives_nan_and_bad_input_is_refused() -> None:
    assert np.isnan(leading_directions(Held(np.full((4, 3), np.nan)), (4, 3), 2)).all()
    with pytest.raises(UsageError, match=r"side must be 'left' or 'right', got 'up'"):
        leading_directions(Held(np.eye(3)), (3, 3), 1, side="up")
    with pytest.raises(UsageError, match=r"k must lie in 1\.\.3, got 4"):
        leading_directions(Held(np.eye(3)), (3, 3), 4)
    with pytest.raises(UsageError, match="same n"):
        overlap(np.eye(3)[:, :1], np.eye(4)[:, :1])
    with pytest.raises(UsageError, match="k must lie"):
        overlap_null(5, 1, 4)


@pytest.mark.parametrize("k1, k2, n", [(16, 16, 384), (2, 2, 8), (3, 7, 20), (1, 1, 5), (4, 4, 4)])
def test_the_null_is_that_of_random_subspaces(k1: int, k2: int, n: int) -> None:
    rng = np.random.default_rng(n)
    draws = 400 if n > 100 else 4000
    values = [overlap(random_basis(rng, n, k1), random_basis(rng, n, k2)) for _ in range(draws)]
    mean, spread = overlap_null(k1, k2, n)
    assert abs(np.mean(values) - mean) <= 4 * spread / np.sqrt(draws) + 1e-12
    # the standard error of a standard deviation is spread / sqrt(2 draws), more with heavy tails
    assert abs(np.std(values) - spread) <= 6 * spread / np.sqrt(2 * draws) + 1e-12


def test_the_null_of_singular_vectors_of_random_matrices() -> None:
    """Acceptance: mean and spread on random matrices equal k / n and the stated spread."""
    rng = np.random.default_rng(7)
    values = []
    for _ in range(120):
        writer, reader = rng.standard_normal((96, 96)), rng.standard_normal((200, 96))
        u = leading_directions(Held(writer), writer.shape, 8)
        v = leading_directions(Held(reader), reader.shape, 8, side="right")
        values.append(overlap(u, v))
    mean, spread = overlap_null(8, 8, 96)
    assert abs(np.mean(values) - mean) <= 4 * spread / np.sqrt(120)
    assert abs(np.std(values) / spread - 1) <= 0.3


def test_overlap_and_angles_do_not_depend_on_the_basis() -> None:
    rng = np.random.default_rng(2)
    u, v = random_basis(rng, 30, 5), random_basis(rng, 30, 5)
    turned = u @ random_basis(rng, 5, 5)
    assert np.isclose(overlap(u, v), overlap(turned, v))
    angles = principal_angles(u, v)
    assert np.all(np.diff(angles) >= 0)
    assert np.isclose(np.sum(np.cos(angles) ** 2) / 5, overlap(u, v))
    assert np.allclose(principal_angles(u, turned), 0.0, atol=1e-12)
    assert overlap(u, u[:, :2]) == pytest.approx(1.0), "one span holds the other"
