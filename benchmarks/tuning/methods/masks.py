"""Masked tuning done plainly: dense weights, gradients zeroed outside a fixed mask, AdamW.

Without weight decay, an entry whose gradient is always zero has zero moments and stays as it is,
bit by bit. Independent of FROG's tuner, so that each checks the other.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from benchmarks.tuning.method import Attached, Method, add
from benchmarks.tuning.task import Task

LIFT_RANK = 16
"""Rank of the approximation that LIFT looks at, at most a quarter of the smaller side: of a full
rank, it would be the matrix itself. LIFT's authors take the mask anew after hundreds of steps or
more; runs here are too short for that."""


def masked(task: Task, masks: dict[str, Tensor], rate: float) -> Attached:
    """Train the entries of the target weights where ``masks`` (same names, shapes) are true."""
    weights = task.target_weights()
    trained = [(weights[name].requires_grad_(True), mask) for name, mask in masks.items()]
    count = sum(int(mask.sum()) for mask in masks.values())

    def zero_outside(step: int, total: int) -> None:
        del step, total
        for weight, mask in trained:
            if weight.grad is not None:
                weight.grad.mul_(mask)

    return Attached(
        groups=[{"params": [weight for weight, _ in trained], "lr": rate}],
        trainable=count,
        delta_bytes=8 * count,  # a 32-bit index and a 32-bit value each
        before_step=zero_outside,
    )


def top_share(score: Tensor, share: float) -> Tensor:
    """Mask of the ``share`` of entries with the largest scores, at least one."""
    flat = score.flatten()
    kept = max(1, min(flat.numel(), round(share * flat.numel())))
    mask = torch.zeros(flat.numel(), dtype=torch.bool)
    mask[flat.topk(kept, sorted=False).indices] = True
    return mask.view(score.shape)


def principal(weight: Tensor) -> Tensor:
    """LIFT's low-rank approximation, shaped as the weight; a convolution as (out, in x kh x kw)."""
    matrix = weight.flatten(1)
    rank = max(1, min(LIFT_RANK, min(matrix.shape) // 4))
    u, s, v = torch.linalg.svd(matrix, full_matrices=False)
    return ((u[:, :rank] * s[:rank]) @ v[:rank]).view(weight.shape)


def _by(score: Callable[[Tensor], Tensor]) -> Callable[[Task, float, float, int], Attached]:
    def build(task: Task, share: float, rate: float, seed: int) -> Attached:
        del seed
        named = task.target_weights().items()
        return masked(task, {k: top_share(score(w.detach()), share) for k, w in named}, rate)

    return build


def _add(name: str, words: str, source: str, score: Callable[[Tensor], Tensor]) -> None:
    add(Method(
        name=name, family="peer", words=words, source=source, build=_by(score),
        rate=lambda task, share: task.full_rate / share,
    ))  # fmt: skip


SUPER = "Super-Tuning, arXiv:2607.09287; the choice is as in PEFT"
_add("super-tuning-top", "The largest weights of each matrix train", SUPER, lambda w: w.abs())
_add("super-tuning-bottom", "The smallest weights of each matrix train", SUPER,
     lambda w: -w.abs())  # fmt: skip
_add(
    "lift",
    f"The largest entries of each matrix's rank-{LIFT_RANK} approximation train; fixed mask",
    "LIFT, Liu et al. 2025, arXiv:2506.00772",
    lambda w: principal(w).abs(),
)
