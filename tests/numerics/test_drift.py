"""Drift against a plain twin by SVD, its laws, and what it says of matrices that are not fine."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.numerics.drift import (
    INTRUDER_COSINE,
    INTRUDER_TOP,
    center_and_spread,
    change,
    difference_interval,
    robust_z,
)
from tests.matrices import ArrayLoader

SHAPES = [(30, 50), (50, 30), (40, 40), (5, 300), (300, 5), (1, 7), (7, 1)]


def weighed(old: np.ndarray, new: np.ndarray, k: int = 4):
    shape = (old.shape[0], old.shape[1])
    return change(ArrayLoader(old).blocks, ArrayLoader(new).blocks, shape, k=k)


def twin(old: np.ndarray, new: np.ndarray, k: int) -> tuple[float, ...]:
    """The definitions, word for word, by three singular value decompositions."""
    moved = new - old
    u, _, vt = np.linalg.svd(old, full_matrices=False)
    u_new, _, vt_new = np.linalg.svd(new, full_matrices=False)
    k = min(k, len(vt))
    left = 1 - np.square(u_new[:, :k].T @ u[:, :k]).sum() / k
    right = 1 - np.square(vt_new[:k] @ vt[:k].T).sum() / k
    cosines = np.abs(u.T @ u_new[:, :INTRUDER_TOP]).max(axis=0)
    return (
        float(np.linalg.norm(moved) / np.linalg.norm(old)),
        float(np.linalg.norm(moved, 2) / np.linalg.norm(moved)),
        float(left),
        float(right),
        float((cosines < INTRUDER_COSINE).sum()),
    )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [1e-3, 0.3, 3.0])
def test_change_is_what_the_definitions_say(shape: tuple[int, int], size: float) -> None:
    rng = np.random.default_rng(hash((shape, size)) % 2**32)
    old = rng.standard_normal(shape) * np.geomspace(3.0, 0.3, shape[1])
    new = old + size * rng.standard_normal(shape)
    found = weighed(old, new)
    drift, share, left, right, intruders = twin(old, new, 4)
    assert found.drift == pytest.approx(drift, rel=1e-10)
    assert found.spectral_share == pytest.approx(share, rel=1e-10)
    assert found.rotation_left == pytest.approx(left, abs=1e-9)
    assert found.rotation_right == pytest.approx(right, abs=1e-9)
    assert found.intruders == intruders


def test_a_tiny_change_is_not_lost_in_the_gram_matrices() -> None:
    rng = np.random.default_rng(0)
    old = rng.standard_normal((60, 80))
    direction = rng.standard_normal((60, 80))
    new = old + 1e-9 * direction
    exact = np.linalg.norm(new - old) / np.linalg.norm(old)
    assert weighed(old, new).drift == pytest.approx(exact, rel=1e-9)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10**6), st.floats(-3, 3), st.booleans())
def test_scaling_both_changes_nothing_and_transposing_swaps_sides(
    seed: int, decades: float, tall: bool
) -> None:
    rng = np.random.default_rng(seed)
    old = rng.standard_normal((24, 15) if tall else (15, 24)) * 10.0**decades
    new = old + 0.2 * 10.0**decades * rng.standard_normal(old.shape)
    found, scaled = weighed(old, new), weighed(old * 8.0, new * 8.0)
    assert scaled.drift == pytest.approx(found.drift, rel=1e-12)
    assert scaled.rotation_left == pytest.approx(found.rotation_left, abs=1e-10)
    turned = weighed(old.T, new.T)
    assert turned.rotation_left == pytest.approx(found.rotation_right, abs=1e-9)
    assert turned.rotation_right == pytest.approx(found.rotation_left, abs=1e-9)
    assert turned.spectral_share == pytest.approx(found.spectral_share, rel=1e-10)


def test_a_pure_rescaling_drifts_but_rotates_nothing() -> None:
    old = np.random.default_rng(1).standard_normal((40, 30)) * np.geomspace(5, 0.5, 30)
    found = weighed(old, 0.1 * old)
    assert found.drift == pytest.approx(0.9)
    assert found.rotation_left < 1e-12 and found.rotation_right < 1e-12
    assert found.intruders == 0


@pytest.mark.parametrize("shape", [(120, 200), (200, 120)])
def test_planted_intruders_are_counted(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(2)
    old = rng.standard_normal(shape)
    left = np.linalg.qr(rng.standard_normal((shape[0], 3)))[0]
    right = np.linalg.qr(rng.standard_normal((shape[1], 3)))[0]
    new = old + 100.0 * left @ right.T
    # random directions in 120 resemble none of the old ones; spread over all of them
    assert weighed(old, new).intruders >= 3
    assert weighed(old, new).spectral_share == pytest.approx(1 / math.sqrt(3), rel=1e-6)
    assert weighed(old, old).intruders == 0


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_nonfinite_matrices_have_no_change(bad: float) -> None:
    old, new = np.ones((4, 6)), np.ones((4, 6))
    new[1, 1] = bad
    for found in (weighed(old, new), weighed(new, old)):
        assert all(math.isnan(x) for x in (found.drift, found.spectral_share, found.intruders))


def test_zero_matrices() -> None:
    zero, some = np.zeros((4, 6)), np.random.default_rng(0).standard_normal((4, 6))
    born = weighed(zero, some)
    assert math.isnan(born.drift) and math.isnan(born.rotation_left) and math.isnan(born.intruders)
    died = weighed(some, zero)
    assert died.drift == 1.0 and math.isnan(died.rotation_left)
    still = weighed(zero, zero)
    assert math.isnan(still.drift) and math.isnan(still.spectral_share)


def test_rank_one_has_one_direction_only() -> None:
    a, b = np.arange(1.0, 6), np.arange(1.0, 9)
    found = weighed(np.outer(a, b), np.outer(a, b[::-1]), k=4)
    assert found.k == 1 and found.rotation_left < 1e-9 < found.rotation_right


# ------------------------------------------------------------------------ robust z


def test_robust_z_is_its_definition_with_the_value_left_out() -> None:
    values = np.random.default_rng(3).standard_normal(12)
    for i, z in enumerate(robust_z(values, floor=1e-9)):
        centre, spread = center_and_spread(np.delete(values, i))
        assert z == pytest.approx((values[i] - centre) / spread)


def test_robust_z_of_many_leaves_nothing_out_and_hardly_differs() -> None:
    values = np.random.default_rng(4).standard_normal(400)
    centre, spread = center_and_spread(values)
    assert np.allclose(robust_z(values, 1e-9), (values - centre) / spread)


def test_robust_z_of_few_and_of_missing_values() -> None:
    assert np.isnan(robust_z([1.0], 0.1)).all()
    assert len(robust_z([], 0.1)) == 0
    z = robust_z([0.0, math.nan, 2.0], 0.1)
    assert math.isnan(z[1]) and z[2] == pytest.approx(20.0)


# ------------------------------------------------------------------ joint interval


def test_difference_interval_of_normal_intervals_is_the_usual_one() -> None:
    low, high = difference_interval((2.0, 1.4, 2.6), (5.0, 4.2, 5.8))
    assert (low, high) == pytest.approx((3.0 - 1.0, 3.0 + 1.0))


def test_difference_interval_covers_the_truth() -> None:
    """Two skew estimates with right intervals of their own: 95 % of the joint ones hold."""
    rng = np.random.default_rng(5)
    n, held = 2000, 0
    for _ in range(n):
        intervals = []
        for truth in (3.0, 4.0):
            sigma = 0.15
            seen = truth * math.exp(sigma * rng.standard_normal())
            reach = 1.96 * sigma
            intervals.append((seen, seen * math.exp(-reach), seen * math.exp(reach)))
        low, high = difference_interval(*intervals)
        held += low <= 1.0 <= high
    assert 0.93 < held / n < 0.97


def test_difference_interval_of_what_is_missing() -> None:
    low, high = difference_interval((2.0, math.nan, math.nan), (5.0, 4.2, 5.8))
    assert math.isnan(low) and math.isnan(high)
