"""Expressions of scores: powers, multiplied.

magnitude                     the score itself
magnitude^-1                  the smallest first
gradient * relevance^-1       much gradient where relevance is small
relevance * alpha^2           weighed by the layer's alpha, under one threshold over layers
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from frog.errors import UnknownName, UsageError
from frog.numerics.scored import Made, Scored, slabs
from frog.selection.scores import AUTO, SCORES, Score, Subject

QUALITY = "alpha"
"""The word for the layer's exponent: the same for all its weights, so that it decides only where
layers compete."""

_FACTOR = re.compile(r"([A-Za-z][\w-]*?)(?:\s*\^\s*\(?\s*([-+]?[0-9.]+)\s*\)?)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Expression:
    """A product of powers of scores, and of the layer's alpha."""

    factors: tuple[tuple[Score, float], ...]
    quality: float = 0.0

    @property
    def needs_gradient(self) -> bool:
        """Whether a factor needs gradients."""
        return any(score.needs == "gradient" for score, _ in self.factors)

    def __str__(self) -> str:
        words = [_power(score.name, power) for score, power in self.factors]
        return " * ".join(words + ([_power(QUALITY, self.quality)] if self.quality else []))

    def __call__(self, subject: Subject) -> Scored:
        """Scores of all entries of one matrix, not negative; NaN where it is 0 * inf."""
        maps = [(score(subject), power) for score, power in self.factors]
        if len(maps) == 1 and maps[0][1] == 1.0:
            return maps[0][0]
        # each over its mean first: powers of squared gradients would leave the range of float32
        scaled = [(scores, np.float32(1.0 / _mean(scores)), power) for scores, power in maps]

        def rows(start: int, stop: int) -> np.ndarray:
            made = np.ones((stop - start, subject.shape[1]), dtype=np.float32)
            with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
                for scores, scale, power in scaled:
                    made *= np.power(scores.slab(start, stop) * scale, np.float32(power))
            return made

        return Made(subject.shape, rows)

    def weight(self, subject: Subject) -> float:
        """alpha^power of the layer, 1 where the expression has no alpha.

        Raises :class:`~frog.errors.UsageError` where the alpha is asked for and not known.
        """
        if not self.quality:
            return 1.0
        if not subject.alpha > 0:
            raise UsageError(
                f"the score '{self}' needs the alpha of {subject.name}, which is not known: give "
                "the report as Choice(report=...), or leave that matrix out"
            )
        return float(subject.alpha**self.quality)


def parse(text: str | Score) -> Expression:
    """The expression that a text means; ``auto`` is :data:`~frog.selection.scores.AUTO`.

    A factor to the power 0 is left out. Raises :class:`~frog.errors.UnknownName` for an unknown
    score and :class:`~frog.errors.UsageError` for what is no expression.

    >>> str(parse("gradient * relevance^-1 * magnitude^0"))
    'gradient * relevance^-1'
    """
    if isinstance(text, Score):
        return Expression(factors=((text, 1.0),))
    if text.strip() == "auto":
        return parse(AUTO)
    factors: list[tuple[Score, float]] = []
    quality = 0.0
    for part in text.split("*"):
        found = _FACTOR.fullmatch(part.strip())
        if found is None:
            raise UsageError(
                f"a score must read like 'relevance' or 'gradient * relevance^-1', got {text!r}"
            )
        name, power = found[1], _number(found[2], text)
        if name == QUALITY:
            quality += power
        elif name not in SCORES:
            raise UnknownName("score", name, [*SCORES, QUALITY, "auto"])
        elif power:
            factors.append((SCORES[name], power))
    if not factors:
        raise UsageError(
            f"a score must have a factor that differs between weights, got {text!r}: "
            "name a score beside alpha, and a power other than 0"
        )
    return Expression(factors=tuple(factors), quality=quality)


def _mean(scores: Scored) -> float:
    """Mean of the finite scores, 1 where there is none above 0."""
    total, count = 0.0, 0
    for _, slab in slabs(scores):
        finite = slab[np.isfinite(slab)]
        total, count = total + float(finite.sum(dtype=np.float64)), count + finite.size
    return total / count if total > 0 else 1.0


def _number(text: str | None, whole: str) -> float:
    try:
        return 1.0 if text is None else float(text)
    except ValueError:
        raise UsageError(f"a power must be a number, got '{text}' in {whole!r}") from None


def _power(name: str, power: float) -> str:
    return name if power == 1.0 else f"{name}^{power:g}"
