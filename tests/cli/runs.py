"""Commands, models and folders for tests that go through the command line."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import frog

SRC = Path(frog.__file__).parents[1]


@dataclass(frozen=True)
class Done:
    """How a command ended and what it said."""

    code: int
    out: str
    err: str


def environment(**more: str) -> dict[str, str]:
    """The environment of a command: this checkout, no colour, 80 columns, one BLAS thread."""
    fixed = {"PYTHONPATH": str(SRC), "COLUMNS": "80", "OMP_NUM_THREADS": "1", "NO_COLOR": "1"}
    return {**os.environ, **fixed, **more}


def weight(rows: int, columns: int, seed: int = 0) -> np.ndarray:
    """A random matrix with a heavy tail, so that a power law fits."""
    rng = np.random.default_rng(seed)
    decay = (1.0 + np.arange(columns)) ** -0.4
    return (rng.standard_normal((rows, columns)) * decay).astype(np.float32)


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file below a folder with its content."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
