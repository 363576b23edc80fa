"""What one training step holds in memory, counted and measured before the run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn

from frog.recipes.task import Prepared
from frog.types.recipes import MemoryEstimate

PROBE = 4096
"""Elements of the vector on which the optimizer's state is counted."""


def estimate(
    prepared: Prepared,
    trained: Iterable[nn.Parameter],
    *,
    counted: Mapping[str, int],
    optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer],
    batch: int,
    autocast: torch.dtype | None = None,
) -> MemoryEstimate:
    """Bytes of the parts of a step; ``trained`` are the parameters that get gradients.

    ``counted`` holds ``weights``, ``indices`` and ``transient``, by who knows the selection.
    """
    trained = list(trained)
    return MemoryEstimate(
        **counted,
        gradients=sum(x.nbytes for x in trained),
        optimizer=round(_state_per_byte(optimizer) * sum(x.nbytes for x in trained)),
        activations=batch * activations(prepared, autocast),
        batch=batch,
    )


def activations(prepared: Prepared, autocast: torch.dtype | None = None) -> int:
    """Bytes that the forward pass of one row keeps for the way back, its weights aside.

    The longest of some rows is taken; each kept storage counts once. Random numbers and the mode
    of the model are left as they were.
    """
    rows = prepared.splits["train"]
    some = [rows[i] for i in range(min(len(rows), 64))]
    longest = max(some, key=lambda row: sum(len(x) for x in row.values() if isinstance(x, list)))
    device = next(prepared.model.parameters()).device
    batch = {k: v.to(device) for k, v in prepared.collate([longest]).items()}
    own = {x.untyped_storage().data_ptr() for x in prepared.model.parameters()}
    kept: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    was = prepared.model.training
    prepared.model.train()
    try:
        with (
            torch.random.fork_rng(),
            torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x),
            torch.autocast(device.type, dtype=autocast, enabled=autocast is not None),
        ):
            loss = loss_of(prepared, batch)
            del loss
    finally:
        prepared.model.train(was)
    return sum(kept.values())


def loss_of(prepared: Prepared, batch: dict[str, Any]) -> torch.Tensor:
    """The loss of a batch, as the Trainer takes it."""
    if prepared.loss is not None:
        return prepared.loss(prepared.model, batch)
    return prepared.model(**batch).loss


def _state_per_byte(optimizer: Callable[[list[nn.Parameter]], torch.optim.Optimizer]) -> float:
    """Bytes of state of an optimizer for every byte of a parameter, from one step of its own."""
    probe = nn.Parameter(torch.zeros(PROBE))
    probe.grad = torch.ones(PROBE)
    made = optimizer([probe])
    made.step()
    state = made.state[probe].values()
    return sum(x.nbytes for x in state if isinstance(x, torch.Tensor)) / probe.nbytes
