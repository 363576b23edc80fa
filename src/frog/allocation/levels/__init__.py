"""Which unit gets which level of compression, under one budget of size.

registry  the allocators: name, words, source, what they need
choices   curves with ties and pins -> independent choices; the Lagrangian bound
price     the Lagrangian choice, the rest spent by best ratio: near the optimum, in no time
states    the exact dynamic programme
highs     the same problem as an integer programme
closed    formulas of one score per unit
"""

from frog.allocation.levels.closed import (
    ideal_bits,
    linear_map,
    proportional,
    two_level,
    water_filling,
)
from frog.allocation.levels.highs import integer
from frog.allocation.levels.price import greedy
from frog.allocation.levels.registry import ALLOCATORS, Allocator
from frog.allocation.levels.states import dynamic

__all__ = [
    "ALLOCATORS", "Allocator", "dynamic", "greedy", "ideal_bits", "integer", "linear_map",
    "proportional", "two_level", "water_filling",
]  # fmt: skip
