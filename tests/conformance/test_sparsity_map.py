"""The allocation that AlphaPruning's map gives from published block alphas of LLaMA-7B.

The alphas are those that the FARMS repository ships (k = 10 windows a side), mean over the seven
linear matrices of each block, rounded to three decimals.
"""

import numpy as np
import pytest

from frog.numerics.sparsity_map import sparsity_by_alpha

LLAMA_7B = """
2.711 2.973 3.136 3.372 3.441 3.184 3.248 3.242 3.128 2.949 3.059 2.980 2.958 3.131 3.271 3.283
3.696 3.788 3.947 3.777 3.739 4.095 4.043 4.134 3.857 4.358 4.315 4.491 4.285 4.487 4.106 3.880
"""
PER_BLOCK = 4 * 4096**2 + 3 * 4096 * 11008


def test_llama_7b_at_80_percent() -> None:
    alphas = [float(word) for word in LLAMA_7B.split()]
    found = sparsity_by_alpha(alphas, [PER_BLOCK] * 32, sparsity=0.8, spread=0.2)
    # half a unit of the alphas' last decimal, times the slope of the map, is 0.0001
    golden = [0.6408, 0.6879, 0.7173, 0.7597, 0.7721, 0.9612, 0.8511]
    assert found[[0, 1, 2, 3, 4, 27, 31]] == pytest.approx(golden, abs=1.5e-4)
    assert found.argmax() == 27
    assert np.mean(found) == pytest.approx(0.8, abs=1e-15)


def test_where_the_published_code_clips_the_mean_still_holds() -> None:
    """S = 0.85 with its spread of 0.6: ratios above 1 there, clipped to 0.998, S missed."""
    alphas = [float(word) for word in LLAMA_7B.split()]
    found = sparsity_by_alpha(alphas, [PER_BLOCK] * 32, sparsity=0.85, spread=0.6, cap=0.998)
    assert found.max() == 0.998
    assert np.mean(found) == pytest.approx(0.85, abs=1e-15)
    unfilled = sparsity_by_alpha(alphas, [PER_BLOCK] * 32, sparsity=0.5, spread=0.6) * 1.7
    assert np.mean(np.minimum(unfilled, 0.998)) < 0.84
