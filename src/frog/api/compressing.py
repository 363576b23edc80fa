"""Plans of compression: a model, a budget and a rule become bit widths or sparsities by unit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from frog.allocation.levels import deciding
from frog.api.choosing_levels import Asked, by_curves, sizes_of
from frog.api.measuring import analyze
from frog.api.planned_units import Group, Located, groups_of, located
from frog.api.sweeping import counted, measured, pattern_of, rounds_of
from frog.compression.curves import digest_of
from frog.compression.scores import UNIT_SCORES, Evidence, score_named
from frog.errors import UnknownName, UsageError
from frog.numerics.rounding import Rounding
from frog.types import ModelReport, Settings
from frog.types.level_plans import (
    Calibration,
    LevelPlan,
    LevelRule,
    PlannedMatrix,
    PlannedUnit,
    Pruning,
    Quantisation,
    SweepPreview,
    Targets,
)
from frog.types.levels import Allocation

REPORTED = ("alpha", "over-parameterised")
"""Scores that go by a report of the model."""


def plan_bits(
    model: Any,
    budget: float = 4.0,
    *,
    rule: str | LevelRule = "auto",
    calibration: Calibration | None = None,
    how: Quantisation | None = None,
    targets: Targets | None = None,
    report: ModelReport | None = None,
) -> LevelPlan:
    """Choose a bit width for every matrix, ``budget`` bits a weight on average at most.

    ``model`` is a path, a hub id or a module. With ``calibration`` every unit is rounded alone to
    every width, the outputs are compared, and the dynamic programme takes the widths of least
    damage; what was measured stays in its log. Without, ``auto`` goes by the rounding error alone.
    ``rule`` is ``allocator`` or ``allocator:score`` (docs/compression.md). ``report`` is for scores
    by alpha; else the model is measured. Scales are not counted: 16 / group bits a weight, 32 in
    float32.

    No plan is known to be better than the uniform one before :func:`verify_plan` says so. Raises
    :class:`~frog.errors.UsageError` for a budget out of range or a rule without what it needs.

    >>> import torch
    >>> layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    >>> plan = plan_bits(layers, 4, rule="uniform")
    >>> [unit.level for unit in plan.units], plan.reached
    ([4, 4], 4.0)
    """
    asked = Asked(
        action="bits",
        budget=float(budget),
        how=how or Quantisation(),
        targets=targets or Targets(),
        calibration=calibration,
        report=report,
    )
    return _plan(model, rule, asked)


def plan_prune(
    model: Any,
    budget: float = 0.4,
    *,
    rule: str | LevelRule = "auto",
    calibration: Calibration | None = None,
    how: Pruning | None = None,
    targets: Targets | None = None,
    report: ModelReport | None = None,
) -> LevelPlan:
    """Choose a sparsity for every matrix; the share ``budget`` of all their weights becomes zero.

    Arguments and errors as for :func:`plan_bits`; without calibration ``auto`` is uniform. The
    number of weights that stay is exact; with a pattern such as 2:4 whole matrices are taken until
    at least so many are pruned.

    >>> import torch
    >>> layers = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64))
    >>> plan_prune(layers, 0.25).size
    6144
    """
    asked = Asked(
        action="prune",
        budget=float(budget),
        how=how or Pruning(),
        targets=targets or Targets(),
        calibration=calibration,
        report=report,
    )
    return _plan(model, rule, asked)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Ready:
    """A model and a rule that fit together; nothing was measured."""

    rule: LevelRule
    needs: str
    found: Located
    groups: list[Group]
    left_out: dict[str, str]


def _ready(model: Any, named: str | LevelRule, asked: Asked) -> _Ready:
    rule = LevelRule.named(named) if isinstance(named, str) else named
    rule = deciding.settled_rule(rule, asked.action, calibrated=asked.calibration is not None)
    deciding.check_budget(asked.budget, asked.action, asked.levels)
    needs = _needs(rule, asked)
    if needs != "curves" and pattern_of(asked.how) is not None:
        raise UsageError(
            f"a pattern needs a rule by curves ({', '.join(deciding.CURVES)}), got '{rule}'"
        )
    if needs != "curves" and asked.calibration is not None and asked.calibration.rounds:
        raise UsageError(
            f"rounds are for rules by curves ({', '.join(deciding.CURVES)}), got '{rule}': leave "
            "them out"
        )
    if getattr(asked.how, "importance", "") == "wanda" and asked.calibration is None:
        raise UsageError(
            "Wanda needs data: give calibration, on the command line --calibration FILE"
        )
    found = located(model, asked.calibration)
    groups, left = groups_of(found, asked.targets, asked.action)
    return _Ready(rule=rule, needs=needs, found=found, groups=groups, left_out=left)


def preview_levels(
    action: str,
    model: Any,
    budget: float,
    *,
    rule: str | LevelRule = "auto",
    calibration: Calibration | None = None,
    how: Quantisation | Pruning | None = None,
    targets: Targets | None = None,
) -> SweepPreview:
    """What :func:`plan_bits` (``action`` bits) or :func:`plan_prune` (prune) would measure.

    One cell is measured, to know how long one takes; errors as for those.
    """
    asked = Asked(
        action=action,
        budget=float(budget),
        how=how or (Quantisation() if action == "bits" else Pruning()),
        targets=targets or Targets(),
        calibration=calibration,
        report=None,
    )
    ready = _ready(model, rule, asked)
    made = SweepPreview(
        path=ready.found.path,
        rule=ready.rule,
        units=len(ready.groups),
        matrices=sum(len(x.matrices) for x in ready.groups),
        params=sum(x.unit.params for x in ready.groups),
        left_out=len(ready.left_out),
    )
    if ready.needs != "curves" or calibration is None:
        return made
    cells, known, seconds = counted(ready.found, ready.groups, asked.how, calibration, asked.budget)
    return replace(made, cells=cells, known=known, seconds=seconds)


def _plan(model: Any, named: str | LevelRule, asked: Asked) -> LevelPlan:
    ready = _ready(model, named, asked)
    rule, needs, found, groups = ready.rule, ready.needs, ready.found, ready.groups
    found.check([x for group in groups for x in group.matrices])
    units = [group.unit for group in groups]
    damages: dict[str, dict[float, float]] = {}
    importance: dict[str, float] = {}
    notes: list[str] = []
    rounds = 0
    if needs == "curves":
        assert asked.calibration is not None
        damages = measured(found, groups, asked.how, asked.calibration)
        rounds = rounds_of(asked.how, asked.calibration)
        made = by_curves(found, groups, rule, asked, damages)
    else:
        if rule.score:
            importance = _importance(found, groups, rule, asked, notes)
        made = deciding.by_scores(
            rule, asked.action, units, importance, budget=asked.budget, levels=asked.levels
        )
    planned = _planned(groups, made, asked, damages, importance)
    return LevelPlan(
        action=asked.action,
        path=found.path,
        digest=digest_of_matrices(found, [x.name for g in groups for x in g.matrices]),
        rule=rule,
        budget=asked.budget,
        how=asked.how,
        units=planned,
        tie=asked.targets.tie,
        left_out=ready.left_out,
        calibration=asked.calibration.source if asked.calibration else "",
        data=digest_of(asked.calibration.batches) if asked.calibration else "",
        rounds=rounds,
        notes=(*notes, *_remarks(asked, needs, groups)),
    )


def digest_of_matrices(found: Located, names: Sequence[str]) -> str:
    """Digest of names and contents of matrices, whatever their order: a file has its own."""
    joined = hashlib.blake2b(digest_size=16)
    for name in sorted(names):
        line = f"{name} {found.stored[name].loader.fingerprint()}\n"
        joined.update(line.encode("utf-8", "backslashreplace"))
    return joined.hexdigest()


def _needs(rule: LevelRule, asked: Asked) -> str:
    """What the rule goes by; UsageError for a score without what it needs."""
    if rule.allocator in deciding.CURVES:
        return "curves"
    if not rule.score:
        return "nothing"
    name = rule.score.removeprefix("-")
    if name not in UNIT_SCORES:
        raise UnknownName("score of units", name, UNIT_SCORES)
    needs = score_named(rule.score).needs
    given = asked.calibration
    if needs != "weights" and given is None:
        raise UsageError(
            f"the score '{name}' needs data: give calibration, on the command line "
            "--calibration FILE"
        )
    if needs == "loss" and given is not None and given.loss is None:
        raise UsageError(
            f"the score '{name}' needs a loss, which language models have: in Python give "
            "Calibration(loss=...), or take another score"
        )
    if name == "lim" and asked.targets.tie != "block":
        raise UsageError("the score 'lim' is of whole blocks: tie them with tie='block' (--tie)")
    return needs


def _importance(
    found: Located, groups: Sequence[Group], rule: LevelRule, asked: Asked, notes: list[str]
) -> dict[str, float]:
    """The importance of every unit; those without a number get the mean of the others."""
    name, given, report = rule.score.removeprefix("-"), asked.calibration, asked.report
    if name in REPORTED and report is None:
        report = analyze(found.model, Settings(bootstrap=0))
    widths = range(1, 9) if asked.action == "bits" else (4,)
    nearest = min(widths, key=lambda x: abs(x - asked.budget))
    grouping = asked.how if isinstance(asked.how, Quantisation) else Quantisation()
    evidence = Evidence(
        model=found.live,
        units=tuple(x.live for x in groups),
        rounding=Rounding(bits=nearest, group=grouping.group, symmetric=grouping.symmetric),
        report=report,
        batches=given.batches if given else (),
        outputs=given.outputs if given else None,
        loss=given.loss if given else None,
    )
    scores = score_named(rule.score).importance(evidence)
    known = [x for x in scores.values() if math.isfinite(x)]
    if not known:
        raise UsageError(f"the score '{rule.score}' has no number for any unit: take another")
    if len(known) < len(scores):
        notes.append(
            f"{len(scores) - len(known)} of {len(scores)} units have no {name}: they got the mean"
        )
    mean = math.fsum(known) / len(known)
    return {x: value if math.isfinite(value) else mean for x, value in scores.items()}


def _planned(
    groups: Sequence[Group],
    made: Allocation,
    asked: Asked,
    damages: Mapping[str, Mapping[float, float]],
    importance: Mapping[str, float],
) -> tuple[PlannedUnit, ...]:
    units = [x.unit for x in groups]
    sizes = list(made.sizes)
    if asked.action == "prune" and pattern_of(asked.how) is None:
        sizes = deciding.exact(sizes, units, asked.budget)
    planned = []
    for group, level, size in zip(groups, made.levels, sizes, strict=True):
        parts = sizes_of(group, asked.action, level)
        if asked.action == "prune" and pattern_of(asked.how) is None:
            parts = _shared([x.params for x in group.matrices], size)
            level = 1 - size / group.unit.params
        at = damages.get(group.name, {})
        reached = min((x for x in at if x >= level - 1e-12), default=None)
        known = 0.0 if asked.action == "prune" and level == 0 else None
        planned.append(
            PlannedUnit(
                name=group.name,
                matrices=tuple(
                    PlannedMatrix(name=x.name, role=x.role, block=x.block, shape=x.shape, size=part)
                    for x, part in zip(group.matrices, parts, strict=True)
                ),
                level=int(level) if asked.action == "bits" else float(level),
                damage=at[reached] if reached is not None else known,
                score=importance.get(group.name),
                pinned=group.unit.pin is not None,
            )
        )
    return tuple(planned)


def _shared(params: Sequence[int], size: int) -> list[int]:
    """A unit's kept weights split over its matrices, exactly."""
    exact = np.asarray(params, dtype=np.float64) * (size / sum(params))
    counts = np.floor(exact + 1e-9).astype(np.int64)
    order = np.argsort(-(exact - counts), kind="stable")
    counts[order[: size - int(counts.sum())]] += 1
    return counts.tolist()


def _remarks(asked: Asked, needs: str, groups: Sequence[Group]) -> list[str]:
    notes = []
    if needs != "curves":
        notes.append("nothing was measured on data: frog verify says what this plan is worth")
    if isinstance(asked.how, Quantisation) and asked.how.group is not None:
        wide = any(x.dtype in ("float32", "float64") for g in groups for x in g.matrices)
        more = ((32 if wide else 16) + (0 if asked.how.symmetric else 8)) / asked.how.group
        notes.append(f"scales add about {more:.3g} bits a weight that are not counted")
    return notes
