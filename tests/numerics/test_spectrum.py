"""Spectra against a plain SVD; slabs; products; devices."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from frog.errors import UsageError
from frog.numerics.spectrum import (
    eigenvalues_on_device,
    singular_values_of_product,
    singular_values_svd,
    slab_size,
    spectrum,
)
from tests.matrices import ArrayLoader, planted

SHAPES = [(1, 1), (1, 7), (7, 1), (5, 5), (40, 12), (12, 40), (3000, 30), (30, 3000)]


@pytest.mark.parametrize("shape", SHAPES)
def test_exact_equals_svd(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(0).standard_normal(shape)
    found = spectrum(ArrayLoader(array), shape)
    truth = np.linalg.svd(array, compute_uv=False)
    assert found.singular_values.dtype == np.float64
    assert found.singular_values == pytest.approx(truth, rel=1e-9, abs=1e-7 * truth[0])
    assert (np.diff(found.singular_values) <= 0).all()


@pytest.mark.parametrize("shape", [(300, 200), (200, 300), (9000, 64)])
def test_fast_is_within_its_resolution(shape: tuple[int, int]) -> None:
    array = np.random.default_rng(1).standard_normal(shape).astype(np.float32)
    found = spectrum(ArrayLoader(array), shape, precision="fast")
    truth = np.linalg.svd(array.astype(np.float64), compute_uv=False) ** 2
    assert found.method == "gram32"
    assert np.abs(found.eigenvalues - truth).max() < found.resolution * truth[0]


def test_several_slabs_give_what_one_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    array = np.random.default_rng(2).standard_normal((500, 40))
    whole = spectrum(ArrayLoader(array), array.shape).singular_values
    monkeypatch.setattr("frog.numerics.spectrum.slab_size", lambda r: 37)
    parts = spectrum(ArrayLoader(array), array.shape).singular_values
    assert parts == pytest.approx(whole, rel=1e-12)
    wide = spectrum(ArrayLoader(array.T), array.T.shape).singular_values
    assert wide == pytest.approx(whole, rel=1e-12)


def test_a_slab_is_small_beside_a_big_embedding() -> None:
    assert slab_size(4096) * 4096 * 8 <= 64 * 2**20
    assert all(slab_size(r) >= 1 for r in (1, 2, 3, 10**7))


def test_svd_resolves_what_the_gram_cannot() -> None:
    eigenvalues = np.geomspace(1.0, 1e-24, 60)
    array = planted((100, 60), eigenvalues)
    gram = spectrum(ArrayLoader(array), array.shape)
    svd = singular_values_svd(ArrayLoader(array), array.shape)
    assert svd.eigenvalues == pytest.approx(eigenvalues, rel=1e-2)
    assert np.abs(gram.eigenvalues / eigenvalues - 1).max() > 1
    assert np.abs(gram.eigenvalues - eigenvalues).max() < gram.resolution * eigenvalues[0]


def test_product_without_forming_it() -> None:
    rng = np.random.default_rng(3)
    up, down = rng.standard_normal((70, 4)), rng.standard_normal((4, 50))
    truth = np.linalg.svd(0.3 * up @ down, compute_uv=False)[:4]
    assert singular_values_of_product(up, down, 0.3) == pytest.approx(truth, rel=1e-12)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nonfinite_entries_give_nan_without_a_warning(bad: float) -> None:
    array = np.ones((30, 20))
    array[3, 4] = bad
    assert np.isnan(spectrum(ArrayLoader(array), array.shape).singular_values).all()


def test_unknown_precision() -> None:
    with pytest.raises(UsageError, match="'exact' or 'fast', got 'quick'"):
        spectrum(ArrayLoader(np.eye(3)), (3, 3), precision="quick")


@pytest.fixture
def matmul() -> Iterator[Any]:
    """The switches of TF32, put back."""
    import torch

    matmul = torch.backends.cuda.matmul
    yield matmul
    matmul.allow_tf32 = False
    if hasattr(matmul, "fp32_precision"):
        torch.backends.fp32_precision = matmul.fp32_precision = "none"


@pytest.mark.parametrize("way", ["old", "new", "all"])
def test_tf32_is_off_meanwhile_whichever_switch_was_used(way: str, matmul: Any) -> None:
    import torch

    if way == "old":
        matmul.allow_tf32 = True
    elif not hasattr(matmul, "fp32_precision"):
        pytest.skip("this torch has one switch")
    elif way == "new":
        matmul.fp32_precision = "tf32"
    else:
        torch.backends.fp32_precision = "tf32"
    name = "fp32_precision" if hasattr(matmul, "fp32_precision") else "allow_tf32"
    seen = []

    def slabs() -> Iterator[np.ndarray]:
        seen.append(getattr(matmul, name))
        yield np.eye(3, dtype=np.float32)

    before = getattr(matmul, name)
    assert eigenvalues_on_device(slabs(), 0, np.float32, "cpu").tolist() == [1.0, 1.0, 1.0]
    assert before in ("tf32", True) and seen[0] in ("ieee", False)
    assert getattr(matmul, name) == before


@pytest.mark.gpu
@pytest.mark.parametrize("shape", [(300, 200), (2000, 700), (700, 2000)])
@pytest.mark.parametrize("precision", ["exact", "fast"])
def test_cuda_equals_cpu(shape: tuple[int, int], precision: str) -> None:
    array = np.random.default_rng(4).standard_normal(shape).astype(np.float32)
    host = spectrum(ArrayLoader(array), shape, precision=precision)
    device = spectrum(ArrayLoader(array), shape, precision=precision, device="cuda")
    tolerance = 1e-9 if precision == "exact" else 1e-3
    assert device.singular_values == pytest.approx(host.singular_values, rel=tolerance)
