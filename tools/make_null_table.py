"""Make src/frog/numerics/null_table.npz: what random matrices look like, by simulation.

    PYTHONPATH=src python tools/make_null_table.py [--scale 1.0] [--jobs 2] [--draws FILE]

Each cell of a grid of (r, Q) is simulated with exact Wishart spectra (the bidiagonal model), its
standardised quantiles are taken, and a smooth surface over (ln r, Q^(-1/2)) is laid through each
quantile: that borrows strength from the neighbours for the deep quantiles and for large r, where
draws are few. ``--draws`` keeps the unsmoothed cells, for looking at how well the surface fits;
``--smooth-only`` makes the table again from such a file. Seeds are fixed by cell.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from multiprocessing import Pool
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import numpy as np
from scipy.linalg.lapack import dstebz
from scipy.special import ndtri

from frog.numerics.powerlaw import MIN_TAIL, fit_power_law
from frog.numerics.random_matrix import (
    bulk_variance,
    edge_law,
    sample_tridiagonal,
    sample_wishart_eigenvalues,
)

SEED = 20261123
TABLE = Path(__file__).parents[1] / "src/frog/numerics/null_table.npz"
LEVELS = (1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4)
R_EDGE = (4, 6, 8, 12, 16, 24, 32, 64, 128, 256, 512, 1024, 4096)
R_FIT = (28, 34, 42, 52, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 2048, 4096)
ROOT_EDGE = (1e-3, 0.08, 0.25, 0.5, 0.7, 0.9, 1.0)  # Q^(-1/2); these laws vary little with it
ROOT_FIT = (1e-3, 0.07, 0.2, 0.35, 0.5, 0.65, 0.8, 0.93, 1.0)
R_STEP = 1.25  # of the table; the surfaces are evaluated on a finer grid than is simulated
ROOTS = (1e-3, 0.03, 0.07, 0.13, 0.2, 0.28, 0.36, 0.45, 0.55, 0.65, 0.75, 0.85, 0.93, 0.97, 1.0)
ESTIMATORS = ("ks", "hill")  # tpl has no optimum on nearly all random matrices: no null
EDGES = ("top_trace", "top_bulk")
SMALLEST_BULK = 8  # fewer eigenvalues have no median to speak of
R_ODD = (65, 129)  # where the shift of hill at odd r is measured
SURFACE = (6, 4)  # degrees of the surface in ln r (edges: r^(-1/3)) and Q^(-1/2)
SYSTEMATIC = 0.005  # what the surface may be off by, beside the error of the draws


ENOUGH_BEYOND = 3  # draws beyond a quantile, for it to count as known
TABLE_ERROR = 0.004  # of a median between grid points; hill at large r spreads less than that
SMALLEST_STEP = 1e-6  # between the quantiles of two levels
CARRIED_ON = 0.1  # error of a quantile carried on from further in, in standard deviations


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--scale", type=float, default=1.0, help="multiplies all numbers of draws")
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--draws", type=Path, help="where the unsmoothed cells are kept")
    parser.add_argument("--smooth-only", action="store_true")
    options = parser.parse_args()
    started = time.time()
    if options.smooth_only:
        cells = json.loads(options.draws.read_text())
    else:
        cells = simulate(options.scale, options.jobs)
        if options.draws:
            options.draws.write_text(json.dumps(cells))
    table = make_table(cells)
    np.savez_compressed(TABLE, **table)
    print(f"{TABLE.name}: {TABLE.stat().st_size / 1024:.0f} KiB in {time.time() - started:.0f} s")


# ------------------------------------------------------------------------ simulation


def simulate(scale: float, jobs: int) -> list[dict[str, Any]]:
    """All cells, the dear ones first."""
    tasks = [
        (kind, r, root, max(20, round(scale * draws(kind, r))))
        for kind, grid, roots in (
            ("edge", R_EDGE, ROOT_EDGE),
            ("fit", R_FIT, ROOT_FIT),
            ("odd", R_ODD, ROOT_FIT),
        )
        for r in grid
        for root in roots
    ]
    tasks.sort(key=lambda task: -task[1])
    with Pool(jobs) as pool:
        found = []
        for i, cell in enumerate(pool.imap_unordered(simulate_cell, tasks)):
            found.append(cell)
            if i % 10 == 0:
                print(f"{i}/{len(tasks)}", flush=True)
    return found


def draws(kind: str, r: int) -> int:
    """Number of draws of a cell: as many as about 8 CPU seconds allow, at most 40,000 or 10,000."""
    if kind == "edge":
        return round(8000 / (0.08 + 0.0009 * r)) if r > 64 else 40000
    return min(10000, round(8000 / (0.25 + 1.65e-5 * r * r)))


def simulate_cell(task: tuple[str, int, float, int]) -> dict[str, Any]:
    """Standardised quantiles of one cell: {statistic: [at LEVELS, 0.5, at 1 - LEVELS]}."""
    kind, r, root, count = task
    large = max(r, round(r / root**2))
    rng = np.random.default_rng([SEED, KINDS.index(kind), r, large])
    numbers = simulate_edges if kind == "edge" else simulate_fits
    found = numbers((r, large), count, rng)
    quantiles = {
        name: [len(x), float(np.std(x)), np.quantile(x, levels()).tolist()]
        for name, x in found.items()
        if len(x) >= 10
    }
    return {"kind": kind, "r": r, "root": root, "quantiles": quantiles}


KINDS = ("edge", "fit", "odd")


def simulate_edges(
    shape: tuple[int, int], count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """Standardised largest eigenvalue, the variance from the trace and from the median."""
    r, large = shape
    centre, width = edge_law(shape)
    found = np.empty((2, count))
    spectrum = np.zeros(r)
    for i in range(count):
        diagonal, below = sample_tridiagonal(shape, rng)
        tolerance = 1e-9 * width
        for k in {r - 1, r // 2, (r - 1) // 2}:  # ascending; only these are needed
            _, values, _, _, failed = dstebz(
                diagonal, below, 2, 0.0, 0.0, k + 1, k + 1, tolerance, "E"
            )
            if failed:
                raise ArithmeticError(f"{shape}: bisection failed")
            spectrum[r - 1 - k] = values[0]
        for j, v in enumerate((diagonal.sum() / (r * large), bulk_variance(spectrum, shape))):
            found[j, i] = (spectrum[0] / v - centre) / width
    return {"top_trace": found[0]} | ({"top_bulk": found[1]} if r >= SMALLEST_BULK else {})


def simulate_fits(
    shape: tuple[int, int], count: int, rng: np.random.Generator
) -> dict[str, np.ndarray]:
    """ln((alpha - 1) s / mu) of the estimators on the same spectra."""
    centre, width = edge_law(shape)
    found: dict[str, list[float]] = {name: [] for name in ESTIMATORS}
    for _ in range(count):
        eigenvalues = sample_wishart_eigenvalues(shape, rng)
        for name in ESTIMATORS:
            fit = fit_power_law(eigenvalues, estimator=name, shape=shape, extras=False)
            found[name].append(math.log((fit.alpha - 1.0) * width / centre))
    return {name: np.array(x) for name, x in found.items()}


# ------------------------------------------------------------------------- smoothing


def levels() -> np.ndarray:
    """The shares at which quantiles are kept, ascending, symmetric."""
    return np.array([*LEVELS, 0.5, *(1 - p for p in reversed(LEVELS))])


def make_table(cells: list[dict[str, Any]]) -> dict[str, np.ndarray]:
    """The arrays of the packaged file."""
    table = {
        "scores": ndtri(levels()),
        "q_root": np.array(ROOTS),
    }
    for names, grid in ((EDGES, R_EDGE), (ESTIMATORS, R_FIT)):
        for name in names:
            chosen = [c for c in cells if name in c["quantiles"] and c["r"] in grid]
            kept = tuple(r for r in grid if name != "top_bulk" or r >= SMALLEST_BULK)
            steps = round(math.log(kept[-1] / kept[0]) / math.log(R_STEP))
            table[f"r_{name}"] = np.unique(np.geomspace(kept[0], kept[-1], steps).round())
            table[name] = smooth(name, chosen, table[f"r_{name}"]).astype(np.float32)
    table["hill_odd"] = odd_shift(cells, table["hill"], table["r_hill"])
    facts = {
        "seed": SEED,
        "min_tail": MIN_TAIL,
        "draws": {
            f"{c['kind']} r={c['r']}": max(x[0] for x in c["quantiles"].values())
            for c in cells
            if c["r"] in R_EDGE + R_FIT + R_ODD
        },
    }
    table["facts"] = np.array(json.dumps(facts))
    return table


def smooth(name: str, cells: list[dict[str, Any]], grid: np.ndarray) -> np.ndarray:
    """A surface through each quantile, evaluated on the grid: (Q, r, level), sorted by level.

    From the median outwards. A cell with too few draws for a level takes part with the value that
    the two surfaces further in continue to, linearly in the normal score, and with little weight:
    a surface without anything there would run away.
    """
    p, scores = levels(), ndtri(levels())
    density = np.exp(-0.5 * scores**2) / math.sqrt(2 * math.pi)
    count, spread, values_cl = (
        np.array([c["quantiles"][name][i] for c in cells]) for i in range(3)
    )
    design = basis(
        name, np.array([c["r"] for c in cells]), np.array([c["root"] for c in cells]), grid
    )
    r_on, root_on = np.meshgrid(grid, ROOTS)
    on_grid = basis(name, r_on.ravel(), root_on.ravel(), grid)
    found = np.empty((on_grid.shape[0], len(p)))
    at_cells = np.empty(values_cl.shape)
    middle = len(LEVELS)
    for j in sorted(range(len(p)), key=lambda j: abs(j - middle)):
        error = spread * np.sqrt(p[j] * (1 - p[j]) / count) / density[j]
        error = np.hypot(error, SYSTEMATIC)
        usable = count * min(p[j], 1 - p[j]) >= ENOUGH_BEYOND
        target = values_cl[:, j]
        if abs(j - middle) > 1:
            a, b = (j + 1, j + 2) if j < middle else (j - 1, j - 2)
            slope = (at_cells[:, a] - at_cells[:, b]) / (scores[a] - scores[b])
            carried_on = at_cells[:, a] + slope * (scores[j] - scores[a])
            target = np.where(usable, target, carried_on)
            error = np.where(usable, error, CARRIED_ON * spread)
        solution, *_ = np.linalg.lstsq(design / error[:, None], target / error, rcond=1e-10)
        found[:, j], at_cells[:, j] = on_grid @ solution, design @ solution
        misfit = ((values_cl[:, j] - at_cells[:, j]) / error)[usable]
        if len(misfit):
            print(
                f"{name} p={p[j]:.4f}: {usable.sum()} cells, rms misfit {np.std(misfit):.2f} "
                f"worst {np.abs(misfit).max():.1f} standard errors"
            )
    crossing = np.diff(found, axis=1).min()
    print(f"{name}: smallest step between levels {crossing:.4f}")
    middle_l = found[:, [middle]]
    spread = (found[:, [p.searchsorted(0.9)]] - found[:, [p.searchsorted(0.1)]]) / 2.56
    found = middle_l + (found - middle_l) * np.hypot(spread, TABLE_ERROR) / spread
    rising = SMALLEST_STEP * np.arange(len(p))  # strictly, so that a value has one percentile
    found = np.maximum.accumulate(found - rising, axis=1) + rising
    return found.reshape(len(ROOTS), len(grid), len(p))


def basis(name: str, r: np.ndarray, root: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Products of Chebyshev polynomials of a function of r and of Q^(-1/2), scaled to -1..1.

    The laws of the largest eigenvalue have a limit and come to it in powers of r^(-1/3).
    """
    power = -1 / 3 if name in EDGES else 0
    x, ends = ((v**power if power else np.log(v)) for v in (np.asarray(r, float), grid[[0, -1]]))
    scaled = 2 * (x - ends[0]) / (ends[1] - ends[0]) - 1
    x_terms = np.polynomial.chebyshev.chebvander(scaled, SURFACE[0])
    y_terms = np.polynomial.chebyshev.chebvander(2 * root - 1, SURFACE[1])
    return (x_terms[:, :, None] * y_terms[:, None, :]).reshape(len(r), -1)


def odd_shift(cells: list[dict[str, Any]], hill: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """r times what odd r adds to the median of ``hill``, at the ROOTS: (Q,).

    The tail starts at index floor(r / 2): just above the median for even r, on it for odd r.
    """
    shifts: dict[float, list[float]] = {}
    for cell in cells:
        if cell["kind"] != "odd":
            continue
        r, root = cell["r"], cell["root"]
        over_r = [np.interp(math.log(r), np.log(grid), row) for row in hill[:, :, len(LEVELS)]]
        even = np.interp(root, ROOTS, over_r)
        median = cell["quantiles"]["hill"][2][len(LEVELS)]
        shifts.setdefault(root, []).append(r * (median - float(even)))
    print("hill, odd r:", {root: [round(x, 2) for x in both] for root, both in shifts.items()})
    known = sorted(shifts)
    return np.interp(ROOTS, known, [float(np.mean(shifts[root])) for root in known])


if __name__ == "__main__":
    main()
