"""Allocate: a report and a budget become a plan; ratios of learning rates by layer."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from frog.allocation.layer_rates import with_ratios
from frog.allocation.plan import split
from frog.allocation.rules import Rule
from frog.types import Budget, ModelReport, Plan


def allocate(
    report: ModelReport,
    budget: Budget | float | int | str,
    *,
    rule: str | Rule = "auto",
    include: str | None = None,
    exclude: str | None = None,
    roles: Collection[str] = (),
    knobs: Mapping[str, Any] | None = None,
) -> Plan:
    """Split a budget over the matrices that a report measured; no weights are needed.

    ``budget`` is a :class:`~frog.types.Budget`, or what :meth:`Budget.trainable` takes; ``rule`` a
    name of ``frog list rules`` or a rule, with its ``knobs``; ``include`` and ``exclude`` are
    regular expressions over names, ``roles`` names of roles. Embeddings and heads get something
    only where ``include`` names them. ``rule="auto"`` is ``uniform``: no other split was shown to
    be better (docs/budgets.md). Raises :class:`~frog.errors.UsageError` for a budget out of range
    or a pattern that matches nothing.

    >>> import torch, frog
    >>> plan = allocate(frog.analyze(torch.nn.Linear(64, 256, bias=False)), 0.01)
    >>> plan.total, plan.layers[0].count
    (164, 164)
    """
    chosen = budget if isinstance(budget, Budget) else Budget.trainable(budget)
    return split(
        report,
        chosen,
        rule,
        include=include,
        exclude=exclude,
        roles=roles,
        knobs=knobs,
    )


def layer_rates(
    plan: Plan,
    report: ModelReport,
    kind: str = "sigmoid",
    *,
    strength: float = 0.25,
    tau: float = 2.0,
) -> Plan:
    """The plan with learning-rate ratios by alpha: layers of larger alpha learn faster.

    lr_l = lr 10^(s (sigmoid(tau z_l) - 1/2)), with z_l the alpha standardised among matrices of
    equal shape (Model Balancing, Zhou et al. 2024, arXiv:2410.12178, whose alpha is not
    standardised), or ``kind="linear"`` in z between 10^(-s/2) and 10^(s/2) (TempBalance, Liu et al.
    2023, arXiv:2312.00359). ``strength`` is s: 0 changes nothing, 0.25 gives 0.75 to 1.33, negative
    favours small alpha. An uncertain alpha is pulled to 1. Off unless asked for: no benefit was
    shown here (docs/learning-rate.md).

    Raises :class:`~frog.errors.UsageError` for a strength beyond 2 or a report of another model.

    >>> import torch, frog
    >>> torch.manual_seed(0) and None
    >>> blocks = torch.nn.Sequential(*(torch.nn.Linear(64, 64, bias=False) for _ in range(5)))
    >>> report = frog.analyze(blocks)
    >>> made = layer_rates(allocate(report, 0.01), report)
    >>> all(0.749 < x.lr_ratio < 1.334 for x in made.layers)
    True
    """
    return with_ratios(plan, report, kind, strength=strength, tau=tau)
