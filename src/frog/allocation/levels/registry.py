"""The allocators of levels, by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, TypeVar

from frog.registry import Registry
from frog.types.levels import Allocation

Needs = Literal["curves", "scores"]
F = TypeVar("F", bound=Callable[..., Allocation])


@dataclass(frozen=True, slots=True, kw_only=True)
class Allocator:
    """One way to choose levels; ``needs`` is what it is given: curves, or one score per unit."""

    name: str
    words: str
    source: str
    needs: Needs
    function: Callable[..., Allocation]


ALLOCATORS: Registry[Allocator] = Registry("allocator")


def allocator(name: str, *, words: str, source: str, needs: Needs) -> Callable[[F], F]:
    """Register a function as an allocator and give it back unchanged."""

    def register(function: F) -> F:
        made = Allocator(name=name, words=words, source=source, needs=needs, function=function)
        ALLOCATORS.add(name, made)
        return function

    return register
