"""From a selection to the places in the live model: one compact vector for each parameter."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from torch import Tensor, nn

from frog.errors import ModelError, UsageError
from frog.numerics.units import unit_entries
from frog.numerics.views import entries
from frog.tuning.compact import Compact
from frog.tuning.matrix import TunedMatrix
from frog.types import Chosen, Plan, Selection, WeightMatrix
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors

TRAINED = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The dtypes of weights that can be tuned."""

PACKED = ("qweight", "weight_packed", "_packed_params")
"""Tensors under which GPTQ, AWQ, compressed-tensors and torch keep packed weights."""


def place(model: nn.Module, selection: Selection, plan: Plan) -> tuple[TunedMatrix, ...]:
    """The selected matrices of ``model``, in the order of the selection.

    Raises :class:`~frog.errors.UsageError` where the selection is for another model: a name it
    does not have, another shape, other values; :class:`~frog.errors.ModelError` for weights that
    are NaN or infinite.
    """
    found = _found(model, selection.chosen)
    homes = parameter_homes(model)
    parts: dict[str, list[tuple[Chosen, WeightMatrix]]] = {}
    for chosen, matrix in found:
        assert matrix.live is not None
        parts.setdefault(homes[matrix.live.parameter][0], []).append((chosen, matrix))
    ratios = {layer.name: layer.lr_ratio for layer in plan.layers}
    made: dict[str, TunedMatrix] = {}
    for name, members in parts.items():
        for tuned in _parameter(model, name, members, ratios):
            made[tuned.name] = tuned
    return tuple(made[matrix.name] for _, matrix in found)


def refuse_sharded(model: nn.Module) -> None:
    """UsageError where parameters are spread over processes: FSDP, FSDP2, ZeRO-3."""
    for name, parameter in model.named_parameters():
        if hasattr(parameter, "full_tensor") or hasattr(parameter, "ds_id"):
            kind = "ZeRO-3" if hasattr(parameter, "ds_id") else "FSDP2 or tensor parallel"
        elif type(parameter).__name__ == "FlatParameter" or hasattr(parameter, "_fsdp_flattened"):
            kind = "FSDP"
        else:
            continue
        raise UsageError(
            f"{name} is spread over processes ({kind}), which sparse training does not support: "
            "use one process, or DDP, which holds the model in each"
        )


def refuse_nonfinite(name: str, weight: nn.Parameter) -> None:
    """ModelError for NaN or infinite weights; a slab at a time: no copy of the weight."""
    flat = weight.data.reshape(-1)  # a view wherever the layout allows it
    if not all(bool(torch.isfinite(x).all()) for x in flat.split(1 << 20)):
        raise ModelError(f"{name} holds NaN or infinite weights: it cannot be tuned")


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


def parameter_homes(model: nn.Module) -> dict[str, tuple[str, nn.Module, str]]:
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
    homes = parameter_homes(model)
    found = []
    for choice in chosen:
        matrix = matrix_named(choice.name, known)
        if matrix is None:
            _refuse_quantised(choice.name, model)
            some = ", ".join(list(known)[:3])
            raise UsageError(
                f"the selection has {choice.name}, this {type(model).__name__} has no such matrix "
                f"(it has {some}, ...): the selection was made for another model"
            )
        if matrix.shape != tuple(choice.shape):
            raise UsageError(
                f"{choice.name} must be {choice.shape} as in the selection, got {matrix.shape}: "
                "the selection was made for another model"
            )
        if matrix.live is None:
            raise UsageError(f"{choice.name} is not one parameter of the live model: leave it out")
        if matrix.live.parameter in homes:
            _, module, attribute = homes[matrix.live.parameter]
            refuse_dtype(choice.name, module._parameters[attribute])
        if choice.digest and matrix.loader.fingerprint() != choice.digest:
            raise UsageError(
                f"{choice.name} does not hold the weights that the selection was made on: load "
                "that model, or make the selection anew"
            )
        found.append((choice, matrix))
    return found


def refuse_dtype(name: str, weight: Tensor | None) -> None:
    """UsageError for 8-bit floats and whatever else is a code for weights, not weights."""
    if weight is not None and weight.dtype not in TRAINED:
        raise UsageError(
            f"{name} must be a tensor of {', '.join(str(x)[6:] for x in TRAINED)} to train, got "
            f"{weight.dtype}: quantised weights cannot be tuned in place. Load the model "
            "unquantised, or leave it out of the selection"
        )


def is_packed(module: nn.Module) -> bool:
    """Whether a module holds packed codes in place of a weight."""
    held = (*module._parameters, *module._buffers)
    return "quantized" in type(module).__module__ or any(x in PACKED for x in held)


def _refuse_quantised(name: str, model: nn.Module) -> None:
    """UsageError where a matrix is not found because its module holds packed weights."""
    path, _, attribute = name.rpartition(".")
    module = dict(model.named_modules()).get(path)
    if module is None:
        return
    weight = module._parameters.get(attribute, module._buffers.get(attribute))
    if weight is not None:
        refuse_dtype(name, weight)
    if is_packed(module):
        raise UsageError(
            f"{name} is quantised ({type(module).__name__}), and quantised weights cannot be tuned "
            "in place: load the model unquantised, or leave it out of the selection"
        )


def matrix_named(name: str, known: dict[str, WeightMatrix]) -> WeightMatrix | None:
    """The matrix of that name, or of that name with or without the prefix of a base model."""
    if name in known:
        return known[name]
    longer = [x for x in known if x.endswith(f".{name}")]
    if len(longer) == 1:
        return known[longer[0]]
    parts = name.split(".")
    shorter = (".".join(parts[i:]) for i in range(1, len(parts) - 1))
    return None if longer else next((known[x] for x in shorter if x in known), None)


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
    _refuse(name, module, weight)
    places = [unit_entries(x.index, x.shape, x.granularity, x.block_size) for x, _ in members]
    index = [
        entries(matrix.live.view, *at)  # pyright: ignore[reportOptionalMemberAccess]
        for (_, matrix), at in zip(members, places, strict=True)
    ]
    compact = Compact(name, weight, torch.from_numpy(np.concatenate(index)))
    made, start = [], 0
    for (chosen, matrix), (rows, _) in zip(members, places, strict=True):
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
                compact=compact,
                slot=slice(start, start + len(rows)),
                lr_ratio=ratios.get(chosen.name, 1.0),
            )
        )
        start += len(rows)
    return made


def _refuse(name: str, module: nn.Module, weight: nn.Parameter) -> None:
    """What cannot be tuned in place."""
    if weight.is_meta:
        raise ModelError(
            f"{name} is on the meta device and has no data: load the weights, or give it a device "
            "of its own (device_map offloads what does not fit), before the Tuner is made"
        )
    if not weight.is_floating_point() or not weight.is_contiguous():
        raise UsageError(
            f"{name} must be a contiguous floating-point tensor, got {weight.dtype} with strides "
            f"{weight.stride()}: leave it out of the selection, or load the model unquantised"
        )
    refuse_nonfinite(name, weight)
    if getattr(module, "max_norm", None) is not None:
        raise UsageError(
            f"{name} is an embedding with max_norm, which rewrites rows in every forward: leave "
            "it out of the selection, or set max_norm to None"
        )
