"""Gradients of whole matrices over a few batches, for the scores that need them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.numerics.views import take
from frog.tuning.passes import Loss, backward
from frog.tuning.places import matrix_named, parameter_homes, refuse_sharded
from frog.types import MatrixView
from frog.types.gradients import Gradient, Gradients
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors

UNUSED = "the loss does not use it: no batch gave it a gradient"


def collect_gradients(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    names: Iterable[str] | None = None,
    loss: Loss | None = None,
) -> Gradients:
    """Mean and mean squared gradient of every matrix over ``batches``: {name: Gradient}.

    The names are those of :func:`frog.inspect` and of plans, so ``Choice(gradients=...)`` takes the
    result as it is. ``names`` restricts it: ``names=[x.name for x in plan.layers]``; they may lack
    or have the prefix of a base model. Each kind of matrix is read from the gradient of its live
    parameter: linear, Conv1D, convolution, embedding, fused and tied ones, experts.

    ``loss(model, batch)`` gives one number; without it ``model(**batch).loss`` is taken for a
    mapping, ``model(*batch)`` for a tuple (:func:`frog.tuning.passes.loss_of`). Batches weigh the
    same. The model runs in eval mode (no dropout, BatchNorm as it is) and is left exactly as it
    was, gradients, random numbers and an attached :class:`~frog.Tuner` included. In memory are two
    float32 arrays for each matrix, on the CPU, and one dense gradient at a time. Under DDP every
    process must be given the same batches.

    A matrix without gradient is in ``.left_out`` of the result, with the reason; one that was asked
    for by name is an error. Raises :class:`~frog.errors.UsageError` also for no batches, a loss or
    gradient that is NaN or infinite.

    >>> import torch, frog
    >>> layer = torch.nn.Linear(4, 3)
    >>> data = [torch.ones(2, 4), torch.zeros(2, 4)]
    >>> found = collect_gradients(layer, data, loss=lambda model, x: model(x).sum())
    >>> found["weight"].mean[0].tolist(), found["weight"].square[0].tolist()
    ([1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 2.0, 2.0])
    """
    refuse_sharded(model)
    wanted = None if names is None else list(dict.fromkeys(names))
    places, left = matrix_places(model, wanted)
    sums = {
        name: (torch.zeros(shape), torch.zeros(shape)) for name, (_, _, shape) in places.items()
    }
    members: dict[nn.Parameter, list[str]] = {}
    for name, (parameter, _, _) in places.items():
        members.setdefault(parameter, []).append(name)
    used: set[str] = set()

    def taker(mine: list[str]) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            for name in mine:
                part = take(gradient, places[name][1]).to("cpu", torch.float32)
                sums[name][0].add_(part)
                sums[name][1].addcmul_(part, part)
                used.add(name)

        return add

    losses = backward(model, batches, loss, {x: taker(mine) for x, mine in members.items()})
    left |= {name: UNUSED for name in places if name not in used}
    missing = [name for name in wanted or () if name in left]
    if missing:
        raise UsageError(
            f"{missing[0]} must get a gradient, got none ({left[missing[0]]}): exclude it from the "
            "plan or from names"
        )
    found = {
        name: Gradient(mean=_mean(name, mean, len(losses)), square=_mean(name, square, len(losses)))
        for name, (mean, square) in sums.items()
        if name in used
    }
    return Gradients(found, left_out=left, losses=losses)


def matrix_places(
    model: nn.Module, wanted: list[str] | None
) -> tuple[dict[str, tuple[nn.Parameter, MatrixView, tuple[int, int]]], dict[str, str]]:
    """Name -> (live parameter, view of the matrix in it, its shape); and what has none, and why."""
    listed = locate(catalogue(list_tensors(model)), model).matrices
    if wanted is None:
        pairs = [(matrix.name, matrix) for matrix in listed]
    else:
        known = {name: matrix for matrix in listed for name in (matrix.name, *matrix.aliases)}
        pairs = []
        for name in wanted:
            matrix = matrix_named(name, known)
            if matrix is None:
                some = ", ".join(list(known)[:3])
                raise UsageError(
                    f"names must be of matrices of this {type(model).__name__}, got '{name}': it "
                    f"has {some}, ... (frog.inspect lists them)"
                )
            pairs.append((name, matrix))
    where = parameter_homes(model)
    found: dict[str, tuple[nn.Parameter, MatrixView, tuple[int, int]]] = {}
    left: dict[str, str] = {}
    for name, matrix in pairs:
        if matrix.live is None:
            left[name] = "it is not one parameter of the live model"
            continue
        _, module, attribute = where[matrix.live.parameter]
        parameter = module._parameters[attribute]
        assert parameter is not None
        if parameter.is_floating_point():
            found[name] = (parameter, matrix.live.view, matrix.shape)
        else:
            left[name] = f"its weights are {parameter.dtype}: load the model unquantised"
    if not found:
        raise UsageError(
            f"{type(model).__name__} has no matrix that can have a gradient: "
            + "; ".join(f"{name}: {why}" for name, why in list(left.items())[:3])
        )
    return found, left


def _mean(name: str, total: Tensor, count: int) -> np.ndarray:
    if not bool(torch.isfinite(total).all()):
        raise UsageError(
            f"the gradient of {name} must be finite, got NaN or infinite entries: look at the loss "
            "and at the dtype in which it is computed"
        )
    return total.div_(count).numpy()
