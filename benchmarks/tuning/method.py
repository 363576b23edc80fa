"""What a fine-tuning method is: how it attaches to a task's model, and what it trains there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from benchmarks.tuning.task import Task


class NotApplicable(Exception):
    """The method cannot take this task; the text says why, and stands in the table."""


@dataclass(kw_only=True)
class Attached:
    """A method on a model, ready to train.

    ``groups`` are parameter groups of AdamW, ``lr`` set, without the head; ``trainable`` counts
    their weights; ``delta_bytes`` is what has to be stored beside the base model (values in 32
    bits), settled by ``finish`` where it is known only then. ``before_step`` and ``after_step`` get
    the number of the step, from 1, and of all steps: after backward, and after the optimizer's
    step. ``finish`` leaves a plain model.
    """

    groups: list[dict[str, Any]]
    trainable: int
    delta_bytes: int
    before_step: Callable[[int, int], None] = lambda step, total: None
    after_step: Callable[[int, int], None] = lambda step, total: None
    finish: Callable[[], None] = lambda: None
    optimizer: Any = None
    """An optimizer of its own over all groups and the head, where AdamW will not do: a class."""
    tuner: Any = None
    """The :class:`frog.Tuner` of FROG's methods."""
    facts: dict[str, Any] = field(default_factory=dict)


Build = Callable[[Task, float, float, int], Attached]
"""(task, share, learning rate, seed) -> attached; raises :class:`NotApplicable`."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One way to tune; ``rate(task, share)`` is the learning rate in the middle of its grid.

    ``family`` is ``control``, ``peer`` or ``frog``; ``ideas`` names modules of
    ``benchmarks.tuning.ideas`` that act on the run.
    """

    name: str
    family: str
    words: str
    source: str
    build: Build
    rate: Callable[[Task, float], float]
    ideas: tuple[Any, ...] = ()
    budgeted: bool = True
    """False where the method has no budget (full tuning, the head alone)."""


METHODS: dict[str, Method] = {}


def add(made: Method) -> Method:
    """Register a method by its name."""
    if made.name in METHODS:
        raise ValueError(f"a method named {made.name!r} stands there twice")
    METHODS[made.name] = made
    return made


def freeze(model: nn.Module) -> None:
    """Nothing of the model trains."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)
