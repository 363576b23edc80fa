"""What the guards saw: the worst of each quantity, what is beyond its limit, what to log."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any

from frog.tuning.guards.reading import Reading
from frog.types import Alarm, Worst

AGAIN = 1.5
"""A value that stays beyond its limit is told again where it is this many times farther."""


class Record:
    """Keeps the worst value of each quantity, all alarms, and the newest values for a log."""

    def __init__(self) -> None:
        self.alarms: list[Alarm] = []
        self.worst: dict[tuple[str, str], Worst] = {}
        self.metrics: dict[str, float] = {}
        self._open: dict[tuple[str, str, str], float] = {}

    def add(self, guard: str, readings: Iterable[Reading], step: int) -> list[Reading]:
        """Take readings of one step in; those that are news beyond their limit come back."""
        news, shown = [], {}
        for reading in readings:
            self._keep(guard, reading, step)
            key = f"{guard}/{reading.kind.replace(' ', '_')}"
            if key not in shown or reading.used > shown[key].used:
                shown[key] = reading
            if self._is_news(guard, reading):
                news.append(reading)
        finite = {k: x.value for k, x in shown.items() if math.isfinite(x.value)}
        self.metrics |= {f"frog/{key}": value for key, value in finite.items()}
        return news

    def alarm(self, guard: str, reading: Reading, step: int, action: str) -> Alarm:
        """Write an alarm down."""
        made = Alarm(
            step=step, guard=guard, layer=reading.layer, kind=reading.kind,
            before=reading.before, now=reading.value, limit=reading.limit, action=action,
            text=reading.text,
        )  # fmt: skip
        self.alarms.append(made)
        return made

    def take_metrics(self) -> dict[str, float]:
        """The values that are newer than the last time this was asked."""
        taken, self.metrics = self.metrics, {}
        return taken

    def restored(self) -> None:
        """The weights were put back: whatever is beyond a limit from now on is news."""
        self._open.clear()

    def _keep(self, guard: str, reading: Reading, step: int) -> None:
        key = guard, reading.kind
        old = self.worst.get(key)
        if old is not None and old.used >= reading.used:
            self.worst[key] = replace(old, seen=old.seen + 1)
            return
        self.worst[key] = Worst(
            guard=guard, kind=reading.kind, layer=reading.layer, step=step,
            before=reading.before, value=reading.value, limit=reading.limit, used=reading.used,
            seen=1 if old is None else old.seen + 1,
        )  # fmt: skip

    def _is_news(self, guard: str, reading: Reading) -> bool:
        key = guard, reading.kind, reading.layer
        if not reading.beyond:
            self._open.pop(key, None)
            return False
        told = self._open.get(key)
        if told is not None and not reading.used > AGAIN * told:
            return False
        self._open[key] = reading.used
        return True

    def state_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "alarms": [asdict(x) for x in self.alarms],
            "worst": [asdict(x) for x in self.worst.values()],
            "open": [[*key, used] for key, used in self._open.items()],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self.alarms = [Alarm(**x) for x in state["alarms"]]
        self.worst = {(x["guard"], x["kind"]): Worst(**x) for x in state["worst"]}
        self._open = {(a, b, c): used for a, b, c, used in state["open"]}
