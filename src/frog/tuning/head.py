"""A new head is fitted on frozen features: before the chosen weights move (LP-FT), and after.

Kumar et al. 2022, arXiv:2202.10054: a head as it was drawn pulls the features about until it has
learnt something, and that costs what the model could do before. At the end it is fitted once more
where only a share of the change is kept: it was trained on features that are no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from frog.errors import UsageError
from frog.tuning.attached import holder_of, matching
from frog.tuning.passes import Loss, checked_loss, loss_of, refuse_one_batch, undisturbed
from frog.tuning.places import refuse_sharded
from frog.tuning.rates.defaults import ALSO, full_rate

HEAD_STEPS = 60
"""Steps for which a new head is fitted alone; what the benchmark of fine-tuning used."""


def fit_head(
    model: nn.Module,
    batches: Iterable[Any],
    *,
    head: Sequence[str],
    steps: int = HEAD_STEPS,
    lr: float | str = "auto",
    loss: Loss | None = None,
) -> tuple[float, ...]:
    """Fit the parameters that ``head`` finds, alone, for ``steps`` steps; gives the losses.

    To be called before weights are chosen and a :class:`~frog.Tuner` is made, and again after
    ``tuner.scale_change``: while a model is tuned, for parameters that train whole (``also=``; of a
    :class:`~frog.LayerSampler`, those that always train). ``head`` are regular expressions over
    names of parameters, as ``also=`` of the tuner takes them. AdamW without weight
    decay; ``lr`` falls linearly to zero (``"auto"``: ten times the default of full tuning, as for
    ``also=``). ``batches`` are gone through again where they end before the steps do; ``loss`` is
    that of :func:`frog.collect_gradients`. The model runs in eval mode; all but the head is left
    exactly as it was, gradients and random numbers included, also chosen weights, counters, guards
    and the states of optimizers. A head in bfloat16 or float16 is
    fitted in float32 and rounded. Under DDP every process must be given the same batches.

    Raises :class:`~frog.errors.UsageError` for a parameter that a tuner chose weights of, freezes
    or trains by turns, a pattern that matches nothing, no batches, a loss that is not finite or
    that the head takes no part in; the head is then as it was.

    >>> import torch, frog
    >>> _ = torch.manual_seed(0)
    >>> model = torch.nn.Sequential(torch.nn.Linear(8, 16), torch.nn.ReLU(), torch.nn.Linear(16, 2))
    >>> x = torch.randn(64, 8)
    >>> data = [(x, (x[:, 0] > 0).long())]
    >>> def loss(model, batch):
    ...     return torch.nn.functional.cross_entropy(model(batch[0]), batch[1])
    >>> losses = frog.fit_head(model, data, head=["^2"], lr=0.05, loss=loss)
    >>> len(losses), losses[-1] < 0.5 * losses[0]
    (60, True)
    """
    if isinstance(steps, bool) or not isinstance(steps, int) or steps < 0:
        raise UsageError(f"steps must be a whole number from 0, got {steps!r}")
    refuse_sharded(model)
    refuse_one_batch(batches)
    if isinstance(model, nn.parallel.DistributedDataParallel):
        model = model.module  # it would average gradients that are the same
    named = _parameters(model, head)
    _must_train_whole(model, named)
    fitted = list(named.values())
    rate = _rate(model, lr)
    start = [x.detach().clone() for x in fitted]
    losses: list[float] = []
    try:
        with undisturbed(model, fitted), torch.enable_grad():
            for value in _fitting(model, _endless(batches), fitted, steps, rate, loss or loss_of):
                losses.append(value)
    except BaseException:
        with torch.no_grad():
            for parameter, before in zip(fitted, start, strict=True):
                parameter.copy_(before)
        raise
    return tuple(losses)


def _fitting(
    model: nn.Module,
    batches: Iterator[Any],
    fitted: list[nn.Parameter],
    steps: int,
    rate: float,
    loss: Loss,
) -> Iterator[float]:
    """One step after the other, on float32 copies: small steps would vanish in bfloat16."""
    wide = [x.detach().to(torch.promote_types(x.dtype, torch.float32), copy=True) for x in fitted]
    optimizer = torch.optim.AdamW(wide, lr=rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / max(steps, 1))
    for number in range(1, steps + 1):
        value = checked_loss(loss(model, next(batches)), number)
        value.backward()
        for copy, parameter in zip(wide, fitted, strict=True):
            gradient, parameter.grad = parameter.grad, None
            copy.grad = None if gradient is None else gradient.to_dense().to(copy.dtype)
        optimizer.step()
        schedule.step()
        with torch.no_grad():
            for copy, parameter in zip(wide, fitted, strict=True):
                parameter.copy_(copy)
        yield float(value.detach())


def _parameters(model: nn.Module, head: Sequence[str]) -> dict[str, nn.Parameter]:
    """The parameters of the head, by name."""
    found = matching(model, head, "head")
    if not found:
        raise UsageError("head= must name at least one parameter, got none")
    for name, parameter in found.items():
        if parameter.is_meta or not parameter.is_floating_point():
            raise UsageError(
                f"{name} must be a floating-point parameter with data to be fitted, got "
                f"{parameter.dtype} on {parameter.device}: load the model unquantised"
            )
    return found


def _must_train_whole(model: nn.Module, fitted: Mapping[str, nn.Parameter]) -> None:
    """UsageError for what a tuner could not take back, or tell of in its delta."""
    tuners = [x for x in (holder_of(module) for module in model.modules()) if x is not None]
    whole = {id(parameter) for tuner in tuners for parameter in tuner.whole.values()}
    for name, parameter in fitted.items():
        if tuners and id(parameter) not in whole:
            raise UsageError(
                f"{name} must train whole (also=) to be fitted alone while the model is tuned: fit "
                "the head before the Tuner is made, or keep() or revert() it first"
            )


def _rate(model: nn.Module, lr: float | str) -> float:
    if lr == "auto":
        return ALSO * full_rate(model, "adam")[0]
    if isinstance(lr, bool) or not isinstance(lr, int | float) or not 0 < lr < math.inf:
        raise UsageError(f"lr must be a number above 0 or 'auto', got {lr!r}")
    return float(lr)


def _endless(batches: Iterable[Any]) -> Iterator[Any]:
    """The batches, over and over."""
    while True:
        none = True
        for batch in batches:
            none = False
            yield batch
        if none:
            raise UsageError(
                "batches must hold at least one batch for every pass, got none: an iterator that "
                "is used up? Give a list or a DataLoader"
            )
