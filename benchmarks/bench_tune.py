"""Memory and time of one training step: FROG's granularities against what others do.

    PYTHONPATH=src python benchmarks/bench_tune.py > benchmarks/results/tune_....md
    PYTHONPATH=src python benchmarks/bench_tune.py --tokens 64 512 --models    # no real models
    PYTHONPATH=src python benchmarks/bench_tune.py --quick    # two rounds of 512 tokens

A stack of 2048 x 2048 linear layers with ReLU, float32, whose input wants a gradient as inside a
network; about 1 % of the weights train (LoRA: rank 16, 1.6 %). Then two real models with real data
and a loss: a Llama of 260k parameters on 8 x 128 tokens of Shakespeare, and MiniLM (22M) with a
head on 16 sentences of SST-2; there the linear layers inside the blocks train (LoRA of rank 16,
SHiRA of the rank nearest to 1 %, at least 1). Memory: the peak of all that torch allocates, from
making the model through two steps, above that of the frozen model, which computes the gradient of
its input only; exact and repeatable. Time: CPU seconds and wall seconds of a step, all variants
interleaved in every round, in turning order, as ratios within a round; median and range.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import peft
import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

from benchmarks.measuring import allocator_peak, heading, load_average, silence, told
from benchmarks.random_choice import random_choice
from frog.tuning import Tuner
from frog.types import Selection

WIDTH, LAYERS, SHARE = 2048, 3, 0.01
FLOOR, FULL, LORA = "frozen (floor)", "full AdamW", "LoRA r=16 (peft)"
LIMITS = {  # granularity: extra memory against full's, time against whom, and how much
    "elements": (0.05, LORA, 1.0),
    "rows": (0.03, FULL, 0.7),
    "columns": (0.03, FULL, 0.7),
    "blocks": (0.06, FULL, 0.8),
}
warnings.filterwarnings("ignore")


# ------------------------------------------------------------------------ what is trained


@dataclass(kw_only=True)
class Work:
    """A model, what trains beside it in every variant, and the loss of a step."""

    model: nn.Module
    loss: Callable[[], torch.Tensor]
    floor: Callable[[], Any] = lambda: None
    beside: list[nn.Parameter] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class Case:
    """One table: how its model is made, which layers train, how often it is measured."""

    title: str
    make: Callable[[], Work]
    targets: str
    shira: int
    block: tuple[int, int]
    rounds: int
    steps: int
    judged: bool = False


class Stack(nn.Module):
    """Linear layers with ReLU between."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH, bias=False) for _ in range(LAYERS))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers:
            x = torch.relu(layer(x))
        return x


def stack(tokens: int) -> Work:
    """The stack under a mean square; the gradient of its input goes nowhere."""
    model, x = Stack(), torch.randn(tokens, WIDTH, requires_grad=True)

    def loss() -> torch.Tensor:
        x.grad = None
        return model(x).square().mean()

    return Work(model=model, loss=loss)


def stories() -> Work:
    """The Llama of 260k parameters on Shakespeare."""
    from benchmarks.tasks import ShakespeareTask

    task = ShakespeareTask()
    inputs, labels = next(task.batches(8, 0))
    return Work(
        model=task.model.train(),
        loss=lambda: functional.cross_entropy(task.logits(inputs), labels),
        floor=task.model.enable_input_require_grads,
    )


def minilm() -> Work:
    """MiniLM with mean pooling and a head, which trains in every variant, on SST-2."""
    from benchmarks.tasks import SentimentTask

    with silence():
        task = SentimentTask()
    inputs, labels = next(task.batches(16, 0))
    return Work(
        model=task.encoder.train(),
        loss=lambda: functional.cross_entropy(task.logits(inputs), labels),
        floor=task.encoder.enable_input_require_grads,
        beside=list(task.head.parameters()),
    )


ROUNDS = {64: (15, 4), 512: (9, 2)}  # rounds, steps in each
REAL = {
    "stories260k": Case(
        title="stories260k, a Llama of 260k parameters, 8 x 128 tokens", make=stories,
        targets=r"_proj$", shira=1, block=(4, 4), rounds=9, steps=4,
    ),
    "minilm": Case(
        title="MiniLM, 22M parameters, 16 sentences", make=minilm,
        targets=r"encoder\.layer\..*(query|key|value|dense)$", shira=2, block=(16, 16),
        rounds=9, steps=1,
    ),
}  # fmt: skip


def stacked(tokens: int) -> Case:
    """The stack with so many tokens."""
    rounds, steps = ROUNDS.get(tokens, (5, 1))
    return Case(
        title=f"{tokens} tokens", make=lambda: stack(tokens), targets=r"^layers\.\d+$", shira=10,
        block=(16, 16), rounds=rounds, steps=steps, judged=True,
    )  # fmt: skip


# ------------------------------------------------------------------------------- variants


def linear(model: nn.Module, case: Case) -> list[str]:
    """The layers that train."""
    return [
        name for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and re.search(case.targets, name)
    ]  # fmt: skip


def selection(model: nn.Module, granularity: str, case: Case) -> Selection:
    """A random 1 % of every matrix that trains."""
    names = linear(model, case)
    made = random_choice(
        model, SHARE, granularity, lambda name: name.removesuffix(".weight") in names,
        block=case.block,
    )  # fmt: skip
    assert len(made.chosen) == len(names), (len(made.chosen), len(names))
    return made


Variant = Callable[[Work, Case], list[nn.Parameter]]
"""Sets a model up and gives what trains of it."""


def frozen(work: Work, case: Case) -> list[nn.Parameter]:
    """The floor: forward, and the gradient of the input."""
    work.model.requires_grad_(False)
    work.floor()
    return []


def full(work: Work, case: Case) -> list[nn.Parameter]:
    """All weights."""
    return list(work.model.parameters())


def chosen(granularity: str) -> Variant:
    """FROG with one granularity."""

    def make(work: Work, case: Case) -> list[nn.Parameter]:
        tuner = Tuner(work.model, selection(work.model, granularity, case))
        return [compact.change for compact in tuner.compacts]

    return make


def method(config: Callable[[list[str], Case], Any]) -> Variant:
    """A method of peft."""

    def make(work: Work, case: Case) -> list[nn.Parameter]:
        made = peft.get_peft_model(work.model, config(linear(work.model, case), case))
        return [x for x in made.parameters() if x.requires_grad]

    return make


VARIANTS: dict[str, Variant] = {
    FLOOR: frozen,
    FULL: full,
    LORA: method(lambda names, case: peft.LoraConfig(r=16, target_modules=names)),
    "SHiRA (peft)": method(
        lambda names, case: peft.ShiraConfig(r=case.shira, target_modules=names)
    ),
    "Super-Tuning 0.99 (peft)": method(
        lambda names, case: peft.SupertuningConfig(sparsity=0.99, target_modules=names)
    ),
    "FROG elements": chosen("element"),
    "FROG rows": chosen("row"),
    "FROG columns": chosen("column"),
    "FROG blocks": chosen("block"),
}


class Bench:
    """One variant of a case, ready to step."""

    def __init__(self, name: str, case: Case) -> None:
        torch.manual_seed(0)
        work = case.make()
        self.model, self.loss = work.model, work.loss
        self.trained = VARIANTS[name](work, case)
        self.count = sum(x.numel() for x in self.trained)
        trained = [*self.trained, *work.beside]
        self.optimizer = torch.optim.AdamW(trained, lr=1e-4) if trained else None

    def step(self) -> None:
        """Forward, backward, update."""
        self.loss().backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


# ------------------------------------------------------------------------------ measuring


def peak_of(name: str, case: Case) -> float:
    """Peak in MB of all that torch allocates: the model, what trains beside it, two steps."""
    with allocator_peak() as peak:
        bench = Bench(name, case)
        for _ in range(2):
            bench.step()
    return peak()


def timed(bench: Bench, steps: int) -> tuple[float, float]:
    """CPU and wall seconds of a step."""
    cpu, wall = time.process_time(), time.perf_counter()
    for _ in range(steps):
        bench.step()
    return (time.process_time() - cpu) / steps, (time.perf_counter() - wall) / steps


def measure(case: Case, rounds: int) -> list[str]:
    """The rows of one table, and whether the limits are met."""
    peaks, benches, failed = {}, {}, {}
    for name in VARIANTS:
        try:
            peaks[name] = peak_of(name, case)
            benches[name] = Bench(name, case)
            benches[name].step()
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            if name.startswith("FROG") or name in (FLOOR, FULL, LORA):
                raise
            failed[name] = f"{type(error).__name__}: {error}".splitlines()[0]
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in benches}
    names = list(benches)
    for number in range(rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            seconds[name].append(timed(benches[name], case.steps))
    lines = [
        f"\n### {case.title}\n",
        "| variant | trainable | extra MB | extra vs full | CPU ms | CPU vs full | wall vs full "
        "| CPU vs LoRA |",
        "|---|---|---|---|---|---|---|---|",
    ]
    share = {name: (x - peaks[FLOOR]) / (peaks[FULL] - peaks[FLOOR]) for name, x in peaks.items()}
    for name in names:
        lines.append(
            f"| {name} | {benches[name].count:,} | {peaks[name] - peaks[FLOOR]:.1f} "
            f"| {share[name]:.3f} | {1e3 * statistics.median(x[0] for x in seconds[name]):.1f} "
            f"| {told(ratios(seconds, name, FULL, 0))} | {told(ratios(seconds, name, FULL, 1))} "
            f"| {told(ratios(seconds, name, LORA, 0))} |"
        )
    lines += [f"| {name} | {why} |" for name, why in failed.items()]
    return lines + (verdicts(share, seconds) if case.judged else [])


def ratios(seconds: dict, name: str, to: str, which: int) -> list[float]:
    """Ratios within rounds, ascending."""
    pairs = zip(seconds[name], seconds[to], strict=True)
    return sorted(a[which] / b[which] for a, b in pairs)


def verdicts(share: dict[str, float], seconds: dict) -> list[str]:
    """The limits of memory and time (medians of CPU time), and what was measured."""
    lines = [""]
    for kind, (memory, against, most) in LIMITS.items():
        name = f"FROG {kind}"
        ratio = statistics.median(ratios(seconds, name, against, 0))
        met = share[name] <= memory and ratio <= most
        lines.append(
            f"- {kind}: extra memory {share[name]:.3f} of full's (limit {memory}), time "
            f"{ratio:.3f} of {against.split(' ')[0]}'s (limit {most}): {'met' if met else 'MISSED'}"
        )
    return lines


def optimizer_files() -> list[str]:
    """Bytes of the saved optimizer against the selected count."""
    lines = ["\n### Optimizer file\n", "| variant | trainable | bytes | bytes per weight |",
             "|---|---|---|---|"]  # fmt: skip
    for name in (FULL, LORA, "FROG elements", "FROG columns"):
        bench = Bench(name, stacked(64))
        if name.startswith("FROG"):  # with the tuner's own state, as tuner.optimizer() saves it
            bench.model.__dict__["_frog_tuner"].tuner.meet(bench.optimizer)
        bench.step()
        sink = io.BytesIO()
        torch.save(bench.optimizer.state_dict(), sink)  # pyright: ignore[reportOptionalMemberAccess]
        count, size = bench.count, sink.tell()
        lines.append(f"| {name} | {count:,} | {size:,} | {size / count:.1f} |")
    return lines


def cases(asked: argparse.Namespace) -> Iterable[Case]:
    """The tables asked for; real models only where their files are."""
    if asked.quick:
        return [stacked(512)]
    return [*map(stacked, asked.tokens), *(REAL[name] for name in asked.models)]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--tokens", type=int, nargs="*", default=[64, 512, 4096])
    parser.add_argument("--models", nargs="*", choices=list(REAL), default=list(REAL))
    parser.add_argument("--rounds", type=int, help="instead of each table's own")
    parser.add_argument("--threads", type=int, default=1)
    asked = parser.parse_args()
    torch.set_num_threads(asked.threads)
    started = time.perf_counter()
    how = f"{asked.threads} thread(s), load {load_average()} at the start"
    print(heading("One training step: memory and time", how, about=__doc__))
    for case in cases(asked):
        rounds = asked.rounds or (2 if asked.quick else case.rounds)
        try:
            print("\n".join(measure(case, rounds)), flush=True)
        except (FileNotFoundError, ImportError, SystemExit) as missing:
            print(f"\n### {case.title}\n\nLeft out: {missing}", flush=True)
    if not asked.quick:
        print("\n".join(optimizer_files()))
    print(f"\nTook {time.perf_counter() - started:.0f} s; load {load_average()} at the end.")


if __name__ == "__main__":
    main()
