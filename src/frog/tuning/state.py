"""The exact state of a tuner inside the optimizer's: resumed as saved, to the bit.

A dense weight in bf16 knows its change only roughly. So the float32 changes, the counters and the
state of all parts travel in the optimizer's state dict, in its ``state`` under the key ``frog``:
optimizers hand on what belongs to no parameter, so that one which is loaded before the tuner has
met it loses nothing.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch.optim.optimizer import (
    register_optimizer_step_post_hook,
    register_optimizer_step_pre_hook,
)

from frog.errors import UsageError

KEY = "frog"


class Stateful(Protocol):
    """What is saved with the optimizer that trains it: a tuner."""

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers, strings and tensors."""
        ...

    def check_state(self, state: dict[str, Any]) -> None:
        """Refuse what does not fit; changes nothing."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take what :meth:`state_dict` gave; changes nothing where it does not fit."""
        ...

    def trains_in(self, optimizer: torch.optim.Optimizer) -> bool:
        """Whether the optimizer holds a vector of this tuner."""
        ...

    def stepped(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimizer made a step."""
        ...


class Followed:
    """All optimizers that train one tuner, whoever made them.

    ``before``, a method of the tuner, is called with an optimizer that is about to step.
    """

    def __init__(
        self,
        tuner: Stateful,
        before: Callable[[torch.optim.Optimizer], None] | None = None,
    ) -> None:
        self._tuner = weakref.ref(tuner)
        self._ready = weakref.WeakMethod(before) if before is not None else None
        self._known: weakref.WeakSet[torch.optim.Optimizer] = weakref.WeakSet()
        self._handles: list[Any] = [
            # Of every optimizer: a fused one leaves no other trace of its steps.
            register_optimizer_step_pre_hook(self._before),
            register_optimizer_step_post_hook(self._after),
        ]

    def meet(self, optimizer: torch.optim.Optimizer) -> None:
        """Save and load the tuner with this optimizer."""
        if optimizer in self._known:
            return
        self._known.add(optimizer)
        self._handles += [
            optimizer.register_state_dict_post_hook(self._save),
            optimizer.register_load_state_dict_pre_hook(self._load),
        ]

    @property
    def known(self) -> tuple[torch.optim.Optimizer, ...]:
        """The optimizers that were met and are alive."""
        return tuple(self._known)

    def remove(self) -> None:
        """Leave all optimizers alone."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()

    def _before(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        tuner = self._tuner()
        if tuner is None or not tuner.trains_in(optimizer):
            return
        self.meet(optimizer)
        # Loaded before it was met: taken now, before the first step can build on less.
        loaded = optimizer.state.get(KEY)  # type: ignore[call-overload]
        if loaded is not None:
            tuner.load_state_dict(loaded)  # refused: it stays, and so does the refusal
            del optimizer.state[KEY]  # type: ignore[arg-type]
        ready = self._ready() if self._ready is not None else None
        if ready is not None:
            ready(optimizer)

    def _after(self, optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
        tuner = self._tuner()
        if tuner is not None and tuner.trains_in(optimizer):
            tuner.stepped(optimizer)

    def _save(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        tuner = self._tuner()
        if tuner is None:
            return state
        return {**state, "state": {**state["state"], KEY: tuner.state_dict()}}

    def _load(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
        tuner = self._tuner()
        if tuner is None:
            return state
        if KEY not in state["state"]:
            raise UsageError(
                "the optimizer state to resume from was saved without a tuner: it must come from "
                "a run with the same selection (nothing was changed)"
            )
        tuner.check_state(state["state"][KEY])
        saved, mine = _groups(state["param_groups"]), _groups(optimizer.param_groups)
        if saved != mine:  # torch would find out when the tuner is loaded already
            raise UsageError(
                f"the optimizer state to resume from has groups of {saved} parameters, this "
                f"optimizer has {mine}: make tuner and optimizer with the same plan, also= and "
                "settings (nothing was changed)"
            )
        tuner.load_state_dict(state["state"][KEY])
        rest = {key: value for key, value in state["state"].items() if key != KEY}
        return {**state, "state": rest}


def _groups(groups: Any) -> list[int]:
    return [len(group["params"]) for group in groups]


class BeforeForward:
    """A hook that calls ``action`` of a tuner before the model runs; a copy of it does nothing."""

    def __init__(self, action: Callable[[], None] | None) -> None:
        self._action = weakref.WeakMethod(action) if action is not None else None

    def __call__(self, module: Any, args: Any) -> None:
        """What torch calls with the module and its inputs."""
        if torch.compiler.is_compiling() or self._action is None:
            return
        action = self._action()
        if action is not None:
            action()

    def __reduce__(self) -> Any:
        return BeforeForward, (None,)


class BeforeLoad:
    """A hook that calls ``action(state, prefix, metadata)`` of a sampler before weights are loaded
    into the model; a copy of it does nothing.
    """

    def __init__(
        self, action: Callable[[dict[str, Any], str, dict[str, Any]], None] | None
    ) -> None:
        self._action = weakref.WeakMethod(action) if action is not None else None

    def __call__(self, module: Any, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        """What torch calls with the module, the state dict and the prefix of its names in it."""
        action = self._action() if self._action is not None else None
        if action is not None:
            action(state, prefix, metadata)

    def __reduce__(self) -> Any:
        return BeforeLoad, (None,)


class Holder:
    """Keeps a tuner alive as long as its model; a copy of the model has none."""

    def __init__(self, tuner: Any = None) -> None:
        self.tuner = tuner

    def __reduce__(self) -> Any:
        return Holder, ()
