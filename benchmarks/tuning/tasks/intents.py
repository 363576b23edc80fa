"""MiniLM learns which of 77 things a customer of a bank wants."""

from __future__ import annotations

import csv

import numpy as np
import torch

from benchmarks.tasks import DATA
from benchmarks.tuning.tasks.language import SentenceTask
from benchmarks.tuning.tasks.scores import balanced, without


class Intents(SentenceTask):
    """Banking77; 10 sentences a class are held out, 20 a class of the test part are judged."""

    name = "intents"
    words = "MiniLM, of sentence similarity, to 77 wishes of bank customers (Banking77), new head"
    classes = 77
    steps = 60
    full_rate = 3e-4
    head_rate = 2e-2

    def __init__(self) -> None:
        super().__init__()
        texts, names = _part("train")
        texts_test, names_test = _part("test")
        classes = np.unique(names)
        labels = torch.tensor(np.searchsorted(classes, names))
        labels_test = torch.tensor(np.searchsorted(classes, names_test))
        tokens, tokens_test = self.tokens(texts), self.tokens(texts_test)
        taken, tested = balanced(names, 10), balanced(names_test, 20)
        rest = without(len(names), taken)
        self.held = {
            "validation": ([tokens[i] for i in taken], labels[taken]),
            "test": ([tokens_test[i] for i in tested], labels_test[tested]),
        }
        self.train = self.apart([tokens[i] for i in rest], labels[rest])


def _part(part: str) -> tuple[list[str], np.ndarray]:
    """Texts and names of their classes."""
    with (DATA / f"banking77/{part}.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return [row["text"] for row in rows], np.array([row["category"] for row in rows])
