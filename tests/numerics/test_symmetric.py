"""Sums of Gram matrices and their eigenvalues against numpy, and what happens without scipy's."""

import sys
import threading

import numpy as np
import pytest

from frog.numerics import symmetric

TYPES = [(np.float64, 1e-13), (np.float32, 1e-5)]


@pytest.fixture(params=[True, False], ids=["scipy", "numpy"])
def offered(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if not request.param:
        monkeypatch.setattr(symmetric, "_routine", lambda *_: None)


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("kind,close", TYPES)
@pytest.mark.parametrize("axis", [0, 1])
def test_blocks_add_up(kind: type, close: float, axis: int) -> None:
    array = np.random.default_rng(0).standard_normal((70, 30)).astype(kind)
    array = array if axis == 0 else np.ascontiguousarray(array.T)
    gram = np.zeros((30, 30), dtype=kind)
    for start in (0, 20, 69, 70):
        stop = {0: 20, 20: 69, 69: 70, 70: 70}[start]
        part = array[start:stop] if axis == 0 else array[:, start:stop]
        symmetric.add_gram(gram, np.ascontiguousarray(part), axis)
    truth = array.T @ array if axis == 0 else array @ array.T
    assert np.tril(gram) == pytest.approx(np.tril(truth), rel=close, abs=close * 70)


@pytest.mark.usefixtures("offered")
@pytest.mark.parametrize("kind,close", TYPES)
@pytest.mark.parametrize("r", [1, 2, 3, 200])
def test_eigenvalues_of_the_lower_triangle(kind: type, close: float, r: int) -> None:
    half = np.random.default_rng(r).standard_normal((r, r))
    whole = (half @ half.T).astype(kind)
    truth = np.linalg.eigvalsh(whole.astype(np.float64))
    lower = np.tril(whole) + np.triu(np.full((r, r), 7.0, dtype=kind), 1)
    found = symmetric.eigenvalues_in_place(lower)
    assert (np.diff(found) >= 0).all()
    assert found == pytest.approx(truth, abs=close * max(abs(truth)) * 10)


def test_large_ones_go_to_torch_and_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    half = np.random.default_rng(1).standard_normal((60, 60))
    here = symmetric.eigenvalues_in_place(half @ half.T)
    monkeypatch.setattr(symmetric, "LAPACK_UNTIL", 0)
    assert symmetric.eigenvalues_in_place(half @ half.T) == pytest.approx(here, rel=1e-10)


def test_the_routines_are_there_and_not_loaded_twice() -> None:
    symmetric.load()
    loaded = sys.modules["scipy.linalg.cython_blas"]
    threads = [threading.Thread(target=symmetric.load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    from scipy.linalg import cython_blas

    assert cython_blas is loaded
    assert symmetric._routine("cython_blas", "dsyrk", 10) is not None
    assert symmetric._routine("cython_blas", "dsyrk", 9) is None
    assert symmetric._routine("cython_blas", "no_such_routine", 9) is None
    assert symmetric._offered("no_such_module") == {}
