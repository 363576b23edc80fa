"""MiniLM learns to tell kind film reviews from unkind ones."""

from __future__ import annotations

import torch

from benchmarks.tasks import sentences
from benchmarks.tuning.tasks.language import SentenceTask, Tokens


class Sentiment(SentenceTask):
    """SST-2; validation is its dev part, test its test part."""

    name = "sentiment"
    words = "MiniLM, of sentence similarity, to film reviews (SST-2), new head"
    classes = 2
    steps = 40

    def __init__(self) -> None:
        super().__init__()
        self.held = {"validation": self._part("dev"), "test": self._part("test")}
        self.train = self.apart(*self._part("train"))

    def _part(self, part: str) -> tuple[Tokens, torch.Tensor]:
        texts, labels = sentences(part)
        return self.tokens(texts), torch.tensor(labels)
