"""What the Marchenko-Pastur fit and the shuffling cost, on MiniLM, beside the plain analysis.

    PYTHONPATH=src python benchmarks/bench_noise_cost.py [--before FOLDER] [--rounds 5]

FOLDER holds the ``src`` of the last version without either (``git archive 0ad4829^ src | tar -x
-C FOLDER``); without it that row is missing, and ratios are to today's plain run. Every figure is
a process of its own: one analysis to warm up, one that counts, no cache; the contenders take turns.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import heading, load_average, spread

HERE = Path(__file__).resolve()
PLAIN: dict[str, Any] = {}
CONTENDERS = {  # name: (whether the version before, settings)
    "before: plain": (True, PLAIN),
    "now: plain, with the MP fit": (False, PLAIN),
    "now: MP fit and randomize=1": (False, {"randomize": 1}),
    "now: window=farms": (False, {"window": "farms"}),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--before", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--one", help="used by itself: settings as JSON, and jobs")
    parser.add_argument("--jobs", type=int, default=0)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(one(json.loads(options.one), options.jobs or None)))
        return
    print(heading(
        "Cost of the Marchenko-Pastur fit and of shuffling: all-MiniLM-L6-v2",
        f"load {load_average()} at the start",
        note=f"; seconds, median (smallest to largest) of {options.rounds} processes each",
    ))  # fmt: skip
    for jobs in (1, 0):
        table(options.before, jobs, options.rounds)
    print(REMARKS)


REMARKS = """\
Target: MP fit and randomisation together below 3 times the plain analysis. For WeightWatcher
0.7.7 an earlier study of ours measured 13 times (`mp_fit`) and 17 times (`randomize`) its own
default run on this model; that was not run again here."""


def table(before: Path | None, jobs: int, rounds: int) -> None:
    chosen = {name: x for name, x in CONTENDERS.items() if before is not None or not x[0]}
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in chosen}
    for _ in range(rounds):
        for name, (old, settings) in chosen.items():
            source = before / "src" if old and before else HERE.parents[1] / "src"
            taken[name].append(process(source, settings, jobs))
    print(f"## {'1 job, 1 thread' if jobs else 'default jobs'}\n")
    print("| | CPU | wall | CPU over the first | wall over the first |\n|---|--:|--:|--:|--:|")
    found = {name: [spread(list(x)) for x in zip(*t, strict=True)] for name, t in taken.items()}
    first = next(iter(found.values()))
    for name, both in found.items():
        cells = [f"{x['median']:.2f} ({x['min']:.2f} to {x['max']:.2f})" for x in both]
        cells += [f"{x['median'] / y['median']:.2f}" for x, y in zip(both, first, strict=True)]
        print(f"| {name} | " + " | ".join(cells) + " |")
    print(flush=True)


def process(source: Path, settings: dict[str, Any], jobs: int) -> tuple[float, float]:
    """CPU and wall seconds of one analysis in a process of its own."""
    threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"} if jobs else {}
    done = subprocess.run(
        [sys.executable, str(HERE), "--one", json.dumps(settings), "--jobs", str(jobs)],
        env={**os.environ, **threads, "PYTHONPATH": str(source), "HF_HUB_OFFLINE": "1"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    cpu, wall = json.loads(done.stdout)
    return cpu, wall


def one(settings: dict[str, Any], jobs: int | None) -> tuple[float, float]:
    import contenders

    import frog

    folder, run = contenders.minilm_folder(), frog.Run(jobs=jobs, cache=None)
    frog.analyze(folder, frog.Settings(**settings), run=run)
    cpu, wall = time.process_time(), time.perf_counter()
    frog.analyze(folder, frog.Settings(**settings), run=run)
    return time.process_time() - cpu, time.perf_counter() - wall


if __name__ == "__main__":
    main()
