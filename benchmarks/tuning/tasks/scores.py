"""Scores of classifiers, and draws that are the same for every seed of a run."""

from __future__ import annotations

import numpy as np
from torch import Tensor
from torch.nn import functional

from benchmarks.tuning.task import Score

DRAW = 7
"""Seed of the splits: they never change with the seed of a run."""


def classified(logits: Tensor, labels: Tensor) -> Score:
    """Accuracy in percent and cross-entropy in nats of logits (n, classes)."""
    logits = logits.float()
    each = (logits.argmax(1) == labels).double().numpy()
    loss = float(functional.cross_entropy(logits, labels))
    return Score(quality=100.0 * float(np.mean(each)), loss=loss, each=each)


def balanced(labels: np.ndarray, each: int) -> np.ndarray:
    """Sorted indices of ``each`` examples of every class, drawn once for all runs."""
    rng = np.random.default_rng(DRAW)
    drawn = [
        rng.choice(np.flatnonzero(labels == c), each, replace=False) for c in np.unique(labels)
    ]
    return np.sort(np.concatenate(drawn))


def without(count: int, taken: np.ndarray) -> np.ndarray:
    """Indices below ``count`` that are not among ``taken``."""
    return np.setdiff1d(np.arange(count), taken)
