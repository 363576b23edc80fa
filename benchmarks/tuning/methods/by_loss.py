"""The default with the kept share of the change chosen by the training loss, at most 0.6."""

from __future__ import annotations

from functools import partial

from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.head_last import HeadLast
from benchmarks.tuning.ideas.kept_by_loss import KeptByLoss
from benchmarks.tuning.method import Method, add
from benchmarks.tuning.methods.default import KEPT, automatic
from benchmarks.tuning.methods.frog import Sparse

add(Method(
    name="default+by-loss", family="frog", source="FROG",
    words=f"The default, at most {KEPT:g} of the change kept, as much as the loss asks for",
    build=partial(automatic, Sparse()), rate=lambda task, share: 1.0,
    ideas=(HeadFirst(), KeptByLoss(largest=KEPT), HeadLast()),
))  # fmt: skip
