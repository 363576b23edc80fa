"""Several processes train one model: what one of them sees, all of them must do."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from frog.types.certificates import RESPONSES

NONE = -1


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What follows from the readings of a step.

    ``action`` is a place in ``RESPONSES``, -1 for none; ``guard`` that of the guard among the
    guards; ``slow`` its factor. ``restore``: the weights go back, to the start of the last step
    only where ``whole`` is False. ``beyond``: something is beyond its limit, new or not;
    ``uneasy``: no time to take a snapshot.
    """

    action: int = NONE
    guard: int = NONE
    slow: float = 1.0
    restore: bool = False
    whole: bool = False
    beyond: bool = False
    uneasy: bool = False

    @property
    def word(self) -> str:
        """The action by name; empty for none."""
        return "" if self.action == NONE else RESPONSES[self.action]


def several() -> bool:
    """Whether other processes train too."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


def summed(values: Tensor) -> Tensor:
    """The sum over all processes, in place."""
    if several():
        dist.all_reduce(values)
    return values


def agreed(mine: Verdict, device: torch.device) -> Verdict:
    """The strongest verdict of all processes: the same in each. Every process must call it."""
    if not several():
        return mine
    flags = [mine.action, mine.guard, 1.0 - mine.slow, mine.restore, mine.whole, mine.beyond,
             mine.uneasy]  # fmt: skip
    told = torch.tensor([float(x) for x in flags], dtype=torch.float64, device=device)
    dist.all_reduce(told, dist.ReduceOp.MAX)
    action, guard, slower, *rest = told.tolist()
    restore, whole, beyond, uneasy = (bool(x) for x in rest)
    return Verdict(
        action=int(action), guard=int(guard), slow=1.0 - slower, restore=restore, whole=whole,
        beyond=beyond, uneasy=uneasy,
    )  # fmt: skip
