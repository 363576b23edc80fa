"""From a selection to the places in the live model: one compact vector for each parameter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import nn

from frog.errors import ModelError, UnknownName, UsageError
from frog.numerics.units import unit_entries
from frog.numerics.views import entries
from frog.tuning.compact import Compact
from frog.tuning.matrix import TunedMatrix
from frog.types import Chosen, Plan, Selection, WeightMatrix
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors


def place(model: nn.Module, selection: Selection, plan: Plan) -> tuple[TunedMatrix, ...]:
    """The selected matrices of ``model``, in the order of the selection.

    Raises :class:`~frog.errors.UsageError` where the selection is for another model: a name it
    does not have, another shape, other values; :class:`~frog.errors.ModelError` for weights that
    are NaN or infinite.
    """
    found = _found(model, selection.chosen)
    homes = _homes(model)
    parts: dict[str, list[tuple[Chosen, WeightMatrix]]] = {}
    for chosen, matrix in found:
        assert matrix.live is not None
        parts.setdefault(homes[matrix.live.parameter][0], []).append((chosen, matrix))
    ratios = {layer.name: layer.lr_ratio for layer in plan.layers}
    made: dict[str, TunedMatrix] = {}
    for name, members in parts.items():
        for tuned in _parameter(model, name, members, ratios):
            made[tuned.name] = tuned
    return tuple(made[chosen.name] for chosen, _ in found)


def call_of(module: nn.Module, attribute: str) -> str:
    """How a module uses its parameter: where its forward is the plain one of that kind."""
    forward = type(module).forward
    if attribute != "weight":
        return "other"
    if forward is nn.Linear.forward:
        return "linear"
    if forward in (nn.Conv1d.forward, nn.Conv2d.forward, nn.Conv3d.forward):
        return "conv"
    if forward is nn.Embedding.forward:
        return "embedding"
    if (
        type(module).__name__ == "Conv1D"
        and type(module).__module__ == "transformers.pytorch_utils"
    ):
        return "conv1d"
    return "other"


def _homes(model: nn.Module) -> dict[str, tuple[str, nn.Module, str]]:
    """Every name of a parameter -> its first name (the same for tied ones), module, attribute."""
    first: dict[int, str] = {}
    homes = {}
    for prefix, module in model.named_modules():
        for attribute, parameter in module._parameters.items():
            if parameter is not None:
                name = f"{prefix}.{attribute}" if prefix else attribute
                homes[name] = (first.setdefault(id(parameter), name), module, attribute)
    return homes


def _found(model: nn.Module, chosen: Iterable[Chosen]) -> list[tuple[Chosen, WeightMatrix]]:
    listed = locate(catalogue(list_tensors(model)), model)
    known = {name: matrix for matrix in listed.matrices for name in (matrix.name, *matrix.aliases)}
    found = []
    for choice in chosen:
        matrix = known.get(choice.name)
        if matrix is None:
            raise UnknownName("matrix of the selection in this model", choice.name, known)
        if matrix.shape != tuple(choice.shape):
            raise UsageError(
                f"{choice.name} must be {choice.shape} as in the selection, got {matrix.shape}: "
                "the selection was made for another model"
            )
        if matrix.live is None:
            raise UsageError(f"{choice.name} is not one parameter of the live model: leave it out")
        if choice.digest and matrix.loader.fingerprint() != choice.digest:
            raise UsageError(
                f"{choice.name} does not hold the weights that the selection was made on: load "
                "that model, or make the selection anew"
            )
        found.append((choice, matrix))
    return found


def _parameter(
    model: nn.Module,
    name: str,
    members: list[tuple[Chosen, WeightMatrix]],
    ratios: dict[str, float],
) -> list[TunedMatrix]:
    """The tuned matrices of one parameter: slices of one change."""
    path, _, attribute = name.rpartition(".")
    module = model.get_submodule(path)
    weight = module._parameters[attribute]
    assert weight is not None
    if not torch.isfinite(weight.data).all():
        raise ModelError(f"{name} holds NaN or infinite weights: it cannot be tuned")
    places = [unit_entries(x.index, x.shape, x.granularity, x.block_size) for x, _ in members]
    index = [
        entries(matrix.live.view, *at)  # pyright: ignore[reportOptionalMemberAccess]
        for (_, matrix), at in zip(members, places, strict=True)
    ]
    compact = Compact(name, weight, torch.from_numpy(np.concatenate(index)))
    made, start = [], 0
    for (chosen, matrix), (rows, columns) in zip(members, places, strict=True):
        assert matrix.live is not None and matrix.view is not None
        made.append(
            TunedMatrix(
                name=matrix.name,
                tensor=matrix.tensor,
                kind=matrix.kind,
                role=matrix.role,
                block=matrix.block,
                shape=matrix.shape,
                view=matrix.live.view,
                disk_view=matrix.view,
                module=module,
                module_name=path,
                call=call_of(module, attribute),
                granularity=chosen.granularity,
                block_size=chosen.block_size,
                index=chosen.index,
                rows=torch.from_numpy(rows).to(weight.device),
                columns=torch.from_numpy(columns).to(weight.device),
                compact=compact,
                slot=slice(start, start + len(rows)),
                lr_ratio=ratios.get(matrix.name, 1.0),
            )
        )
        start += len(rows)
    return made
