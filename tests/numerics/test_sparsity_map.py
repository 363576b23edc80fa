"""Laws of the linear map from alpha to sparsity; its published numbers are in conformance."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from frog.errors import UsageError
from frog.numerics.sparsity_map import sparsity_by_alpha

LAW = settings(max_examples=100, deadline=None, derandomize=True, database=None)


@st.composite
def problems(draw: st.DrawFn) -> dict:
    count = draw(st.integers(1, 12))
    alpha = st.floats(1.1, 12.0) | st.just(math.nan) | st.just(3.0)
    cap = draw(st.sampled_from([1.0, 0.998, 0.7]))
    return {
        "alphas": draw(st.lists(alpha, min_size=count, max_size=count)),
        "params": draw(st.lists(st.integers(1, 10**9), min_size=count, max_size=count)),
        "sparsity": draw(st.floats(0.0, 1.0)) * cap,
        "spread": draw(st.sampled_from([0.0, 0.1, 0.3, 0.6, 1.0])),
        "cap": cap,
    }


@LAW
@given(problems())
def test_the_weighted_mean_is_what_was_asked_and_the_caps_hold(problem: dict) -> None:
    found = sparsity_by_alpha(**problem)
    assert np.average(found, weights=problem["params"]) == pytest.approx(
        problem["sparsity"], abs=1e-12
    )
    assert (found >= 0).all()
    assert (found <= problem["cap"] + 1e-12).all()


@LAW
@given(problems())
def test_a_larger_alpha_is_never_pruned_less(problem: dict) -> None:
    alphas = np.array(problem["alphas"])
    found = sparsity_by_alpha(**problem)[~np.isnan(alphas)]
    order = np.argsort(alphas[~np.isnan(alphas)])
    assert (np.diff(found[order]) >= -1e-12).all()


@LAW
@given(problems(), st.integers(0, 99))
def test_the_order_of_the_blocks_does_not_matter(problem: dict, seed: int) -> None:
    order = np.random.default_rng(seed).permutation(len(problem["alphas"]))
    moved = {
        **problem,
        "alphas": [problem["alphas"][i] for i in order],
        "params": [problem["params"][i] for i in order],
    }
    np.testing.assert_allclose(
        sparsity_by_alpha(**moved), sparsity_by_alpha(**problem)[order], atol=1e-12
    )


def test_equal_alphas_and_no_spread_are_uniform() -> None:
    assert (
        sparsity_by_alpha([3.0] * 4, [1, 2, 3, 4], sparsity=0.6, spread=0.3).tolist() == [0.6] * 4
    )
    assert sparsity_by_alpha([2.0, 5.0], [1, 9], sparsity=0.6, spread=0.0) == pytest.approx(
        [0.6] * 2
    )


def test_a_block_without_alpha_gets_the_middle() -> None:
    found = sparsity_by_alpha([2.0, 4.0, math.nan], [1, 1, 1], sparsity=0.5, spread=0.4)
    assert found == pytest.approx([0.3, 0.7, 0.5])
    assert sparsity_by_alpha([math.nan], [5], sparsity=0.5, spread=0.4) == pytest.approx([0.5])


def test_what_the_cap_cuts_off_goes_to_the_others() -> None:
    """Plain clipping would leave a mean of 0.85: the published defect."""
    found = sparsity_by_alpha([2.0, 3.0, 4.0], [1, 1, 1], sparsity=0.9, spread=0.3)
    assert found == pytest.approx([0.7 * 1.7 / 1.7, 1.0, 1.0])
    everything = sparsity_by_alpha([2.0, 3.0], [1, 1], sparsity=1.0, spread=0.3)
    assert everything == pytest.approx([1.0, 1.0])


def test_blocks_of_ratio_zero_share_what_no_other_can_take() -> None:
    found = sparsity_by_alpha([2.0, 4.0], [1, 1], sparsity=0.75, spread=1.0)
    assert found == pytest.approx([0.5, 1.0])


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"params": [1]}, "of one length"),
        ({"alphas": [], "params": []}, "at least 1"),
        ({"params": [1, 0]}, "positive, got 0"),
        ({"params": [1, math.nan]}, "positive"),
        ({"alphas": [2.0, math.inf]}, "finite"),
        ({"sparsity": 1.2}, "sparsity must be in"),
        ({"sparsity": -0.1}, "sparsity must be in"),
        ({"sparsity": math.nan}, "sparsity must be in"),
        ({"sparsity": 0.9, "cap": 0.8}, r"\[0, 0.8\], got 0.9"),
        ({"cap": 1.5}, "cap must be in"),
        ({"spread": 1.5}, "spread must be in"),
    ],
)
def test_bad_input_is_refused(change: dict, says: str) -> None:
    good = {"alphas": [2.0, 3.0], "params": [1, 1], "sparsity": 0.5, "spread": 0.2}
    with pytest.raises(UsageError, match=says):
        sparsity_by_alpha(**{**good, **change})
