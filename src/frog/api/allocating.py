"""Allocate: a report and a budget become a plan."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

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
