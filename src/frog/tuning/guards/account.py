"""Where the time of a run goes: the guards, each of them, and all of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Account:
    """Seconds by name: ``run`` from the first step on, ``guards`` of it, ``start`` before it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {"run": 0.0, "guards": 0.0, "start": 0.0}
        self.by_guard: dict[str, float] = {}
        self._mark: float | None = None

    def tick(self) -> None:
        """A step begins or ends: what went by since the last tick belongs to the run."""
        now = time.perf_counter()
        if self._mark is not None:
            self.seconds["run"] += now - self._mark
        self._mark = now

    @contextmanager
    def of(self, guard: str, device: torch.device, whole: str = "guards") -> Iterator[None]:
        """What is done inside is the cost of that guard."""
        if device.type == "cuda":
            torch.cuda.current_stream(device).synchronize()  # the step's own work is not ours
        begin = time.perf_counter()
        try:
            yield
        finally:
            if device.type == "cuda":
                torch.cuda.current_stream(device).synchronize()
            spent = time.perf_counter() - begin
            self.seconds[whole] += spent
            if whole == "guards":
                self.by_guard[guard] = self.by_guard.get(guard, 0.0) + spent

    def share(self, guard: str) -> float:
        """Share of the run's time that went into a guard."""
        return self.by_guard.get(guard, 0.0) / max(self.seconds["run"], 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """All seconds."""
        return {"seconds": dict(self.seconds), "by_guard": dict(self.by_guard)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there; what it took to start again is added."""
        again = self.seconds["start"]
        self.seconds = dict(state["seconds"])
        self.seconds["start"] += again
        self.by_guard = dict(state["by_guard"])
        self._mark = None
