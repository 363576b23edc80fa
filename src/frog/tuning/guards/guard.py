"""What a guard is: it measures, at intervals, and knows its limits. What follows is not its task.

A guard of one's own subclasses :class:`Watcher` (or has the same attributes and methods) and goes
into ``Tuner(..., guards=[...])``; with ``@guard`` it also gets a name in the registry.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from frog.errors import UsageError
from frog.registry import Registry
from frog.tuning.guards.reading import Reading
from frog.types.certificates import RESPONSES

if TYPE_CHECKING:
    import torch

    from frog.tuning.guards.run import Run


class Guard(Protocol):
    """Watches one side of a run: called every ``every`` steps, it gives what it measured.

    ``cost`` is the largest share of the run's time that its checks may take (None: any): beyond
    it, they become rarer. ``action`` is one of ``log``, ``slow``, ``restore`` and ``stop``;
    ``slow`` is what the learning rate is multiplied with by the second and the third.
    """

    name: str
    every: int
    action: str
    cost: float | None
    slow: float

    def start(self, run: Run) -> None:
        """Measure health, before the first step."""
        ...

    def before_step(self, run: Run, optimizer: torch.optim.Optimizer) -> Iterable[Reading]:
        """Before every step of the optimizer, when the gradients are complete.

        What is beyond its limit is acted on when the step is over; ``restore`` undoes it.
        """
        ...

    def after_step(self, run: Run) -> None:
        """After every step, when the weights are written."""
        ...

    def check(self, run: Run) -> Iterable[Reading]:
        """What there is to see after a step, every ``every`` steps."""
        ...

    def on_loss(self, run: Run, value: float, kind: str) -> Iterable[Reading]:
        """A loss was reported; ``kind`` is ``training`` or ``evaluation``."""
        ...

    def restored(self, run: Run) -> None:
        """The weights were put back: what was remembered of the last steps is void."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave."""
        ...


class Watcher:
    """A guard that does nothing yet: what all have in common.

    Raises :class:`~frog.errors.UsageError` for an interval, action or factor that is none.
    """

    name = ""
    every = 100
    action = "log"
    cost: float | None = None
    slow = 0.1

    def __init__(
        self,
        *,
        every: int | None = None,
        action: str | None = None,
        cost: float | None = None,
        slow: float | None = None,
    ) -> None:
        self.every = type(self).every if every is None else every
        self.action = type(self).action if action is None else action
        self.cost = cost
        self.slow = type(self).slow if slow is None else slow
        word = self.name or type(self).__name__
        if not isinstance(self.every, int) or self.every < 1:
            raise UsageError(f"{word}: every must be at least 1 step, got {self.every!r}")
        if self.action not in RESPONSES:
            raise UsageError(
                f"{word}: action must be one of {', '.join(RESPONSES)}, got {self.action!r}"
            )
        if not 0 < self.slow < 1:
            raise UsageError(f"{word}: slow must be a factor in (0, 1), got {self.slow!r}")
        if self.cost is not None and not 0 < self.cost <= 1:
            raise UsageError(f"{word}: cost must be a share of time in (0, 1], got {self.cost!r}")

    def __repr__(self) -> str:
        return f"{type(self).__name__}(every={self.every}, action={self.action!r})"

    def start(self, run: Run) -> None:
        """Nothing to measure."""

    def before_step(self, run: Run, optimizer: torch.optim.Optimizer) -> Iterable[Reading]:
        """Nothing."""
        return ()

    def after_step(self, run: Run) -> None:
        """Nothing."""

    def check(self, run: Run) -> Iterable[Reading]:
        """Nothing."""
        return ()

    def on_loss(self, run: Run, value: float, kind: str) -> Iterable[Reading]:
        """Nothing."""
        return ()

    def restored(self, run: Run) -> None:
        """Nothing was remembered."""

    def state_dict(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing."""


GUARDS: Registry[Callable[..., Guard]] = Registry("guard")

AUTO = ("health", "scale-collapse", "over-training", "change")
"""What ``guards="auto"`` means. Protecting subspaces is a wish, not a sign of health: by name."""

SHORT = {"collapse": "scale-collapse", "spectral-share": "change"}
"""Other words for some."""


def guard(kind: Any) -> Any:
    """Register a class of guards under its ``name`` and give it back unchanged."""
    GUARDS.add(kind.name, kind)
    return kind


def kind_of(name: str) -> Callable[..., Guard]:
    """The guard of that name, or of one of its short names; UnknownName for any other."""
    return GUARDS[SHORT.get(name, name)]


def guards_from(asked: Any) -> tuple[Guard, ...]:
    """Guards from names, objects or ``"auto"``; UsageError for two of one name.

    >>> guards_from("auto")[0].name, guards_from(["collapse"])[0].name
    ('health', 'scale-collapse')
    """
    if isinstance(asked, str):
        asked = AUTO if asked == "auto" else (asked,)
    made = []
    for item in AUTO if "auto" in [x for x in asked if isinstance(x, str)] else ():
        if not any(getattr(x, "name", x) in (item, *_others(item)) for x in asked):
            made.append(GUARDS[item]())
    for item in asked:
        if item == "auto":
            continue
        if isinstance(item, str):
            made.append(kind_of(item)())
        elif isinstance(item, type) or not callable(getattr(item, "check", None)):
            raise UsageError(f"a guard must be a name or a Guard object, got {item!r}")
        else:
            made.append(item)
    names = [x.name for x in made]
    twice = {x for x in names if names.count(x) > 1}
    if twice:
        raise UsageError(f"every guard may be there once, got {sorted(twice)[0]!r} more than once")
    return tuple(made)


def _others(name: str) -> list[str]:
    return [short for short, long in SHORT.items() if long == name]
