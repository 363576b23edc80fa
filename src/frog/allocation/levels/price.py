"""The Lagrangian choice of levels, completed greedily."""

from __future__ import annotations

from collections.abc import Sequence

from frog.allocation.levels.choices import choices, lagrangian, raised
from frog.allocation.levels.registry import allocator
from frog.types.levels import Allocation, Curve


@allocator("greedy", words="one price of size for all, the rest by best ratio",
           source="Everett 1963, Operations Research 11(3)", needs="curves")  # fmt: skip
def greedy(curves: Sequence[Curve], *, budget: int) -> Allocation:
    """Levels at one price of size, what is left of ``budget`` spent by damage saved per size.

    Within one unit's step of the optimum, and the start of ``dynamic``.

    >>> from frog.types.levels import Unit
    >>> one = Curve(unit=Unit(name="a", params=2), levels=(2, 4), costs=(5.0, 1.0), sizes=(4, 8))
    >>> two = Curve(unit=Unit(name="b", params=2), levels=(2, 4), costs=(3.0, 1.0), sizes=(4, 8))
    >>> greedy([one, two], budget=12).levels
    (4, 2)
    """
    found = choices(curves, budget)
    return found.allocation(raised(found, lagrangian(found, budget)[0], budget))
