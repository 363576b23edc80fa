"""Memory and time of one training step: FROG's granularities against what others do.

    PYTHONPATH=src python benchmarks/bench_tune.py > benchmarks/results/tune_....md
    PYTHONPATH=src python benchmarks/bench_tune.py --tokens 64 512
    PYTHONPATH=src python benchmarks/bench_tune.py --quick    # two rounds of 512 tokens

A stack of 2048 x 2048 linear layers with ReLU, float32, whose input wants a gradient as inside a
network; about 1 % of the weights train (LoRA: rank 16, 1.6 %). Memory: the peak of all that torch
allocates, from making the model through three steps, above that of the frozen stack, which
computes the gradient of its input only; exact and repeatable. Time: CPU seconds and wall seconds
of a step, all variants interleaved in every round, as ratios within a round; median and range.
"""

from __future__ import annotations

import argparse
import gc
import io
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import peft
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

sys.path.insert(0, str(Path(__file__).parent))

from measuring import command, load_average, machine

from frog.numerics.units import unit_count, unit_sizes
from frog.tuning import Tuner
from frog.types import Allotment, Budget, Chosen, Plan, Selection

WIDTH, LAYERS, SHARE = 2048, 3, 0.01
ROUNDS, STEPS = 5, 3
BLOCK = (16, 16)
warnings.filterwarnings("ignore")


class Stack(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def selection(model: nn.Module, granularity: str) -> Selection:
    """A random 1 % of every matrix."""
    import frog

    draw = np.random.default_rng(0)
    size = BLOCK if granularity == "block" else (1, 1)
    chosen, rows = [], []
    for matrix in frog.inspect(model).matrices:
        units = unit_count(matrix.shape, granularity, size)
        index = np.sort(draw.choice(units, round(SHARE * units), replace=False))
        held = int(unit_sizes(index, matrix.shape, granularity, size).sum())
        chosen.append(Chosen(
            name=matrix.name, shape=matrix.shape, dtype=matrix.dtype, granularity=granularity,
            index=index, count=held, block_size=size,
        ))  # fmt: skip
        rows.append(Allotment(name=matrix.name, role="", block=None, shape=matrix.shape,
                              params=matrix.params, count=held))  # fmt: skip
    plan = Plan(path="", digest="", rule="uniform", budget=Budget(share=SHARE), layers=tuple(rows))
    return Selection(
        path="", plan=plan, score="random", granularity=granularity, chosen=tuple(chosen)
    )


def frozen(model: nn.Module) -> tuple[nn.Module, list]:
    """The floor: forward, and the gradient of the input."""
    return model.requires_grad_(False), []


def full(model: nn.Module) -> tuple[nn.Module, list]:
    """All weights."""
    return model, list(model.parameters())


def chosen(granularity: str) -> Callable[[nn.Module], tuple[nn.Module, list]]:
    """FROG with one granularity."""

    def make(model: nn.Module) -> tuple[nn.Module, list]:
        tuner = Tuner(model, selection(model, granularity))
        return model, [compact.change for compact in tuner.compacts]

    return make


def peft_method(config: Callable[[], Any]) -> Callable[[nn.Module], tuple[nn.Module, list]]:
    """A method of peft."""

    def make(model: nn.Module) -> tuple[nn.Module, list]:
        made = peft.get_peft_model(model, config())
        return made, [x for x in made.parameters() if x.requires_grad]

    return make


TARGETS = [f"layers.{i}" for i in range(LAYERS)]
VARIANTS: dict[str, Callable[[nn.Module], tuple[nn.Module, list]]] = {
    "frozen (floor)": frozen,
    "full AdamW": full,
    "LoRA r=16 (peft)": peft_method(lambda: peft.LoraConfig(r=16, target_modules=TARGETS)),
    "SHiRA r=10 (peft)": peft_method(lambda: peft.ShiraConfig(r=10, target_modules=TARGETS)),
    "Super-Tuning 0.99 (peft)": peft_method(
        lambda: peft.SupertuningConfig(sparsity=0.99, target_modules=TARGETS)
    ),
    "FROG elements": chosen("element"),
    "FROG rows": chosen("row"),
    "FROG columns": chosen("column"),
    "FROG blocks 16 x 16": chosen("block"),
}


class Bench:
    """One variant, ready to step."""

    def __init__(self, make: Callable[[nn.Module], tuple[nn.Module, list]], tokens: int) -> None:
        torch.manual_seed(0)
        self.model, self.trained = make(Stack())
        self.optimizer = torch.optim.AdamW(self.trained, lr=1e-4) if self.trained else None
        self.x = torch.randn(tokens, WIDTH, requires_grad=True)

    def step(self) -> None:
        """Forward, backward, update."""
        self.model(self.x).square().mean().backward()
        self.x.grad = None
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


def peak_of(make: Callable[[nn.Module], tuple[nn.Module, list]], tokens: int) -> float:
    """Peak in MB of all that torch allocates: the model, what trains beside it, three steps."""
    gc.collect()
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        bench = Bench(make, tokens)
        for _ in range(3):
            bench.step()
    events = [
        (event.start_ns(), event.nbytes())
        for event in seen.profiler.kineto_results.events()
        if event.name() == "[memory]"
    ]
    now = peak = 0
    for _, size in sorted(events, key=lambda x: x[0]):
        now += size
        peak = max(peak, now)
    return peak / 2**20


def timed(bench: Bench) -> tuple[float, float]:
    """CPU and wall seconds of a step."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(STEPS):
        bench.step()
    return (time.process_time() - cpu) / STEPS, (time.perf_counter() - wall) / STEPS


def measure(tokens: int, rounds: int) -> list[str]:
    """The rows of one table."""
    peaks = {name: peak_of(make, tokens) for name, make in VARIANTS.items()}
    floor, whole = peaks["frozen (floor)"], peaks["full AdamW"]
    benches = {name: Bench(make, tokens) for name, make in VARIANTS.items()}
    for bench in benches.values():
        bench.step()
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in VARIANTS}
    for _ in range(rounds):
        for name, bench in benches.items():
            seconds[name].append(timed(bench))
    lines = [
        f"\n### {tokens} tokens\n",
        "| variant | trainable | extra MB | extra vs full | CPU ms | CPU vs full | wall vs full "
        "| CPU vs LoRA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name in VARIANTS:
        count = sum(x.numel() for x in benches[name].trained)
        extra = peaks[name] - floor
        lines.append(
            f"| {name} | {count:,} | {extra:.1f} | {extra / (whole - floor):.3f} "
            f"| {1e3 * statistics.median(x[0] for x in seconds[name]):.0f} "
            f"| {ratio(seconds, name, 'full AdamW', 0)} | {ratio(seconds, name, 'full AdamW', 1)} "
            f"| {ratio(seconds, name, 'LoRA r=16 (peft)', 0)} |"
        )
    return lines


def ratio(seconds: dict, name: str, to: str, which: int) -> str:
    """Median of the ratios within rounds, and their range."""
    pairs = zip(seconds[name], seconds[to], strict=True)
    ratios = sorted(a[which] / b[which] for a, b in pairs)
    return f"{statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}]"


def optimizer_files() -> list[str]:
    """Bytes of the saved optimizer against the selected count."""
    lines = ["\n### Optimizer file\n", "| variant | trainable | bytes | bytes per weight |",
             "|---|---|---|---|"]  # fmt: skip
    for name in ("full AdamW", "LoRA r=16 (peft)", "FROG elements", "FROG columns"):
        bench = Bench(VARIANTS[name], 64)
        if name.startswith("FROG"):  # with the tuner's own state, as tuner.optimizer() saves it
            bench.model.__dict__["_frog_tuner"].tuner.meet(bench.optimizer)
        bench.step()
        sink = io.BytesIO()
        torch.save(bench.optimizer.state_dict(), sink)
        count, size = sum(x.numel() for x in bench.trained), sink.tell()
        lines.append(f"| {name} | {count:,} | {size:,} | {size / count:.1f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="+", default=[64, 512, 4096])
    asked = parser.parse_args()
    torch.set_num_threads(os.cpu_count() or 1)
    facts = machine()
    print("# One training step: memory and time\n")
    print(f"{facts['cpu']}, {facts['cores']} cores, load {load_average()} at the start; "
          f"{facts['versions']}; peft {peft.__version__}; November 2026.\n")  # fmt: skip
    print(f"Made by `PYTHONPATH=src {command()}`.\n\n{(__doc__ or '').split(chr(10) * 2, 2)[2]}")
    for tokens in (512,) if asked.quick else asked.tokens:
        rounds = 2 if asked.quick else (ROUNDS if tokens < 4096 else 3)
        print("\n".join(measure(tokens, rounds)), flush=True)
    if not asked.quick:
        print("\n".join(optimizer_files()))


if __name__ == "__main__":
    main()
