"""A random choice of weights of a model, whatever was measured of it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from torch import nn

import frog
from frog.numerics.units import unit_count, unit_sizes
from frog.types import Allotment, Budget, Chosen, Plan, Selection


def random_choice(
    model: nn.Module,
    share: float,
    granularity: str,
    wanted: Callable[[str], bool] = lambda name: True,
    *,
    seed: int = 0,
    block: tuple[int, int] = (16, 16),
) -> Selection:
    """The same share of the units of every matrix whose name is ``wanted``."""
    draw = np.random.default_rng(seed)
    size = block if granularity == "block" else (1, 1)
    chosen, rows = [], []
    for matrix in frog.inspect(model).matrices:
        if not wanted(matrix.name):
            continue
        units = unit_count(matrix.shape, granularity, size)
        index = np.sort(draw.choice(units, max(1, round(share * units)), replace=False))
        count = int(unit_sizes(index, matrix.shape, granularity, size).sum())
        chosen.append(Chosen(
            name=matrix.name, shape=matrix.shape, dtype=matrix.dtype, granularity=granularity,
            index=index, count=count, block_size=size, digest=matrix.loader.fingerprint(),
        ))  # fmt: skip
        rows.append(Allotment(
            name=matrix.name, role=matrix.role, block=matrix.block, shape=matrix.shape,
            params=matrix.params, count=count,
        ))  # fmt: skip
    plan = Plan(path="", digest="", rule="uniform", budget=Budget(share=share), layers=tuple(rows))
    return Selection(
        path="", plan=plan, score="random", granularity=granularity, chosen=tuple(chosen), seed=seed
    )
