"""What both tasks of MiniLM share: tokens, batches of like lengths, the old score on STS-B."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.tasks import DATA, minilm_folder, pooled
from benchmarks.tuning.task import Score, Task
from benchmarks.tuning.tasks.scores import classified

BATCH = 32
EVALUATED = 64
GROUP = 8
"""Batches that are drawn together, to be cut by length: less padding."""

Tokens = list[list[int]]


class SentenceTask(Task):
    """MiniLM with mean pooling and a new linear head; old: similarity of pairs of STS-B.

    ``train`` has tokens and labels, ``held`` those of each split.
    """

    prefix = "encoder"
    head = ("head.weight", "head.bias")
    old_words = "100 Spearman's rho of cosines on every third pair of STS-B"
    full_rate = 1e-4
    logits = False
    classes: int
    model: nn.ModuleDict  # type: ignore[assignment]
    train: tuple[Tokens, Tensor]
    held: dict[str, tuple[Tokens, Tensor]]

    def __init__(self) -> None:
        from transformers import AutoModel, AutoTokenizer

        encoder = AutoModel.from_pretrained(minilm_folder())
        self.tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
        self.width = encoder.config.hidden_size
        self.pristine = nn.ModuleDict(
            {"encoder": encoder, "head": nn.Linear(self.width, self.classes)}
        )
        self.targets = tuple(
            name
            for name, x in encoder.named_modules()
            if name.startswith("encoder.layer.") and isinstance(x, nn.Linear)
        )
        self.pairs = {"validation": self._pairs("dev"), "test": self._pairs("test")}

    def new_head(self) -> None:
        self.model["head"] = nn.Linear(self.width, self.classes)

    def tokens(self, texts: list[str]) -> Tokens:
        """Token ids of each text, at most 64."""
        return self.tokenizer(texts, truncation=True, max_length=64)["input_ids"]

    def apart(self, tokens: Tokens, labels: Tensor) -> tuple[Tokens, Tensor]:
        """Training sentences without those that the files have in a held split as well."""
        seen = {tuple(x) for held, _ in self.held.values() for x in held}
        rest = [i for i, x in enumerate(tokens) if tuple(x) not in seen]
        return [tokens[i] for i in rest], labels[rest]

    def batches(self, seed: int) -> Iterator[tuple[Any, Tensor]]:
        tokens, labels = self.train
        rng, lengths = np.random.default_rng(seed), np.array([len(x) for x in tokens])
        while True:
            order = rng.permutation(len(tokens))
            for at in range(0, len(order) - GROUP * BATCH + 1, GROUP * BATCH):
                group = order[at : at + GROUP * BATCH]
                parts = group[np.argsort(lengths[group], kind="stable")].reshape(GROUP, BATCH)
                for part in rng.permutation(parts):
                    yield self._padded([tokens[i] for i in part]), labels[part]

    def loss(self, batch: tuple[Any, Tensor]) -> Tensor:
        states = pooled(self.model["encoder"], batch[0])
        return functional.cross_entropy(self.model["head"](states).float(), batch[1])

    def outputs(self, batch: tuple[Any, Tensor]) -> Tensor:
        return functional.normalize(pooled(self.model["encoder"], batch[0]).float(), dim=1)

    @torch.no_grad()
    def new(self, split: str) -> Score:
        tokens, labels = self.held[split]
        return classified(self.model["head"](self._states(tokens)), labels)

    @torch.no_grad()
    def old(self, split: str) -> Score:
        """``each`` are cosines of pairs; the loss is the mean squared error to the gold, scaled."""
        tokens, gold = self.pairs[split]
        states = functional.normalize(self._states(tokens), dim=1)
        each = (states[0::2] * states[1::2]).sum(1).double().numpy()
        loss = float(np.mean((each - gold / 5.0) ** 2))
        return Score(quality=self.quality_of(each, old=True), loss=loss, each=each)

    def quality_of(
        self, each: np.ndarray, index: np.ndarray | None = None, old: bool = False
    ) -> float:
        """Old: 100 Spearman's rho of the cosines to the gold of the same pairs.

        The number of cosines tells the split: both have a different number of pairs.
        """
        if not old:
            return super().quality_of(each, index)
        gold = next((g for _, g in self.pairs.values() if len(g) == len(each)), None)
        if gold is None:
            counts = " or ".join(str(len(g)) for _, g in self.pairs.values())
            raise ValueError(
                f"the old score needs one cosine per pair, {counts}, got {len(each)}: "
                "give all of them, and a draw as index"
            )
        picked = slice(None) if index is None else index
        return 100.0 * float(spearmanr(each[picked], gold[picked]).statistic)

    def _states(self, tokens: Tokens) -> Tensor:
        """Pooled states (n, width) in 32 bits, computed in order of length."""
        order = sorted(range(len(tokens)), key=lambda i: len(tokens[i]))
        found = torch.zeros(len(tokens), self.width)
        for at in range(0, len(order), EVALUATED):
            part = order[at : at + EVALUATED]
            batch = self._padded([tokens[i] for i in part])
            found[part] = pooled(self.model["encoder"], batch).float()
        return found

    def _padded(self, tokens: Tokens) -> dict[str, Tensor]:
        return dict(self.tokenizer.pad({"input_ids": tokens}, return_tensors="pt"))

    def _pairs(self, part: str) -> tuple[Tokens, np.ndarray]:
        """Tokens of both sentences of every third pair, one after the other, and gold in 0..5."""
        with (DATA / f"stsb-en/stsb-en-{part}.csv").open(encoding="utf-8", newline="") as file:
            rows = list(csv.reader(file))[::3]
        both = [sentence for row in rows for sentence in row[:2]]
        return self.tokens(both), np.array([float(row[2]) for row in rows])
