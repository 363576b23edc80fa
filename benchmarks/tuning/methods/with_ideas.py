"""A random mask and, as its control, full tuning, each with one idea that acts on the run."""

from __future__ import annotations

from dataclasses import replace

import benchmarks.tuning.methods.frog
import benchmarks.tuning.methods.full  # noqa: F401 - registers what ideas are added to
from benchmarks.tuning.ideas.decay import Decay
from benchmarks.tuning.ideas.distil import Distil
from benchmarks.tuning.ideas.head_first import HeadFirst
from benchmarks.tuning.ideas.project import Project
from benchmarks.tuning.ideas.scaled import Scaled
from benchmarks.tuning.ideas.self_fisher import SelfFisher
from benchmarks.tuning.method import METHODS, add
from benchmarks.tuning.train import Idea


def _with(
    suffix: str, words: str, *ideas: Idea, bases: tuple[str, ...] = ("random", "full")
) -> None:
    for base in bases:
        known = METHODS[base]
        add(replace(known, name=f"{base}+{suffix}", words=f"{known.words}; {words}", ideas=ideas))


_with("head-first", "the head is fitted before", HeadFirst())
_with("scaled", "0.6 of the change is kept", Scaled())
_with("self-fisher", "a penalty where the old outputs depend on a weight", SelfFisher())
_with("distil", "old outputs are kept on new inputs", Distil())
_with("project", "the change leaves the dominant directions alone", Project())
_with("decay", "the change decays", Decay())
_with("head-first+scaled", "head first, 0.6 of the change", HeadFirst(), Scaled())
_with("head-first", "the head is fitted before", HeadFirst(),
      bases=("lora", "gradient-columns", "gradient-over-relevance"))  # fmt: skip
_with("head-first+distil", "head first, old outputs kept", HeadFirst(), Distil(),
      bases=("random", "full", "gradient-columns"))  # fmt: skip
_with("distil", "old outputs are kept on new inputs", Distil(), bases=("gradient-columns",))
_with("head-first+scaled", "head first, 0.6 of the change", HeadFirst(), Scaled(),
      bases=("lora", "gradient-columns", "gradient-over-relevance"))  # fmt: skip
_with("scaled", "0.6 of the change is kept", Scaled(),
      bases=("lora", "gradient-columns", "gradient-over-relevance"))  # fmt: skip
