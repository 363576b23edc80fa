"""What is done to tuned weights, and paired differences, on small numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.tuning.aftermath import ACTIONS, difference, pruned, report, rounded, variants
from benchmarks.tuning.cells import catalogue


def made(gain: float) -> list[dict]:
    def found(noise: str, seed: int) -> dict:
        return {word: [80 + seed + (gain if noise else 0), 90.0] for word in ("as it is", *ACTIONS)}

    return [
        {"task": task, "noise": noise, "seed": seed, "found": found(noise, seed)}
        for task in ("signs", "photos") for noise in variants() for seed in range(4)
    ]  # fmt: skip


def test_rounding_and_pruning_of_a_convolution():
    torch.manual_seed(0)
    weight = torch.randn(8, 4, 3, 3)
    for bits in (8, 4):
        copy = weight.clone()
        rounded(bits, copy)
        for before, after in zip(weight, copy, strict=True):
            step = before.abs().max() / (2 ** (bits - 1) - 1)
            assert (before - after).abs().max() <= 0.51 * step
            assert len(after.unique()) <= 2**bits
    copy = weight.clone()
    pruned(copy)
    gone = copy == 0
    assert int(gone.sum()) == round(0.3 * weight.numel())
    assert weight[gone].abs().max() <= weight[~gone].abs().min()
    assert torch.equal(copy[~gone], weight[~gone])


def test_a_difference_is_paired_by_seed():
    runs = made(2.0)
    for noise in variants()[1:]:
        assert difference(runs, "signs", noise, "int4", 0) == pytest.approx(np.full(4, 2.0))
        assert difference(runs, "photos", noise, "int4", 1) == pytest.approx(np.zeros(4))
    text = report(runs, "command")
    assert "| signs | none | 81.50 |" in text and "+2.00 [+2.00, +2.00]" in text


def test_every_variant_has_a_method_for_both_kinds_of_task():
    known = catalogue().methods
    for noise in variants():
        for kind in ("default", "random+auto+by-loss"):
            assert (f"{kind}+{noise}" if noise else kind) in known
