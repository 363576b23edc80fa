"""A deep Llama and its training, for the tests of layer sampling."""

from __future__ import annotations

from typing import Any

import torch
import torch.utils.checkpoint
from torch import nn

from tests.tuning.models import batches, bits, llama

BLOCKS = [f"model.layers.{i}" for i in range(6)]


def deep(dtype: torch.dtype = torch.float32, **config: Any) -> Any:
    return llama(dtype, **({"num_hidden_layers": 6} | config))


def train(model: Any, optimizer: Any, steps: Any, **more: Any) -> list[float]:
    """One step for each batch number."""
    losses = []
    data = batches(20)
    model.train()
    for number in steps:
        loss = model(**data[number % 20]).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(**more)
        losses.append(float(loss.detach()))
    return losses


def changed(before: dict[str, torch.Tensor], model: nn.Module) -> set[str]:
    return {k for k, v in bits(model).items() if not torch.equal(v, before[k])}


def of(units: Any, names: Any) -> set[str]:
    return {x for x in names if any(x.startswith(f"{unit}.") for unit in units)}
