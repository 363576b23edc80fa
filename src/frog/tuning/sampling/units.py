"""Units: the parts of a model that train in turns, and what trains all the time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from frog.errors import UsageError
from frog.tuning.attached import matching
from frog.tuning.places import TRAINED, is_packed, refuse_nonfinite
from frog.types import WeightMatrix
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors

UNITS = ("auto", "block", "module")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Unit:
    """A part that trains as a whole: ``parameters`` by live name, ``matrices`` as listed."""

    name: str
    parameters: Mapping[str, nn.Parameter] = field(repr=False)
    matrices: tuple[WeightMatrix, ...] = field(repr=False)

    @property
    def count(self) -> int:
        """Number of weights."""
        return sum(x.numel() for x in self.parameters.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Division:
    """A model divided: ``units`` in the order of the model, all of one ``kind``, and ``always``."""

    kind: str
    units: tuple[Unit, ...]
    always: Mapping[str, nn.Parameter]

    def groups(self, lr: float, also_lr: float) -> list[dict[str, Any]]:
        """Parameter groups of an optimizer: units and the rest, matrices and undecayed vectors."""
        in_turns = [x for unit in self.units for x in unit.parameters.values()]
        made: list[dict[str, Any]] = []
        for parameters, rate in ((in_turns, lr), (list(self.always.values()), also_lr)):
            for few, rest in (
                ([x for x in parameters if x.ndim > 1], {}),
                ([x for x in parameters if x.ndim < 2], {"weight_decay": 0.0}),
            ):
                if few:
                    made.append({"params": few, "lr": rate, **rest})
        return made


def divide(model: nn.Module, unit: str, always: Sequence[str] | None) -> Division:
    """The units of a model, and the parameters that train all the time.

    ``unit`` is ``block`` (all parameters under one block of a stack, norms and biases too),
    ``module`` (a module that owns a measured matrix), or ``auto``: blocks where there are two or
    more. ``always`` are regular expressions, None for everything outside the units; what they
    find is in no unit. A tied parameter is in the first unit that has it.

    Raises :class:`~frog.errors.UsageError` where there are no such units, or a parameter cannot
    train; :class:`~frog.errors.ModelError` for weights that are not finite.
    """
    if unit not in UNITS:
        raise UsageError(f"unit must be one of {', '.join(UNITS)}, got '{unit}'")
    located = locate(catalogue(list_tensors(model)), model)
    measured = [x for x in located.matrices if x.averaged and x.live is not None]
    named = dict(model.named_parameters())
    found = matching(model, always, "always") if always is not None else {}
    blocks = _by_prefix(measured, _block_of)
    kind = ("block" if len(blocks) > 1 else "module") if unit == "auto" else unit
    groups = blocks if kind == "block" else _by_prefix(measured, _module_of)
    units, taken = [], {id(x) for x in found.values()}
    for prefix, matrices in groups.items():
        deep = kind == "block"
        mine = {
            name: x
            for name, x in named.items()
            if _within(name, prefix, deep) and id(x) not in taken
        }
        taken |= {id(x) for x in mine.values()}
        if mine:
            units.append(Unit(name=prefix or "(model)", parameters=mine, matrices=tuple(matrices)))
    if len(units) < 2:
        packed = [name for name, x in model.named_modules() if is_packed(x)]
        if packed:
            raise UsageError(
                f"{packed[0]} is quantised, and quantised weights cannot train: load the model "
                "unquantised"
            )
        raise UsageError(
            f"layer sampling needs two {kind}s or more to choose from, this "
            f"{type(model).__name__} has {len(units)}: "
            + ("try unit='module'" if kind == "block" else "train it with a Tuner")
        )
    if always is None:
        found = {
            name: x for name, x in named.items() if id(x) not in taken and x.is_floating_point()
        }
    for name, parameter in (*found.items(), *(x for u in units for x in u.parameters.items())):
        _refuse(name, parameter)
    return Division(kind=kind, units=tuple(units), always=found)


def _by_prefix(
    matrices: Sequence[WeightMatrix], prefix_of: Callable[[WeightMatrix], str | None]
) -> dict[str, list[WeightMatrix]]:
    groups: dict[str, list[WeightMatrix]] = {}
    for matrix in matrices:
        prefix = prefix_of(matrix)
        if prefix is not None:
            groups.setdefault(prefix, []).append(matrix)
    return groups


def _block_of(matrix: WeightMatrix) -> str | None:
    """``model.layers.3`` of ``model.layers.3.mlp.up_proj.weight``."""
    assert matrix.live is not None
    parts = matrix.live.parameter.split(".")
    if matrix.block is None or str(matrix.block) not in parts:
        return None
    return ".".join(parts[: parts.index(str(matrix.block)) + 1])


def _module_of(matrix: WeightMatrix) -> str:
    assert matrix.live is not None
    return matrix.live.parameter.rpartition(".")[0]


def _within(name: str, prefix: str, deep: bool) -> bool:
    return name.startswith(f"{prefix}.") if deep else name.rpartition(".")[0] == prefix


def _refuse(name: str, parameter: nn.Parameter) -> None:
    if parameter.dtype not in TRAINED:
        raise UsageError(
            f"{name} must be a floating-point tensor to train, got {parameter.dtype}: load the "
            "model unquantised, or make always= narrower"
        )
    refuse_nonfinite(name, parameter)
