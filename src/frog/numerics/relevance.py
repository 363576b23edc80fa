"""Relevance of every weight from the singular value decomposition W = U diag(sigma) V^T.

    relevance     S_ij = sum_k sigma_k |u_ik| |v_jk|          product of |U| sigma and |V|
    rank one      a_i b_j, the best rank-one form of S        two vectors
    low rank      |sum_{k<=r} sigma_k u_ik v_jk|              LIFT
    leverage      (sum_k u_ik^2) (sum_k v_jk^2), k <= r       row times column leverage

S needs no U: since W v_k = sigma_k u_k, S = |W V| |V|^T (or |U| |W^T U|^T with the smaller side).
All come back as :mod:`frog.numerics.scored`: thin factors, never an m x n array.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from frog.errors import UsageError
from frog.numerics.random_matrix import count_spikes
from frog.numerics.scored import Product

LEAST = 16
STEPS = 3
"""Fewest columns of a block and number of further blocks of the Krylov space: see :func:`factors`.

Blocks as wide as the rank, so that repeated singular values are found as often as they occur.
"""

EXACT_UNTIL = 2048
"""min(m, n) up to which the whole Gram matrix is decomposed: no dearer than a sketch there."""

SLAB_ROWS = 1024

SKETCH_UNTIL = 2
"""A Krylov space is used up to min(m, n) over this many columns; above, the whole is no dearer."""


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """Leading singular triplets, float32: ``left`` (m, r) = U diag(sigma), ``right`` (n, r) = V."""

    left: np.ndarray
    right: np.ndarray

    @property
    def sigma(self) -> np.ndarray:
        """Singular values (r,), descending."""
        return np.linalg.norm(self.left, axis=0)


def factors(weight_mn: np.ndarray, rank: int | None = None, *, seed: int = 0) -> Factors:
    """The ``rank`` leading singular triplets of an (m, n) matrix, all of them for None.

    Of a matrix beyond :data:`EXACT_UNTIL` a small share of them in a randomised block Krylov space
    (Musco & Musco 2015, NeurIPS, algorithm 2) with a fixed seed, which is near and not exact where
    the spectrum falls slowly; else from the eigenvectors of the smaller Gram matrix in float64.
    Raises :class:`~frog.errors.UsageError` for a rank out of range.

    >>> found = factors(np.diag([3.0, 1.0, 2.0]).astype(np.float32), 2)
    >>> found.sigma.round(5).tolist()
    [3.0, 2.0]
    """
    m, n = weight_mn.shape
    r = min(m, n)
    if rank is not None and not 1 <= rank <= r:
        raise UsageError(f"a rank must lie in 1..{r} for a matrix of {m} x {n}, got {rank}")
    w = torch.from_numpy(np.ascontiguousarray(weight_mn, dtype=np.float32))
    flat = w if m >= n else w.T
    block = max(LEAST, rank or r)
    if r > EXACT_UNTIL and (STEPS + 1) * block * SKETCH_UNTIL <= r:
        images, vectors = _krylov(flat, block, seed)
        images, vectors = images[:, :rank], vectors[:, :rank]
    else:
        gram = torch.zeros(r, r, dtype=torch.float64)
        for slab in flat.split(SLAB_ROWS):  # in float64 a slab at a time, never the whole matrix
            gram += slab.double().T @ slab.double()
        vectors = torch.linalg.eigh(gram)[1].flip(1)[:, :rank].float()
        images = flat @ vectors
    if m >= n:
        return Factors(_own(images), _own(vectors))
    # W = U (sigma V^T): the scale goes to the left
    sigma = images.norm(dim=0)
    safe = torch.where(sigma > 0, sigma, torch.ones_like(sigma))
    return Factors(_own(vectors * sigma), _own(images / safe))


def _krylov(w: torch.Tensor, block: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """W V, best first, and V, the right Ritz vectors of W in the Krylov space of W^T W.

    The space is that of a random block and :data:`STEPS` powers of W^T W on it. W is read
    2 STEPS + 1 times; W V is at hand at the end, and its Gram matrix gives the vectors.
    """
    generator = torch.Generator().manual_seed(seed)
    fresh = torch.linalg.qr(torch.randn(w.shape[1], block, generator=generator))[0]
    basis, images = fresh, w @ fresh
    for _ in range(STEPS):
        fresh = torch.linalg.qr(w.T @ images[:, -block:])[0]
        for _ in range(2):  # once is not enough where most of it lies in the space already
            fresh = torch.linalg.qr(fresh - basis @ (basis.T @ fresh))[0]
        basis, images = torch.cat([basis, fresh], 1), torch.cat([images, w @ fresh], 1)
    gram = torch.zeros(basis.shape[1], basis.shape[1], dtype=torch.float64)
    for slab in images.split(SLAB_ROWS):
        gram += slab.double().T @ slab.double()
    turn = torch.linalg.eigh(gram)[1].flip(1)[:, :block].float()
    return images @ turn, basis @ turn


def _own(x: torch.Tensor) -> np.ndarray:
    return x.contiguous().numpy()


def relevance(found: Factors) -> Product:
    """S_ij = sum_k sigma_k |u_ik| |v_jk| over the components found.

    >>> relevance(factors(np.diag([3.0, 1.0]).astype(np.float32))).slab(0, 1).round(5).tolist()
    [[3.0, 0.0]]
    """
    return Product(np.abs(found.left), np.abs(found.right))


def rank_one(scores: Product, *, steps: int = 50) -> Product:
    """The best rank-one form a_i b_j of a product of non-negative factors, by power iteration.

    S itself is never formed: S b = left (right^T b). Perron's theorem makes a and b non-negative.
    """
    left, right = scores.left.astype(np.float64), scores.right.astype(np.float64)
    b = np.full(len(right), 1.0 / np.sqrt(len(right)))
    a = left @ (right.T @ b)
    for _ in range(steps):
        size = np.linalg.norm(a)
        if size == 0:
            break
        fresh = right @ (left.T @ (a / size))
        length = np.linalg.norm(fresh)
        if length == 0 or np.linalg.norm(fresh / length - b) < 1e-9:
            break
        b = fresh / length
        a = left @ (right.T @ b)
    return Product(a[:, None].astype(np.float32), b[:, None].astype(np.float32))


def low_rank(found: Factors) -> Product:
    """|W_r|, the entries of the truncation to the components found, without sign.

    Source: Liu et al. 2025, "LIFT the veil for the truth", ICML, arXiv:2506.00772.
    """
    return Product(found.left, found.right)


def leverage(found: Factors) -> Product:
    """Row leverage times column leverage in the components found, those of sigma 0 left out.

    Source: Mahoney & Drineas 2009, "CUR matrix decompositions", PNAS 106(3).
    """
    sigma = found.sigma
    live = sigma > 1e-6 * sigma.max(initial=0.0)
    rows = (found.left[:, live] / sigma[live]) ** 2
    columns = found.right[:, live] ** 2
    return Product(rows.sum(1, keepdims=True), columns.sum(1, keepdims=True))


def beyond_bulk(sigma: np.ndarray, shape: tuple[int, int]) -> int:
    """How many components stand out of the random bulk, at least 1.

    ``sigma`` (r,) are all singular values. The edge is that of Marchenko and Pastur with the
    variance of the bulk (:func:`frog.numerics.random_matrix.count_spikes`).
    """
    eigenvalues = np.sort(np.asarray(sigma, dtype=np.float64) ** 2)[::-1]
    return max(1, int(count_spikes(eigenvalues, shape)))
