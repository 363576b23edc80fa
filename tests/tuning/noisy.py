"""Layers with noise, and what noise in the weight itself would do to their outputs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import frog
from frog.numerics.views import all_entries
from frog.tuning import Tuner
from tests.tuning.models import choose, masks

NU = 0.5


class Pair(nn.Module):
    """Conv1D of transformers, which holds q, k and v side by side, as GPT-2 has it."""

    def __init__(self) -> None:
        super().__init__()
        from transformers.pytorch_utils import Conv1D

        self.attn = nn.Module()
        self.attn.c_attn = Conv1D(18, 6)
        self.attn.c_proj = Conv1D(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        return self.attn.c_attn(x)


@dataclass
class Case:
    """A kind of layer: the model, its layer's name, an input, and y as a function of the weight."""

    model: nn.Module
    layer: str
    x: Tensor
    plain: Callable[[Tensor, Tensor], Tensor]
    """Output without bias, from input and weight."""
    outputs: int = -1
    """The axis of the outputs in y."""


def case(kind: str) -> Case:
    """One of :data:`KINDS`, small, the same every time; two sequences."""
    torch.manual_seed(3)
    draw = torch.Generator().manual_seed(5)
    functional = nn.functional
    if kind == "linear":
        model = nn.Sequential(nn.Linear(6, 5))
        x = torch.randn(2, 3, 6, generator=draw)
        return Case(model, "0", x, lambda x, w: x @ w.T)
    if kind == "conv1d":
        x = torch.randn(1, 2, 6, generator=draw)
        return Case(Pair(), "attn.c_attn", x, lambda x, w: x @ w)
    if kind == "embedding":
        model = nn.Sequential(nn.Embedding(7, 6))
        x = torch.tensor([[0, 3, 3], [3, 6, 1]])
        return Case(model, "0", x, lambda x, w: functional.embedding(x, w))
    if kind == "convolution":
        model = nn.Sequential(nn.Conv2d(2, 4, (3, 2), stride=2, padding=1))
        x = torch.randn(2, 2, 4, 3, generator=draw)
        plain = lambda x, w: functional.conv2d(x, w, stride=2, padding=1)  # noqa: E731
        return Case(model, "0", x, plain, 1)
    if kind == "grouped, circular":
        model = nn.Sequential(nn.Conv1d(4, 6, 2, groups=2, padding=1, padding_mode="circular"))
        x = torch.randn(2, 4, 3, generator=draw)

        def circular(x: Tensor, w: Tensor) -> Tensor:
            return functional.conv1d(functional.pad(x, (1, 1), mode="circular"), w, groups=2)

        return Case(model, "0", x, circular, 1)
    raise KeyError(kind)


KINDS = ("linear", "conv1d", "embedding", "convolution", "grouped, circular")


def attach(
    made: Case, granularity: str, share: float = 0.3, block: tuple[int, int] = (2, 2), **knobs: Any
) -> Tuner:
    """A tuner with constant noise of strength :data:`NU` on the case's model."""
    settings: dict[str, Any] = {"schedule": "constant", **knobs}
    selection = choose(made.model, share, granularity, block=block)
    return Tuner(made.model, selection, noise=frog.Noise.guided(NU, **settings))


def deviations(tuner: Tuner, made: Case, guide: str = "relevance") -> Tensor:
    """s_ij by its definition, of the weight's shape, in float64; 0 on chosen entries."""
    (compact,) = [x for x in tuner.compacts if x.name == f"{made.layer}.weight"]
    weight = compact.weight.detach()
    s = torch.zeros(weight.numel(), dtype=torch.float64)
    for matrix in tuner.matrices:
        if matrix.compact is not compact:
            continue
        places = torch.from_numpy(all_entries(matrix.view))
        w = weight.reshape(-1)[places].double().numpy()
        rms = np.linalg.norm(w) / np.sqrt(w.size)
        s[places] = torch.from_numpy(NU * rms * spread(w, guide))
    return s.masked_fill(masks(tuner)[compact.name].view(-1), 0).view(weight.shape)


def spread(w: np.ndarray, guide: str) -> np.ndarray:
    """The guide a_i b_j of a matrix, from all of S."""
    if guide == "even":
        return np.ones_like(w)
    u, sigma, vh = np.linalg.svd(w, full_matrices=False)
    less = 1 - (np.abs(u) * sigma) @ np.abs(vh) / ((np.abs(u) * sigma) @ np.abs(vh)).max()
    product = np.outer(less.mean(1), less.mean(0))
    return product / np.sqrt(np.mean(product**2))


def covariance(made: Case, s: Tensor, draw: str) -> Tensor:
    """Covariance of all outputs (flat) for noise of deviation ``s`` in the weight itself."""
    x = made.x.double() if made.x.is_floating_point() else made.x
    jacobian: Any = torch.autograd.functional.jacobian(
        lambda w: made.plain(x, w), torch.zeros_like(s)
    )
    y = made.plain(x, torch.zeros_like(s))
    scaled = jacobian.reshape(y.numel(), -1) * s.reshape(-1)
    whole = scaled @ scaled.T
    return whole * together(y.shape, made.outputs, draw)


def together(shape: torch.Size, outputs: int, draw: str) -> Tensor:
    """Which pairs of outputs share a draw: the same one, or all of one sequence."""
    if draw == "token":
        return torch.eye(shape.numel(), dtype=torch.float64)
    sequence = torch.arange(shape[0]).view(-1, *(1,) * (len(shape) - 1)).expand(shape).reshape(-1)
    return (sequence[:, None] == sequence[None, :]).double()


def drawn(made: Case, count: int) -> Tensor:
    """The noise of ``count`` calls, (count, outputs), with the layer's own output taken off."""
    layer = made.model.get_submodule(made.layer)
    layer.eval()
    with torch.no_grad():
        still = layer(made.x)
    layer.train()
    return torch.stack([(layer(made.x) - still).detach().reshape(-1) for _ in range(count)])
