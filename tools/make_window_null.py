"""Make src/frog/numerics/null_windows.npz: alpha of pooled windows of random matrices.

    PYTHONPATH=src python tools/make_window_null.py [--scale 1.6]     # about four minutes

For windows of n x N (N = n / root^2) and K disjoint ones in a pool: spectra are drawn from the
bidiagonal model, K of them are pooled, the pool is fitted. Of ln((alpha - 1) s / mu) the table
keeps the median and the spread on either side, the largest of what the quantiles at 2, 5 and 16 %
(and 84, 95, 98 %) say in units of their normal score: on the wide side. Pools share a bank of
spectra; the spread is corrected for that. Seeds are fixed by cell.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.special import ndtri

from frog.numerics.powerlaw import MIN_TAIL, fit_power_law
from frog.numerics.random_matrix import edge_law, sample_wishart_eigenvalues

SEED = 20261124
TABLE = Path(__file__).parents[1] / "src/frog/numerics/null_windows.npz"
SIDES = (12, 16, 23, 32, 64, 128, 256, 512, 1024, 2048)
POOLS = (1, 2, 4, 8, 16, 32)
ROOTS = (1e-3, 0.25, 0.5, 0.75, 1.0)
FEWEST = {"hill": 2, "ks": MIN_TAIL}
SMALLEST_KS = 28  # values in a pool: fewer leave ks nothing to choose from
LOWER = (0.02, 0.05, 0.16)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.6, help="multiplies all numbers of draws")
    scale = parser.parse_args().scale
    started = time.time()
    table = {name: np.full((len(ROOTS), len(SIDES), len(POOLS), 3), np.nan) for name in FEWEST}
    for j, side in enumerate(SIDES):
        for i, root in enumerate(ROOTS):
            for k, name, three in cells(side, root, scale):
                table[name][i, j, k] = three
        print(f"n = {side}: {time.time() - started:.0f} s", flush=True)
    facts = {"seed": SEED, "min_tail": MIN_TAIL, "scale": scale}
    np.savez_compressed(
        TABLE,
        sides=np.array(SIDES, float),
        pools=np.array(POOLS, float),
        roots=np.array(ROOTS),
        facts=np.array(json.dumps(facts)),
        **{name: filled(x).astype(np.float32) for name, x in table.items()},
    )
    print(f"{TABLE.name}: {TABLE.stat().st_size / 1024:.0f} KiB in {time.time() - started:.0f} s")


def cells(side: int, root: float, scale: float):
    """(index of K, estimator, (median, spread below, spread above)) for all pools of one shape."""
    shape = (side, max(side, round(side / root**2)))
    rng = np.random.default_rng([SEED, side, shape[1]])
    bank = round(scale * min(1000, max(128, 2.5e6 / (150 + side**2 / 16))))
    spectra = np.array([sample_wishart_eigenvalues(shape, rng) for _ in range(bank)])
    centre, width = edge_law(shape)
    for k, pool in enumerate(POOLS):
        count = round(scale * min(1000, max(60, 2e6 / (2000 + 3 * pool * side))))
        count = bank if pool == 1 else count
        for name, fewest in FEWEST.items():
            if name == "ks" and side * pool < SMALLEST_KS:
                continue
            found = np.empty(count)
            for draw in range(count):
                picked = [draw] if pool == 1 else rng.choice(bank, pool, replace=False)
                fit = fit_power_law(
                    spectra[picked].ravel(), estimator=name, min_tail=fewest, shape=shape,
                    extras=False,
                )  # fmt: skip
                found[draw] = math.log((fit.alpha - 1.0) * width / centre)
            shared = math.sqrt(1.0 - pool / bank) if pool > 1 else 1.0
            yield k, name, summary(found, shared)


def summary(found: np.ndarray, shared: float) -> tuple[float, float, float]:
    """Median, spread below, spread above."""
    middle = float(np.median(found))
    down = [(middle - np.quantile(found, p)) / -ndtri(p) for p in LOWER]
    up = [(np.quantile(found, 1 - p) - middle) / -ndtri(p) for p in LOWER]
    return middle, max(down) / shared, max(up) / shared


def filled(cells_rnk3: np.ndarray) -> np.ndarray:
    """Cells without a fit take the next larger pool's: they are never asked for."""
    for k in range(cells_rnk3.shape[2] - 2, -1, -1):
        empty = np.isnan(cells_rnk3[:, :, k])
        cells_rnk3[:, :, k][empty] = cells_rnk3[:, :, k + 1][empty]
    return cells_rnk3


if __name__ == "__main__":
    main()
