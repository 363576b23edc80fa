"""The matrices of a model that a plan of compression is about, in units that share a level."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from frog.api.measuring import left_out
from frog.compression.live import LiveUnit, block_units, matrix_units
from frog.errors import ModelError, UsageError
from frog.types import WeightMatrix
from frog.types.level_plans import Calibration, Targets
from frog.types.levels import Unit
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors
from frog.weights.unloaded import Unloaded
from frog.weights.unloaded import located as located_on_disk

FUSED = {"q": "qkv", "k": "qkv", "v": "qkv", "gate": "gate_up", "up": "gate_up"}
"""Roles that serving engines join to one matrix, which has one level."""

SLAB_ROWS = 1024


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Located:
    """A model whose matrices can be read where they lie: a module, or a file that is not loaded.

    ``stored`` are the matrices as listed, by name; ``live`` is what their places belong to.
    """

    model: Any
    path: str
    live: Any
    matrices: tuple[WeightMatrix, ...]
    stored: Mapping[str, WeightMatrix]
    unused: str | None = None

    def check(self, matrices: Sequence[WeightMatrix]) -> None:
        """ModelError for weights that are not finite, with the name."""
        for matrix in matrices:
            for slab in matrix.loader.blocks(0, SLAB_ROWS):
                if not np.isfinite(slab).all():
                    raise ModelError(
                        f"{matrix.name} {matrix.shape} holds NaN or infinite weights: mend the "
                        "model, or leave the matrix out with exclude"
                    )


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Group:
    """Matrices that get one level, as a unit of allocators and of live models."""

    name: str
    matrices: tuple[WeightMatrix, ...]
    unit: Unit
    live: LiveUnit


def located(model: Any, calibration: Calibration | None = None) -> Located:
    """The matrices of a model, located in the module that calibration runs."""
    listed = list_tensors(model)
    found = catalogue(listed)
    is_module = isinstance(model, torch.nn.Module)
    live = calibration.model if calibration is not None else None
    if live is None and is_module:
        live = model
    if live is None:
        if calibration is not None:
            raise UsageError(
                "calibration runs a module: give model=... in it, read it with "
                "frog.read_calibration(model, file), or plan for the module itself"
            )
        live, matrices = Unloaded(listed), located_on_disk(found.matrices)
    else:
        matrices = locate(found, live).matrices
    return Located(
        model=model,
        path=listed.path,
        live=live,
        matrices=tuple(matrices),
        stored={x.name: x for x in found.matrices},
        unused=calibration.unused if calibration is not None else None,
    )


def groups_of(found: Located, targets: Targets, action: str) -> tuple[list[Group], dict[str, str]]:
    """Units that share a level, in the order of the model, and why every other matrix is none.

    Raises :class:`~frog.errors.UsageError` for patterns that match nothing or are none.
    """
    reasons: dict[str, str] = {}
    for matrix in found.matrices:
        if not matrix.averaged:
            reasons[matrix.name] = f"{matrix.role}: left as it is"
        elif matrix.live is None:
            reasons[matrix.name] = "is no parameter of the model that runs"
        elif found.unused and re.search(found.unused, matrix.name):
            reasons[matrix.name] = "no output depends on it"
    rest = [x for x in found.matrices if x.name not in reasons]
    if rest:
        reasons |= left_out([x.name for x in rest], targets.include, targets.exclude)
    kept = [x for x in rest if x.name not in reasons]
    if not kept:
        raise UsageError("no matrix is left to compress: all are embeddings, heads or left out")
    made = []
    pins = _pins(targets, kept, action)
    for name, members, module in _tied(kept, targets.tie):
        pinned = {pins[x.name] for x in members if x.name in pins}
        if len(pinned) > 1:
            raise UsageError(
                f"pins of '{name}', whose matrices share a level, must be equal, got "
                f"{sorted(pinned)}: pin them alike, or tie less"
            )
        pin = next(iter(pinned), None)
        made.append(
            Group(
                name=name,
                matrices=tuple(members),
                unit=Unit(name=name, params=sum(x.params for x in members), pin=pin),
                live=LiveUnit(name=name, matrices=tuple(members), module=module),
            )
        )
    return made, reasons


def _tied(matrices: Sequence[WeightMatrix], tie: str) -> list[tuple[str, list[WeightMatrix], str]]:
    """Name, matrices and module of each unit."""
    blocks: dict[str, LiveUnit] = {}
    if tie == "block":
        blocks = {x.name: unit for unit in block_units(matrices) for x in unit.matrices}
    modules = {x.name: x.module for x in matrix_units(matrices)}
    members: dict[tuple[str, str], list[WeightMatrix]] = {}
    for matrix in matrices:
        key = ("tensor", matrix.tensor)
        parent = matrix.tensor.rpartition(".")[0].rpartition(".")[0]
        if matrix.name in blocks:
            key = ("block", blocks[matrix.name].name)
        elif tie == "serving" and matrix.role in FUSED and parent:
            key = (FUSED[matrix.role], parent)
        members.setdefault(key, []).append(matrix)
    made = []
    for (kind, place), group in members.items():
        if kind == "block":
            made.append((place, group, blocks[group[0].name].module))
        elif len(group) == 1:
            made.append((group[0].name, group, modules[group[0].name]))
        else:
            made.append((place if kind == "tensor" else f"{place} {kind}", group, ""))
    return made


def _pins(targets: Targets, matrices: Sequence[WeightMatrix], action: str) -> dict[str, float]:
    """The pinned level of matrices, by name."""
    pins: dict[str, float] = {}
    for pattern, level in targets.pins.items():
        sound = level in range(1, 9) if action == "bits" else 0 <= level <= 1
        if not sound:
            told = "whole bits, 1 to 8" if action == "bits" else "a sparsity in [0, 1]"
            raise UsageError(f"the pin of '{pattern}' must be {told}, got {level:g}")
        try:
            names = [x.name for x in matrices if re.search(pattern, x.name)]
        except re.error as error:
            raise UsageError(
                f"a pin must begin with a regular expression, got '{pattern}' ({error})"
            ) from None
        if not names:
            raise UsageError(
                f"the pin '{pattern}' must match a matrix, matches none of those such as "
                f"{', '.join(x.name for x in matrices[:3])}"
            )
        for name in names:
            if pins.setdefault(name, level) != level:
                raise UsageError(
                    f"{name} must have one pin, got {pins[name]:g} and {level:g}: mend the patterns"
                )
    return pins
