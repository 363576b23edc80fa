"""What a model loses with one of its units changed: measured, or how long measuring takes."""

from __future__ import annotations

import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from frog.api.planned_units import Group, Located
from frog.compression.curves import Level, Log, digest_of, model_digest, read_log, sweep
from frog.compression.inputs import input_norms
from frog.compression.planned import level_of
from frog.types.level_plans import Calibration, Pruning, Quantisation


def measured(
    found: Located,
    groups: Sequence[Group],
    how: Quantisation | Pruning,
    calibration: Calibration | None,
) -> dict[str, dict[float, float]]:
    """Squared relative error of the outputs, by unit and level; infinite ones are left out."""
    assert calibration is not None
    levels, free = _cells(found, groups, how, calibration)
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
            )
        by_key = {level.key: number for number, level in levels.items()}
        for cell in cells:
            if math.isfinite(cell.error):
                damages[cell.unit][by_key[cell.level]] = cell.error**2
    return damages


def _cells(
    found: Located,
    groups: Sequence[Group],
    how: Quantisation | Pruning,
    calibration: Calibration,
) -> tuple[dict[float, Level], list[Group]]:
    """The levels and the units of a sweep: what is pinned, or stays whole, needs none."""
    norms = norms_of(found, groups, how, calibration)
    whole = [level for level in how.levels if not (isinstance(how, Pruning) and level == 0)]
    free = [x for x in groups if x.unit.pin is None and _fits(x, how)]
    return {level: level_of(how, level, norms) for level in whole}, free


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
) -> tuple[int, int, float | None]:
    """Cells of a sweep, how many of them the log has, and seconds of one (None: nothing to do)."""
    levels, free = _cells(found, groups, how, calibration)
    known = 0
    if calibration.log is not None and calibration.log.exists():
        here = (model_digest(found.live), digest_of(calibration.batches), "")
        wanted = {(x.name, level.key) for x in free for level in levels.values()}
        log = read_log(calibration.log)
        there = {(x.unit, x.level) for x in log if (x.model, x.data, x.around) == here}
        known = len(there & wanted)
    seconds = _seconds(found, free, levels, calibration) if free and levels else None
    return len(free) * len(levels), known, seconds


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
