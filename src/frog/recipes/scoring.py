"""Metrics of tasks, from plain arrays."""

from __future__ import annotations

import math

import numpy as np

CHUNK = 1024


def classified(logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    """Accuracy, and F1 averaged over the labels that occur or are predicted.

    >>> classified(np.array([[2.0, 1.0], [0.0, 1.0], [3.0, 0.0]]), np.array([0, 1, 1]))
    {'accuracy': 0.6666666666666666, 'f1': 0.6666666666666666}
    """
    guess = logits.argmax(-1)
    scores = []
    for label in np.union1d(guess, labels):
        hit = int(np.sum((guess == label) & (labels == label)))
        scores.append(2 * hit / int(np.sum(guess == label) + np.sum(labels == label)))
    return {"accuracy": float(np.mean(guess == labels)), "f1": float(np.mean(scores))}


def perplexity(losses: np.ndarray, counted: np.ndarray) -> dict[str, float]:
    """Mean loss of the tokens that count, and its exponential.

    >>> perplexity(np.array([[1.0, 9.0]]), np.array([[True, False]]))
    {'token_loss': 1.0, 'perplexity': 2.718281828459045}
    """
    mean = float(losses[counted].astype(np.float64).mean()) if counted.any() else math.nan
    return {"token_loss": mean, "perplexity": math.exp(min(mean, 700.0))}


def correlated(similarity: np.ndarray, scores: np.ndarray) -> dict[str, float]:
    """Spearman's and Pearson's correlation of cosines with the scores people gave."""
    from scipy.stats import pearsonr, spearmanr

    if len(scores) < 3 or np.ptp(scores) == 0 or np.ptp(similarity) == 0:
        return {"spearman": math.nan, "pearson": math.nan}
    return {
        "spearman": float(np.asarray(spearmanr(similarity, scores))[0]),
        "pearson": float(np.asarray(pearsonr(similarity, scores))[0]),
    }


def retrieved(first: np.ndarray, second: np.ndarray) -> dict[str, float]:
    """How often the second text of a pair is the nearest of all second ones, and the mean of
    1 / its place; a text that stands several times counts as found.

    ``first`` and ``second`` are (N, d) of unit length.

    >>> retrieved(np.eye(3), np.eye(3)[[0, 2, 1]])
    {'accuracy@1': 0.3333333333333333, 'mrr': 0.6666666666666666, 'candidates': 3.0}
    """
    places = []
    own = np.einsum("nd,nd->n", first.astype(np.float64), second.astype(np.float64))
    for start in range(0, len(first), CHUNK):
        part = first[start : start + CHUNK].astype(np.float64) @ second.T.astype(np.float64)
        # rounding must not put a copy of the same text before it
        places.append(np.sum(part > own[start : start + CHUNK, None] + 1e-6, axis=1))
    place = np.concatenate(places)
    return {
        "accuracy@1": float(np.mean(place == 0)),
        "mrr": float(np.mean(1.0 / (1 + place))),
        "candidates": float(len(second)),
    }
