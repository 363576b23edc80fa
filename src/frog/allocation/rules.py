"""Rules: which layers get more of a budget than their even share.

A rule is a function ``(layers, **knobs) -> densities`` with the decorator ``@rule``: one number
per layer, 1 where it gets the same share of its weights as on average, never negative, NaN where
the rule has nothing to say (it then gets 1). What the pilot found: no split was distinguishable
from the uniform one (docs/budgets.md).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from frog.allocation.standard import standardised
from frog.errors import UnknownName
from frog.registry import Registry
from frog.types import LayerReport

AUTO = "uniform"
"""What ``rule="auto"`` means: no other split was shown to be better."""

Densities = Sequence[float] | np.ndarray


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One way to split a budget; ``words`` say who gets more, ``source`` who proposed it."""

    name: str
    words: str
    source: str
    function: Callable[..., Densities]
    by_score: bool = False

    def __call__(self, layers: Sequence[LayerReport], **knobs: float) -> np.ndarray:
        """Densities (L,), float64; a knob that the rule does not have is an error."""
        known = self.knobs
        for name in knobs:
            if name not in known:
                raise UnknownName(f"knob of the rule '{self.name}'", name, known)
        return np.asarray(self.function(layers, **knobs), dtype=np.float64)

    @property
    def knobs(self) -> dict[str, float]:
        """The knobs and their defaults."""
        found = inspect.signature(self.function).parameters.values()
        return {x.name: x.default for x in found if x.kind is inspect.Parameter.KEYWORD_ONLY}

    @property
    def meaning(self) -> str:
        """First line of the function's docstring."""
        return (self.function.__doc__ or "").strip().split("\n")[0]


RULES: Registry[Rule] = Registry("rule")


def rule(
    name: str, *, words: str, source: str, by_score: bool = False
) -> Callable[[Callable[..., Densities]], Callable[..., Densities]]:
    """Register a function as a rule and give it back unchanged."""

    def register(function: Callable[..., Densities]) -> Callable[..., Densities]:
        made = Rule(name=name, words=words, source=source, function=function, by_score=by_score)
        RULES.add(name, made)
        return function

    return register


@rule("uniform", words="the same share of every matrix", source="control")
def uniform(layers: Sequence[LayerReport]) -> Densities:
    """The same share of every matrix."""
    return np.ones(len(layers))


@rule("frobenius", words="more where the Frobenius norm is larger", source="FROG")
def frobenius(layers: Sequence[LayerReport], *, power: float = 1.0) -> Densities:
    """Share by the Frobenius norm, ||W||_F^power, whatever the size of the matrix.

    As a density: (||W||_F / sum ||W||_F)^power over numel, mean 1; power 0 is the uniform rule.
    """
    if power == 0.0:
        return np.ones(len(layers))
    norms = _shares([_root(_value(layer, "norm")) for layer in layers])
    sizes = np.array([float(layer.params) for layer in layers])
    # one weight's part of the matrix' claim; power 0 must end in the uniform rule
    density = norms / _shares(sizes)
    return np.power(np.maximum(density, 0.0), power)


@rule("alpha", words="more where alpha is larger (power > 0) or smaller (power < 0)",
      source="Qing et al. 2024, AlphaLoRA, EMNLP, arXiv:2410.10054")  # fmt: skip
def alpha(layers: Sequence[LayerReport], *, power: float = 1.0) -> Densities:
    """2^(power * z) for alpha standardised among matrices of equal shape, |z| <= 3.

    Alpha mostly tells the aspect ratio of a matrix; within one shape it does not. A shape of
    fewer than three measured matrices gets 1. The z of an uncertain alpha is pulled to 0, by
    spread^2 / (spread^2 + stderr^2).
    """
    if power == 0.0:
        return np.ones(len(layers))
    return np.exp2(power * standard_alpha(layers))


@rule("frobenius-alpha", words="by Frobenius norm and alpha together", source="FROG")
def frobenius_alpha(
    layers: Sequence[LayerReport], *, power: float = 1.0, alpha_power: float = 1.0
) -> Densities:
    """The densities of ``frobenius`` and ``alpha``, multiplied."""
    both = np.asarray(frobenius(layers, power=power)) * np.asarray(alpha(layers, power=alpha_power))
    return both


@rule("over-parameterised", words="more where the spectrum is more like a random matrix's",
      source="FROG")  # fmt: skip
def over_parameterised(layers: Sequence[LayerReport], *, strength: float = 1.0) -> Densities:
    """1 + strength * randomness, the shape-fair degree in [0, 1]: tunes untrained layers harder."""
    degree = np.clip([_value(layer, "randomness") for layer in layers], 0.0, 1.0)
    return 1.0 + strength * degree


@rule("global", words="where the scores are highest, under one threshold over all matrices",
      source="FROG", by_score=True)  # fmt: skip
def by_threshold(layers: Sequence[LayerReport]) -> Densities:
    """One threshold on all scores, each normalised by its matrix: settled when scores are known."""
    return np.ones(len(layers))


def standard_alpha(layers: Sequence[LayerReport]) -> np.ndarray:
    """Alpha standardised among matrices of equal shape, (L,), NaN where there is none.

    Robust: median and 1.4826 times the median absolute deviation.
    """
    return standardised(
        [_value(layer, "alpha") for layer in layers],
        [tuple(sorted(layer.shape)) for layer in layers],
        [_value(layer, "sigma") for layer in layers],
    )


def _value(layer: LayerReport, name: str) -> float:
    return float(layer.values.get(name, math.nan))


def _root(value: float) -> float:
    return math.sqrt(value) if value >= 0 else math.nan


def _shares(values: Sequence[float] | np.ndarray) -> np.ndarray:
    array = np.asarray(values, dtype=np.float64)
    total = np.nansum(array)
    return array / total if total > 0 else np.full(len(array), math.nan)
