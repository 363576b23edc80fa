"""Second round of ideas, from what the first one showed: how much is kept, norm layers, columns.

Predictions, written before the runs.

*How much of the change is kept* (0.4 and 0.8 beside 0.6). A line between the old and the new
weights has one best point: 0.4 with a larger learning rate is ahead of 0.6 where much is forgotten
(the hand signs, 1 to 3 points of the old task at equal new quality) and behind where little is;
0.8 lies between 0.6 and 1.

*Norm layers in the budget.* Gains and biases of the norm layers train beside the chosen weights
and count in the budget (ResNet20 0.5 % of the targets, MiniLM 0.1 %, stories260k 0.3 %). They scale
whole channels: on the hand signs a mask reaches a new quality at least 1 point higher, and forgets
less at equal new quality; no difference on MiniLM.

*Columns by gradient.* An input channel that trains whole keeps the others' function: with the head
first, columns by gradient forget less than single weights at equal new quality on ResNet20 (2
points or more); on MiniLM and stories260k, whose inputs have few outlier channels, no difference.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import benchmarks.tuning.methods.with_ideas  # noqa: F401 - registers what is varied here
from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.method import METHODS, Attached, Method, NotApplicable, add
from benchmarks.tuning.methods.frog import Sparse, attach
from benchmarks.tuning.methods.full import BIAS_FACTOR, norm_parameters
from benchmarks.tuning.task import Task

BASES = ("random", "full", "gradient-columns", "gradient-over-relevance")

for _base in BASES:
    for _factor in (0.4, 0.8):
        add(replace(
            METHODS[_base], name=f"{_base}+head-first+scaled-{_factor:g}",
            words=f"{METHODS[_base].words}; head first, {_factor:g} of the change",
            ideas=(HeadFirst(), Scaled(factor=_factor)),
        ))  # fmt: skip


def with_norms(
    choice: Sparse, slower: float, task: Task, share: float, rate: float, seed: int
) -> Attached:
    """Norm layers and, with what is left of the budget, chosen weights."""
    norms = norm_parameters(task)
    left = round(share * task.target_count()) - sum(p.numel() for p in norms)
    if left <= 0:
        raise NotApplicable(f"the norm layers of {task.name} alone are more than {share:g}")
    attached = attach(choice, task, left / task.target_count(), rate, seed)
    for parameter in norms:
        parameter.requires_grad_(True)
    # a mask's rate is full / share / slower, that of norm layers BIAS_FACTOR times full
    attached.groups.append({"params": norms, "lr": rate * share * slower * BIAS_FACTOR})
    count = sum(p.numel() for p in norms)
    attached.trainable += count
    finish = attached.finish

    def finished() -> None:
        finish()
        attached.delta_bytes += 4 * count

    attached.finish = finished
    return attached


for _name, _choice, _slower in (
    ("random", Sparse(), 1.0),
    ("gradient-columns", Sparse(score="gradient", granularity="column"), 3.0),
    ("gradient-over-relevance", Sparse(score="gradient * relevance^-1"), 3.0),
):
    for _suffix, _ideas in (
        ("", ()),
        ("+head-first", (HeadFirst(),)),
        ("+head-first+scaled", (HeadFirst(), Scaled())),
    ):
        add(Method(
            name=f"{_name}+norms{_suffix}", family="frog",
            words=f"{METHODS[_name].words}; norm layers in the budget"
                  + "; the head is fitted before" * ("head" in _suffix)
                  + "; 0.6 of the change is kept" * ("scaled" in _suffix),
            source=METHODS[_name].source, build=partial(with_norms, _choice, _slower),
            rate=METHODS[_name].rate, ideas=_ideas,
        ))  # fmt: skip
