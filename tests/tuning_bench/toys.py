"""A task of two numbers' worth and three methods, for the harness alone."""

from __future__ import annotations

import os
import time

import numpy as np
import torch
from torch import nn

from benchmarks.tuning.method import Attached, Method, NotApplicable
from benchmarks.tuning.task import Score, Task


class Toy(Task):
    name, words, old_words = "toy", "from noise to a plane", "another plane"
    targets, head = ("0",), ("1.weight", "1.bias")
    full_rate, steps, bf16 = 1e-2, 20, False

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.pristine = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
        self.x = torch.randn(64, 8)
        self.y = (self.x[:, 0] > 0).long()

    def batches(self, seed):
        generator = torch.Generator().manual_seed(seed)
        while True:
            yield torch.randint(64, (16,), generator=generator)

    def loss(self, batch):
        time.sleep(float(os.environ.get("TOY_NAP", "0")))
        return nn.functional.cross_entropy(self.model(self.x[batch]), self.y[batch])

    def outputs(self, batch):
        return self.model(self.x[batch])

    def judged(self, split: str, wanted: torch.Tensor) -> Score:
        half = slice(0, 32) if split == "validation" else slice(32, 64)
        logits = self.model(self.x[half])
        each = (logits.argmax(1) == wanted[half]).numpy()
        loss = nn.functional.cross_entropy(logits, wanted[half])
        return Score(quality=100 * float(np.mean(each)), loss=float(loss), each=each)

    def new(self, split: str) -> Score:
        return self.judged(split, self.y)

    def old(self, split: str) -> Score:
        return self.judged(split, (self.x[:, 1] > 0).long())


def _all(task, share, rate, seed):
    weights = [w.requires_grad_(True) for w in task.target_weights().values()]
    return Attached(groups=[{"params": weights, "lr": rate}], trainable=64, delta_bytes=256)


def _none(task, share, rate, seed):
    return Attached(groups=[], trainable=0, delta_bytes=0)


def _refuses(task, share, rate, seed):
    raise NotApplicable("toys are beneath it")


def _breaks(task, share, rate, seed):
    raise RuntimeError("broken toy")


def _method(name, build):
    return Method(name=name, family="control", words=name, source="here", build=build,
                  rate=lambda task, share: task.full_rate)  # fmt: skip


TASKS = {"toy": Toy}
BUILDS = {"full": _all, "head": _none, "refuses": _refuses, "breaks": _breaks}
METHODS = {name: _method(name, build) for name, build in BUILDS.items()}
