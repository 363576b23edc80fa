"""``unfrozen_parameters``: whole modules to train, as Spectrum writes them and axolotl reads them.

Source of the format: cognitivecomputations/spectrum, and axolotl's ``unfrozen_parameters``, where
every line is a regular expression over parameter names.
"""

from __future__ import annotations

import re

import yaml

from frog.errors import UsageError
from frog.types import Plan

HEAD = "# whole modules, those first that get most of their weights in the plan of frog\n"


def unfrozen_parameters(plan: Plan, fraction: float = 0.5) -> str:
    """The YAML with the ``fraction`` of matrices of each role that the plan favours most.

    Ranked by the share of its weights that a matrix gets, and where shares are equal by the order
    of the listing; at least one matrix of every role. Matrices that share a tensor (fused
    projections, experts) count as one, the best of them. Raises
    :class:`~frog.errors.UsageError` for a fraction out of range.

    >>> from frog.types import Allotment, Budget
    >>> row = Allotment(name="a.weight", role="q", block=0, shape=(2, 2), params=4, count=1)
    >>> plan = Plan(path="m", digest="", rule="uniform", budget=Budget(count=1), layers=(row,))
    >>> print(unfrozen_parameters(plan).splitlines()[-1])
    - ^a\\.weight$
    """
    if not 0 < fraction <= 1:
        raise UsageError(f"the fraction of modules must lie in (0, 1], got {fraction}")
    shares: dict[tuple[str, str], float] = {}
    for layer in plan.layers:
        key = (layer.role, layer.name.partition("[")[0])
        shares[key] = max(shares.get(key, 0.0), layer.share)
    by_role: dict[str, list[tuple[str, float]]] = {}
    for (role, tensor), share in shares.items():
        by_role.setdefault(role, []).append((tensor, share))
    kept: set[str] = set()
    for members in by_role.values():
        wanted = max(1, int(len(members) * fraction))
        best = sorted(members, key=lambda x: -x[1])[:wanted]
        kept |= {tensor for tensor, share in best if share > 0}
    names = [tensor for _, tensor in shares if tensor in kept]
    lines = [f"^{re.escape(name)}$" for name in dict.fromkeys(names)]
    return HEAD + yaml.safe_dump({"unfrozen_parameters": lines}, sort_keys=False)
