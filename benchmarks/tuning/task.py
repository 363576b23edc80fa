"""What a fine-tuning task is: a model that can something, and something new to learn."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

SPLITS = ("validation", "test")
"""Learning rates and ideas are judged on the first; the second is for the final comparison."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """How good a model is on one split.

    ``quality`` is in points, larger is better: accuracy in percent, 100 Spearman's rho, or minus
    100 times nats per token. ``each`` has one value per test example, from which
    :meth:`Task.quality_of` gives ``quality`` again: what the bootstrap draws from.
    """

    quality: float
    loss: float
    each: np.ndarray


class Task(ABC):
    """A pretrained model, a new task, and the old one that it should not forget.

    The data are read once; :meth:`begin` gives a fresh model. After it ``model`` is all that is
    trained, ``encoder`` the part of it that FROG measures and selects in (named ``prefix`` within
    the model, "" for the model itself), ``targets`` the names of the target modules within the
    encoder (the same matrices for every method), ``head`` the names within ``model`` of parameters
    that are new and always train. Modules stay in eval mode: no dropout, BatchNorm as it is.
    """

    name: str
    words: str
    """One line for the reader: from what, to what."""
    old_words: str
    unit: str = "points"
    prefix: str = ""
    targets: tuple[str, ...]
    head: tuple[str, ...] = ()
    full_rate: float
    """Learning rate of full tuning in the middle of the grid."""
    head_rate: float = 1e-2
    steps: int
    bf16: bool = True
    logits: bool = True
    """Whether :meth:`outputs` gives logits; embeddings of length one otherwise."""
    pristine: nn.Module
    model: nn.Module

    def begin(self, seed: int) -> None:
        """A fresh model; the new head is drawn from ``seed``."""
        torch.manual_seed(seed)
        self.model = copy.deepcopy(self.pristine).eval()
        self.new_head()

    def new_head(self) -> None:  # noqa: B027 - not every task has a new head
        """Draw the new head anew, where the task has one."""

    @property
    def encoder(self) -> nn.Module:
        """The part that is measured and selected in."""
        return self.model.get_submodule(self.prefix) if self.prefix else self.model

    def target_weights(self) -> dict[str, nn.Parameter]:
        """Weights of the target modules by name within the encoder, ``.weight`` included."""
        return {f"{t}.weight": self.encoder.get_submodule(t).weight for t in self.targets}  # type: ignore[misc]

    def target_count(self) -> int:
        """Number of weights in the target matrices."""
        return sum(x.numel() for x in self.target_weights().values())

    @abstractmethod
    def batches(self, seed: int) -> Iterator[Any]:
        """Training batches without end, in an order drawn from ``seed``."""

    @abstractmethod
    def loss(self, batch: Any) -> Tensor:
        """Training loss of a batch; uses ``self.model``."""

    @abstractmethod
    def outputs(self, batch: Any) -> Tensor:
        """What the old model says of a new batch: old logits or embeddings (n, d), with gradient.

        Needs no old data: what protects the old function without its data starts here.
        """

    @abstractmethod
    def new(self, split: str) -> Score:
        """Quality on the new task."""

    @abstractmethod
    def old(self, split: str) -> Score:
        """Quality on the old task."""

    def quality_of(
        self, each: np.ndarray, index: np.ndarray | None = None, old: bool = False
    ) -> float:
        """Quality from the values of examples, or of those at ``index`` (a bootstrap draw)."""
        del old
        return 100.0 * float(np.mean(each if index is None else each[index]))
