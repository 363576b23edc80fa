"""Steps in proportion to the gradient: one second moment a tensor instead of one a weight.

Adam-mini, Zhang et al. 2024, arXiv:2406.16793, with a tensor as the block. AdamW moves every
chosen weight by about the same amount, whether it matters or not. Prediction: steps in proportion
to the gradient reach the same new quality with a smaller change, so that a random mask forgets
less at equal new quality by 2 points or more on the hand signs, and full tuning too.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch

import benchmarks.tuning.methods.with_ideas  # noqa: F401 - registers what is varied here
from benchmarks.tuning.method import METHODS, Attached, Build, add
from benchmarks.tuning.task import Task


class AdamMini(torch.optim.Optimizer):
    """Adam whose second moment is one number a tensor, the mean of the squared gradient."""

    def __init__(self, params: Any, *, lr: float = 1e-3, weight_decay: float = 0.0) -> None:
        if weight_decay:
            raise ValueError(f"weight_decay must be 0, got {weight_decay}")
        super().__init__(params, {"lr": lr, "betas": (0.9, 0.999), "eps": 1e-8})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            fast, slow = group["betas"]
            for parameter in group["params"]:
                if parameter.grad is None:
                    continue
                state = self.state[parameter]
                if not state:
                    state.update(step=0, mean=torch.zeros_like(parameter), square=0.0)
                state["step"] += 1
                state["mean"].lerp_(parameter.grad, 1 - fast)
                now = float(parameter.grad.square().mean())
                state["square"] = slow * state["square"] + (1 - slow) * now
                size = (state["square"] / (1 - slow ** state["step"])) ** 0.5 + group["eps"]
                rate = group["lr"] / (1 - fast ** state["step"]) / size
                parameter.sub_(rate * state["mean"])


def attach(build: Build, task: Task, share: float, rate: float, seed: int) -> Attached:
    """A method with the optimizer changed."""
    attached = build(task, share, rate, seed)
    attached.optimizer = AdamMini
    return attached


for _name in ("random", "full", "random+head-first", "full+head-first",
              "random+head-first+scaled", "full+head-first+scaled",
              "gradient-columns+head-first+scaled"):  # fmt: skip
    _known = METHODS[_name]
    add(replace(
        _known, name=f"{_name}+even-steps", words=f"{_known.words}; steps as the gradient",
        build=partial(attach, _known.build),
    ))  # fmt: skip
