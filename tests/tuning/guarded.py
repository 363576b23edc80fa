"""Runs under guards for the tests: a small Llama, a plain loop, a damage in the middle of it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from frog.tuning import Tuner
from frog.tuning.guards import Guard, Reading, Watcher
from tests.tuning.models import batches, choose, llama

GOOD = 3e-3
"""A good learning rate for the small Llama with 5 % of its weights."""


class At(Watcher):
    """Raises an alarm at the given steps."""

    name = "at"
    every = 1

    def __init__(self, *steps: int, **common: Any) -> None:
        super().__init__(**common)
        self.steps = steps

    def check(self, run: Any) -> list[Reading]:
        value = 2.0 if run.step in self.steps else 0.0
        return [Reading(layer="w", kind="planned", before=0, value=value, limit=1, words="it is")]


def loop(
    tuner: Tuner,
    *,
    steps: int = 12,
    lr: float = GOOD,
    before: Callable[[int], None] | None = None,
    after: Callable[[int], None] | None = None,
    optimizer: Any = None,
    rows: Any = None,
) -> Any:
    """A plain loop that ends where a guard asks for it; gives the optimizer."""
    made = optimizer or tuner.optimizer(lr=lr)
    for step, batch in enumerate(rows or batches(steps), 1):
        made.zero_grad()
        tuner.model(**batch).loss.backward()
        if before is not None:
            before(step)
        made.step()
        if after is not None:
            after(step)
        if tuner.stopped:
            break
    return made


def guarded(guards: str | Sequence[str | Guard], share: float = 0.05, **config: Any) -> Tuner:
    """A tuner of a small Llama under guards."""
    model = llama(**config)
    return Tuner(model, choose(model, share), guards=guards)


def wide() -> dict[str, Any]:
    """Sizes at which layers have enough eigenvalues for an alpha."""
    return {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}


def matrix(tuner: Tuner, name: str) -> Any:
    """The first tuned matrix whose name holds ``name``."""
    return next(x for x in tuner.matrices if name in x.name)


def fitted() -> Any:
    """A small Llama that knows its batches: there is something to lose."""
    model = llama()
    made = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for _ in range(12):
        for batch in batches(4):
            made.zero_grad()
            model(**batch).loss.backward()
            made.step()
    return model


def evaluation(model: Any, rows: Any = None) -> float:
    """Loss on batches, by default those of :func:`fitted`."""
    rows = rows or batches(4)
    with torch.no_grad():
        return float(sum(model(**x).loss for x in rows)) / len(rows)


def kinds(tuner: Tuner) -> set[tuple[str, str]]:
    """Which guard raised an alarm about what."""
    return {(x.guard, x.kind) for x in tuner.alarms}
