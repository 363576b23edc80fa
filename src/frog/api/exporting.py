"""Exports: plans and deltas in the formats of other tools."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from frog.errors import UnknownName
from frog.exports.axolotl import unfrozen_parameters
from frog.exports.card import card_section
from frog.exports.rank_pattern import rank_pattern
from frog.exports.shira import write_shira
from frog.serial.whole_file import write_whole
from frog.types import Plan, SparseDelta
from frog.weights.delta import check_base
from frog.weights.patch import patch_checkpoint
from frog.weights.source import list_tensors

PLAN_EXPORTS = ("axolotl", "rank-pattern")
DELTA_EXPORTS = ("shira", "merged", "card")


def export_plan(plan: Plan, to: str, *, fraction: float = 0.5) -> str:
    """A plan as text for another tool.

    ``axolotl`` is Spectrum's ``unfrozen_parameters`` YAML with the ``fraction`` of modules that
    the plan favours, ``rank-pattern`` keyword arguments of peft's ``LoraConfig`` as JSON.
    """
    if to == "axolotl":
        return unfrozen_parameters(plan, fraction)
    if to == "rank-pattern":
        return rank_pattern(plan)
    raise UnknownName("export of a plan", to, PLAN_EXPORTS)


def export_delta(delta: SparseDelta, base: Any, to: str, out: Any) -> list[str]:
    """Write a delta for others and say in a few lines what was written.

    ``shira`` is an adapter folder that plain peft loads, ``merged`` a checkpoint like the base's,
    ``card`` a section for a model card. Raises :class:`~frog.errors.UsageError` where ``base`` is
    not the delta's, or the format cannot hold the delta.
    """
    out = Path(out)
    if to == "card":
        write_whole(card_section(delta).encode(), out)
        return [f"a model card section of {delta.count:,} changed weights"]
    if to == "merged":
        patch_checkpoint(Path(base), delta, out)
        return [f"{delta.count:,} entries of {len(delta.tensors)} tensors merged"]
    if to == "shira":
        listed = list_tensors(base)
        check_base(delta, listed)
        return write_shira(delta, listed, str(base), out)
    raise UnknownName("export of a delta", to, DELTA_EXPORTS)
