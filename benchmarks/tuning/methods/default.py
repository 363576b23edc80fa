"""FROG's default recipe, as it is judged: no learning rate is given.

Single weights at random, as ``frog select`` chooses where no score is named; the automatic rate of
the library, measured on a few batches, over the share of the change that is kept; the new head
fitted first and last. The step of a cell multiplies the automatic rate.
"""

from __future__ import annotations

from functools import partial

import torch

from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.head_last import HeadLast
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.method import Attached, Method, add
from benchmarks.tuning.methods.frog import Sparse, attach
from benchmarks.tuning.task import Task
from benchmarks.tuning.train import autocast

KEPT = 0.6
"""Share of the change that is kept."""
OTHER_BATCHES = 2000
"""Added to the seed for the batches that the rate is measured on."""
BATCHES = 4


def automatic(choice: Sparse, task: Task, share: float, rate: float, seed: int) -> Attached:
    """Attach at ``rate`` times the automatic learning rate."""
    attached = attach(choice, task, share, rate, seed)
    source = task.batches(seed + OTHER_BATCHES)

    def loss(_: object, batch: object) -> torch.Tensor:
        with autocast(task):
            return task.loss(batch)

    measured = attached.tuner.rate([next(source) for _ in range(BATCHES)], loss=loss)
    attached.groups[0]["lr"] = rate * measured.lr / KEPT
    attached.facts |= {"automatic": measured.lr / KEPT, "gradient share": measured.share}
    return attached


add(Method(
    name="default", family="frog", source="FROG",
    words=f"Single weights at random; automatic rate; head first and last, {KEPT:g} of the change",
    build=partial(automatic, Sparse()), rate=lambda task, share: 1.0,
    ideas=(HeadFirst(), Scaled(factor=KEPT), HeadLast()),
))  # fmt: skip
