"""What has taken a model in hand to train a part of it, and leaves it again."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import Any, Self

import torch
from torch import nn

from frog.errors import MissingPackage, UnknownName, UsageError
from frog.tuning import owner
from frog.tuning.places import refuse_sharded
from frog.tuning.state import Followed, Holder

ROOT = "_frog_tuner"
"""Where the model keeps its tuner: who drops the name ``tuner`` still trains."""


class Attached:
    """A tuner or a sampler: a model has one of them at most, until ``keep`` or ``revert``.

    ``parts`` are saved and resumed with the optimizer; ``step`` counts its steps, ``micro_step``
    the training forward passes since. A part may have ``check_state(state)``, which refuses what
    does not fit and changes nothing: all parts are asked before the first one loads.
    """

    _followed: Followed

    def __init__(self, model: nn.Module, seed: int) -> None:
        refuse_sharded(model)
        refuse_second(model)
        self.model = model
        self.seed = seed
        self.step = 0
        self.micro_step = 0
        self.parts: dict[str, Any] = {}
        self._after: list[Callable[[torch.optim.Optimizer], None]] = []

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

    @property
    def whole(self) -> Mapping[str, nn.Parameter]:
        """The parameters that train all the time as they are, by name: a new head."""
        raise NotImplementedError

    def write(self) -> None:
        """Put what was changed beside the weights into them; nothing to do where they train."""

    def scale_change(self, share: float) -> None:
        """Keep ``share`` of the change that was made."""
        raise NotImplementedError

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

    # ------------------------------------------------------ what both do with the model

    def _take(self, trains: Iterable[nn.Parameter], frozen_statistics: bool) -> None:
        """Freeze all but ``trains``, without gradients from before; the model has a tuner now."""
        kept = {id(x) for x in trains}
        parameters = list(self.model.parameters())
        self._required = [(x, x.requires_grad) for x in parameters]
        for parameter in parameters:
            if id(parameter) in kept:
                parameter.requires_grad_(True)
            elif parameter.is_floating_point():
                parameter.requires_grad_(False)
                parameter.grad = None  # clipping would count it, if it stayed
        self._frozen = owner.freeze_statistics(self.model) if frozen_statistics else []
        self.model.__dict__[ROOT] = Holder(self)

    def _give_back(self) -> None:
        """What required gradients does so again; statistics follow again; no tuner any more."""
        owner.thaw_statistics(self._frozen)
        for parameter, required in self._required:
            parameter.requires_grad_(required)
            parameter.grad = None if not required else parameter.grad
        del self.model.__dict__[ROOT]

    # ------------------------------------------------------------------ what both save

    def _state(self) -> dict[str, Any]:
        """Counters, and the state of all parts."""
        parts = {name: part.state_dict() for name, part in self.parts.items()}
        return {"step": self.step, "micro_step": self.micro_step, "parts": parts}

    def _check_parts(self, saved: dict[str, Any]) -> None:
        """UsageError, before anything is loaded, where a part does not fit its saved state."""
        if set(saved) != set(self.parts):
            raise UsageError(
                f"the saved run had {_told(saved)} beside the tuner, this one has "
                f"{_told(self.parts)}: set it up alike (nothing was changed)"
            )
        for name, part in self.parts.items():
            check = getattr(part, "check_state", None)
            if check is not None:
                check(saved[name])

    def _load(self, state: dict[str, Any]) -> None:
        """Take a :meth:`_state`, checked before."""
        for name, part in self.parts.items():
            part.load_state_dict(state["parts"][name])
        self.step, self.micro_step = state["step"], state["micro_step"]


def _told(names: Collection[str]) -> str:
    return ", ".join(sorted(names)) or "nothing"


def checked_share(share: Any, word: str = "share") -> float:
    """A share of a change that can be kept, in (0, 1]; UsageError else."""
    number = isinstance(share, int | float) and not isinstance(share, bool)
    if not number or not 0 < share <= 1:
        raise UsageError(
            f"{word} must be a number above 0 and at most 1, got {share!r}: 0.6 keeps 60 % of the "
            "change; revert() takes all of it back"
        )
    return float(share)


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


def trainer_callback(kind: str, tuner: Any) -> Any:
    """A callback of :mod:`frog.tuning.trainer`, which needs transformers, for a tuner or sampler.

    Raises :class:`~frog.errors.MissingPackage` without it.
    """
    try:
        from frog.tuning import trainer
    except ImportError:
        raise MissingPackage("transformers", "tune") from None
    return getattr(trainer, kind)(tuner)
