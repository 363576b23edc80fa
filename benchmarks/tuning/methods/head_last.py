"""The recipe with the head fitted before and after, over several choices of weights."""

from __future__ import annotations

from dataclasses import replace

import benchmarks.tuning.methods.with_ideas  # noqa: F401 - registers what is varied here
from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.head_last import HeadLast
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.method import METHODS, add

BASES = ("random", "full", "lora", "gradient-columns", "gradient-over-relevance")

for _base in BASES:
    for _factor in (0.4, 0.6, 0.8, 1.0):
        _ideas = (HeadFirst(), *([Scaled(factor=_factor)] if _factor < 1 else []), HeadLast())
        add(replace(
            METHODS[_base], name=f"{_base}+recipe-{_factor:g}",
            words=f"{METHODS[_base].words}; head first and last, {_factor:g} of the change",
            ideas=_ideas,
        ))  # fmt: skip
