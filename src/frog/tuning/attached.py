"""What has taken a model in hand to train a part of it, and leaves it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Self

import torch
from torch import nn

from frog.errors import UnknownName, UsageError
from frog.tuning.state import Followed

ROOT = "_frog_tuner"
"""Where the model keeps its tuner: who drops the name ``tuner`` still trains."""


class Attached:
    """A tuner or a sampler: a model has one of them at most, until ``keep`` or ``revert``.

    ``parts`` are saved and resumed with the optimizer; ``step`` counts its steps, ``micro_step``
    the training forward passes since.
    """

    model: nn.Module
    step: int
    micro_step: int
    parts: dict[str, Any]
    _after: list[Callable[[torch.optim.Optimizer], None]]
    _followed: Followed

    @property
    def attached(self) -> bool:
        """Whether the model is tuned: neither kept nor reverted yet."""
        return holder_of(self.model) is self

    def add(self, name: str, part: Any) -> None:
        """Save and resume ``part`` (``state_dict``, ``load_state_dict``) with the optimizer."""
        if name in self.parts:
            raise UsageError(f"the tuner has a part '{name}' already")
        self.parts[name] = part

    def on_step(self, action: Callable[[torch.optim.Optimizer], None]) -> None:
        """Call ``action(optimizer)`` after every step, when the weights are written."""
        self._after.append(action)

    def meet(self, optimizer: torch.optim.Optimizer) -> None:
        """Save and load the state of this tuner with ``optimizer``.

        Needed only for one that is not from ``optimizer()`` and saved before its first step.
        """
        self._followed.meet(optimizer)

    def keep(self) -> None:
        """Leave the model with its tuned weights."""
        raise NotImplementedError

    def revert(self) -> None:
        """Leave the model as it was, bit for bit."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if self.attached:
            self.keep() if kind is None else self.revert()

    def _must_be_attached(self) -> None:
        if not self.attached:
            raise UsageError("this tuner has left its model already: make a new one")

    def _parts_state(self) -> dict[str, Any]:
        return {name: part.state_dict() for name, part in self.parts.items()}

    def _must_have_parts(self, saved: Iterable[str]) -> None:
        if set(saved) != set(self.parts):
            raise UsageError(
                f"the saved run had {sorted(saved) or 'nothing'} beside the tuner, this one has "
                f"{sorted(self.parts) or 'nothing'}: set it up alike (nothing was changed)"
            )


def holder_of(module: nn.Module) -> Any:
    """The tuner or sampler of a module, None if it has none."""
    held = module.__dict__.get(ROOT)
    return held.tuner if held is not None else None


def refuse_second(model: nn.Module) -> None:
    """UsageError where a tuner has the model, or a part of it, in hand already."""
    if any(holder_of(module) is not None for module in model.modules()):
        raise UsageError("this model has a tuner already: keep() or revert() that one first")


def matching(model: nn.Module, patterns: Sequence[str], what: str) -> dict[str, nn.Parameter]:
    """The parameters, by name, that any of the regular expressions finds; tied ones once.

    Raises :class:`~frog.errors.UnknownName` for a pattern that finds nothing.
    """
    named = dict(model.named_parameters())
    chosen: dict[str, nn.Parameter] = {}
    for pattern in (patterns,) if isinstance(patterns, str) else patterns:
        try:
            hits = {k: v for k, v in named.items() if re.search(pattern, k)}
        except re.error as error:
            raise UsageError(
                f"{what}= must hold regular expressions, got '{pattern}' ({error})"
            ) from None
        if not hits:
            raise UnknownName(f"parameter for {what}=", pattern, named)
        chosen |= hits
    return chosen
