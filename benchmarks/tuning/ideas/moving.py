"""What of a run moves: the trained tensors of the target weights and where they started."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from benchmarks.tuning.train import Run


class Moving:
    """The trained tensors of a run (chosen weights' changes, or whole weights) and their start."""

    def __init__(self, run: Run) -> None:
        self.run = run
        trained: list[nn.Parameter] = [p for g in run.attached.groups for p in g["params"]]
        self.pairs = [(p, p.detach().clone()) for p in trained]

    def __iter__(self) -> Iterator[tuple[nn.Parameter, Tensor]]:
        return iter(self.pairs)

    def written(self) -> None:
        """Tell the tuner that the changes were set by hand."""
        if self.run.attached.tuner is not None:
            with torch.no_grad():
                self.run.attached.tuner.write()
