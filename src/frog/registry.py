"""A named collection of plug-ins of one kind."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeVar

from frog.errors import UnknownName, UsageError

T = TypeVar("T")


class Registry(Mapping[str, T]):
    """Maps names to objects in the order in which they were added.

    >>> colours = Registry[int]("colour")
    >>> colours.add("red", 1)
    >>> colours["red"], list(colours)
    (1, ['red'])
    """

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self._members: dict[str, T] = {}

    def add(self, name: str, member: T) -> None:
        """Add a member; a second one of the same name is an error."""
        if name in self._members:
            raise UsageError(f"{self.kind} '{name}' exists already: {self._members[name]!r}")
        self._members[name] = member

    def __getitem__(self, name: str) -> T:
        if name not in self._members:
            raise UnknownName(self.kind, name, self._members)
        return self._members[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._members)

    def __len__(self) -> int:
        return len(self._members)
