"""The automatic learning rate: that of full tuning over the share of the gradient that trains.

A step of Adam moves a weight by about lr, whatever its gradient, so full tuning makes a first-order
progress of lr_full sum |g|, and a mask one of lr times the part of that sum in it. Equal progress
wants ``lr = lr_full / share``; for a mask chosen without data that share is the budget. Evidence,
sources of the defaults and limits: docs/learning-rate.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from frog.errors import UsageError
from frog.numerics.views import take
from frog.tuning.collect import matrix_places
from frog.tuning.compact import Compact
from frog.tuning.passes import Loss, backward
from frog.tuning.rates.defaults import ALSO, family_of, full_rate
from frog.types import MatrixView, Rate

if TYPE_CHECKING:
    from frog.tuning.attach import Tuner

CAP = 1.0
"""A step changes a chosen weight by at most so many RMS of the tuned weights (a typical step, for
SGD). Why not less: docs/design-notes/009-automatic-learning-rate.md."""

Optimizer = Callable[..., torch.optim.Optimizer]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shares:
    """Norms of the gradient, (L1, squared L2) each, summed over batches.

    ``whole``: of all targeted matrices; ``inside``: of the chosen entries; ``chance``: what a
    random choice of the same count in each matrix would hold on average.
    """

    whole: tuple[float, float]
    inside: tuple[float, float]
    chance: tuple[float, float]
    batches: int


@dataclass(slots=True)
class Measured:
    """What a tuner was told of its rate by ``tuner.rate(...)``."""

    shares: Shares | None = None
    full: float | None = None
    kept: float = 1.0
    used: Rate | None = None


def measure(tuner: Tuner, batches: Iterable[Any], loss: Loss | None) -> Shares:
    """The share of the gradient in the mask of an attached tuner, over ``batches``.

    The dense gradient of one parameter exists at a time; the model is left as it was. Under
    DDP the sums of all processes are added: every process must call it.
    """
    targets: dict[nn.Parameter, list[tuple[MatrixView, Tensor | None, float]]] = {}
    for x in tuner.matrices:
        part = (x.view, x.compact.index[x.slot], x.count / x.params)
        targets.setdefault(x.compact.weight, []).append(part)
    for parameter, view, _ in _untouched(tuner):
        targets.setdefault(parameter, []).append((view, None, 0.0))
    sums = torch.zeros(3, 2, dtype=torch.float64)

    def taker(mine: list[tuple[MatrixView, Tensor | None, float]]) -> Callable[[Tensor], None]:
        def add(gradient: Tensor) -> None:
            flat = gradient.reshape(-1)
            for view, index, density in mine:
                norms = _norms(take(gradient, view))
                sums[0] += norms
                sums[2] += density * norms
                if index is not None:
                    sums[1] += _norms(flat[index])

        return add

    losses = backward(tuner.model, batches, loss, {x: taker(part) for x, part in targets.items()})
    count = torch.tensor(float(len(losses)), dtype=torch.float64)
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        device = tuner.compacts[0].weight.device
        together = torch.cat([sums.view(-1), count.view(1)]).to(device)
        torch.distributed.all_reduce(together)
        sums, count = together[:6].cpu().view(3, 2), together[6].cpu()
    if not bool(torch.isfinite(sums).all()):
        raise UsageError(
            "the gradient must be finite, got NaN or infinite entries: look at the loss and at the "
            "dtype in which it is computed"
        )
    if not float(sums[1, 0]) > 0:
        raise UsageError(
            "the chosen weights must get some gradient, got none in any batch: the loss does not "
            "use these matrices, or the weights are dead. Select others"
        )
    whole, inside, chance = ((float(a), float(b)) for a, b in sums)
    return Shares(whole=whole, inside=inside, chance=chance, batches=int(count))


def rate_of(
    tuner: Tuner, cls: Optimizer, shares: Shares | None, full: float | None, kept: float = 1.0
) -> Rate:
    """The rate for an optimizer class, from what was measured and told, else from the defaults."""
    if full is not None and not (math.isfinite(full) and full > 0):
        raise UsageError(f"full must be a rate above 0, that of full tuning, got {full!r}")
    family, name = family_of(cls, told=full is not None)
    told = (full, "given") if full is not None else full_rate(tuner.model, family)
    budget = sum(x.count for x in tuner.matrices) / _targeted(tuner)
    side = 1 if family == "sgd" else 0
    share = chance = None
    if shares is not None:
        share = shares.inside[side] / shares.whole[side]
        chance = shares.chance[side] / shares.whole[side]
    cap, notes = _cap(tuner, family, shares)
    return Rate(
        lr=min(told[0] / (share or budget), cap) / kept,
        full=told[0],
        origin=told[1],
        optimizer=name,
        budget=budget,
        share=share,
        chance=chance,
        norm="squared L2" if side else "L1",
        batches=0 if shares is None else shares.batches,
        cap=cap,
        also=ALSO * told[0],
        kept=kept,
        notes=notes,
    )


def groups(
    tuner: Tuner, cls: Optimizer, lr: float | str, also_lr: float | None
) -> tuple[list[dict[str, Any]], float]:
    """Parameter groups of an optimizer, a rate for each ratio in the plan, and the plain rate."""
    known = tuner.measured
    known.used = None
    if isinstance(lr, str):
        if lr != "auto":
            raise UsageError(f"lr must be a number or 'auto', got {lr!r}")
        known.used = rate_of(tuner, cls, known.shares, known.full, known.kept)
        lr, also_lr = known.used.lr, known.used.also if also_lr is None else also_lr
    rates: dict[float, list[nn.Parameter]] = {}
    for compact in tuner.compacts:
        rates.setdefault(lr * _ratio(tuner, compact), []).append(compact.change)
    made: list[dict[str, Any]] = [{"params": x, "lr": rate} for rate, x in rates.items()]
    if tuner.dense:
        rate = lr if also_lr is None else also_lr
        made.append({"params": list(tuner.dense.values()), "lr": rate})
    return made, lr


def _ratio(tuner: Tuner, compact: Compact) -> float:
    mine = [x for x in tuner.matrices if x.compact is compact]
    ratios = {x.lr_ratio for x in mine}
    if len(ratios) > 1:
        total = sum(x.count for x in mine)
        mean = math.exp(sum(x.count * math.log(x.lr_ratio) for x in mine) / total)
        some = ", ".join(x.name for x in mine[:3]) + (", ..." if len(mine) > 3 else "")
        raise UsageError(
            f"the {len(mine)} matrices in {compact.name} train as one vector and must have one "
            f"learning-rate ratio, got {', '.join(f'{x:.4g}' for x in sorted(ratios))}: set the "
            f"lr_ratio of {some} to {mean:.4g} (their mean) in the plan; frog.layer_rates does so "
            "for tensors that are fused on disk"
        )
    return ratios.pop()


def _cap(tuner: Tuner, family: str, shares: Shares | None) -> tuple[float, tuple[str, ...]]:
    """The largest rate, and remarks. The RMS is that of all tuned matrices together.

    A matrix weighs as many of its entries train. The smallest RMS would let one odd matrix decide:
    an unused pooler of MiniLM has a seventh of the RMS of the others.
    """
    count = sum(x.count for x in tuner.matrices)
    squares = sum(x.count * float(_norms(x.weight())[1]) / x.params for x in tuner.matrices)
    if squares == 0.0:
        return math.inf, ("no cap: the tuned weights are all zero",)
    step = CAP * math.sqrt(squares / count)
    if family != "sgd":
        return step, ()
    if shares is None:
        return math.inf, ("no cap: a step of SGD follows the gradient, which was not measured",)
    return step / math.sqrt(shares.inside[1] / (count * shares.batches)), ()


def _targeted(tuner: Tuner) -> int:
    """Number of weights that full tuning would train: all of the plan's matrices, and the tuned."""
    planned = {x.name: x.params for x in tuner.plan.layers}
    tuned = {x.name: x.shape[0] * x.shape[1] for x in tuner.selection.chosen}
    return sum((planned | tuned).values())


def _untouched(tuner: Tuner) -> list[tuple[nn.Parameter, MatrixView, tuple[int, int]]]:
    """Matrices of the plan in which nothing was chosen."""
    chosen = {x.name for x in tuner.selection.chosen}
    names = [x.name for x in tuner.plan.layers if x.name not in chosen]
    return list(matrix_places(tuner.model, names)[0].values()) if names else []


def _norms(x: Tensor) -> Tensor:
    """L1 norm and squared L2 norm, float64 (2,), on the CPU; no copy of x is made."""
    flat = x.detach()
    kind = torch.float64 if x.dtype == torch.float64 else torch.float32
    first = torch.linalg.vector_norm(flat, 1, dtype=kind).double()
    second = torch.linalg.vector_norm(flat, 2, dtype=kind).double() ** 2
    return torch.stack([first, second]).cpu()
