"""What guards see of a run."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from frog.tuning.compact import Compact
from frog.tuning.guards.processes import several, summed
from frog.tuning.guards.products import Weight, largest, random_start
from frog.tuning.matrix import TunedMatrix

START_STEPS = 12
"""Power iterations at the start: limits are factors of 2 and more, one percent is plenty."""

SMALL = 1.0 / 3.0
"""Share of the RMS of all tuned weights up to which a matrix may grow unasked."""


class Run:
    """A run as its guards see it: what trains, the step, the losses of the step.

    ``matrices`` and ``compacts`` are those of the tuner, ``dense`` the parameters that train
    whole. ``losses`` are the losses that the model itself gave since the last step. ``norms`` are
    the Frobenius norms of the compacts' weights at the start, ``rms`` that of all tuned weights
    together, every weight matrix counted by how many of its entries train.
    """

    def __init__(self, tuner: Any) -> None:
        self.model: nn.Module = tuner.model
        self.matrices: tuple[TunedMatrix, ...] = tuple(x for x in tuner.matrices if x.count)
        self.compacts: tuple[Compact, ...] = tuple(x for x in tuner.compacts if len(x.change))
        self.dense: Mapping[str, nn.Parameter] = tuner.dense
        self.step: int = tuner.step
        self.losses: list[Tensor] = []
        self._summed = False
        self._tops: dict[str, tuple[float, Tensor]] = {}
        sizes = {x: float(torch.linalg.vector_norm(x.weight.data.float())) for x in self.compacts}
        self.norms: tuple[float, ...] = tuple(sizes.values())
        self.rms: float = _pooled(self.compacts, self.norms)

    def top(self, matrix: TunedMatrix) -> tuple[float, Tensor]:
        """Largest singular value at the start and its right vector (n, 1), found once for all.

        Power iteration in a block of two: a lower bound, within a percent or so.
        """
        if matrix.name not in self._tops:
            weight = Weight(matrix)
            seed = self.matrices.index(matrix)
            start = random_start(matrix.shape, 2, weight.values.device, seed)
            self._tops[matrix.name] = largest(weight, start, START_STEPS)
        return self._tops[matrix.name]

    def started(self) -> None:
        """All guards have begun: what they shared at the start is let go."""
        self._tops.clear()

    @property
    def small(self) -> float:
        """The RMS below which a matrix is small among the others: it has little to lose."""
        return SMALL * self.rms

    @property
    def device(self) -> torch.device:
        """Where the first change lives now."""
        return next((x.change.device for x in self.compacts), torch.device("cpu"))

    def heard(self, output: Any, inputs: Mapping[str, Any]) -> None:
        """Keep the loss of a forward pass, where the model gives one (``output.loss``)."""
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
            self.losses.append(loss.detach().reshape(()))
            # Trainer divides by the tokens of all micro-batches: their losses then add up
            self._summed = inputs.get("num_items_in_batch") is not None

    def take_loss(self) -> Tensor | None:
        """The loss of the step that was just made, and forget it; None where none was given."""
        if not self.losses and not several():
            return None
        device = self.losses[-1].device if self.losses else self.device
        each = [x.to(device, torch.float32) for x in self.losses]
        self.losses.clear()
        total = torch.stack(each).sum() if each else torch.zeros((), device=device)
        loss = total if self._summed or not each else total / len(each)
        # their mean over the processes that have one: the same value in each of them
        loss, count = summed(torch.stack([loss, torch.full_like(loss, float(bool(each)))]))
        return loss / count if bool(count > 0) else None

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that trains, by name: the changes under the names of their weights."""
        return {x.name: x.change for x in self.compacts} | dict(self.dense)


def _pooled(compacts: tuple[Compact, ...], norms: tuple[float, ...]) -> float:
    chosen = sum(len(x.change) for x in compacts)
    squares = sum(
        len(x.change) * norm**2 / x.weight.numel() for x, norm in zip(compacts, norms, strict=True)
    )
    return math.sqrt(squares / chosen) if chosen else 0.0
