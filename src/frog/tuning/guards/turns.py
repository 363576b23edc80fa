"""Matrices in turns: a check looks at a few, the next one goes on from there."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from frog.tuning.guards.run import Run
    from frog.tuning.matrix import TunedMatrix


class Turns:
    """Takes ``layers`` matrices at a time (None: all), in the order of the run, over and over."""

    def __init__(self, layers: int | None) -> None:
        self.layers = layers
        self._next = 0

    def take(self, run: Run, names: Collection[str]) -> list[TunedMatrix]:
        """The next few of the run's matrices among ``names``."""
        able = [x for x in run.matrices if x.name in names]
        if not able:
            return []
        count = len(able) if self.layers is None else min(self.layers, len(able))
        taken = [able[place % len(able)] for place in range(self._next, self._next + count)]
        self._next = (self._next + count) % len(able)
        return taken

    def state_dict(self) -> dict[str, Any]:
        """Which matrix comes next."""
        return {"next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._next = state["next"]
