"""Draws that anyone can repeat: a function of seed, turn and names, and of nothing else."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

BITS = 56


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Steps ``start`` to ``stop`` (exclusive) train the ``units``."""

    start: int
    stop: int
    units: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draws:
    """How units are drawn: so many ``active`` units for ``every`` optimizer steps, with the
    ``chances`` (U,) of all units; ``marks`` are what the chances were made of, for resuming.
    """

    active: int
    every: int
    seed: int
    chances: tuple[float, ...]
    marks: Mapping[str, Any]


def draw(chances: Mapping[str, float], count: int, *, seed: int, turn: int) -> tuple[str, ...]:
    """``count`` names without replacement, in the order of ``chances``.

    One after another, each with the probability that it has among those left: the names of the
    largest log p + g, for g from a Gumbel distribution (Efraimidis & Spirakis 2006). The g come
    from a hash of seed, turn and name: every process and machine draws the same, at any turn
    without the turns before it.

    >>> draw({"a": 0.5, "b": 0.25, "c": 0.25}, 2, seed=0, turn=0)
    ('a', 'c')
    """
    keys = {
        name: math.log(chance) + _gumbel(f"{seed}/{turn}/{name}")
        for name, chance in chances.items()
    }
    first = sorted(keys, key=lambda name: (-keys[name], name))[:count]
    return tuple(name for name in chances if name in first)


def _gumbel(text: str) -> float:
    made = hashlib.blake2b(text.encode("utf-8", "backslashreplace"), digest_size=BITS // 8)
    uniform = (int.from_bytes(made.digest(), "big") + 0.5) / 2**BITS
    return -math.log(-math.log(uniform))
