"""What guards see of a run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from frog.tuning.compact import Compact
from frog.tuning.matrix import TunedMatrix


class Run:
    """A run as its guards see it: what trains, the step, the losses of the step.

    ``matrices`` and ``compacts`` are those of the tuner, ``dense`` the parameters that train
    whole. ``losses`` are the losses that the model itself gave since the last step.
    """

    def __init__(self, tuner: Any) -> None:
        self.model: nn.Module = tuner.model
        self.matrices: tuple[TunedMatrix, ...] = tuple(x for x in tuner.matrices if x.count)
        self.compacts: tuple[Compact, ...] = tuple(x for x in tuner.compacts if len(x.change))
        self.dense: Mapping[str, nn.Parameter] = tuner.dense
        self.step: int = tuner.step
        self.losses: list[Tensor] = []
        self._summed = False

    def heard(self, output: Any, inputs: Mapping[str, Any]) -> None:
        """Keep the loss of a forward pass, where the model gives one (``output.loss``)."""
        loss = output.get("loss") if isinstance(output, Mapping) else getattr(output, "loss", None)
        if isinstance(loss, Tensor) and loss.numel() == 1 and loss.requires_grad:
            self.losses.append(loss.detach().reshape(()))
            # Trainer divides by the tokens of all micro-batches: their losses then add up
            self._summed = inputs.get("num_items_in_batch") is not None

    def take_loss(self) -> Tensor | None:
        """The loss of the step that was just made, and forget it; None where none was given."""
        if not self.losses:
            return None
        device = self.losses[-1].device
        each = torch.stack([x.to(device, torch.float32) for x in self.losses])
        self.losses.clear()
        loss = each.sum() if self._summed else each.mean()
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            # every process must come to the same verdict, or their weights would part
            torch.distributed.all_reduce(loss)
            loss /= torch.distributed.get_world_size()
        return loss

    def parameters(self) -> dict[str, nn.Parameter]:
        """All that trains, by name: the changes under the names of their weights."""
        return {x.name: x.change for x in self.compacts} | dict(self.dense)
