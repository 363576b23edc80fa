"""How far the outputs of a model moved: relative error and angle, by example and in all."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from frog.errors import UsageError


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Distortions:
    """Of every example, a step along the first axis of the outputs: (E,) float64 each.

    ``moved`` is ||Y - Y0||^2, ``whole`` ||Y0||^2, ``turned`` the sum of 1 - cosine over its
    ``rows``.
    """

    moved: Tensor
    whole: Tensor
    turned: Tensor
    rows: int


def distortions(after: Any, before: Tensor) -> Distortions:
    """How far the outputs of one batch moved; outputs of one axis are one example."""
    if not isinstance(after, Tensor) or after.shape != before.shape:
        got = tuple(after.shape) if isinstance(after, Tensor) else type(after).__name__
        raise UsageError(
            f"outputs must keep their shape, got {got} after {tuple(before.shape)}: compare what "
            "does not depend on the weights' choice"
        )
    examples = 1 if before.ndim == 1 else len(before)
    now, then = (x.double().reshape(examples, -1, x.shape[-1]) for x in (after, before))
    return Distortions(
        moved=(now - then).square().sum((1, 2)),
        whole=then.square().sum((1, 2)),
        turned=_angles(now, then).sum(1),
        rows=now.shape[1],
    )


def relative(moved: float, whole: float) -> float:
    """||Y - Y0|| / ||Y0|| from their squares: 0 where nothing moved."""
    return math.sqrt(moved / whole) if whole > 0 else (0.0 if moved == 0 else math.inf)


def _angles(now: Tensor, then: Tensor) -> Tensor:
    """1 - cosine of the rows; of a row of zeros 0 if both are, else 1."""
    sizes = now.norm(dim=-1) * then.norm(dim=-1)
    cosine = (now * then).sum(-1) / torch.where(sizes == 0, torch.ones_like(sizes), sizes)
    # rounding errors are no angle: equal rows have none
    return torch.where((now == then).all(-1), torch.zeros_like(cosine), 1 - cosine)


def checked_output(output: Any) -> Tensor:
    """The output of the model as it is, that all others are held against."""
    if not isinstance(output, Tensor) or output.ndim == 0 or output.numel() == 0:
        got = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
        raise UsageError(
            f"outputs(model, batch) must give a tensor with rows, got {got}: give logits or "
            "embeddings"
        )
    if not bool(torch.isfinite(output).all()):
        raise UsageError("the outputs of the unchanged model must be finite, got NaN or Inf")
    return output
