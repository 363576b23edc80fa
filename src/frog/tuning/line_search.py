"""How much of a change is kept, by the loss: a line search from the start to where a run ended."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import torch

from frog.errors import UsageError
from frog.tuning.passes import Loss, loss_of, one_number, refuse_one_batch, undisturbed

if TYPE_CHECKING:
    from frog.tuning.attach import Tuner

TENTHS = 10


@torch.no_grad()
def search(tuner: Tuner, batches: Iterable[Any], loss: Loss | None) -> float:
    """The share of the change of chosen weights with the least loss, in tenths; leaves it kept.

    From the whole change downwards as long as the loss falls: two passes over the batches where
    nothing is to be gained.
    """
    refuse_one_batch(batches)
    seen = list(batches)
    if not seen:
        raise UsageError("batches must hold at least one batch, got none: give a few")
    ends = [x.change.detach().clone() for x in tuner.compacts]
    best, least = TENTHS, math.inf
    try:
        for tenths in range(TENTHS, 0, -1):
            _keep(tuner, ends, tenths)
            found = _mean_loss(tuner, seen, loss)
            # a loss that is not finite is left behind like a larger one
            if math.isfinite(least) and not found < least:
                break
            best, least = (tenths, found) if math.isfinite(found) else (best, least)
    except BaseException:
        _keep(tuner, ends, TENTHS)
        raise
    _keep(tuner, ends, best)
    if not math.isfinite(least):
        raise UsageError(
            "the loss must be finite with some tenth of the change kept, is with none: look at the "
            "batches and at the learning rate (nothing was changed)"
        )
    return best / TENTHS


def _keep(tuner: Tuner, ends: list[torch.Tensor], tenths: int) -> None:
    for compact, end in zip(tuner.compacts, ends, strict=True):
        compact.set(end if tenths == TENTHS else end * (tenths / TENTHS))


def _mean_loss(tuner: Tuner, batches: list[Any], loss: Loss | None) -> float:
    """Over all batches, of all processes under DDP; not finite where one of them is not."""
    model = tuner.model
    with undisturbed(model, ()):
        values = [
            one_number((loss or loss_of)(model, batch), number)
            for number, batch in enumerate(batches, start=1)
        ]
    total = torch.stack([x.detach().cpu().double().reshape(()) for x in values]).sum()
    sums = torch.stack([total, torch.tensor(float(len(values)), dtype=torch.float64)])
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        together = sums.to(tuner.compacts[0].weight.device)
        torch.distributed.all_reduce(together)
        sums = together.cpu()
    return float(sums[0] / sums[1])
