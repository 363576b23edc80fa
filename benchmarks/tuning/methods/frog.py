"""FROG's choices of single weights and columns: a score, a rule, a granularity, and the tuner."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

import frog
from benchmarks.tuning.ideas.head_first import fit_head
from benchmarks.tuning.method import Attached, Method, add
from benchmarks.tuning.task import Task
from benchmarks.tuning.train import autocast

REPORTS: dict[str, frog.ModelReport] = {}
"""One measurement a task: every run starts from the same encoder."""

OTHER_BATCHES = 1000
"""Added to the seed for the batches that choose: they are not those that train first."""


@dataclass(frozen=True, kw_only=True)
class Sparse:
    """How weights are chosen; ``slower`` divides the learning rate, ``late`` leaves out layers."""

    score: str = "random"
    granularity: str = "element"
    rule: str = "uniform"
    knobs: dict[str, float] = field(default_factory=dict)
    batches: int = 5
    late: float = 0.0

    @property
    def informed(self) -> bool:
        """Whether gradients choose."""
        return "gradient" in self.score or "fisher" in self.score


def attach(choice: Sparse, task: Task, share: float, rate: float, seed: int) -> Attached:
    """Select in the encoder and put a tuner on what was chosen."""
    encoder = task.encoder
    if task.name not in REPORTS:
        REPORTS[task.name] = frog.analyze(encoder, frog.Settings(bootstrap=0))
    names = list(task.target_weights())
    names = names[round(choice.late * len(names)) :]
    wanted = "|".join(re.escape(name) for name in names)
    total = round(share * task.target_count())
    plan = frog.allocate(
        REPORTS[task.name], total, rule=choice.rule, include=f"^({wanted})$", knobs=choice.knobs
    )
    gradients = _gradients(choice, task, names, seed) if choice.informed else None
    chosen = frog.select(
        encoder, plan, score=choice.score, granularity=choice.granularity, seed=seed,
        choice=frog.Choice(gradients=gradients),
    )  # fmt: skip
    tuner = frog.Tuner(encoder, chosen)
    attached = Attached(
        groups=[{"params": [x.change for x in tuner.compacts], "lr": rate}],
        trainable=tuner.trainable,
        delta_bytes=0,
        tuner=tuner,
        facts={"score": str(chosen.score), "granularity": choice.granularity},
    )

    def finish() -> None:
        attached.delta_bytes = saved_bytes(tuner.delta())
        tuner.keep()

    attached.finish = finish
    return attached


def saved_bytes(delta: frog.SparseDelta) -> int:
    """Size of the file of a delta."""
    with TemporaryDirectory() as folder:
        file = Path(folder) / "delta.safetensors"
        delta.save(file)
        return file.stat().st_size


def _gradients(choice: Sparse, task: Task, names: list[str], seed: int) -> Any:
    """Gradients of the targets under a fitted head: a random one says nothing of the classes."""
    head = {name: task.model.get_parameter(name).detach().clone() for name in task.head}
    fit_head(task, seed + OTHER_BATCHES)
    source = task.batches(seed + OTHER_BATCHES)
    for weight in task.target_weights().values():
        weight.requires_grad_(True)

    def loss(_: Any, batch: Any) -> torch.Tensor:
        with autocast(task):
            return task.loss(batch)

    found = frog.collect_gradients(
        task.encoder, [next(source) for _ in range(choice.batches)], names=names, loss=loss
    )
    with torch.no_grad():
        for name, value in head.items():
            task.model.get_parameter(name).copy_(value)
    for parameter in task.model.parameters():
        parameter.requires_grad_(False)
    return found


def _add(name: str, words: str, choice: Sparse, source: str = "FROG", slower: float = 1.0) -> None:
    add(Method(
        name=name, family="frog", words=words, source=source, build=partial(attach, choice),
        rate=lambda task, share: task.full_rate / share / slower,
    ))  # fmt: skip


_add("random", "Single weights drawn at random, the same share of every matrix", Sparse(),
     source="control")  # fmt: skip
for _score in ("relevance", "relevance-rank1", "magnitude", "lowrank", "leverage"):
    _add(_score, f"Single weights of the largest {_score}", Sparse(score=_score))
for _score in ("gradient", "fisher", "relevance-gradient"):
    _add(_score, f"Single weights of the largest {_score}", Sparse(score=_score), slower=3.0)
_add("gradient-over-relevance", "Single weights of much gradient and little relevance",
     Sparse(score="gradient * relevance^-1"), slower=3.0)  # fmt: skip
_add("random-columns", "Columns drawn at random", Sparse(granularity="column"), source="control")
_add("relevance-columns", "Columns of the largest relevance",
     Sparse(score="relevance", granularity="column"))  # fmt: skip
_add("gradient-columns", "Columns of the largest gradient",
     Sparse(score="gradient", granularity="column"), slower=3.0)  # fmt: skip
_add("random/late", "Random weights of the last two thirds of the matrices", Sparse(late=1 / 3))
_add("random/frobenius+", "Random weights, more where the Frobenius norm is large",
     Sparse(rule="frobenius", knobs={"power": 1.0}))  # fmt: skip
_add("random/frobenius-", "Random weights, more where the Frobenius norm is small",
     Sparse(rule="frobenius", knobs={"power": -1.0}))  # fmt: skip
_add("random/alpha+", "Random weights, more where alpha is large",
     Sparse(rule="alpha", knobs={"power": 1.0}))  # fmt: skip
_add("random/alpha-", "Random weights, more where alpha is small",
     Sparse(rule="alpha", knobs={"power": -1.0}))  # fmt: skip
