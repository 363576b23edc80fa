"""Rounding against a slow twin that takes one weight at a time."""

import math
from itertools import pairwise

import numpy as np
import pytest
import torch

from frog.errors import UsageError
from frog.numerics.rounding import (
    Rounding,
    nearness,
    round_to_nearest,
    rounded_values,
    rounding_error,
    scales_of,
)

ONE = np.float32(1)


def twin_group(w: list[np.float32], bits: int, *, symmetric: bool):
    """Codes, scale, zero point and values of one group: float32, half to even."""
    if symmetric and bits == 1:
        scale = np.float32(math.fsum(abs(float(x)) for x in w) / len(w))
        codes = [1 if x >= 0 else -1 for x in w]
        return codes, scale, 0, [scale * np.float32(c) for c in codes]
    if symmetric:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        scale = max(abs(x) for x in w) / np.float32((2**bits - 1) / 2)
        zero = 0
    else:
        low, high = 0, 2**bits - 1
        least, most = min(*w, np.float32(0)), max(*w, np.float32(0))
        scale = most / np.float32(high) - least / np.float32(high)
        zero = 0 if scale == 0 else int(min(high, max(low, round(float(-least / scale)))))
    codes = []
    for x in w:
        near = 0 if scale == 0 else round(float(x / scale))  # Python's round: half to even
        codes.append(int(min(high, max(low, near + zero))))
    return codes, scale, zero, [np.float32(c - zero) * scale for c in codes]


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group", [None, 1, 7, 64])
def test_nearness_is_the_distance_to_the_midpoints_of_the_slow_twin(
    bits: int, group: int | None, symmetric: bool
) -> None:
    draw = torch.Generator().manual_seed(bits)
    w = torch.randn(3, 37, generator=draw)
    w[1, :7] = 0.0
    w[2] = w[2].abs()
    found = nearness(w, Rounding(bits=bits, group=group, symmetric=symmetric))
    size = group or 37
    for i in range(3):
        for start in range(0, 37, size):
            part = list(w[i, start : start + size].numpy())
            _, scale, zero, _ = twin_group(part, bits, symmetric=symmetric)
            low = -(2 ** (bits - 1)) if symmetric else 0
            levels = [float(scale) * (c - zero) for c in range(low, low + 2**bits)]
            if symmetric and bits == 1:
                levels = [-float(scale), float(scale)]
            for j, x in enumerate(part, start):
                if scale == 0:
                    assert found[i, j] == 0
                    continue
                step = levels[1] - levels[0]
                d = min(abs(float(x) - (a + b) / 2) / step for a, b in pairwise(levels))
                assert float(found[i, j]) == pytest.approx(max(0.0, 1 - 2 * d), abs=2e-3)


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("bits", range(1, 9))
@pytest.mark.parametrize("group", [None, 1, 7, 64])
def test_rounding_is_that_of_the_slow_twin(bits: int, group: int | None, symmetric: bool) -> None:
    draw = torch.Generator().manual_seed(bits)
    w = torch.randn(5, 67, generator=draw) * torch.logspace(-3, 3, 5)[:, None]
    w[1, :64] = 0.0
    w[2] = w[2].abs()
    w[3] = -w[3].abs()
    w[4, ::3] = 0.5 * w[4].abs().max()  # ties at some widths
    found = round_to_nearest(w, Rounding(bits=bits, group=group, symmetric=symmetric))
    values = found.values()
    size = group or 67
    assert found.scales.shape == (5, scales_of(67, group)) == (5, math.ceil(67 / size))
    for i in range(5):
        for g, start in enumerate(range(0, 67, size)):
            part = list(w[i, start : start + size].numpy())
            codes, scale, zero, exact = twin_group(part, bits, symmetric=symmetric)
            assert found.codes[i, start : start + size].tolist() == codes
            assert found.scales[i, g].item() == float(scale)
            if found.zeros is not None:
                assert found.zeros[i, g].item() == zero
            assert values[i, start : start + size].tolist() == [float(x) for x in exact]
    assert torch.equal(rounded_values(w, Rounding(bits=bits, group=group, symmetric=symmetric)),
                       values)  # fmt: skip


def test_ties_go_to_the_even_code() -> None:
    # the scale is 1: 7.5 / 7.5 at four bits
    w = torch.tensor([[7.5, 0.5, 1.5, 2.5, -0.5, -1.5]])
    assert round_to_nearest(w, Rounding(bits=4)).codes.tolist() == [[7, 0, 2, 2, 0, -2]]


def test_slabs_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    w = torch.randn(9, 30, generator=torch.Generator().manual_seed(0))
    how = Rounding(bits=3, group=8, symmetric=False)
    whole, error = round_to_nearest(w, how), rounding_error(w, how)
    monkeypatch.setattr("frog.numerics.rounding.SLAB_ENTRIES", 61)
    parts = round_to_nearest(w, how)
    assert torch.equal(parts.codes, whole.codes) and torch.equal(parts.values(), whole.values())
    assert rounding_error(w, how) == pytest.approx(error, rel=1e-12)
    # an (n, m) memory layout is no other matrix
    assert torch.equal(rounded_values(w.T.contiguous().T, how), whole.values())


def test_relative_error_of_known_matrices() -> None:
    assert rounding_error(torch.zeros(3, 5), Rounding(bits=1)) == 0.0
    # |w| = 1, 3: the mean is 2, all are off by 1: sqrt(2 / 10)
    assert rounding_error(torch.tensor([[1.0, -3.0]]), Rounding(bits=1)) == pytest.approx(0.2**0.5)
    w = torch.randn(64, 256, generator=torch.Generator().manual_seed(0))
    errors = [rounding_error(w, Rounding(bits=b)) for b in range(2, 9)]
    assert errors == sorted(errors, reverse=True)
    # a bit more halves the step, but for the clipped end of few codes
    assert all(1.8 < a / b < 2.7 for a, b in pairwise(errors))


@pytest.mark.parametrize("symmetric", [True, False])
def test_weights_too_small_for_a_scale_are_zeros(symmetric: bool) -> None:
    tiny = torch.full((1, 4), 1e-45)  # the smallest float32
    assert tiny[0, 0] > 0
    found = round_to_nearest(tiny, Rounding(bits=4, symmetric=symmetric))
    assert found.codes.tolist() == found.values().tolist() == [[0, 0, 0, 0]]


def test_half_precision_is_rounded_in_float32_and_given_back_as_it_was() -> None:
    w = torch.randn(4, 64, generator=torch.Generator().manual_seed(0)).bfloat16()
    how = Rounding(bits=4)
    assert rounded_values(w, how).dtype == torch.bfloat16
    assert torch.equal(rounded_values(w, how), rounded_values(w.float(), how).bfloat16())


def test_what_cannot_be_rounded_is_refused() -> None:
    with pytest.raises(UsageError, match=r"1\.\.8"):
        Rounding(bits=9)
    with pytest.raises(UsageError, match="group"):
        Rounding(bits=4, group=0)
    with pytest.raises(UsageError, match="finite"):
        round_to_nearest(torch.tensor([[1.0, float("nan")]]), Rounding(bits=4))
    with pytest.raises(UsageError, match="two-dimensional"):
        round_to_nearest(torch.ones(3), Rounding(bits=4))
