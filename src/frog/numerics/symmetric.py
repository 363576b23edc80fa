"""Symmetric matrices by BLAS and LAPACK directly, where numpy's way costs time or memory.

``numpy`` computes W^T W at half the price of a product, but it cannot *add* one to what is there,
and it fills the other triangle entry by entry: with eight slabs of a matrix of width 4096 that
takes as long as the product itself. The routines here are those that scipy offers to compiled
code (``scipy.linalg.cython_blas``), called with the interpreter released, so that layers run side
by side. Where scipy offers them in another form, ``numpy`` does the work.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import sys
import threading
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

MODULES = ("cython_blas", "cython_lapack")
LOADING = threading.Lock()
LETTERS = {"float64": "d", "float32": "s"}
NUMBERS = {"float64": ctypes.c_double, "float32": ctypes.c_float}
LAPACK_UNTIL = 1088
"""Largest r for which scipy's LAPACK is the faster one: by 5 % at 384 and 10 to 20 %
from 768 to 1024. A little above, torch's changes to a reduction in two stages."""
LAPACK_BLOCK = 64  # rows of workspace: the block size that LAPACK asks for


def add_gram(gram_rr: np.ndarray, block: np.ndarray, axis: int) -> None:
    """Add B^T B (``axis`` 0) or B B^T (``axis`` 1) to the *lower triangle* of ``gram_rr``.

    What is above the diagonal is left as it is, or not: it has no meaning. Both arrays are
    C-contiguous and of one type, float32 or float64.

    >>> gram = np.zeros((2, 2))
    >>> add_gram(gram, np.array([[1.0, 2.0], [0.0, 3.0]]), axis=0)
    >>> np.tril(gram).tolist()
    [[1.0, 0.0], [2.0, 13.0]]
    """
    kind = gram_rr.dtype.name
    syrk = _routine("cython_blas", LETTERS[kind] + "syrk", 10)
    if syrk is None or not block.size:
        gram_rr += block.T @ block if axis == 0 else block @ block.T
        return
    # For Fortran the same bytes are the transposed arrays, and our lower triangle its upper one.
    length, width = block.shape
    number = NUMBERS[kind]
    syrk(
        ctypes.byref(ctypes.c_char(b"U")),
        ctypes.byref(ctypes.c_char(b"N" if axis == 0 else b"T")),
        ctypes.byref(ctypes.c_int(len(gram_rr))),
        ctypes.byref(ctypes.c_int(length if axis == 0 else width)),
        ctypes.byref(number(1.0)),
        block.ctypes.data,
        ctypes.byref(ctypes.c_int(width)),
        ctypes.byref(number(1.0)),
        gram_rr.ctypes.data,
        ctypes.byref(ctypes.c_int(len(gram_rr))),
    )


def eigenvalues_in_place(gram_rr: np.ndarray) -> np.ndarray:
    """Eigenvalues, ascending, of the symmetric matrix in the lower triangle; it is overwritten.

    Up to :data:`LAPACK_UNTIL` in float64 by reduction to tridiagonal form and the root-free QL
    method, else by torch, whose MKL is faster for large matrices and as fast in float32.

    >>> eigenvalues_in_place(np.array([[2.0, 0.0], [1.0, 2.0]])).tolist()
    [1.0, 3.0]
    """
    r = len(gram_rr)
    reduce = _routine("cython_lapack", "dsytrd", 10)
    solve = _routine("cython_lapack", "dsterf", 4)
    if gram_rr.dtype != np.float64 or r > LAPACK_UNTIL or reduce is None or solve is None:
        import torch

        return torch.linalg.eigvalsh(torch.from_numpy(gram_rr), UPLO="L").numpy()
    diagonal, below, scales = np.empty((3, r))
    work = np.empty(max(r, 1) * LAPACK_BLOCK)
    size, failed = ctypes.c_int(r), ctypes.c_int(0)
    reduce(
        ctypes.byref(ctypes.c_char(b"U")),
        ctypes.byref(size),
        gram_rr.ctypes.data,
        ctypes.byref(size),
        diagonal.ctypes.data,
        below.ctypes.data,
        scales.ctypes.data,
        work.ctypes.data,
        ctypes.byref(ctypes.c_int(len(work))),
        ctypes.byref(failed),
    )
    solve(ctypes.byref(size), diagonal.ctypes.data, below.ctypes.data, ctypes.byref(failed))
    if failed.value:
        raise np.linalg.LinAlgError(f"eigenvalues of {r} x {r}: {failed.value} did not converge")
    return diagonal


def load() -> None:
    """Load the libraries now: a limit on threads holds only for those that are there."""
    for module in MODULES:
        _offered(module)


@cache
def _routine(module: str, name: str, arguments: int) -> Callable[..., Any] | None:
    """A Fortran routine as scipy passes it on to compiled code; None where it looks different."""
    capsule = _offered(module).get(name)
    if capsule is None:
        return None
    python = ctypes.pythonapi
    python.PyCapsule_GetName.restype = ctypes.c_char_p
    python.PyCapsule_GetName.argtypes = [ctypes.py_object]
    python.PyCapsule_GetPointer.restype = ctypes.c_void_p
    python.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
    signature = python.PyCapsule_GetName(capsule)
    if signature.count(b"*") != arguments or b" int *" not in signature:
        return None  # integers of another length, say: the name of a capsule is its C type
    kind = ctypes.CFUNCTYPE(None, *[ctypes.c_void_p] * arguments)
    return kind(python.PyCapsule_GetPointer(capsule, signature))


def _offered(module: str) -> Mapping[str, Any]:
    """The routines of one module of ``scipy.linalg``, by name; none where it cannot be loaded.

    Only that module is loaded: all of ``scipy.linalg`` takes 0.2 s, as long as a small model.
    """
    import scipy

    name = f"scipy.linalg.{module}"
    with LOADING:
        if name not in sys.modules:
            folder = str(Path(scipy.__file__).parent / "linalg")
            spec = importlib.machinery.PathFinder.find_spec(name, [folder])
            if spec is None or spec.loader is None:
                return {}
            try:
                loaded = importlib.util.module_from_spec(spec)
                spec.loader.exec_module(loaded)
            except ImportError:
                return {}
            sys.modules[name] = loaded  # it must not be loaded twice
        return getattr(sys.modules[name], "__pyx_capi__", {})
