"""Does the bootstrap interval of alpha cover the truth? Spectra and matrices of known alpha.

    python benchmarks/bench_planted_alpha.py                     # the full table, to stdout
    python benchmarks/bench_planted_alpha.py --out FILE.md       # ... into a file
    python benchmarks/bench_planted_alpha.py --draws 60          # quick
    python benchmarks/bench_planted_alpha.py --state FILE.json   # resume after an interruption

One BLAS thread is enough and wanted: OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1.

Kinds of spectra, n values each:

``law``     every value from the power law.
``body``    a quarter from the law, the others from an exponential density that joins it
            (Clauset, Shalizi & Newman 2009, eq. 3.10: the usual test of the choice of xmin).
``matrix``  W = U diag(sqrt(x)) V^T with x = a quarter from the law above the bulk edge, the others
            the spectrum of a Gaussian matrix. Singular values do not depend on U and V, so the
            matrix itself is made, and its spectrum measured again, in one draw per cell only.
``noisy``   the planted tail as a diagonal added to a Gaussian matrix: eigenvalues move each
            other, and the planted law is only nearly that of the spectrum.
``element`` independent elements of Student's t with 2(alpha - 1) degrees of freedom: alpha is
            the exponent of the *limit*; what a finite matrix shows is another number.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import frog.numerics.powerlaw as powerlaw
from frog.numerics.resampling import bootstrap

ALPHAS = (2.0, 3.0, 4.0, 6.0)
TAIL = 0.25
ASPECT = 2
EDGE = (1.0 + ASPECT**-0.5) ** 2
BULKS = 20  # Gaussian bulks per size: they hardly differ, so each is used for many draws
PLAN = {  # kind: sizes, share of --draws
    "law": ((200, 500, 1000, 2000, 4000), 1.0),
    "matrix": ((200, 500, 1000, 2000), 1.0),
    "body": ((200, 1000), 0.4),
    "noisy": ((200, 500), 0.2),
    "element": ((200, 500), 0.2),
}
HELD_OUT = {"law": (2.5, 5.0), "matrix": (2.5, 5.0)}  # alphas that chose nothing, n = 500


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=500)
    parser.add_argument("--resamples", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--kinds", nargs="*", default=list(PLAN), choices=list(PLAN))
    parser.add_argument("--state", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    done = json.loads(options.state.read_text()) if options.state and options.state.exists() else {}
    start = time.process_time()
    for kind, n, alpha, draws in cells(options.kinds, options.draws):
        key = f"{kind}/{n}/{alpha:g}/{draws}/{options.resamples}/{options.seed}"
        if key not in done:
            done[key] = measure(kind, n, alpha, draws, options)
            print(key, done[key], file=sys.stderr, flush=True)
            if options.state:
                options.state.write_text(json.dumps(done))
    text = render(done, options, time.process_time() - start)
    if options.out:
        options.out.write_text(text)
    else:
        print(text)


def cells(kinds: list[str], draws: int):
    for kind in kinds:
        sizes, share = PLAN[kind]
        for n in sizes:
            for alpha in ALPHAS:
                yield kind, n, alpha, max(int(draws * share), 10)
        for alpha in HELD_OUT.get(kind, ()):
            yield kind, 500, alpha, max(int(draws * 0.4), 10)


def measure(kind: str, n: int, alpha: float, draws: int, options) -> dict[str, float]:
    """Coverage, width and bias of one cell."""
    start = time.process_time()
    rows = []
    for draw in range(draws):
        rng = np.random.default_rng(
            [options.seed, list(PLAN).index(kind), n, round(alpha * 10), draw]
        )
        x = SPECTRA[kind](rng, n, alpha)
        if kind == "matrix" and draw == 0:
            x = through_a_matrix(rng, x)
        fit = powerlaw.fit_power_law(x)
        fit = bootstrap(x, fit, resamples=options.resamples, seed=draw)
        rows.append([fit.alpha, fit.low, fit.high, fit.stderr, fit.band_low, fit.band_high])
    a, low, high, stderr, band_low, band_high = np.array(rows).T
    near = np.abs(a - alpha) <= 1.96 * stderr
    wide = (np.minimum(band_low, a - 1.96 * stderr) <= alpha) & (
        alpha <= np.maximum(band_high, a + 1.96 * stderr)
    )
    return {
        "covered": float(np.mean((low <= alpha) & (alpha <= high))),
        "below": float(np.mean(high < alpha)),
        "above": float(np.mean(low > alpha)),
        "stderr_covered": float(np.mean(near)),
        "band_covered": float(np.mean((band_low <= alpha) & (alpha <= band_high))),
        "union_covered": float(np.mean(wide)),
        "median": float(np.median(a)),
        "width": float(np.median(high - low)),
        "failed": float(np.mean(np.isnan(low))),
        "seconds": time.process_time() - start,
    }


# ------------------------------------------------------------------------------ spectra


def law(rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    return np.exp(rng.standard_exponential(n) / (alpha - 1.0))


def body(rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    """Density ~ exp(-alpha (x - 1)) on (0, 1), ~ x^-alpha above: equal value and slope at 1."""
    k = rng.binomial(n, TAIL)
    low = np.exp(-alpha)
    below = -np.log(low + rng.random(n - k) * (1.0 - low)) / alpha
    return np.concatenate([below, law(rng, k, alpha)])


def matrix(rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    k = int(TAIL * n)
    bulk = _bulks(n - k)[rng.integers(BULKS)]
    return np.concatenate([bulk, EDGE * law(rng, k, alpha)])


_BULKS: dict[int, list[np.ndarray]] = {}


def _bulks(m: int) -> list[np.ndarray]:
    if m not in _BULKS:
        _BULKS.clear()
        rng = np.random.default_rng(m)
        draws = (rng.standard_normal((m, ASPECT * m)) for _ in range(BULKS))
        _BULKS[m] = [np.linalg.eigvalsh(g @ g.T) / (ASPECT * m) for g in draws]
    return _BULKS[m]


def through_a_matrix(rng: np.random.Generator, x: np.ndarray) -> np.ndarray:
    """The measured spectrum of W = U diag(sqrt(x)) V^T, which must be x."""
    n = len(x)
    u, _ = np.linalg.qr(rng.standard_normal((n, n)))
    v, _ = np.linalg.qr(rng.standard_normal((n, n)))
    w = (u * np.sqrt(x)) @ v.T
    found = np.linalg.eigvalsh(w @ w.T)
    assert np.allclose(found, np.sort(x), rtol=1e-7, atol=1e-12 * x.max())
    return found


def noisy(rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    k = int(TAIL * n)
    w = rng.standard_normal((n, ASPECT * n)) / np.sqrt(ASPECT * n)
    w[np.arange(k), np.arange(k)] += np.sqrt(4.0 * EDGE * law(rng, k, alpha))
    return np.linalg.eigvalsh(w @ w.T)


def element(rng: np.random.Generator, n: int, alpha: float) -> np.ndarray:
    w = rng.standard_t(2.0 * (alpha - 1.0), (n, ASPECT * n))
    return np.linalg.eigvalsh(w @ w.T)


SPECTRA: dict[str, Callable[[np.random.Generator, int, float], np.ndarray]] = {
    "law": law,
    "matrix": matrix,
    "body": body,
    "noisy": noisy,
    "element": element,
}


# ------------------------------------------------------------------------------- report


def render(done: dict[str, dict[str, float]], options, seconds: float) -> str:
    lines = [
        "# Coverage of the 95 % bootstrap interval of alpha on planted power laws",
        "",
        f"Command: `python benchmarks/bench_planted_alpha.py --draws {options.draws} "
        f"--resamples {options.resamples} --seed {options.seed}`, one BLAS thread.",
        f"Machine: {processor()}, one core; CPU seconds in the last column. "
        f"Python {platform.python_version()}, numpy {np.__version__}.",
        f"Settings: ks, min_tail {powerlaw.MIN_TAIL}, {options.resamples} resamples, "
        f"seed {options.seed}; draw i of a cell uses [seed, kind, n, 10 alpha, i].",
        "",
        "covered = truth inside the interval; low / high = the interval lies wholly below / above "
        "the truth; width = median width of the interval. For comparison the coverage of: "
        "stderr = alpha ± 1.96 stderr; band = the stability band; both = their union.",
    ]
    total = sum(row["seconds"] for row in done.values())
    for kind in PLAN:
        rows = [(k.split("/"), row) for k, row in done.items() if k.startswith(kind + "/")]
        if not rows:
            continue
        lines += ["", f"## {kind}", "", *table(rows)]
    return "\n".join([*lines, "", f"CPU seconds of all cells: {total:.0f}.", ""])


def table(rows: list[tuple[list[str], dict[str, float]]]) -> list[str]:
    lines = [
        "| n | alpha | draws | covered | low | high | median | width | stderr | band | both | s |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for (_, n, alpha, draws, *_), r in rows:
        lines.append(
            f"| {n} | {alpha} | {draws} | {r['covered']:.3f} | {r['below']:.3f} "
            f"| {r['above']:.3f} | {r['median']:.2f} | {r['width']:.2f} "
            f"| {r['stderr_covered']:.2f} | {r['band_covered']:.2f} "
            f"| {r['union_covered']:.2f} | {r['seconds']:.0f} |"
        )
    counts = np.array([int(key[3]) for key, _ in rows])
    covered = np.array([r["covered"] for _, r in rows])
    overall = float((counts * covered).sum() / counts.sum())
    lines += ["", f"All {counts.sum()} draws: {overall:.3f}; worst cell: {covered.min():.3f}."]
    return lines


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        names = [x.split(":", 1)[1].strip() for x in lines if x.startswith("model name")]
        flags = "AVX-512" if any("avx512f" in x for x in lines) else "no AVX-512"
        return f"{names[0]} ({flags})"
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
