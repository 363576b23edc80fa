"""Small encoders of linear layers and of convolutions, as tasks, for the laws of all methods."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.tuning.task import Score, Task

SHARE = 0.1
STEPS = 6
RATE = 0.01


class Toy(Task):
    """A random teacher of three classes; the encoder is a submodule with a norm in it."""

    name = "toy"
    words = old_words = "random"
    prefix = "encoder"
    head = ("head.weight", "head.bias")
    full_rate = 1e-3
    steps = STEPS
    bf16 = False

    def __init__(self, encoder: nn.Module, targets: tuple[str, ...], inputs: Tensor) -> None:
        self.name = f"toy of {' '.join(targets)}"
        self.targets = targets
        self.inputs = inputs
        wide = encoder(inputs).shape[1]
        self.labels = torch.arange(len(inputs)) % 3
        self.pristine = nn.Module()
        self.pristine.encoder = encoder
        self.pristine.head = nn.Linear(wide, 3)

    def new_head(self) -> None:
        self.model.head.reset_parameters()  # type: ignore[operator, union-attr]

    def batches(self, seed: int) -> Iterator[Any]:
        del seed
        while True:
            yield self.inputs

    def outputs(self, batch: Any) -> Tensor:
        return self.encoder(batch)

    def loss(self, batch: Any) -> Tensor:
        logits = self.model.head(self.outputs(batch))  # type: ignore[operator]
        return nn.functional.cross_entropy(logits, self.labels)

    def new(self, split: str) -> Score:
        del split
        loss = float(self.loss(self.inputs).detach())
        return Score(quality=-loss, loss=loss, each=np.array([-loss]))

    old = new


def dense_toy() -> Toy:
    """Linear layers, one of which (``0.other``) shares the end of a target's name."""
    torch.manual_seed(0)
    encoder = nn.Sequential()
    encoder.add_module("first", nn.Linear(20, 32))
    encoder.add_module("norm", nn.LayerNorm(32))
    encoder.add_module("act", nn.GELU())
    encoder.add_module("blocks", nn.Sequential(nn.Linear(32, 24), nn.Tanh(), nn.Linear(24, 16)))
    encoder.add_module("odd", nn.Sequential())
    encoder.odd.add_module("first", nn.Linear(16, 16))  # type: ignore[operator, union-attr]
    return Toy(encoder.eval(), ("first", "blocks.0", "blocks.2"), torch.randn(12, 20))


def conv_toy() -> Toy:
    """Convolutions with BatchNorm."""
    torch.manual_seed(0)
    encoder = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 12, 3, stride=2, bias=False), nn.BatchNorm2d(12), nn.ReLU(),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(),
    )  # fmt: skip
    return Toy(encoder.eval(), ("0", "3"), torch.randn(12, 3, 8, 8))


TOYS = {"dense": dense_toy, "conv": conv_toy}


def state(model: nn.Module) -> dict[str, Tensor]:
    return {k: v.detach().clone() for k, v in model.state_dict().items()}
