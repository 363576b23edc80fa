"""``frog analyze`` against WeightWatcher 0.7.7: time and memory for the same columns.

    python benchmarks/bench_analyze.py                      # everything, about 15 minutes
    python benchmarks/bench_analyze.py --only minilm,fit    # these sections; others stay as stored

Results go to benchmarks/results/analyze_<hardware>_<month>.json and .md. How it measures:
benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any

import contenders
import numpy as np
from analyze_report import as_markdown, as_text
from measuring import RESULTS, Store, blas_threads, gemm_peak, interleaved, load_average, silence

WW = "weightwatcher"
LAYERS = {  # shape: (target exact, target fast, rounds at one thread, at default threads)
    (384, 384): (None, None, 9, 2),
    (1536, 384): (3.0, 5.0, 9, 2),
    (1024, 1024): (2.0, None, 5, 1),
    (768, 3072): (3.0, 5.0, 5, 1),
    (3584, 1024): (3.0, 5.0, 5, 1),
    (4096, 4096): (4.0, 7.0, 1, 0),
}
LIMIT_FROM = 1500  # below this small side the float32 limit is no measure: all is overhead
BLOCK = {
    "q_proj": (4096, 4096), "k_proj": (1024, 4096), "v_proj": (1024, 4096),
    "o_proj": (4096, 4096), "gate_proj": (14336, 4096), "up_proj": (14336, 4096),
    "down_proj": (4096, 14336),
}  # fmt: skip
EMBEDDING = {"embed_tokens": (128256, 4096)}
MIB_PER_GIB = 1024


# ------------------------------------------------------------------------------ sections


def minilm() -> dict[str, Any]:
    """Whole MiniLM, the same live model for both tools; for FROG also the folder."""
    model, folder = contenders.minilm(), contenders.minilm_folder()
    rows = []
    for threads, jobs in ((1, 1), (None, None)):
        with blas_threads(threads):
            found = interleaved({
                WW: contenders.weightwatcher_on(model),
                "frog exact": contenders.frog_on(model, jobs=jobs),
                "frog fast": contenders.frog_on(model, jobs=jobs, precision="fast"),
                "frog exact, file": contenders.frog_on(folder, jobs=jobs),
            }, rounds=7 if threads == 1 else 2)  # fmt: skip
        targets = {"frog exact": 4.0, "frog exact, file": 4.0, "frog fast": 4.0}
        rows += compare(f"MiniLM, {mode(threads)}", found, targets)
    return {"rows": rows}


def layers() -> dict[str, Any]:
    """Single linear layers with heavy-tailed weights."""
    peak = {dtype: gemm_peak(dtype) for dtype in ("float32", "float64")}
    rows = []
    for (m, n), (exact, fast, *rounds) in LAYERS.items():
        model = contenders.one_linear(m, n)
        r, large = min(m, n), max(m, n)
        limit = (large * r**2 + 4 / 3 * r**3) / peak["float32"] / 1e9
        for threads, count in zip((1, None), rounds, strict=True):
            if not count:  # minutes of waiting threads, for a ratio that only tells of the load
                continue
            jobs = threads  # a single layer: what a caller would get
            with blas_threads(threads):
                found = interleaved({
                    WW: contenders.weightwatcher_on(model),
                    "frog exact": contenders.frog_on(model, jobs=jobs),
                    "frog fast": contenders.frog_on(model, jobs=jobs, precision="fast"),
                }, rounds=count)  # fmt: skip
            targets = {"frog exact": exact, "frog fast": fast}
            new = compare(f"Linear {m}x{n}, {mode(threads)}", found, targets)
            if threads == 1 and r >= LIMIT_FROM:
                for row in new:
                    row["of_limit"] = row["cpu"]["median"] / limit
                    row["limit_target"] = 2.0 if row["tool"] == "frog fast" else None
            rows += new
            say(as_text({"rows": new}))
    return {"rows": rows, "peak_gflops": peak}


def fit() -> dict[str, Any]:
    """The power-law fit alone, on given eigenvalues."""
    import frog
    from frog.numerics.powerlaw import fit_power_law, fit_weightwatcher

    with silence():
        from weightwatcher.WW_powerlaw import WWFit
    settings = frog.Settings(bootstrap=0, curves=False, save_spectra=True)
    report = frog.analyze(contenders.minilm_folder(), settings, run=frog.Run(cache=None))
    rng = np.random.default_rng(contenders.SEED)
    samples = {
        "all 39 MiniLM spectra": [np.square(x.spectrum) for x in report.measured],
        "n = 4096, like a spectrum": [rng.lognormal(-1.0, 1.0, 4096)],
        "n = 4096, Pareto (worst case)": [rng.pareto(2.5, 4096) + 1.0],
    }
    targets = {"frog, the same outputs": 15.0}
    rows, notes = [], []
    with blas_threads(1):
        for name, values in samples.items():
            kept = [np.ascontiguousarray(x[x > 1e-5]) for x in values]
            found = interleaved({
                WW: over(kept, WWFit),
                "frog, the same outputs": over(kept, partial(fit_weightwatcher, extras=False)),
                "frog, with the band": over(kept, fit_power_law),
            }, rounds=9)  # fmt: skip
            rows += compare(name, found, {} if "worst" in name else targets)
            with silence():
                gap = max(abs(WWFit(x).alpha - fit_weightwatcher(x).alpha) for x in kept)
            notes.append(f"{name}: largest difference of alpha from WWFit {gap:.0e}")
    return {"rows": rows, "notes": notes}


def block() -> dict[str, Any]:
    """One block of the shape of Llama-3-8B, seven bfloat16 matrices in a file."""
    return in_a_file(BLOCK, "one block, 436 MB", with_weightwatcher=True)


def embedding() -> dict[str, Any]:
    """An embedding of 128256 x 4096 in bfloat16; WeightWatcher leaves out such long matrices."""
    return in_a_file(EMBEDDING, "embedding, 1.05 GB", with_weightwatcher=False)


def cold() -> dict[str, Any]:
    """Processes from nothing to a table, imports included."""
    folder = str(contenders.minilm_folder())
    frog = [sys.executable, "-m", "frog", "analyze", folder, "--no-cache"]
    script = (
        "import logging; logging.disable(50); import torch, weightwatcher; "
        "from transformers import AutoModel; "
        f"m = AutoModel.from_pretrained({folder!r}, dtype=torch.float32); "
        "print(weightwatcher.WeightWatcher(model=m).analyze())"
    )
    found = interleaved({
        WW: process([sys.executable, "-c", script]),
        "frog exact": process(frog),
        "frog fast": process([*frog, "--precision", "fast"]),
    }, rounds=3)  # fmt: skip
    for times in found.values():
        times.pop("cpu")  # of the children, which this process does not see
    return {"rows": compare("cold start, MiniLM, default threads", found, {})}


SECTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "minilm": minilm, "layers": layers, "fit": fit, "block": block, "embedding": embedding,
    "cold": cold,
}  # fmt: skip


# ----------------------------------------------------------------------------- machinery


def compare(case: str, found: dict[str, Any], targets: dict[str, float | None]) -> list[Any]:
    """One row per tool, with how many times faster than WeightWatcher it was."""
    rows = []
    for tool, times in found.items():
        row = {"case": case, "tool": tool, **times, "target": targets.get(tool)}
        for clock in ("cpu", "wall"):
            if tool != WW and WW in found and clock in times:
                row[f"{clock}_ratio"] = found[WW][clock]["median"] / times[clock]["median"]
        rows.append(row)
    return rows


def mode(threads: int | None) -> str:
    return "one thread" if threads == 1 else "default threads"


def over(samples: Iterable[np.ndarray], fitted: Callable[[np.ndarray], Any]) -> Callable[[], Any]:
    def run() -> None:
        with silence():  # WWFit remarks on small samples
            for x in samples:
                fitted(x)

    return run


def process(line: list[str]) -> Callable[[], Any]:
    return lambda: subprocess.run(line, check=True, capture_output=True)


def in_a_file(shapes: dict[str, tuple[int, int]], case: str, *, with_weightwatcher: bool) -> Any:
    """Write the matrices to a temporary file and measure it, one process per tool."""
    runs = {
        "frog exact, 2 workers": ["frog", "--jobs", "2"],
        "frog fast, 2 workers": ["frog", "--jobs", "2", "--precision", "fast"],
    }
    if with_weightwatcher:
        runs = {
            f"{WW}, one thread": [WW],
            "frog exact, one thread": ["frog"],
            "frog fast, one thread": ["frog", "--precision", "fast"],
            **runs,
        }
    found, notes = {}, []
    with tempfile.TemporaryDirectory() as folder:
        path = write_matrices(shapes, Path(folder) / "model.safetensors")
        for name, words in runs.items():
            one = "one thread" in name
            got = probe([words[0], str(path), *words[1:]], one_thread=one)
            if isinstance(got, str):
                notes.append(f"{name}: {got}")
                continue
            times = {clock: dict.fromkeys(("median", "min", "max"), got[clock])
                     for clock in ("cpu", "wall")}  # fmt: skip
            found[name] = {**times, "rounds": 1, "memory": got}
            say(name, json.dumps(got))
    rows = [{"case": case, "tool": tool, **times} for tool, times in found.items()]
    base = found.get(f"{WW}, one thread")
    for row in rows:
        if row["tool"].startswith("frog"):
            row["memory_target_mib"] = MIB_PER_GIB
            if base:
                row["cpu_ratio"] = base["cpu"]["median"] / row["cpu"]["median"]
                row["wall_ratio"] = base["wall"]["median"] / row["wall"]["median"]
    return {"rows": rows, "notes": notes}


def probe(words: list[str], *, one_thread: bool) -> dict[str, Any] | str:
    """What ``memory_probe.py`` says, or why it says nothing."""
    threads = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
    environment = {**os.environ, **(dict.fromkeys(threads, "1") if one_thread else {})}
    limit = float(os.environ.get("FROG_BENCH_LIMIT", "1800"))
    line = [sys.executable, str(Path(__file__).with_name("memory_probe.py")), *words]
    try:
        done = subprocess.run(
            line, env=environment, capture_output=True, text=True, timeout=limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:.0f} s"
    if done.returncode:
        return f"failed: {done.stderr.strip().splitlines()[-1]}"
    return json.loads(done.stdout.strip().splitlines()[-1])


def write_matrices(
    shapes: dict[str, tuple[int, int]], path: Path, rows_at_once: int = 1024
) -> Path:
    """Write heavy-tailed bfloat16 matrices row block by row block: memory stays small."""
    import torch

    header, at = {}, 0
    for name, (m, n) in shapes.items():
        header[f"model.layers.0.{name}.weight"] = {
            "dtype": "BF16", "shape": [m, n], "data_offsets": [at, at + 2 * m * n],
        }  # fmt: skip
        at += 2 * m * n
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    rng = np.random.default_rng(contenders.SEED)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for m, n in shapes.values():
            for start in range(0, m, rows_at_once):
                rows = contenders.heavy_tailed(min(rows_at_once, m - start), n, rng)
                file.write(torch.from_numpy(rows).bfloat16().view(torch.uint8).numpy().data)
    return path


def say(*words: object) -> None:
    print(*words, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", help=f"sections, comma-separated, of {','.join(SECTIONS)}")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder of the results")
    parser.add_argument("--hardware", help="name of this machine in the file name")
    arguments = parser.parse_args()
    wanted = arguments.only.split(",") if arguments.only else list(SECTIONS)
    if unknown := set(wanted) - set(SECTIONS):
        parser.error(f"no section {', '.join(sorted(unknown))}: there are {', '.join(SECTIONS)}")
    warnings.filterwarnings("ignore")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    contenders.load_all()
    store = Store("analyze", arguments.out, arguments.hardware)
    for name in wanted:
        started, load = time.perf_counter(), load_average()
        found = SECTIONS[name]()
        loads = {"load_before": load, "load_after": load_average()}
        store.keep(name, {**found, **loads, "took": round(time.perf_counter() - started)})
        say(f"\n== {name}\n{as_text(found)}")
    store.path.with_suffix(".md").write_text(as_markdown(store.data))
    say(f"\n{store.path.with_suffix('.md').name} written")


if __name__ == "__main__":
    main()
