"""What guided noise costs, and what it buys.

    PYTHONPATH=src:. python benchmarks/bench_noise.py > benchmarks/results/noise_....md
    PYTHONPATH=src:. python benchmarks/bench_noise.py --only cost
    PYTHONPATH=src:. python benchmarks/bench_noise.py --only bought --seeds 2

Cost: one training step (forward, backward, AdamW) with and without noise, one BLAS thread, CPU
seconds, all variants interleaved in every round, as ratios within a round to the same selection
without noise: median and range. Memory: the peak of all that torch allocates in three steps,
above that without noise.
Bought: ResNet20 of CIFAR-10 tuned on photographs of hand signs, 1 % of the convolutions at random
and a new head, 72 steps of 64 (as in the pilot); noise against none at equal seed (selection,
head, order of the batches). Accuracy on 500 test images; forgetting: accuracy on 1,000 CIFAR-10
test images with the old head (91.5 at the start); after rounding all convolutions to nearest, one
symmetric step for each output channel. Differences are paired by seed: mean and standard error.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

import frog
from benchmarks.measuring import allocator_peak, heading, load_average
from benchmarks.random_choice import random_choice
from benchmarks.tasks import cifar_resnet, cifar_test, minilm_folder, sign_images
from frog.tuning import Tuner
from frog.tuning.noise.guide import guide_of
from frog.tuning.noise.layers import NoisyLinear, Numbers, Part
from frog.tuning.noise.spread import Spread
from frog.types import Selection

WIDTH, LAYERS, SHARE, TOKENS, SEQUENCES = 2048, 3, 0.01, 512, 4
ROUNDS, STEPS = 5, 2
warnings.filterwarnings("ignore")


def selection(model: nn.Module, granularity: str, *, include: str = "", seed: int = 0) -> Selection:
    """A random 1 % of every matrix whose name holds ``include``."""
    return random_choice(model, SHARE, granularity, lambda name: include in name, seed=seed)


# --------------------------------------------------------------------------------- cost


class Stack(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def stack() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """Three layers of 2048 x 2048, 4 sequences of 128 tokens; the input wants a gradient."""
    x = torch.randn(SEQUENCES, TOKENS // SEQUENCES, WIDTH, requires_grad=True)
    return Stack(), lambda model: model(x).square().mean()


def minilm() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """all-MiniLM-L6-v2, 16 sentences of 64 tokens, mean pooling, no dropout."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(
        minilm_folder(),
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    ids = torch.randint(1000, 20000, (16, 64))
    return model, lambda model: model(input_ids=ids).last_hidden_state.mean(1).square().mean()


def resnet() -> tuple[nn.Module, Callable[[nn.Module], Tensor]]:
    """ResNet20, 64 images of 32 x 32."""
    model = cifar_resnet()
    x, y = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
    return model, lambda model: functional.cross_entropy(model(x), y)


class Bench:
    """One variant, ready to step."""

    def __init__(self, make: Callable, granularity: str, include: str, draw: str | None) -> None:
        torch.manual_seed(0)
        self.model, self.loss = make()
        noise = draw and frog.Noise.guided(0.01, schedule="constant", draw=draw, guide="even")
        chosen = selection(self.model, granularity, include=include)
        self.tuner = Tuner(self.model, chosen, noise=noise or None)
        self.optimizer = torch.optim.AdamW([x.change for x in self.tuner.compacts], lr=1e-5)
        self.model.train()

    def step(self) -> None:
        """Forward, backward, update."""
        self.loss(self.model).backward()
        self.optimizer.step()
        self.optimizer.zero_grad()

    def timed(self) -> float:
        """CPU seconds of a step."""
        start = time.process_time()
        for _ in range(STEPS):
            self.step()
        return (time.process_time() - start) / STEPS


def peak_of(bench: Bench) -> float:
    """Peak in MB of what torch allocates above the start of three steps."""
    with allocator_peak() as peak:
        for _ in range(3):
            bench.step()
    return peak()


def cost() -> None:
    """The tables of time and memory."""
    print("\n## Cost of a step\n")
    print("| model | granularity | noise | CPU ms | CPU vs without | extra MB |")
    print("|---|---|---|--:|--:|--:|")
    subjects: list[tuple[Callable, str, tuple[str, ...]]] = [
        (stack, "", ("element", "row", "column", "block")),
        (minilm, "encoder", ("element", "column")),
        (resnet, "layer", ("element", "column")),
    ]
    for make, include, granularities in subjects:
        for granularity in granularities:
            benches = {
                draw: Bench(make, granularity, include, draw)
                for draw in (None, "token", "sequence")
            }
            for bench in benches.values():
                bench.step()
            peaks = {draw: peak_of(bench) for draw, bench in benches.items()}
            taken: dict[str | None, list[float]] = {draw: [] for draw in benches}
            for _ in range(ROUNDS):
                for draw, bench in benches.items():
                    taken[draw].append(bench.timed())
            for draw in benches:
                ratios = sorted(a / b for a, b in zip(taken[draw], taken[None], strict=True))
                print(
                    f"| {make.__name__} | {granularity} | {draw or 'none'} "
                    f"| {1e3 * statistics.median(taken[draw]):.0f} "
                    f"| {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] "
                    f"| {peaks[draw] - peaks[None]:.1f} |",
                    flush=True,
                )
    for make, *_ in subjects:
        print(f"\n{make.__name__}: {(make.__doc__ or '').strip()}", end="")
    start = time.process_time()
    guide_of("relevance", np.random.default_rng(0).standard_normal((WIDTH, WIDTH), np.float32))
    spent = time.process_time() - start
    print("\n\nThe guide does not change the cost of a step (here: even). Once, when the tuner is")
    print(f"made, the relevance guide of a matrix of 2048 x 2048 takes {spent:.1f} CPU seconds.\n")


def by_factor(x: Tensor, spread: Spread, numbers: Numbers) -> Tensor:
    """The other exact way to one draw for each sequence: a factor of the Gram matrix of tokens.

    y_i = L z_i with L L^T = (x b)(x b)^T: T^2 (n + m) per sequence in place of T m n, but only
    where all outputs have the same free columns.
    """
    scaled = (x * spread.b).double()
    gram = scaled @ scaled.mT
    factor = torch.linalg.cholesky(
        gram + 1e-9 * gram.diagonal(dim1=1, dim2=2).mean(1)[:, None, None] * torch.eye(x.shape[1])
    ).to(x.dtype)
    return (factor @ numbers.normal(*x.shape[:2], len(spread.a))).mul_(spread.a)


def ways() -> None:
    """Slabs of the weight's noise against the factor of the Gram matrix."""
    print("## One draw for each sequence: which way\n")
    print("Forward only, one layer of 2048 x 2048, CPU ms, median of 5; what selects whole rows or")
    print("columns can use a factor of the Gram matrix of the tokens, elements and blocks cannot:")
    print("their outputs differ in which columns are free.\n")
    print("| sequences x tokens | the layer itself | per token | slabs (used) | Gram factor |")
    print("|---|--:|--:|--:|--:|")
    spread = Spread(torch.ones(WIDTH), torch.ones(WIDTH))
    weight = torch.randn(WIDTH, WIDTH)
    for sequences, tokens in ((1, 64), (1, 512), (8, 64), (4, 128), (2, 512), (1, 2048)):
        x = torch.randn(sequences, tokens, WIDTH)
        runs: list[Callable[[], Any]] = [
            lambda x=x: x @ weight.T,
            lambda x=x: NoisyLinear([Part(spread)], WIDTH, "token").noise(x, Numbers(1, x)),
            lambda x=x: NoisyLinear([Part(spread)], WIDTH, "sequence").noise(x, Numbers(1, x)),
            lambda x=x: by_factor(x, spread, Numbers(1, x)),
        ]
        taken: list[list[float]] = [[] for _ in runs]
        for _ in range(5):
            for run, times in zip(runs, taken, strict=True):
                start = time.process_time()
                run()
                times.append(1e3 * (time.process_time() - start))
        cells = " | ".join(f"{statistics.median(times):.0f}" for times in taken)
        print(f"| {sequences} x {tokens} | {cells} |", flush=True)
    print()


# ------------------------------------------------------------------------------- bought

BOUGHT: dict[str, dict[str, Any] | None] = {
    "none": None,
    "0.01 token": {"nu": 0.01},
    "0.03 token": {"nu": 0.03},
    "0.03 sequence": {"nu": 0.03, "draw": "sequence"},
}
EPOCHS, BATCH, LR, HEAD_LR = 3, 64, 1.5e-2, 1e-2
MEASURED = ("signs", "CIFAR-10", "signs int8", "signs int4", "CIFAR-10 int4")


def tuned(noise: dict[str, Any] | None, seed: int, data: Any, old: Any) -> dict[str, float]:
    """One run; accuracies in percent."""
    torch.manual_seed(seed)
    x, y, x_test, y_test = data
    model = cifar_resnet()
    head = nn.Linear(64, 10)
    former, model.linear = model.linear, head
    total = EPOCHS * -(-len(x) // BATCH)
    setting = noise and frog.Noise.guided(**noise, steps=total, seed=seed)
    chosen = selection(model, "element", include="layer", seed=seed)
    tuner = Tuner(model, chosen, also=["linear"], noise=setting or None)
    optimizer = tuner.optimizer(lr=LR, also_lr=HEAD_LR, weight_decay=0.0)
    rise = max(1, total // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min((step + 1) / rise, (total - step) / (total - rise))
    )
    order = torch.Generator().manual_seed(seed)
    model.train()
    for _ in range(EPOCHS):
        for part in torch.randperm(len(x), generator=order).split(BATCH):
            functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
            optimizer.zero_grad()
            schedule.step()
    tuner.keep()
    model.eval()

    def accuracy(which: nn.Linear, x: Tensor, y: Tensor) -> float:
        model.linear = which
        with torch.no_grad():
            found = torch.cat([model(part).argmax(1) for part in x.split(250)])
        return 100 * float((found == y).float().mean())

    kept = {"signs": accuracy(head, x_test, y_test), "CIFAR-10": accuracy(former, *old)}
    whole = {k: v.clone() for k, v in model.state_dict().items() if not k.startswith("linear")}
    for name in (8, 4):
        rounded(model, name)
        kept[f"signs int{name}"] = accuracy(head, x_test, y_test)
        if name == 4:
            kept["CIFAR-10 int4"] = accuracy(former, *old)
        model.load_state_dict(whole, strict=False)
    return kept


def rounded(model: nn.Module, bits: int) -> None:
    """Round all convolutions to nearest, one symmetric step for each output channel."""
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            weight = module.weight.data
            top = weight.flatten(1).abs().amax(1).view(-1, 1, 1, 1)
            step = torch.where(top > 0, top, 1.0) / (2 ** (bits - 1) - 1)
            module.weight.data = (weight / step).round() * step


def bought(seeds: int) -> None:
    """The table of the experiment."""
    data, old = sign_images(), cifar_test(1000)
    start = time.process_time()
    found: dict[str, list[dict[str, float]]] = {name: [] for name in BOUGHT}
    for seed in range(seeds):
        for name, noise in BOUGHT.items():
            found[name].append(tuned(noise, seed, data, old))
    print(f"## What it buys\n\n{seeds} seeds, accuracy in percent: mean ± standard deviation over")
    print("seeds; in brackets the paired difference to no noise ± its standard error.\n")
    print("| noise | " + " | ".join(MEASURED) + " |\n|---|" + "--:|" * len(MEASURED))
    for name, runs in found.items():
        cells = []
        for key in MEASURED:
            values = [run[key] for run in runs]
            cell = f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
            if name != "none":
                pairs = [a[key] - b[key] for a, b in zip(runs, found["none"], strict=True)]
                error = statistics.stdev(pairs) / len(pairs) ** 0.5
                cell += f" ({statistics.mean(pairs):+.1f} ± {error:.1f})"
            cells.append(cell)
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    print(f"\n{time.process_time() - start:.0f} CPU seconds.\n")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=("cost", "ways", "bought"))
    parser.add_argument("--seeds", type=int, default=4)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    load = f"load {load_average()} at the start"
    print(heading("Guided noise: what it costs and what it buys", load, about=__doc__))
    if asked.only in (None, "cost"):
        cost()
    if asked.only in (None, "ways"):
        ways()
    if asked.only in (None, "bought"):
        bought(asked.seeds)


if __name__ == "__main__":
    main()
