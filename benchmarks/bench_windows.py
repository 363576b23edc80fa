"""FARMS windows: the published Gaussian table, MiniLM, and the null for overlapping windows.

    PYTHONPATH=src:. python benchmarks/bench_windows.py

Needs the packages of the extra ``demo``.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).parent))

import contenders
import numpy as np
from measuring import heading

import frog
from frog.numerics.powerlaw import fit_power_law
from frog.numerics.random_matrix import looks
from frog.numerics.windows import Pool, pool_windows
from tests.matrices import ArrayLoader
from tests.numerics.test_windows import GAUSSIAN_TABLE

QUICK = frog.Settings(estimator="hill", bootstrap=0, curves=False)
OVERLAPPING = (  # shape, windows, matrices
    ((96, 384), frog.Farms(), 300),
    ((128, 512), frog.Farms(side=64), 200),
    ((256, 256), frog.Farms(side=64), 150),
    ((200, 300), frog.Farms(side=40, ratio=2.0, budget=16), 200),
    ((384, 1536), frog.Farms(), 60),
    ((64, 2000), frog.Farms(per_dimension=5), 200),
    ((96, 64), frog.Farms(side=40, ratio=1.5), 200),
    ((128, 128), frog.Farms(side=100), 200),
)
PARTS = {
    "attention": r"attention.*weight",
    "feed-forward, in": r"intermediate",
    "feed-forward, out": r"layer\.\d+\.output",
}


def main() -> None:
    argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0]).parse_args()
    print(heading("FARMS windows", note="; seeds 0 to 9"))
    started = time.time()
    gaussian()
    minilm()
    null()
    print(f"All in {time.time() - started:.0f} s.")


def pooled(array: np.ndarray, farms: frog.Farms) -> Pool:
    return pool_windows(ArrayLoader(array), array.shape, farms)


def hill(values: np.ndarray) -> float:
    return fit_power_law(values, estimator="hill").alpha


def gaussian() -> None:
    print("## Gaussian matrices, Hill alpha: mean of ten (largest distance from the published)\n")
    print("| shape | full | 64 x 64, 100 windows | published | small side | published |")
    print("|---|--:|--:|--:|--:|--:|")
    for shape, published in GAUSSIAN_TABLE.items():
        found = np.empty((10, 3))
        for seed in range(10):
            array = np.random.default_rng(seed).standard_normal(shape)
            found[seed] = (
                hill(np.linalg.svd(array, compute_uv=False) ** 2),
                hill(pooled(array, frog.Farms(side=64, budget=100)).eigenvalues),
                hill(pooled(array, frog.Farms()).eigenvalues),
            )
        mean, far = found.mean(axis=0), np.abs(found[:, 1:] - published).max(axis=0)
        print(
            f"| {shape[0]} x {shape[1]} | {mean[0]:.3f} | {mean[1]:.3f} ({far[0]:.3f}) "
            f"| {published[0]} | {mean[2]:.3f} ({far[1]:.3f}) | {published[1]} |"
        )
    print()


def minilm() -> None:
    print("## MiniLM's encoder, Hill alpha, mean over layers\n")
    print("| | layers | full | farms | largest change |\n|---|--:|--:|--:|--:|")
    run = frog.Run(jobs=1)
    for name, include in PARTS.items():
        include = rf"encoder.*({include})"
        exclude = r"attention" if "feed" in name else None
        both = [
            frog.analyze(
                contenders.minilm_folder(), replace(QUICK, window=window), include=include,
                exclude=exclude, run=run,
            ).measured
            for window in ("full", "farms")
        ]  # fmt: skip
        full, farms = ([x.values["alpha"] for x in rows] for rows in both)
        change = np.abs(np.subtract(full, farms)).max()
        print(f"| {name} | {len(full)} | {np.mean(full):.3f} | {np.mean(farms):.3f} "
              f"| {change:.2g} |")  # fmt: skip
    print()


def null() -> None:
    print("## The null for overlapping windows: percentiles of Gaussian matrices in it\n")
    print("Quantiles of the percentiles; a right null has 5, 25, 50, 75, 95.\n")
    print("| shape, side, ratio | windows | count as | estimator | matrices | outside (0.1 %) "
          "| 5 | 25 | 50 | 75 | 95 |")  # fmt: skip
    print("|---|--:|--:|---|--:|--:|--:|--:|--:|--:|--:|")
    rng = np.random.default_rng(5)
    for shape, farms, count in OVERLAPPING:
        pools = [pooled(rng.standard_normal(shape), farms) for _ in range(count)]
        for estimator in ("hill", "ks"):
            found = [place(pool, shape, estimator, farms) for pool in pools]
            outside = sum(look.outside for look in found)
            quantiles = np.percentile([look.percentile for look in found], [5, 25, 50, 75, 95])
            cells = " | ".join(f"{x:.0f}" for x in quantiles)
            print(f"| {shape[0]} x {shape[1]}, {farms.side}, {farms.ratio:g} | {pools[0].windows} "
                  f"| {pools[0].effective:.1f} | {estimator} | {count} | {outside} | {cells} |",
                  flush=True)  # fmt: skip
    print()


def place(pool: Pool, shape: tuple[int, int], estimator: str, farms: frog.Farms):
    values = pool.for_fit(estimator)
    fit = fit_power_law(values, estimator=estimator, shape=pool.shape, extras=False)
    return looks(pool.typical(), shape, fit, window="farms", farms=farms)["alpha"]


if __name__ == "__main__":
    main()
