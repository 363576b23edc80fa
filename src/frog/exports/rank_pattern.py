"""A plan as LoRA ranks: ``target_modules``, ``rank_pattern`` and ``alpha_pattern`` of LoraConfig.

A rank r costs r (m + n) weights in a matrix of m x n; each gets the rank whose cost is nearest to
what the plan allots, and the total as near to the plan's as whole ranks allow.
"""

from __future__ import annotations

import json
import re

from frog.errors import UsageError
from frog.types import Allotment, Plan

ALPHA = 2
"""lora_alpha over rank, as in peft's own default of 8 for a rank of 4 to 8: the same for all, so
that the update of every layer is scaled alike."""


def rank_pattern(plan: Plan) -> str:
    """The keyword arguments of ``peft.LoraConfig``, as JSON.

    Matrices of fused tensors share one adapter: their counts add up. A matrix whose count buys
    less than half a rank is not targeted. Raises :class:`~frog.errors.UsageError` where none
    is, or where a tensor is no weight of a module.

    >>> from frog.types import Budget
    >>> row = Allotment(name="a.weight", role="q", block=0, shape=(60, 40), params=2400, count=400)
    >>> plan = Plan(path="m", digest="", rule="uniform", budget=Budget(count=400), layers=(row,))
    >>> json.loads(rank_pattern(plan))["rank_pattern"]
    {'^a$': 4}
    """
    ranks = _ranks(plan)
    if not ranks:
        raise UsageError(
            f"the plan's {plan.total:,} weights buy no LoRA rank anywhere: a rank costs m + n "
            "weights of a matrix; raise the budget"
        )
    names = list(ranks)
    config = {
        "target_modules": names,
        "r": max(ranks.values()),
        "lora_alpha": ALPHA * max(ranks.values()),
        "rank_pattern": {f"^{re.escape(name)}$": rank for name, rank in ranks.items()},
        "alpha_pattern": {f"^{re.escape(name)}$": ALPHA * rank for name, rank in ranks.items()},
    }
    return json.dumps(config, indent=2) + "\n"


def _ranks(plan: Plan) -> dict[str, int]:
    """Module -> rank: rounded down, then the largest remainders up while the total allows it."""
    parts: dict[str, list[Allotment]] = {}
    for layer in plan.layers:
        tensor = layer.name.partition("[")[0]
        if not tensor.endswith(".weight"):
            raise UsageError(
                f"{layer.name} is no weight of a module of its own: LoRA cannot target it; leave "
                "it out of the plan with exclude"
            )
        parts.setdefault(tensor.removesuffix(".weight"), []).append(layer)
    costs, exact = {}, {}
    for name, members in parts.items():
        # fused along the outputs: one A for all of them
        costs[name] = sum(x.shape[0] for x in members) + members[0].shape[1]
        exact[name] = sum(x.count for x in members) / costs[name]
    ranks = {name: int(value) for name, value in exact.items()}
    left = plan.total - sum(ranks[name] * costs[name] for name in ranks)
    for name in sorted(exact, key=lambda x: ranks[x] - exact[x]):
        if exact[name] - ranks[name] > 0 and costs[name] <= left + costs[name] // 2:
            ranks[name] += 1
            left -= costs[name]
    return {name: rank for name, rank in ranks.items() if rank}
