"""Backward passes over a few batches that leave a live model exactly as it was.

Every gradient is handed on as soon as it is whole and freed at once: with the gradients of one
layer in memory, not of all.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.tuning.attached import holder_of
from frog.tuning.owner import PLACE

Loss = Callable[[nn.Module, Any], Tensor]
"""The loss of a model on a batch: one number, from which gradients flow back."""
Take = Callable[[Tensor], None]
"""Gets the dense gradient of a parameter, (its shape), which is freed after it."""


def backward(
    model: nn.Module, batches: Iterable[Any], loss: Loss | None, takers: Mapping[nn.Parameter, Take]
) -> tuple[float, ...]:
    """One backward pass for each batch; ``takers`` get the gradients; gives the losses.

    The model runs in eval mode: no dropout, statistics of BatchNorm as they are. Where a tuner is
    attached, the weights are those of now, and no noise is added. Raises
    :class:`~frog.errors.UsageError` for no batches, a loss that is not one finite number or is
    without gradient, gradients that arrive in parts.
    """
    refuse_one_batch(batches)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # it would wait for the gradients of the other processes
    losses: list[float] = []
    with undisturbed(model, takers), torch.enable_grad():
        taken: set[str] = set()
        names = {id(x): name for name, x in model.named_parameters()}
        handles = [
            parameter.register_post_accumulate_grad_hook(
                _once(take, names.get(id(parameter), "a parameter"), taken)
            )
            for parameter, take in takers.items()
        ]
        try:
            for number, batch in enumerate(batches, start=1):
                taken.clear()
                value = checked_loss((loss or loss_of)(model, batch), number)
                losses.append(float(value.detach()))
                value.backward()
        finally:
            for handle in handles:
                handle.remove()
    if not losses:
        raise UsageError(
            "batches must hold at least one batch, got none: an iterator that is used up?"
        )
    return tuple(losses)


def refuse_one_batch(batches: Any) -> None:
    """UsageError for a batch where several are wanted."""
    if isinstance(batches, (Mapping, Tensor, str)):
        raise UsageError(
            f"batches must be several batches, got one {type(batches).__name__}: put it in a list"
        )


def loss_of(model: nn.Module, batch: Any) -> Tensor:
    """The loss where none is told, on the device of the model.

    A mapping is passed as ``model(**batch)``, a tuple or list as ``model(*batch)``, all else as
    ``model(batch)``. The loss is ``output.loss``, ``output["loss"]``, the first of a tuple, or the
    output itself, the first of these that is one number.
    """
    batch = _moved(batch, next((x.device for x in model.parameters()), torch.device("cpu")))
    if isinstance(batch, Mapping):
        output = model(**batch)
    else:
        output = model(*batch) if isinstance(batch, (tuple, list)) else model(batch)
    found = getattr(output, "loss", None)
    if found is None and isinstance(output, Mapping):
        found = output.get("loss")
    if found is None and isinstance(output, (tuple, list)) and output:
        found = output[0]
    found = output if found is None else found
    if isinstance(found, Tensor) and found.numel() == 1:
        return found
    what = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
    raise UsageError(
        f"the output of {type(model).__name__} must hold a loss of one number, got {what}: put the "
        "labels into the batch, or give loss=lambda model, batch: ..."
    )


@contextlib.contextmanager
def undisturbed(model: nn.Module, wanted: Iterable[nn.Parameter]) -> Iterator[None]:
    """The model in eval mode, only ``wanted`` with gradients; afterwards everything as it was.

    Put back: requires_grad, gradients, modes, buffers, random numbers of torch, numpy and Python,
    and what an attached tuner counts. Tuned modules stand there as their own class meanwhile.
    """
    modules, parameters = list(model.modules()), list(model.parameters())
    required = [(x, x.requires_grad, x.grad) for x in parameters]
    modes = [(x, x.training) for x in modules]
    buffers = [(x, x.detach().clone()) for x in model.buffers()]
    states = random.getstate(), np.random.get_state()
    devices = sorted({x.device.index or 0 for x in parameters if x.device.type == "cuda"})
    needed = {id(x) for x in wanted}
    try:
        with torch.random.fork_rng(devices=devices), untuned(modules):
            for parameter in parameters:
                parameter.requires_grad_(id(parameter) in needed)
                parameter.grad = None
            for module in modules:
                # set, not called: train() of some modules does more. Recurrent layers on a GPU
                # have no backward pass in eval mode.
                module.training = isinstance(module, nn.RNNBase)
            yield
    finally:
        for parameter, wants, gradient in required:
            parameter.requires_grad_(wants)
            parameter.grad = gradient
        for module, mode in modes:
            module.training = mode
        with torch.no_grad():
            for buffer, before in buffers:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
        random.setstate(states[0])
        np.random.set_state(states[1])


@contextlib.contextmanager
def untuned(modules: Iterable[nn.Module]) -> Iterator[None]:
    """Tuned modules as their own class: the dense weights take part as in the plain model."""
    tuned = [(x, type(x)) for x in modules if PLACE in x.__dict__]
    tuners = {id(x): x for x in (holder_of(module) for module in modules) if x is not None}
    counted = [(x, x.micro_step) for x in tuners.values()]
    for tuner in tuners.values():
        tuner.write()
    try:
        for module, _ in tuned:
            module.__class__ = module.__dict__[PLACE].kind
        yield
    finally:
        for module, kind in tuned:
            module.__class__ = kind
        for tuner, micro_step in counted:
            tuner.micro_step = micro_step


def _once(take: Take, name: str, taken: set[str]) -> Callable[[Tensor], None]:
    def hook(parameter: Tensor) -> None:
        gradient = parameter.grad
        parameter.grad = None
        if name in taken:
            raise UsageError(
                f"the gradient of {name} must come in one piece, it came in several: a loss that "
                "calls backward() itself, or reentrant activation checkpointing (use_reentrant="
                "False does without)"
            )
        taken.add(name)
        if gradient is not None:
            with torch.no_grad():
                take(gradient.to_dense() if gradient.is_sparse else gradient)

    return hook


def one_number(value: Any, number: int) -> Tensor:
    """The loss of a batch; UsageError where it is not a tensor of one number."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        raise UsageError(
            f"the loss of batch {number} must be a tensor of one number, got "
            f"{tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__}"
        )
    return value


def checked_loss(value: Any, number: int) -> Tensor:
    """The loss of a batch; UsageError where it is not one finite number with a gradient."""
    value = one_number(value, number)
    if not math.isfinite(float(value.detach())):
        raise UsageError(
            f"the loss of batch {number} must be finite, got {float(value.detach())}: look at that "
            "batch, or at the weights"
        )
    if not value.requires_grad:
        raise UsageError(
            f"the loss of batch {number} has no gradient: none of the wanted weights takes part "
            "in it, or it was computed under torch.no_grad()"
        )
    return value


def _moved(batch: Any, device: torch.device) -> Any:
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Mapping):
        return {key: _moved(value, device) for key, value in batch.items()}
    if isinstance(batch, (tuple, list)):
        return [_moved(value, device) for value in batch]
    return batch
