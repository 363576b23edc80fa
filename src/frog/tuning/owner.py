"""The class that a module gets while its parameters are tuned: plain to everyone who looks."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from frog.tuning.bridge import Bridge
from frog.tuning.compact import Compact

PLACE = "_frog"
"""Where a module keeps what it needs while it is tuned."""
SUFFIX = "_change"
"""``weight`` trains through ``weight_change``."""


class Owner:
    """What a tuned module knows: its compacts by parameter name, and the class it came from."""

    def __init__(self, kind: type[nn.Module], compacts: dict[str, Compact]) -> None:
        self.kind = kind
        self.compacts = compacts


def adopt(module: nn.Module, compacts: dict[str, Compact]) -> None:
    """Give a module its class for the time of tuning; the compacts become its parameters."""
    kind = type(module)
    module.__dict__[PLACE] = Owner(kind, compacts)
    for attribute, compact in compacts.items():
        module.register_parameter(attribute + SUFFIX, compact.change)
    module.__class__ = tuned_class(kind, tuple(sorted(compacts)))


def release(module: nn.Module) -> None:
    """Give a module back its own class and parameters."""
    owner = module.__dict__.pop(PLACE)
    module.__class__ = owner.kind
    for attribute in owner.compacts:
        del module._parameters[attribute + SUFFIX]


@cache
def tuned_class(kind: type[nn.Module], attributes: tuple[str, ...]) -> type[nn.Module]:
    """A subclass of ``kind`` under its own name, in which ``attributes`` train."""

    def _save_to_state_dict(self: Any, destination: dict, prefix: str, keep_vars: bool) -> None:
        super(made, self)._save_to_state_dict(destination, prefix, keep_vars)
        for attribute in self.__dict__[PLACE].compacts:
            destination.pop(prefix + attribute + SUFFIX, None)

    def _load_from_state_dict(self: Any, state: dict, prefix: str, *rest: Any) -> None:
        missing = rest[2]
        super(made, self)._load_from_state_dict(state, prefix, *rest)
        for attribute, compact in self.__dict__[PLACE].compacts.items():
            key = prefix + attribute + SUFFIX
            if key in missing:
                missing.remove(key)
            if prefix + attribute in state:
                compact.read()

    space: dict[str, Any] = {
        "_save_to_state_dict": _save_to_state_dict,
        "_load_from_state_dict": _load_from_state_dict,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        **{attribute: _through_bridge(attribute) for attribute in attributes},
    }
    made = type(kind.__name__, (kind,), space)
    return made


def _through_bridge(attribute: str) -> property:
    """Hands out the parameter through a :class:`Bridge` where gradients are wanted."""

    def get(module: Any) -> Tensor | None:
        weight = module._parameters[attribute]
        if weight is None or not torch.is_grad_enabled():
            return weight
        compact = module.__dict__[PLACE].compacts[attribute]
        return Bridge.apply(weight, compact.change, compact.index)

    setter: Callable[[Any, Any], None] = lambda module, value: nn.Module.__setattr__(  # noqa: E731
        module, attribute, value
    )
    return property(get, setter)
