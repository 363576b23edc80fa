"""Plans that a plan is held against: the same size, without its knowledge.

Each is at least as large as the plan, never smaller, so that no comparison flatters the plan; by
how much is as little as levels allow, and recorded with the result.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeVar

import numpy as np

from frog.compression.curves import Bits, Level, Sparsity
from frog.compression.planned import Pattern
from frog.errors import UsageError

Plan = Mapping[str, Level]
"""Levels by name of matrix."""

L = TypeVar("L", Bits, Sparsity)

LEAST_KEPT = 1e-3
"""A random plan keeps this share at least before it is scaled to size: none is beyond reach."""


def size_of(plan: Plan, params: Mapping[str, int]) -> int:
    """Bits of codes, or kept weights, in all."""
    return sum(level.size(params[name]) for name, level in plan.items())


def uniform(plan: Plan, params: Mapping[str, int]) -> dict[str, Level]:
    """One level for all matrices of the plan, each with its own group, form and importance.

    Bits of a fractional average are a mixture of the two widths around it: in the order of the
    plan a matrix gets the upper one wherever the size so far would otherwise fall behind the
    average. Sparsities are equal to one weight, rounded towards keeping.

    >>> from frog.numerics.rounding import Rounding
    >>> plan = {name: Bits(Rounding(bits=b)) for name, b in (("a", 2), ("b", 4), ("c", 4))}
    >>> [x.rounding.bits for x in uniform(plan, {"a": 10, "b": 10, "c": 20}).values()]
    [4, 3, 4]
    """
    size, total = size_of(plan, params), sum(params[name] for name in plan)
    rounded = _all(plan, Bits)
    if rounded is None:
        return {
            name: _at_pruned(level, params[name] * (total - size) // total, params[name])
            for name, level in _sparsities(plan).items()
        }
    made: dict[str, Level] = {}
    low, spent, seen = size // total, 0, 0
    for name, level in rounded.items():
        count = params[name]
        seen += count
        bits = low if (spent + low * count) * total >= size * seen else low + 1
        spent += bits * count
        made[name] = _at_bits(level, bits)
    return made


def shuffled(plan: Plan, params: Mapping[str, int], *, seed: int) -> dict[str, Level]:
    """The levels of the plan dealt out to its matrices anew, then corrected to its size.

    Bits: matrices drawn at random go up one level of the plan until the size is reached, then
    down wherever that leaves it reached. Sparsities: kept shares are scaled by one factor.
    """
    rng = np.random.default_rng(seed)
    size, counts = size_of(plan, params), [params[name] for name in plan]
    dealt = rng.permutation(len(plan))
    rounded = _all(plan, Bits)
    if rounded is not None:
        widths = [x.rounding.bits for x in rounded.values()]
        bits = _raised([widths[i] for i in dealt], counts, size, rng)
        return {n: _at_bits(x, b) for (n, x), b in zip(rounded.items(), bits, strict=True)}
    pruned = _sparsities(plan)
    shares = [1 - x.share for x in pruned.values()]
    kept = _scaled([shares[i] for i in dealt], counts, size)
    return {
        name: _at_pruned(level, count - stay, count)
        for (name, level), count, stay in zip(pruned.items(), counts, kept, strict=True)
    }


def pattern_of(plan: Plan) -> Pattern | None:
    """The pattern of a plan whose matrices have it or stay whole, None of any other plan."""
    found = {x.key: x for x in plan.values() if isinstance(x, Pattern)}
    if not found:
        return None
    whole = all(isinstance(x, Pattern) or (x.value == 0) for x in plan.values())
    if len(found) > 1 or not whole:
        raise UsageError(
            "a plan of a pattern must have that one and whole matrices, got others: mend it"
        )
    return next(iter(found.values()))


def dealt(
    plan: Plan, params: Mapping[str, int], *, able: Collection[str], seed: int
) -> dict[str, Level]:
    """A plan of a pattern with it dealt out to other matrices, of those that are ``able``.

    In a random order, matrices take the pattern wherever not more weights go than in the plan.
    """
    pattern = pattern_of(plan)
    if pattern is None:
        raise UsageError("a plan must be of a pattern, such as 2:4, for it to be dealt out")
    left = sum(params.values()) - size_of(plan, params)
    made: dict[str, Level] = {name: Sparsity(share=0.0) for name in plan}
    names = list(plan)
    for at in np.random.default_rng(seed).permutation(len(names)):
        name = names[at]
        pruned = params[name] - pattern.size(params[name])
        if name in able and pruned <= left:
            made[name] = pattern
            left -= pruned
    return made


def _raised(
    bits: Sequence[int], counts: Sequence[int], size: int, rng: np.random.Generator
) -> list[int]:
    """Bits of at least ``size`` in all, of which no single step down leaves it reached."""
    menu = sorted(set(bits))
    at = [menu.index(x) for x in bits]

    def now() -> int:
        return sum(menu[k] * n for k, n in zip(at, counts, strict=True))

    while now() < size:
        able = [i for i, k in enumerate(at) if k + 1 < len(menu)]
        at[int(rng.choice(able))] += 1
    while True:
        spare = now() - size
        able = [i for i, k in enumerate(at) if k and (menu[k] - menu[k - 1]) * counts[i] <= spare]
        if not able:
            return [menu[k] for k in at]
        at[int(rng.choice(able))] -= 1


def _scaled(shares: Sequence[float], counts: Sequence[int], size: int) -> list[int]:
    """Whole numbers of kept weights, in proportion to the shares, of at least ``size`` in all."""
    share, count = np.maximum(shares, LEAST_KEPT), np.asarray(counts, dtype=np.int64)

    def at(factor: float) -> np.ndarray:
        return np.minimum(np.ceil(factor * share * count), count).astype(np.int64)

    low, high = 0.0, 1 / LEAST_KEPT
    while low < (middle := 0.5 * (low + high)) < high:
        low, high = (middle, high) if at(middle).sum() < size else (low, middle)
    return [int(x) for x in at(high)]


def _at_bits(level: Bits, bits: int) -> Bits:
    return Bits(replace(level.rounding, bits=bits))


def _at_pruned(level: Sparsity, pruned: int, count: int) -> Sparsity:
    return replace(level, share=pruned / count)


def _all(plan: Plan, kind: type[L]) -> dict[str, L] | None:
    """The plan where all its levels are of one kind, None where none is."""
    found = {name: x for name, x in plan.items() if isinstance(x, kind)}
    if found and len(found) < len(plan):
        raise UsageError("a plan must be of bits or of sparsities, got both: judge one at a time")
    return found or None


def _sparsities(plan: Plan) -> dict[str, Sparsity]:
    found = _all(plan, Sparsity)
    if found is None:
        got = ", ".join(sorted({type(x).__name__ for x in plan.values()})) or "none"
        raise UsageError(f"a plan must be of bits or of sparsities, got levels of {got}")
    return found
