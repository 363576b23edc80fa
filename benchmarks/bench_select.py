"""What selecting costs: one large matrix, and a checkpoint of the shapes of an 8B model.

    PYTHONPATH=src python benchmarks/bench_select.py > benchmarks/results/select_....md
    PYTHONPATH=src python benchmarks/bench_select.py --blocks 1    # fewer blocks of the model

The matrix is 11008 x 4096, float32, random with rows of unequal size; 1 % of it is selected by S_ij
over 64 components. Every round is a process of its own, with one thread. The checkpoint has the
matrices of that many of the 32 blocks, in bfloat16; what the whole takes is 32 blocks' worth.
Memory is the growth of the peak resident size over that before the work, the matrix included where
it is loaded by the work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import heading, load_average, spread

BLOCK = {
    "self_attn.q_proj": (4096, 4096), "self_attn.k_proj": (1024, 4096),
    "self_attn.v_proj": (1024, 4096), "self_attn.o_proj": (4096, 4096),
    "mlp.gate_proj": (14336, 4096), "mlp.up_proj": (14336, 4096), "mlp.down_proj": (4096, 14336),
}  # fmt: skip
WHOLE = 32
SCORES = ("random", "magnitude", "lowrank", "relevance-lowrank")


def peak() -> float:
    """Peak resident size of this process, MB; ru_maxrss would have that of its parent too."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def one_matrix() -> dict[str, float]:
    """CPU seconds and memory of one selection."""
    import torch

    from frog.numerics.relevance import factors, relevance
    from frog.numerics.topk import top_k

    torch.set_num_threads(1)
    draw = np.random.default_rng(0)
    weight = draw.standard_normal((11008, 4096), dtype=np.float32)
    weight *= np.exp(0.3 * draw.standard_normal((11008, 1))).astype(np.float32)
    factors(weight[:256], 8)  # what the first call of a library costs is not ours
    before, start, wall = peak(), time.process_time(), time.perf_counter()
    chosen = top_k(relevance(factors(weight, 64)), weight.size // 100)
    assert len(chosen) == weight.size // 100
    return {
        "cpu": time.process_time() - start,
        "wall": time.perf_counter() - wall,
        "growth": peak() - before,
        "matrix": weight.nbytes / 2**20,
    }


def checkpoint(folder: str, score: str) -> dict[str, float]:
    """CPU seconds and memory of a selection over a checkpoint."""
    import torch

    import frog
    from frog.types import Allotment, Budget, Plan

    torch.set_num_threads(1)
    rows = [
        Allotment(name=x.name, role=x.role, block=x.block, shape=x.shape, params=x.params,
                  count=x.params // 100)
        for x in frog.inspect(folder).matrices
    ]  # fmt: skip
    plan = Plan(path=folder, digest="", rule="uniform", budget=Budget(share=0.01),
                layers=tuple(rows))  # fmt: skip
    before, start = peak(), time.process_time()
    chosen = frog.select(folder, plan, score=score)
    return {
        "cpu": time.process_time() - start,
        "growth": peak() - before,
        "count": chosen.count,
    }


def write_checkpoint(folder: str, blocks: int) -> None:
    """Random bfloat16 matrices, a shard a block."""
    import torch
    from safetensors.torch import save_file

    torch.manual_seed(0)
    names = {}
    for block in range(blocks):
        file = f"model-{block + 1:05d}-of-{blocks:05d}.safetensors"
        tensors = {
            f"model.layers.{block}.{part}.weight": 0.02 * torch.randn(shape).bfloat16()
            for part, shape in BLOCK.items()
        }
        save_file(tensors, Path(folder) / file)
        names |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": names}
    (Path(folder) / "model.safetensors.index.json").write_text(json.dumps(index))


def apart(*words: str) -> dict[str, float]:
    """The result of this script in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--one", *words], capture_output=True, text=True, check=True
    )
    return json.loads(done.stdout)


def told(values: list[float]) -> str:
    """Median, smallest to largest."""
    found = spread(values)
    return f"{found['median']:.2f} ({found['min']:.2f} to {found['max']:.2f})"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--one", nargs="+")
    parser.add_argument("--blocks", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    if asked.one:
        print(json.dumps(one_matrix() if asked.one[0] == "matrix" else checkpoint(*asked.one[1:])))
        return
    load = f"load {load_average()} at the start"
    print(heading("What selecting costs", load, about=__doc__))
    rounds = [apart("matrix") for _ in range(asked.rounds)]
    print("## 1 % of one 11008 x 4096 matrix by S_ij of rank 64\n")
    print(f"CPU seconds {told([x['cpu'] for x in rounds])}, wall "
          f"{told([x['wall'] for x in rounds])}; growth of the peak "
          f"{max(x['growth'] for x in rounds):.0f} MB beside a matrix of "
          f"{rounds[0]['matrix']:.0f} MB.\n")  # fmt: skip
    print(f"## A checkpoint of {asked.blocks} blocks of an 8B model, 1 %, streamed\n")
    print("| score | chosen | CPU s | growth of the peak, MB | CPU s for 32 blocks |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        write_checkpoint(folder, asked.blocks)
        for score in SCORES:
            found = apart("checkpoint", folder, score)
            print(f"| {score} | {found['count']:,.0f} | {found['cpu']:.1f} | {found['growth']:.0f} "
                  f"| {found['cpu'] * WHOLE / asked.blocks:.0f} |", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
