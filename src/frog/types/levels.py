"""Levels of compression: units, what each level costs them, and a choice of levels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Unit:
    """What gets one level: a matrix, or a block of them.

    A level is a bit width or a sparsity in [0, 1]. Units of one ``tie`` share a level; ``pin`` is
    a level that is settled beforehand.
    """

    name: str
    params: int
    tie: str | None = None
    pin: float | None = None

    @property
    def tied(self) -> tuple[str, str]:
        """Equal for the units that share a level; of one without a tie its own."""
        return ("unit", self.name) if self.tie is None else ("tie", self.tie)


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """A unit's expected damage and exact size (bits, or kept weights) at each of its levels (K,).

    Damages of different units are taken to add up.
    """

    unit: Unit
    levels: tuple[float, ...]
    costs: tuple[float, ...]
    sizes: tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocation:
    """One level per unit, in the order of the units, and its exact size.

    ``cost`` is the sum of the damages that were expected, None where the allocator knows none.
    """

    levels: tuple[float, ...]
    sizes: tuple[int, ...]
    cost: float | None = None

    @property
    def size(self) -> int:
        """Bits or kept weights in all."""
        return sum(self.sizes)
