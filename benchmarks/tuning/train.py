"""One run: a method on a task at one learning rate and seed. The same loop for every method.

AdamW without weight decay, warm-up over a tenth of the steps, then linear decay to zero; the new
head trains beside at a rate of its own; forward in bfloat16 where the task says so, weights in
32 bits.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from benchmarks.tuning.method import Attached, Method, freeze
from benchmarks.tuning.task import Score, Task


class Idea:
    """What changes a run beside the choice of weights. Every hook does nothing unless overridden.

    Ideas are values: a frozen dataclass of their knobs. ``prepare`` comes before the method
    attaches (the head may be fitted here, the model is fresh), ``begin`` when the optimizer
    exists, ``loss`` may add to the training loss, ``before_step`` comes after backward,
    ``after_step`` after the step, ``end`` before the method finishes.
    """

    def prepare(self, task: Task, seed: int) -> None: ...
    def begin(self, run: Run) -> None: ...
    def loss(self, run: Run, batch: Any, loss: Tensor) -> Tensor:
        return loss

    def before_step(self, run: Run) -> None: ...
    def after_step(self, run: Run) -> None: ...
    def end(self, run: Run) -> None: ...


@dataclass(kw_only=True)
class Run:
    """A run that is going on, as ideas see it; ``step`` counts from 1."""

    task: Task
    attached: Attached
    optimizer: torch.optim.Optimizer
    before: dict[str, Tensor]
    """Target weights at the start."""
    seed: int
    total: int
    step: int = 0
    rate: float = 0.0
    moving: list[tuple[Tensor, Tensor]] = field(init=False)
    """The trained tensors, chosen weights' changes or whole weights, each with its start."""
    kept: dict[str, Any] = field(default_factory=dict)
    """What ideas remember from one hook to the next, by a word of their own."""

    def __post_init__(self) -> None:
        trained = [p for group in self.attached.groups for p in group["params"]]
        self.moving = [(p, p.detach().clone()) for p in trained]

    def written(self) -> None:
        """Tell the tuner, where there is one, that ``moving`` was set by hand."""
        if self.attached.tuner is not None:
            with torch.no_grad():
                self.attached.tuner.write()


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What came of a run."""

    new: Score
    old: Score
    trainable: int
    delta_bytes: int
    step_seconds: float
    """Median CPU seconds of a training step."""
    seconds: float
    """CPU seconds of the whole run."""
    moved: float
    """||dW|| / ||W|| over the target matrices."""
    train_loss: float
    facts: dict[str, Any]


def train(
    task: Task, method: Method, *, share: float, rate: float, seed: int, split: str, steps: int = 0
) -> Outcome:
    """Train one method on one task and judge it on ``split``."""
    started = time.process_time()
    task.begin(seed)
    ideas: Sequence[Idea] = method.ideas
    for idea in ideas:
        idea.prepare(task, seed)
    before = {k: v.detach().clone() for k, v in task.target_weights().items()}
    freeze(task.model)
    attached = method.build(task, share, rate, seed)
    head = [task.model.get_parameter(name).requires_grad_(True) for name in task.head]
    groups = [dict(group) for group in attached.groups]
    if head:
        groups.append({"params": head, "lr": task.head_rate})
    make = attached.optimizer or torch.optim.AdamW
    optimizer = make(groups, weight_decay=0.0)
    total = steps or task.steps
    warm = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (total - s) / (total - warm))
    )
    run = Run(task=task, attached=attached, optimizer=optimizer, before=before, seed=seed,
              total=total, rate=rate)  # fmt: skip
    for idea in ideas:
        idea.begin(run)
    taken, last, batches = [], math.nan, task.batches(seed)
    for step in range(1, total + 1):
        run.step = step
        batch = next(batches)
        at = time.process_time()
        optimizer.zero_grad(set_to_none=True)
        with autocast(task):
            loss = task.loss(batch)
            for idea in ideas:
                loss = idea.loss(run, batch, loss)
        loss.backward()
        attached.before_step(step, total)
        for idea in ideas:
            idea.before_step(run)
        optimizer.step()
        attached.after_step(step, total)
        for idea in ideas:
            idea.after_step(run)
        taken.append(time.process_time() - at)
        schedule.step()
        last = float(loss.detach())
        if not math.isfinite(last):
            break
    for idea in ideas:
        idea.end(run)
    attached.finish()
    norm = math.sqrt(sum(float(x.square().sum()) for x in before.values()))
    after = task.target_weights()
    moved = math.sqrt(sum(float((after[k].detach() - v).square().sum()) for k, v in before.items()))
    with torch.no_grad(), autocast(task):
        new, old = task.new(split), task.old(split)
    return Outcome(
        new=new, old=old, trainable=attached.trainable, delta_bytes=attached.delta_bytes,
        step_seconds=sorted(taken)[len(taken) // 2], seconds=time.process_time() - started,
        moved=moved / norm, train_loss=last, facts=attached.facts,
    )  # fmt: skip


def autocast(task: Task) -> AbstractContextManager[Any]:
    """Forward passes in bfloat16 where the task says so."""
    return torch.autocast("cpu", torch.bfloat16, enabled=task.bf16)
