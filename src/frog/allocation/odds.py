"""Odds: how likely each unit of a model is to be drawn for training, from what was measured.

A way is a function ``layers -> (values, errors)`` with the decorator ``@way``: one number per
matrix, larger = drawn more often, NaN where it has none, and its standard error where one is known.
Every ranking of layers is a way, too (without errors). How values become probabilities:

1. values are standardised among matrices of one role and shape (of one shape where a role has fewer
   than three): median, 1.4826 MAD, limited to [-3, 3], an uncertain one pulled to 0;
2. a unit of several matrices gets sum(z) / sqrt(number of z), limited to [-3, 3]; 0 without any;
3. p = exp(z / temperature) / sum: at temperature 2 a unit with z = 1 is e^(1/2) = 1.6 times as
   likely to be drawn next as an average one. No unit ever has probability 0.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from frog.allocation.standard import BAND, standardised
from frog.errors import UsageError
from frog.registry import Registry
from frog.types import LayerReport

TEMPERATURE = 2.0
"""How flat the odds are: large is uniform, small follows the measurement."""

COLDEST = 0.1
"""Smallest temperature: below it a probability would no longer be a number above 0."""

Values = tuple[Sequence[float], Sequence[float] | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """One way to draw; ``words`` say what is drawn more often, ``source`` who proposed it."""

    name: str
    words: str
    source: str
    function: Callable[[Sequence[LayerReport]], Values]

    def __call__(self, layers: Sequence[LayerReport]) -> Values:
        """Values and their standard errors (or None), (L,) each."""
        return self.function(layers)


WAYS: Registry[Way] = Registry("way to draw")


def way(
    name: str, *, words: str, source: str
) -> Callable[[Callable[[Sequence[LayerReport]], Values]], Callable[..., Values]]:
    """Register a function as a way to draw and give it back unchanged."""

    def register(function: Callable[[Sequence[LayerReport]], Values]) -> Callable[..., Values]:
        WAYS.add(name, Way(name=name, words=words, source=source, function=function))
        return function

    return register


@way("uniform", words="every unit alike", source="Pan et al. 2024, LISA, arXiv:2403.17919")
def uniform(layers: Sequence[LayerReport]) -> Values:
    """No difference: LISA."""
    return [0.0] * len(layers), None


@way("alpha", words="larger alpha, where it is certain", source="FROG")
def alpha(layers: Sequence[LayerReport]) -> Values:
    """Alpha with its standard error: the less trained a layer looks, the more often."""
    return _column(layers, "alpha"), _column(layers, "sigma")


@way("randomness", words="a spectrum more like a random matrix's", source="FROG")
def randomness(layers: Sequence[LayerReport]) -> Values:
    """The column ``randomness``."""
    return _column(layers, "randomness"), None


@way("evenness", words="a more even spectrum", source="FROG, design note 008")
def evenness(layers: Sequence[LayerReport]) -> Values:
    """The column ``entropy``."""
    return _column(layers, "entropy"), None


def unit_scores(
    layers: Sequence[LayerReport],
    values: Sequence[float],
    errors: Sequence[float] | None,
    members: Sequence[Sequence[int]],
) -> np.ndarray:
    """Standardised scores z (U,) of units; ``members`` are the places of a unit's ``layers``."""
    shapes = [tuple(sorted(layer.shape)) for layer in layers]
    roles = [(layer.role, shape) for layer, shape in zip(layers, shapes, strict=True)]
    near = standardised(values, roles, errors)
    z = np.where(np.isnan(near), standardised(values, shapes, errors), near)
    scores = np.zeros(len(members))
    for unit, places in enumerate(members):
        known = [z[i] for i in places if math.isfinite(z[i])]
        if known:
            scores[unit] = math.fsum(known) / math.sqrt(len(known))
    return np.clip(scores, -BAND, BAND)


def probabilities(scores: Sequence[float] | np.ndarray, temperature: float) -> np.ndarray:
    """exp(z / temperature), normalised; (U,), all above 0.

    >>> probabilities([0.0, 2.0], 2.0).round(3).tolist()
    [0.269, 0.731]
    """
    if not (math.isfinite(temperature) and temperature >= COLDEST):
        raise UsageError(f"temperature must be a number from {COLDEST}, got {temperature!r}")
    scaled = np.asarray(scores, dtype=np.float64) / temperature
    grown = np.exp(scaled - scaled.max())
    return grown / grown.sum()


def _column(layers: Sequence[LayerReport], name: str) -> list[float]:
    return [float(layer.values.get(name, math.nan)) for layer in layers]
