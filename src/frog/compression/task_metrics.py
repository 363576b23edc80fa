"""Metrics of common tasks for a trial: accuracy, perplexity, Spearman's rho of similarities."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor
from torch.nn import functional

from frog.compression.judging import Metric
from frog.errors import UsageError


def accuracy(labels: Callable[[Any], Tensor]) -> Metric:
    """Share of the examples whose largest logit (E, C) is that of ``labels(batch)`` (E,)."""

    def examples(outputs: Tensor, batch: Any) -> np.ndarray:
        return (outputs.argmax(-1) == labels(batch)).cpu().numpy()[:, None]

    return Metric(name="accuracy", examples=examples, value=lambda x: float(x.mean()), higher=True)


def perplexity(tokens: Callable[[Any], Tensor]) -> Metric:
    """exp of the mean loss of the next token; logits (E, T, V), ``tokens(batch)`` (E, T).

    Targets of -100 do not count. An example is a whole sequence.
    """

    def examples(outputs: Tensor, batch: Any) -> np.ndarray:
        targets = tokens(batch)[:, 1:]
        losses = functional.cross_entropy(
            outputs[:, :-1].flatten(0, 1).float(), targets.flatten(), reduction="none"
        )
        counted = (targets != -100).sum(1)
        return torch.stack([losses.view(targets.shape).sum(1), counted], 1).cpu().numpy()

    def value(x: np.ndarray) -> float:
        loss, count = x.sum(0)
        # math.exp fails beyond its range, and so does a model with such a loss
        return float(np.exp(min(loss / count, 700.0))) if count else math.nan

    return Metric(name="perplexity", examples=examples, value=value, higher=False)


def spearman(scores: Callable[[Any], Tensor]) -> Metric:
    """Rho of cosines of pairs with ``scores(batch)`` (P,); outputs are 2 P embeddings.

    The first half of a batch holds the first sentences of all pairs, the second their partners.
    """

    def examples(outputs: Tensor, batch: Any) -> np.ndarray:
        known = scores(batch)
        if len(outputs) != 2 * len(known):
            raise UsageError(
                f"{len(known)} pairs must have {2 * len(known)} embeddings, got {len(outputs)}"
            )
        one, two = outputs.double().chunk(2)
        cosine = functional.cosine_similarity(one, two, dim=-1)
        return torch.stack([cosine, known.to(cosine)], 1).cpu().numpy()

    def value(x: np.ndarray) -> float:
        one, two = (stats.rankdata(column) for column in x.T)
        if np.ptp(one) == 0 or np.ptp(two) == 0:
            return math.nan
        return float(np.corrcoef(one, two)[0, 1])

    return Metric(name="spearman", examples=examples, value=value, higher=True)
