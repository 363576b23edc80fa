"""The class that a module gets while its parameters are tuned: plain to everyone who looks.

Its name, its state dict and its forward are those of the module's own class, of which it is a
subclass. Under its own parameter names it hands out the dense weights, through a
:class:`~frog.tuning.bridge.Bridge` where gradients are wanted; a linear layer called as such uses
a :class:`~frog.tuning.tap.Tap` instead.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo  # the public one loads the compiler at once
from torch.nn import functional as F

from frog.errors import UsageError
from frog.tuning.bridge import Bridge
from frog.tuning.compact import Compact, equal_bits
from frog.tuning.tap import Piece, Tap

PLACE = "_frog"
"""Where a module keeps what it needs while it is tuned."""
SUFFIX = "_change"
"""``weight`` trains through ``weight_change``."""


@dataclass(slots=True)
class Owner:
    """What a tuned module knows: its own class, its compacts by parameter name, its taps.

    ``make_pieces`` makes the pieces of a tap for the device of now. ``output`` maps input and
    output of a call to a new output in training mode (noise).
    """

    kind: type[nn.Module]
    compacts: dict[str, Compact]
    call: str
    make_pieces: Callable[[], list[Piece]]
    output: Callable[[Tensor, Tensor], Tensor] | None = None
    _pieces: list[Piece] = field(default_factory=list)
    _device: torch.device | None = None

    def pieces(self, device: torch.device) -> list[Piece]:
        """The pieces, made at the first call and after a move: strategies are by device."""
        if self._device != device:
            self._pieces, self._device = self.make_pieces(), device
        return self._pieces


def adopt(
    module: nn.Module,
    compacts: dict[str, Compact],
    call: str,
    make_pieces: Callable[[], list[Piece]],
) -> Owner:
    """Give a module its class for the time of tuning; the compacts become its parameters."""
    kind = type(module)
    made = Owner(kind, compacts, call, make_pieces)
    module.__dict__[PLACE] = made
    for attribute, compact in compacts.items():
        module.register_parameter(attribute + SUFFIX, compact.change)
    module.__class__ = tuned_class(kind, tuple(sorted(compacts)), call)
    return made


def release(module: nn.Module) -> None:
    """Give a module back its own class and parameters."""
    owner = module.__dict__.pop(PLACE)
    module.__class__ = owner.kind
    for attribute in owner.compacts:
        module._parameters.pop(attribute + SUFFIX, None)


@cache
def tuned_class(kind: type[nn.Module], attributes: tuple[str, ...], call: str) -> type[nn.Module]:
    """A subclass of ``kind`` under its own name, in which ``attributes`` train."""
    space: dict[str, Any] = {
        "_save_to_state_dict": _save_to_state_dict,
        "_load_from_state_dict": _load_from_state_dict,
        "__reduce_ex__": _reduce_ex,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        **{attribute: _through_bridge(attribute) for attribute in attributes},
    }
    if call in _FORWARDS:
        space["forward"] = _FORWARDS[call]
    return type(kind.__name__, (kind,), space)


def check_in_place(modules: list[nn.Module]) -> None:
    """Refuse where a tuned parameter was replaced (FSDP2, a resized embedding, a new tie)."""
    for module in modules:
        for attribute, compact in module.__dict__[PLACE].compacts.items():
            if module._parameters[attribute] is not compact.weight:
                raise UsageError(
                    f"{compact.name} must stay the parameter it was while it is tuned, got "
                    f"another ({type(module._parameters[attribute]).__name__}): shard (not "
                    "supported), resize or tie before the Tuner is made"
                )


# ------------------------------------------------------------------------------ forward


def _through_bridge(attribute: str) -> property:
    """Hands out the parameter through a :class:`Bridge` where gradients are wanted."""

    def get(module: Any) -> Tensor | None:
        weight = module._parameters[attribute]
        if weight is None or not torch.is_grad_enabled():
            return weight
        compact = module.__dict__[PLACE].compacts[attribute]
        handed = Bridge.apply(weight, compact.change, compact.index)
        if not torch.compiler.is_compiling():
            # Who ties weights asks for a parameter, and gives it to another module (below).
            handed._is_param, handed._frog_weight = True, weight
        return handed

    def put(module: Any, value: Any) -> None:
        nn.Module.__setattr__(module, attribute, getattr(value, "_frog_weight", value))

    return property(get, put)


def _cast(x: Tensor) -> Tensor:
    """The input as autocast casts it: once, and kept for the way back in half the bytes."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return x.to(torch.get_autocast_dtype(x.device.type))
    return x


def _linear(self: Any, input: Tensor) -> Tensor:
    owner: Owner = self.__dict__[PLACE]
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        y = owner.kind.forward(self, input)
    else:
        # Two axes: the product of three is a view, and a tap goes on the tensor itself.
        x = _cast(input.reshape(-1, input.shape[-1]))
        y = F.linear(x, self._parameters["weight"], self.bias)
        y = Tap.apply(y, owner.compacts["weight"].change, x.detach(), owner.pieces(x.device))
        y = y.view(*input.shape[:-1], y.shape[-1])
    return _output(self, owner, input, y)


def _conv1d(self: Any, x: Tensor) -> Tensor:
    owner: Owner = self.__dict__[PLACE]
    if not torch.is_grad_enabled() or torch.compiler.is_compiling():
        y = owner.kind.forward(self, x)
    else:
        flat = _cast(x.reshape(-1, x.shape[-1]))
        y = torch.addmm(self.bias, flat, self._parameters["weight"])
        y = Tap.apply(y, owner.compacts["weight"].change, flat.detach(), owner.pieces(x.device))
        y = y.view(*x.shape[:-1], y.shape[-1])
    return _output(self, owner, x, y)


def _as_it_is(self: Any, input: Tensor) -> Tensor:
    owner: Owner = self.__dict__[PLACE]
    return _output(self, owner, input, owner.kind.forward(self, input))


_FORWARDS = {"linear": _linear, "conv1d": _conv1d, "conv": _as_it_is, "embedding": _as_it_is}


def _output(module: nn.Module, owner: Owner, x: Tensor, y: Tensor) -> Tensor:
    if owner.output is None or not module.training:
        return y
    # Whether gradients are wanted it finds out itself: a checkpoint's first pass has them off.
    if torch.compiler.is_compiling():
        return _noise_outside_the_graph(owner.output, x, y)
    return owner.output(x, y)


@_disable_dynamo
def _noise_outside_the_graph(
    output: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor
) -> Tensor:
    """A call that a compiled graph leaves for: it depends on counters, not on tensors alone."""
    return output(x, y)


# ----------------------------------------------------------------------- saving, loading


def _save_to_state_dict(self: Any, destination: dict, prefix: str, keep_vars: bool) -> None:
    owner: Owner = self.__dict__[PLACE]
    owner.kind._save_to_state_dict(self, destination, prefix, keep_vars)
    for attribute in owner.compacts:
        destination.pop(prefix + attribute + SUFFIX, None)


def _load_from_state_dict(
    self: Any, state: dict, prefix: str, metadata: dict, strict: bool, missing: list, *rest: Any
) -> None:
    owner: Owner = self.__dict__[PLACE]
    check_loadable(state, prefix, owner, metadata)
    owner.kind._load_from_state_dict(self, state, prefix, metadata, strict, missing, *rest)
    for attribute, compact in owner.compacts.items():
        key = prefix + attribute + SUFFIX
        if key in missing:
            missing.remove(key)
        if prefix + attribute in state:
            compact.read()


def check_loadable(state: dict, prefix: str, owner: Owner, metadata: dict) -> None:
    """Refuse, before anything is copied, weights that differ where nothing was selected."""
    for attribute, compact in owner.compacts.items():
        weight, new = compact.weight, state.get(prefix + attribute)
        if new is None or tuple(new.shape) != tuple(weight.shape):
            continue  # the module itself tells what is missing or of another shape
        if metadata.get("assign_to_params_buffers"):
            raise UsageError(
                f"{prefix}{attribute} is tuned: load_state_dict(assign=True) would replace it. "
                "Load without assign, or before the Tuner is made"
            )
        other = ~equal_bits(new.to(weight.device, weight.dtype), weight.data).view(-1)
        other[compact.index] = False
        if other.any():
            raise UsageError(
                f"{prefix}{attribute} to be loaded differs from the tuned model in "
                f"{int(other.sum()):,} weights outside the selection: it was trained with another "
                "selection or is another model. Nothing was loaded into it; make the Tuner with "
                "the selection of that run, or load the weights before the Tuner is made"
            )


def _reduce_ex(self: Any, protocol: Any) -> Any:
    """A copy or a pickle is the plain module with the weights of now: it is not tuned."""
    owner: Owner = self.__dict__[PLACE]
    made: Any = owner.kind.__reduce_ex__(self, protocol)
    _, _, state, *rest = made
    state = {key: value for key, value in state.items() if key != PLACE}
    hidden = {attribute + SUFFIX for attribute in owner.compacts}
    state["_parameters"] = {k: v for k, v in state["_parameters"].items() if k not in hidden}
    return _empty, (owner.kind,), state, *rest


def _empty(kind: type[nn.Module]) -> nn.Module:
    return kind.__new__(kind)


# ------------------------------------------------------------- statistics of BatchNorm


def freeze_statistics(model: nn.Module) -> list[tuple[nn.Module, bool]]:
    """Keep every BatchNorm in eval mode, also through ``train()``; gives what to undo."""
    frozen = []
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.track_running_stats:
            frozen.append((module, module.training))
            module.train(False)
            module.__dict__["train"] = _StaysInEval(module)
    return frozen


def thaw_statistics(frozen: list[tuple[nn.Module, bool]]) -> None:
    """Undo :func:`freeze_statistics`."""
    for module, training in frozen:
        module.__dict__.pop("train", None)
        module.train(training)


class _StaysInEval:
    """Stands for ``train`` of one module; a copy of the module stays in eval mode, too."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, mode: bool = True) -> nn.Module:
        return type(self.module).train(self.module, False)
