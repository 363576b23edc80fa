"""Singular values of a matrix that is read in slabs.

One way in: the Gram matrix on the small side, summed slab by slab, and its eigenvalues. It is
several times cheaper than a singular value decomposition and keeps one r x r array and a slab in
memory, whatever the size of the matrix. Its price is resolution: an eigenvalue is known to about
``resolution * lambda_max`` absolutely. Where that is too coarse the caller asks for
:func:`singular_values_svd`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from frog.errors import UsageError
from frog.numerics.symmetric import add_gram, eigenvalues_in_place
from frog.types import Loader, Spectrum

SVD_LIMIT = 1 << 24
"""Elements up to which an SVD may stand in for a Gram matrix: 4096 x 4096, three copies of it."""

SMALL_ON_CUDA = 512
"""Gram matrices smaller than this are solved on the host: a GPU only adds latency."""

RESOLUTION = {"gram64": 2.3e-16, "gram32": 1.2e-8}
"""Absolute error of an eigenvalue / (r * lambda_max). The float32 value is a measured law, the
largest of two makes of processor: 2.7e-6 at r = 250, 9.9e-6 at r = 1024, 2.4e-5 at r = 4096; the
float64 one is machine epsilon, a safe bound."""

SMALLEST = {"gram64": 1, "gram32": 160}
"""The law holds down to this r: below it the rounding of the sums decides, 10 float32 epsilon."""


def spectrum(
    loader: Loader, shape: tuple[int, int], *, precision: str = "exact", device: str = "cpu"
) -> Spectrum:
    """Singular values of an (m, n) matrix by its Gram matrix.

    sigma_k = sqrt(lambda_k(W^T W)) for m >= n, of W W^T otherwise. ``precision`` is ``exact``
    (float64) or ``fast`` (float32). A matrix with NaN or Inf gives a spectrum of NaN.

    >>> class Diagonal:
    ...     def blocks(self, axis, size):
    ...         yield np.diag([3.0, 1.0])
    >>> spectrum(Diagonal(), (2, 2)).singular_values.tolist()
    [3.0, 1.0]
    """
    if precision not in ("exact", "fast"):
        raise UsageError(f"precision must be 'exact' or 'fast', got {precision!r}")
    dtype = np.float64 if precision == "exact" else np.float32
    method = "gram64" if precision == "exact" else "gram32"
    r = min(shape)
    axis = 0 if shape[0] >= shape[1] else 1
    slabs = loader.blocks(axis, slab_size(r))
    if device.startswith("cuda"):
        eigenvalues = eigenvalues_on_device(slabs, axis, dtype, device)
    else:
        eigenvalues = _eigenvalues_on_host(slabs, axis, dtype)
    values = np.sqrt(np.maximum(eigenvalues[::-1], 0.0, dtype=np.float64))
    resolution = RESOLUTION[method] * max(r, SMALLEST[method])
    return Spectrum(singular_values=values, shape=shape, method=method, resolution=resolution)


def singular_values_svd(loader: Loader, shape: tuple[int, int]) -> Spectrum:
    """Singular values by a float64 SVD: every one of them to eps * sigma_max.

    Needs the whole matrix three times in memory; :data:`SVD_LIMIT` says up to which size FROG
    does it of its own accord.
    """
    import scipy.linalg

    with np.errstate(all="ignore"):
        values = np.asarray(
            scipy.linalg.svdvals(loader.load().astype(np.float64), check_finite=False)
        )
    resolution = (np.finfo(np.float64).eps * max(shape)) ** 2
    return Spectrum(singular_values=values, shape=shape, method="svd64", resolution=resolution)


def singular_values_of_product(up_mk: np.ndarray, down_kn: np.ndarray, scale: float) -> np.ndarray:
    """Singular values of scale * B A without forming it, shape (k,), descending.

    With QR decompositions B = Q_B R_B and A^T = Q_A R_A they are those of scale * R_B R_A^T,
    which is k x k at most.

    >>> singular_values_of_product(np.array([[2.0], [0.0]]), np.array([[0.0, 3.0]]), 0.5).tolist()
    [3.0]
    """
    r_up = np.linalg.qr(np.asarray(up_mk, dtype=np.float64)).R
    r_down = np.linalg.qr(np.asarray(down_kn, dtype=np.float64).T).R
    return np.linalg.svd(scale * r_up @ r_down.T, compute_uv=False)


def slab_size(r: int) -> int:
    """Rows of one slab: enough to keep the product busy, little beside the Gram matrix itself.

    2 MiB in float64 up to r = 1024, where a slab fits into a core's cache, 32 MiB at r = 4096.
    """
    return max(r // 4, (1 << 18) // max(r, 1), 1)


def _eigenvalues_on_host(slabs: Iterator[np.ndarray], axis: int, dtype: Any) -> np.ndarray:
    gram: np.ndarray | None = None
    with np.errstate(all="ignore"):
        for slab in slabs:
            block = np.ascontiguousarray(slab, dtype=dtype)
            if gram is None:
                gram = np.zeros((block.shape[1 - axis],) * 2, dtype=dtype)
            add_gram(gram, block, axis)
            del slab, block
        if gram is None:
            return np.empty(0)
        # The diagonal tells all: no entry off it is larger than the largest on it.
        if not np.isfinite(np.trace(gram)):
            return np.full(len(gram), np.nan)
    return eigenvalues_in_place(gram)


def eigenvalues_on_device(
    slabs: Iterator[np.ndarray], axis: int, dtype: Any, device: str
) -> np.ndarray:
    """Eigenvalues, ascending, of the Gram matrix of slabs along ``axis``, by torch."""
    import torch

    with _full_float32():
        gram: torch.Tensor | None = None
        for slab in slabs:
            block = torch.from_numpy(np.ascontiguousarray(slab)).to(device)
            block = block.to(torch.float64 if dtype == np.float64 else torch.float32)
            left, right = (block.T, block) if axis == 0 else (block, block.T)
            gram = left @ right if gram is None else gram.addmm_(left, right)
        if gram is None:
            return np.empty(0)
        if not bool(torch.isfinite(gram).all()):
            return np.full(len(gram), np.nan)
        if len(gram) < SMALL_ON_CUDA:
            gram = gram.cpu()
        # in float64 also for a float32 Gram matrix: a GPU's float32 solver loses digits of its own
        return torch.linalg.eigvalsh(gram.double()).cpu().numpy()


@contextlib.contextmanager
def _full_float32() -> Iterator[None]:
    """Products of a GPU in full float32 meanwhile: TF32 would leave three digits."""
    import torch

    matmul = torch.backends.cuda.matmul
    # since torch 2.9 there is a new switch, and where it was used the old one cannot be read
    new = hasattr(matmul, "fp32_precision")
    name, short, full = ("fp32_precision", "tf32", "ieee") if new else ("allow_tf32", True, False)
    if getattr(matmul, name) != short:
        yield
        return
    setattr(matmul, name, full)
    try:
        yield
    finally:
        setattr(matmul, name, short)
