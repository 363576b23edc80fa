"""The automatic rate with the kept share of the change whole, or chosen by the training loss.

What the library does where no head is new is ``random+auto``. Prediction for the share chosen by
the loss: never worse than the whole change by more than 0.3 points; on `photos` 0.5 points better
at the automatic rate, because that is too large there.
"""

from __future__ import annotations

from functools import partial

from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.head_last import HeadLast
from benchmarks.tuning.ideas.kept_by_loss import KeptByLoss
from benchmarks.tuning.method import Attached, Method, add
from benchmarks.tuning.methods.default import KEPT, automatic
from benchmarks.tuning.methods.frog import Sparse
from benchmarks.tuning.task import Task


def undivided(choice: Sparse, task: Task, share: float, rate: float, seed: int) -> Attached:
    """Attach at ``rate`` times the automatic learning rate, for a change that is kept whole."""
    attached = automatic(choice, task, share, rate * KEPT, seed)
    attached.facts["automatic"] *= KEPT
    return attached


for _name, _words, _build, _ideas in (
    ("random+auto", "Single weights at random; automatic rate", undivided, ()),
    ("random+auto+by-loss", "The same, as much of the change kept as the loss asks for", undivided,
     (KeptByLoss(largest=1.0),)),
    ("default+by-loss", f"The default, at most {KEPT:g} of the change kept, as the loss asks for",
     automatic, (HeadFirst(), KeptByLoss(largest=KEPT), HeadLast())),
):  # fmt: skip
    add(Method(
        name=_name, family="frog", source="FROG", words=_words,
        build=partial(_build, Sparse()), rate=lambda task, share: 1.0, ideas=_ideas,
    ))  # fmt: skip
