"""Whole matrices or whole layers train: chosen once by their spectra, or drawn anew in turn."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.tuning.method import Attached, Method, add
from benchmarks.tuning.methods.full import dense
from benchmarks.tuning.task import Task

LAYER_FACTOR = 5.0
"""Rate over that of full tuning, by training losses of short runs on ``signs`` and ``plays``."""
PERIODS = 8
"""How many times LISA draws in a run."""
IQR_OF_NORMAL = 1.349
"""Interquartile range of a standard normal: turns a range into a standard deviation."""


def signal_to_noise(weight: Tensor) -> float:
    """Signal-to-noise ratio of a matrix by Spectrum; a convolution as (out, in x kh x kw).

    Sum of the singular values above the Marchenko-Pastur edge, over the sum of those below, over
    the largest; the noise's sigma is from the interquartile range of the singular values. So does
    the authors' program (cognitivecomputations/spectrum), where no noise counts as 1; it takes the
    best of each type of module, which a budget of few matrices leaves no room for.
    """
    matrix = weight.detach().flatten(1)
    values = torch.linalg.svdvals(matrix)
    low, high = torch.quantile(values, torch.tensor([0.25, 0.75])).tolist()
    ratio = min(matrix.shape) / max(matrix.shape)
    edge = (high - low) / IQR_OF_NORMAL * (1 + math.sqrt(ratio))
    signal = float(values[values > edge].sum())
    noise = float(values[values <= edge].sum())
    return signal / (noise or 1.0) / float(values[0])


def best_that_fit(order: list[str], sizes: dict[str, int], budget: float) -> list[str]:
    """Take in ``order`` what still fits ``budget``; nothing fits: the first of the smallest."""
    chosen, used = [], 0
    for name in order:
        if used + sizes[name] <= budget:
            chosen.append(name)
            used += sizes[name]
    if chosen:
        return chosen
    smallest = min(sizes.values())
    return [next(name for name in order if sizes[name] == smallest)]


def layer_of(name: str) -> str:
    """The layer that a weight belongs to: its name up to the first number, or the module's."""
    parts = name.split(".")
    for at, part in enumerate(parts):
        if part.isdigit():
            return ".".join(parts[: at + 1])
    return ".".join(parts[:-1])


def _spectrum(task: Task, share: float, rate: float, seed: int) -> Attached:
    del seed
    weights = task.target_weights()
    ratios = {name: signal_to_noise(w) for name, w in weights.items()}
    order = sorted(weights, key=lambda name: -ratios[name])
    sizes = {name: w.numel() for name, w in weights.items()}
    budget = share * task.target_count()
    chosen = best_that_fit(order, sizes, budget)
    attached = dense([weights[name] for name in chosen], rate)
    attached.facts = {
        "chosen": chosen,
        "ratios": [ratios[name] for name in chosen],
        "over_budget": attached.trainable / budget,
    }
    return attached


class Draws:
    """Which layers LISA trains now: drawn at the start and after each period."""

    def __init__(self, task: Task, share: float, rate: float, seed: int) -> None:
        self.layers: dict[str, list[nn.Parameter]] = {}
        for name, weight in task.target_weights().items():
            self.layers.setdefault(layer_of(name), []).append(weight)
        self.sizes = {k: sum(w.numel() for w in v) for k, v in self.layers.items()}
        self.budget = share * task.target_count()
        self.drawing = torch.Generator().manual_seed(seed)
        self.optimizer: torch.optim.Optimizer | None = None
        self.seen: list[list[str]] = []
        every = [w for ws in self.layers.values() for w in ws]
        self.attached = Attached(
            groups=[{"params": every, "lr": rate}], trainable=0, delta_bytes=0,
            after_step=self.after_step, optimizer=self.make_optimizer,
        )  # fmt: skip
        self.draw()

    def make_optimizer(self, groups: Any, **options: Any) -> torch.optim.Optimizer:
        """AdamW, kept at hand: its state of frozen layers is dropped."""
        self.optimizer = torch.optim.AdamW(groups, **options)
        return self.optimizer

    def draw(self) -> None:
        """Draw layers at random while they fit the budget, at least one; freeze the others."""
        names = list(self.layers)
        order = [names[i] for i in torch.randperm(len(names), generator=self.drawing).tolist()]
        chosen, used = order[:1], self.sizes[order[0]]
        for name in order[1:]:
            if used + self.sizes[name] <= self.budget:
                chosen.append(name)
                used += self.sizes[name]
        for name, weights in self.layers.items():
            for weight in weights:
                weight.requires_grad_(name in chosen)
                weight.grad = None
                if self.optimizer is not None:
                    self.optimizer.state.pop(weight, None)
        self.seen.append(chosen)
        self.attached.trainable = max(self.attached.trainable, used)
        ever = {name for names in self.seen for name in names}
        self.attached.delta_bytes = 4 * sum(self.sizes[name] for name in ever)
        self.attached.facts = {
            "draws": self.seen,
            "over_budget": self.attached.trainable / self.budget,
        }

    def after_step(self, step: int, total: int) -> None:
        """Draw anew where a period ends and steps are left."""
        if step % max(1, total // PERIODS) == 0 and step < total:
            self.draw()


def _lisa(task: Task, share: float, rate: float, seed: int) -> Attached:
    return Draws(task, share, rate, seed).attached


add(Method(
    name="spectrum", family="peer",
    words="Matrices of the largest signal-to-noise ratio train whole, while they fit the budget",
    source="Spectrum, Hartford et al. 2024, arXiv:2406.06623", build=_spectrum,
    rate=lambda task, share: LAYER_FACTOR * task.full_rate,
))  # fmt: skip
add(Method(
    name="lisa", family="peer",
    words=f"Layers drawn at random train whole, drawn anew {PERIODS} times in a run",
    source="LISA, Pan et al. 2024, arXiv:2403.17919", build=_lisa,
    rate=lambda task, share: LAYER_FACTOR * task.full_rate,
))  # fmt: skip
