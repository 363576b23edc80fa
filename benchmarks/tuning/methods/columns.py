"""Columns over other scores, with the recipe and the automatic rate of the default.

Predictions, written before the runs. Gradients choose the outlier channels of an encoder, which the
old task needs: on both tasks of MiniLM columns by gradient forgot more than a random mask at the
automatic rate. *Gradient over relevance*, summed over a column, leaves out channels that carry much
of the matrix: it forgets less there (1 point of rho or more at the same new quality) and keeps what
columns gain on `plays` and `signs`. *Random columns* tell what the structure alone does: on `plays`
less than half of what columns by gradient gain over single weights.
"""

from __future__ import annotations

from functools import partial

from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.head_last import HeadLast
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.method import Method, add
from benchmarks.tuning.methods.default import KEPT, automatic
from benchmarks.tuning.methods.frog import Sparse

for _name, _words, _choice in (
    ("gradient-columns", "Columns of the largest gradient",
     Sparse(score="gradient", granularity="column")),
    ("columns-over-relevance", "Columns of much gradient and little relevance",
     Sparse(score="gradient * relevance^-1", granularity="column")),
    ("over-relevance", "Single weights of much gradient and little relevance",
     Sparse(score="gradient * relevance^-1")),
    ("random-columns", "Columns drawn at random", Sparse(granularity="column")),
):  # fmt: skip
    add(Method(
        name=f"{_name}+default", family="frog", source="FROG",
        words=f"{_words}; automatic rate; head first and last, {KEPT:g} of the change",
        build=partial(automatic, _choice), rate=lambda task, share: 1.0,
        ideas=(HeadFirst(), Scaled(factor=KEPT), HeadLast()),
    ))  # fmt: skip
