"""What a model loses with one of its units changed: measured, or how long measuring takes."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from frog.api.planned_units import Group, Located
from frog.compression.curves import Company, Level, Log, digest_of, model_digest, read_log, sweep
from frog.compression.inputs import input_norms
from frog.compression.planned import level_of
from frog.types.level_plans import Calibration, Pruning, Quantisation

ROUNDS = 3
"""Rounds around the plan so far, where pruning asks for them (docs/compression-measured.md)."""
REACH_BITS, REACH_SHARE = 2.0, 0.3
"""How far from the budget a round measures levels."""
FEWEST = 3
"""Levels of a round at least, else it measures all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Round:
    """A sweep around a plan: the level of every unit by name, and the levels that are measured."""

    plan: Mapping[str, float]
    levels: tuple[float, ...]


def measured(
    found: Located,
    groups: Sequence[Group],
    how: Quantisation | Pruning,
    calibration: Calibration,
    *,
    around: Round | None = None,
) -> dict[str, dict[float, float]]:
    """Squared relative error of the outputs, by unit and level; infinite ones are left out.

    Every unit alone, or ``around`` a plan.
    """
    norms = norms_of(found, groups, how, calibration)
    levels, free = _cells(groups, how, norms, None if around is None else around.levels)
    company: dict[str, Level] = {}
    if around is not None:
        company = {
            x.name: level_of(how, around.plan[group.name], norms)
            for group in groups
            for x in group.matrices
            if not (isinstance(how, Pruning) and around.plan[group.name] == 0)
        }
    damages: dict[str, dict[float, float]] = {x.name: {} for x in groups}
    if free and levels:
        with tempfile.TemporaryDirectory(prefix="frog-") as folder:
            cells = sweep(
                found.live,
                [x.live for x in free],
                levels=list(levels.values()),
                batches=calibration.batches,
                outputs=calibration.outputs,
                log=Log(
                    path=calibration.log or Path(folder) / "sweep.jsonl",
                    on_cell=calibration.on_cell,
                ),
                around=Company(
                    levels=company,
                    others=tuple(x for y in groups if y not in free for x in y.matrices),
                ),
            )
        by_key = {level.key: number for number, level in levels.items()}
        for cell in cells:
            if math.isfinite(cell.error):
                damages[cell.unit][by_key[cell.level]] = cell.error**2
    return damages


def rounds_of(how: Quantisation | Pruning, calibration: Calibration) -> int:
    """How many rounds are measured around a plan: as told, else where they were shown to help."""
    if calibration.rounds is not None:
        return calibration.rounds
    return ROUNDS if isinstance(how, Pruning) and how.pattern is None else 0


def near(how: Quantisation | Pruning, budget: float) -> tuple[float, ...]:
    """The levels of a round: those about the budget, all where they don't lie on both sides."""
    reach = REACH_BITS if isinstance(how, Quantisation) else REACH_SHARE
    some = tuple(x for x in how.levels if abs(x - budget) < reach + 1e-9)
    inside = len(some) >= FEWEST and min(some) <= budget <= max(some)
    return some if inside else how.levels


def _cells(
    groups: Sequence[Group],
    how: Quantisation | Pruning,
    norms: Mapping[str, torch.Tensor],
    levels: Sequence[float] | None = None,
) -> tuple[dict[float, Level], list[Group]]:
    """The levels and the units of a sweep: what is pinned, or stays whole alone, needs none."""
    if levels is None:
        levels = [x for x in how.levels if not (isinstance(how, Pruning) and x == 0)]
    free = [x for x in groups if x.unit.pin is None and _fits(x, how)]
    return {level: level_of(how, level, norms) for level in levels}, free


def norms_of(
    found: Located,
    groups: Sequence[Group],
    how: Quantisation | Pruning,
    calibration: Calibration,
) -> dict[str, torch.Tensor]:
    """Norms of inputs by matrix where Wanda needs them, else nothing."""
    if isinstance(how, Quantisation) or how.importance != "wanda":
        return {}
    matrices = [x for group in groups for x in group.matrices]
    return input_norms(
        found.live, matrices, batches=calibration.batches, outputs=calibration.outputs
    )


def counted(
    found: Located,
    groups: Sequence[Group],
    how: Quantisation | Pruning,
    calibration: Calibration,
    budget: float,
) -> tuple[int, int, float | None]:
    """Cells of all sweeps, how many the log has, and seconds of one (None: nothing to do).

    Which of the rounds the log has hangs on plans that are not made yet: they count as missing.
    """
    levels, free = _cells(groups, how, norms_of(found, groups, how, calibration))
    known = 0
    if calibration.log is not None and calibration.log.exists():
        here = (model_digest(found.live), digest_of(calibration.batches), "")
        wanted = {(x.name, level.key) for x in free for level in levels.values()}
        log = read_log(calibration.log)
        there = {(x.unit, x.level) for x in log if (x.model, x.data, x.around) == here}
        known = len(there & wanted)
    seconds = _seconds(found, free, levels, calibration) if free and levels else None
    rounds = rounds_of(how, calibration) * len(near(how, budget))
    return len(free) * (len(levels) + rounds), known, seconds


def _seconds(
    found: Located, free: Sequence[Group], levels: Mapping[float, Level], calibration: Calibration
) -> float:
    """How long one cell takes, by measuring one; the model's own outputs are not counted."""
    began: list[float] = []

    def outputs(model: Any, batch: Any) -> Any:
        began.append(time.monotonic())
        return calibration.outputs(model, batch)

    with tempfile.TemporaryDirectory(prefix="frog-") as folder:
        sweep(
            found.live,
            [free[0].live],
            levels=[next(iter(levels.values()))],
            batches=calibration.batches,
            outputs=outputs,
            log=Path(folder) / "try.jsonl",
        )
        return time.monotonic() - began[len(calibration.batches)]


def pattern_of(how: Quantisation | Pruning) -> tuple[int, int] | None:
    return how.pattern if isinstance(how, Pruning) else None


def _fits(group: Group, how: Quantisation | Pruning) -> bool:
    pattern = pattern_of(how)
    return pattern is None or all(x.shape[1] % pattern[1] == 0 for x in group.matrices)
