"""Shuffled matrices: reproducible, blind to order, and what huge entries and a mean do."""

from __future__ import annotations

import math

import numpy as np
import pytest

from frog.numerics.shuffling import Shuffled, shuffle, shuffle_distance
from tests.matrices import ArrayLoader


def shuffled(array: np.ndarray, count: int = 1, seed: tuple[int, str] = (0, "w")) -> Shuffled:
    eigenvalues = np.linalg.svd(array, compute_uv=False) ** 2
    return shuffle(ArrayLoader(array), eigenvalues, array.shape, count=count, seed=seed)


def gaussian(shape: tuple[int, int] = (80, 60), seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape)


def test_seed_and_name_alone_decide():
    array = gaussian()
    assert shuffled(array, 2) == shuffled(array, 2)
    assert shuffled(array) != shuffled(array, seed=(1, "w"))
    assert shuffled(array) != shuffled(array, seed=(0, "v"))
    assert shuffled(array, 3).largest[0] == shuffled(array, 1).largest[0]


def test_values_stay_and_correlations_go():
    rng = np.random.default_rng(0)
    array = np.outer(rng.standard_normal(80), rng.standard_normal(60)) + 0.1 * gaussian()
    found = shuffled(array, 3)
    edge = array.var() * (math.sqrt(80) + math.sqrt(60)) ** 2
    assert all(x < 1.5 * edge for x in found.largest)
    assert all(0.3 < x < math.sqrt(math.log(2)) for x in found.distance)


def test_a_random_matrix_stays_as_it_is():
    found = shuffled(gaussian((300, 200)), 5)
    assert found.traps == (0.0,) * 5
    assert max(found.distance) < 0.05


@pytest.mark.parametrize("shape", [(200, 200), (100, 400), (400, 100)])
def test_a_few_huge_entries_are_traps(shape):
    array = gaussian(shape)
    places = np.random.default_rng(1).choice(array.size, 3, replace=False)
    array.flat[places] = 60.0
    found = shuffled(array, 4)
    assert all(x in (2.0, 3.0) for x in found.traps), "two in one row or column make one trap"
    assert sum(found.traps) >= 10.0
    assert min(found.largest) > 0.9 * 60.0**2


def test_a_mean_is_no_trap():
    array = gaussian((200, 300)) + 0.5
    found = shuffled(array, 3)
    assert found.traps == (0.0,) * 3
    assert min(found.largest) > 0.9 * 0.25 * array.size, "it is there, and no permutation moves it"
    array.flat[7] = 80.0
    assert shuffled(array, 3).traps == (1.0,) * 3


def test_false_traps_are_as_rare_as_the_level():
    showing = sum(shuffled(gaussian((40, 60), seed)).traps[0] > 0 for seed in range(300))
    assert showing <= 2  # 0.1 % each


@pytest.mark.parametrize("array", [np.zeros((20, 20)), np.full((20, 20), np.nan)])
def test_nothing_to_shuffle(array):
    values = np.diagonal(array)
    assert shuffle(ArrayLoader(array), values, (20, 20), count=2, seed=(0, "w")) == Shuffled()


def test_few_rows_have_no_traps_to_count():
    assert math.isnan(shuffled(gaussian((5, 60))).traps[0])


def test_distance_against_scipy():
    from scipy.spatial.distance import jensenshannon

    rng = np.random.default_rng(0)
    p, q = (np.sort(rng.pareto(1.0, 50))[::-1] for _ in range(2))
    assert shuffle_distance(p, q) == pytest.approx(jensenshannon(p, q), rel=1e-12)
    shorter = np.append(q[:30], np.zeros(20))
    assert shuffle_distance(p, q[:30]) == pytest.approx(jensenshannon(p, shorter), rel=1e-12)


def test_loader_is_left_alone():
    array = gaussian()
    loader = ArrayLoader(array)
    shuffle(loader, np.ones(60), (80, 60), count=2, seed=(0, "w"))
    np.testing.assert_array_equal(loader.load(), array)
