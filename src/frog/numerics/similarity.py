"""Leading directions of a matrix, and how far two subspaces have to do with each other.

Everything rests on the Gram matrix of the side that is asked for, summed slab by slab: its
leading eigenvectors are the leading singular vectors of that side.
"""

from __future__ import annotations

import math

import numpy as np

from frog.errors import UsageError
from frog.numerics.spectrum import slab_size
from frog.numerics.symmetric import add_gram
from frog.types import Loader

DENSE_UNTIL = 128
"""Sizes of Gram matrices up to which all of them is decomposed; above, Lanczos is faster."""

PRECISION = 1e-10
"""Relative error of an eigenvalue at which Lanczos stops; its vector's is then about 1e-10 times
the eigenvalue over the gap to the next."""

PROBES = 2
PROBE_STEPS = 12
PROBE_MARGIN = 1.02
"""An eigenvalue this many times the smallest one found, and not found, would be a miss."""


def leading_directions(
    loader: Loader, shape: tuple[int, int], k: int, *, side: str = "left", seed: int = 0
) -> np.ndarray:
    """The k leading singular vectors of an (m, n) matrix as columns, strongest first.

    ``side`` is ``left`` (m, k) or ``right`` (n, k). The sign of a column has no meaning, nor has
    the choice of directions with equal singular values. The method is that of
    :func:`leading_eigenvectors`. A matrix with NaN or Inf gives NaN. Raises
    :class:`~frog.errors.UsageError` for k beyond min(m, n) or another side.

    >>> class Diagonal:
    ...     def blocks(self, axis, size):
    ...         yield np.diag([1.0, 3.0])
    >>> abs(leading_directions(Diagonal(), (2, 2), 1)).T.tolist()
    [[0.0, 1.0]]
    """
    if side not in ("left", "right"):
        raise UsageError(f"side must be 'left' or 'right', got {side!r}")
    if not 1 <= k <= min(shape):
        raise UsageError(f"k must lie in 1..{min(shape)}, got {k}")
    axis = 0 if shape[0] >= shape[1] else 1
    gram = gram_of(loader, shape, axis)
    vectors_rk = leading_eigenvectors(gram, k, seed=seed)[1]
    if (side == "right") == (axis == 0):
        return vectors_rk
    # The other side: W v = sigma u. A QR mends what small sigmas lost.
    size = slab_size(min(shape))
    slabs = (np.asarray(x, dtype=np.float64) for x in loader.blocks(axis, size))
    images = [x @ vectors_rk if axis == 0 else x.T @ vectors_rk for x in slabs]
    return orthonormal(np.concatenate(images))


def gram_of(loader: Loader, shape: tuple[int, int], axis: int) -> np.ndarray:
    """W^T W (n, n) for ``axis`` 0, W W^T (m, m) for 1, float64, summed slab by slab.

    ``axis`` is that along which the slabs are cut: the one that is summed over.
    """
    size = shape[1 - axis]
    gram = np.zeros((size, size))
    with np.errstate(all="ignore"):
        for slab in loader.blocks(axis, slab_size(size)):
            add_gram(gram, np.ascontiguousarray(slab, dtype=np.float64), axis)
    lower = np.tril(gram)
    return lower + np.tril(gram, -1).T


def leading_eigenvectors(
    gram_rr: np.ndarray, k: int, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The k largest eigenvalues of a positive semi-definite matrix, descending, and vectors (r, k).

    By LAPACK up to :data:`DENSE_UNTIL` rows, above by Lanczos iteration (ARPACK, from a seeded
    start, to :data:`PRECISION`). Lanczos can miss a copy of a repeated eigenvalue, so power
    iteration looks for anything larger in what it left over; if there is, LAPACK decides.

    >>> values, vectors = leading_eigenvectors(np.diag([1.0, 4.0, 9.0]), 2)
    >>> values.round(9).tolist(), np.abs(vectors).argmax(axis=0).tolist()
    ([9.0, 4.0], [2, 1])
    """
    from scipy.linalg import eigh

    r = len(gram_rr)
    if not np.isfinite(np.trace(gram_rr)):
        return np.full(k, np.nan), np.full((r, k), np.nan)
    if r > DENSE_UNTIL and 3 * k < r:
        found = _lanczos(gram_rr, k, seed)
        if found is not None:
            return found
    values, vectors = eigh(gram_rr, subset_by_index=[r - k, r - 1], check_finite=False)
    return values[::-1], vectors[:, ::-1]


def _lanczos(gram_rr: np.ndarray, k: int, seed: int) -> tuple[np.ndarray, np.ndarray] | None:
    """As :func:`leading_eigenvectors`, or None where that cannot be relied on."""
    from scipy.sparse.linalg import ArpackError, eigsh

    rng = np.random.default_rng(seed)
    try:
        start = rng.standard_normal(len(gram_rr))
        # the stubs of scipy know the tolerance as an int
        values, vectors = eigsh(gram_rr, k=k, v0=start, tol=PRECISION)  # pyright: ignore
    except ArpackError:  # no convergence, or a matrix of zeros
        return None
    probe = rng.standard_normal((len(gram_rr), PROBES))
    size = np.zeros(1)
    for _ in range(PROBE_STEPS):
        probe -= vectors @ (vectors.T @ probe)
        probe /= np.maximum(np.linalg.norm(probe, axis=0), np.finfo(float).tiny)
        probe = gram_rr @ probe
        size = np.linalg.norm(probe, axis=0)
    if size.max() > PROBE_MARGIN * max(values[0], 0.0):
        return None
    return values[::-1], vectors[:, ::-1]


def orthonormal(columns_nk: np.ndarray) -> np.ndarray:
    """An orthonormal basis (n, k) of the span of the columns, in their order.

    >>> basis = orthonormal(np.array([[3.0, 1.0], [4.0, 1.0], [0.0, 0.0]]))
    >>> bool(np.allclose(basis.T @ basis, np.eye(2)))
    True
    """
    return np.linalg.qr(columns_nk).Q


# ---------------------------------------------------------------------------- two subspaces


def overlap(u_nk: np.ndarray, v_nk: np.ndarray) -> float:
    """||U^T V||_F^2 / min(k_u, k_v) of two orthonormal bases: 1 where one span holds the other.

    Raises :class:`~frog.errors.UsageError` for bases of spaces of different dimension.

    >>> overlap(np.eye(4)[:, :2], np.eye(4)[:, 1:3])
    0.5
    """
    if u_nk.ndim != 2 or v_nk.ndim != 2 or len(u_nk) != len(v_nk) or not u_nk.size * v_nk.size:
        raise UsageError(
            f"both bases must be (n, k) with the same n, got {u_nk.shape} and {v_nk.shape}"
        )
    return float(np.sum(np.square(u_nk.T @ v_nk)) / min(u_nk.shape[1], v_nk.shape[1]))


def overlap_null(k1: int, k2: int, n: int) -> tuple[float, float]:
    """Mean and standard deviation of :func:`overlap` for independent uniform random subspaces.

    With the projections P, Q of rank k1, k2: E tr(PQ) = k1 k2 / n and
    Var tr(PQ) = 2 k1 k2 (n - k1)(n - k2) / (n^2 (n - 1)(n + 2)); both are divided by
    min(k1, k2), the variance by its square. Derivation: the parts without trace,
    P0 = P - (k1/n) I and Q0 likewise, have squared norms k (n - k) / n and lie in the space of
    symmetric matrices of trace zero, on which rotations act irreducibly; it has
    (n - 1)(n + 2) / 2 dimensions, so E <P0, Q0>^2 = ||P0||^2 ||Q0||^2 / ((n - 1)(n + 2) / 2).

    >>> mean, spread = overlap_null(16, 16, 384)
    >>> round(mean, 4), round(spread, 4)
    (0.0417, 0.0035)
    """
    if not (1 <= k1 <= n and 1 <= k2 <= n):
        raise UsageError(f"k must lie in 1..n = {n}, got {k1} and {k2}")
    small = min(k1, k2)
    if n == 1:
        return 1.0, 0.0
    variance = 2 * k1 * k2 * (n - k1) * (n - k2) / (n * n * (n - 1) * (n + 2))
    return k1 * k2 / n / small, math.sqrt(variance) / small


def principal_angles(u_nk: np.ndarray, v_nk: np.ndarray) -> np.ndarray:
    """Angles between two subspaces in radians, smallest first, shape (min(k_u, k_v),).

    cos(theta_i) are the singular values of U^T V. Source: Bjorck and Golub 1973, "Numerical
    methods for computing angles between linear subspaces", Math. Comp. 27, theorem 1. Small
    angles come from the sines, which a cosine near one does not resolve.

    >>> principal_angles(np.eye(3)[:, :1], np.eye(3)[:, 1:2]).round(4).tolist()
    [1.5708]
    """
    overlap(u_nk, v_nk)  # refuses what does not fit
    from scipy.linalg import subspace_angles

    return subspace_angles(u_nk, v_nk)[::-1]
