"""The library's recipe with guided noise on the weights that do not train.

Predictions, written before the runs: noise of the size of int4 rounding raises the new quality
after rounding to int4 by 1 point or more on both ResNet tasks and costs less than half a point
without rounding; noise of 0.01 RMS changes nothing by a point; neither helps after pruning 30 % or
merging.
"""

from __future__ import annotations

from functools import partial

import frog
from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.head_last import HeadLast
from benchmarks.tuning.ideas.kept_by_loss import KeptByLoss
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.method import Attached, Method, add
from benchmarks.tuning.methods.by_loss import undivided
from benchmarks.tuning.methods.default import KEPT, automatic
from benchmarks.tuning.methods.frog import Sparse, saved_bytes
from benchmarks.tuning.task import Task

NOISES = {
    "int4 noise": frog.Noise.rounding(4, group=None),
    "0.01 noise": frog.Noise.guided(0.01, schedule="constant"),
}


def noisy(noise: frog.Noise, task: Task, share: float, rate: float, seed: int) -> Attached:
    """Attach as the recipe of the task does, with noise while the batches of training run."""
    build = automatic if task.head else undivided
    attached = build(Sparse(), task, share, rate, seed)
    chosen = attached.tuner.selection
    attached.tuner.revert()
    tuner = frog.Tuner(task.encoder, chosen, noise=noise)
    rate = attached.groups[0]["lr"]
    attached.groups = [{"params": [x.change for x in tuner.compacts], "lr": rate}]
    attached.tuner = tuner
    layers = [task.encoder.get_submodule(name) for name in task.targets]

    def set_training(on: bool) -> None:
        for layer in layers:
            layer.training = on

    def after_step(step: int, total: int) -> None:
        if step == total:
            set_training(False)

    def finish() -> None:
        attached.delta_bytes = saved_bytes(tuner.delta())
        tuner.keep()

    set_training(True)
    attached.after_step, attached.finish = after_step, finish
    return attached


for _name, _noise in NOISES.items():
    for _kind, _ideas in (
        ("default", (HeadFirst(), Scaled(factor=KEPT), HeadLast())),
        ("random+auto+by-loss", (KeptByLoss(largest=1.0),)),
    ):
        add(Method(
            name=f"{_kind}+{_name}", family="frog", source="FROG",
            words=f"{_kind} with noise on the weights that do not train ({_name})",
            build=partial(noisy, _noise), rate=lambda task, share: 1.0, ideas=_ideas,
        ))  # fmt: skip
