"""Runs of a tuner under its guards, in plain loops on real small models, for bench_guards.py."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.nn import functional

import frog
from benchmarks.random_choice import random_choice
from benchmarks.tasks import SentimentTask, ShakespeareTask, SignTask

TASKS: dict[str, Callable[[], Any]] = {
    "stories260k": ShakespeareTask,
    "resnet20": SignTask,
    "minilm": SentimentTask,
}
ALSO = {"stories260k": (), "resnet20": ("^linear",), "minilm": (r"^1\.",)}
LEFT_OUT = {"stories260k": "^$", "resnet20": "^linear", "minilm": r"embeddings|pooler|^1\."}
HEAD_RATE = 1e-3
BATCH = {"stories260k": 16, "resnet20": 32, "minilm": 16}


@dataclass(kw_only=True)
class Outcome:
    """What came of a run."""

    tuner: Any
    task: Any
    losses: list[float] = field(default_factory=list)
    evaluations: dict[int, float] = field(default_factory=dict)
    seconds: float = 0.0


def choice(model: torch.nn.Module, name: str, share: float, granularity: str, seed: int) -> Any:
    """A random choice of a share of every matrix but embeddings of MiniLM and new heads."""
    left_out = re.compile(LEFT_OUT[name])
    return random_choice(
        model, share, granularity, lambda matrix: not left_out.search(matrix), seed=seed
    )


def evaluation_loss(task: Any) -> float:
    """Mean cross-entropy on a fixed part of the test set; infinite where it is no number."""
    was = task.model.training
    task.model.eval()
    with torch.no_grad():
        if isinstance(task, ShakespeareTask):
            part = task.test[:24]
            loss = functional.cross_entropy(task.logits(part), part[:, 1:].flatten())
        elif isinstance(task, SignTask):
            loss = functional.cross_entropy(
                task.logits(task.x_test[:250]), torch.tensor(task.y_test[:250]).long()
            )
        else:
            texts, labels = task.test
            inputs = task.encoded(texts[:128])
            loss = functional.cross_entropy(task.logits(inputs), torch.tensor(labels[:128]))
    task.model.train(was)
    value = float(loss)
    return value if value == value else float("inf")


def run(  # noqa: PLR0913 (one call is one line of a table)
    name: str,
    lr: float,
    *,
    steps: int,
    guards: Sequence[Any] | str = (),
    seed: int = 0,
    share: float = 0.01,
    granularity: str = "element",
    warmup: int = 0,
    report: bool = False,
    evaluate: int = 0,
    optimizer: Any = torch.optim.AdamW,
    decay: bool = False,
    planted: Callable[[int, Any], None] | None = None,
) -> Outcome:
    """Tune one model; evaluates every ``evaluate`` steps, and stops where a guard asks for it."""
    torch.manual_seed(seed)
    task = TASKS[name]()
    tuner = frog.Tuner(
        task.model, choice(task.model, name, share, granularity, seed), also=ALSO[name],
        guards=guards,
    )  # fmt: skip
    made = tuner.optimizer(optimizer, lr=lr, also_lr=min(lr, HEAD_RATE))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        made, lambda t: min(1.0, (t + 1) / max(warmup, 1)) * (1 - t / steps if decay else 1.0)
    )
    done = Outcome(tuner=tuner, task=task)
    if evaluate:
        done.evaluations[0] = evaluation_loss(task)
    task.model.train()
    batches = task.batches(BATCH[name], seed)
    begin = time.perf_counter()
    for step in range(1, steps + 1):
        inputs, labels = next(batches)
        made.zero_grad()
        loss = functional.cross_entropy(task.logits(inputs), labels)
        loss.backward()
        if report:
            tuner.report_loss(float(loss.detach()))
        if planted is not None:
            planted(step, tuner)
        made.step()
        schedule.step()
        done.losses.append(float(loss.detach()))
        if evaluate and step % evaluate == 0:
            done.evaluations[step] = evaluation_loss(task)
        if tuner.stopped:
            break
    done.seconds = time.perf_counter() - begin
    return done
