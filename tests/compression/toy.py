"""Small models with blocks, located as the library locates real ones."""

import torch
from torch import Tensor, nn

from frog.types import WeightMatrix
from frog.weights.catalogue import catalogue
from frog.weights.names import locate
from frog.weights.source import list_tensors


class Block(nn.Module):
    """x + down(relu(up(x))), or x itself."""

    def __init__(self, width: int, *, identity: bool = False) -> None:
        super().__init__()
        self.up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(2 * width, width)
        self.identity = identity

    def forward(self, x: Tensor) -> Tensor:
        return x if self.identity else x + self.down(torch.relu(self.up(x)))


class Tower(nn.Module):
    """Blocks in a row; dropout shows whether the mode was set."""

    def __init__(self, width: int = 16, *, depth: int = 3, identity: int = -1, seed: int = 0):
        super().__init__()
        torch.manual_seed(seed)
        self.blocks = nn.ModuleList(
            Block(width, identity=number == identity) for number in range(depth)
        )
        self.dropout = nn.Dropout(0.5)

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = self.dropout(block(x))
        return x


def located(model: nn.Module) -> tuple[WeightMatrix, ...]:
    return locate(catalogue(list_tensors(model)), model).matrices


def bits_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in model.state_dict().items()}


def run(model: nn.Module, batch: Tensor) -> Tensor:
    return model(batch)


def batches(width: int = 16, *, count: int = 2, seed: int = 1) -> list[Tensor]:
    draw = torch.Generator().manual_seed(seed)
    return [torch.randn(5, width, generator=draw) for _ in range(count)]
