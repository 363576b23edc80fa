"""What a GPU changes: gradients of chosen weights, a training step, spectra.

    PYTHONPATH=src python benchmarks/bench_gpu.py > benchmarks/results/gpu_....md
    PYTHONPATH=src python benchmarks/bench_gpu.py --only step
    PYTHONPATH=src python benchmarks/bench_gpu.py --device cpu --small    # whether it runs

Gradients: the chosen entries, drawn at random, of a matrix from its input and the gradient of its
output, by every strategy for single entries, and for blocks of 16 x 16; median milliseconds and
most scratch memory.

Step: a Llama of 1.2 billion parameters (16 blocks of width 2048, tied embeddings, random weights)
in bfloat16 on 4 x 1024 tokens, AdamW; the linear layers inside the blocks train, 1 % of their
weights, LoRA at the rank nearest to that count, its adapters in bfloat16 and, as peft makes them
unless told otherwise, in float32. FROG's changes are float32. Memory: the peak of a step beyond the
weights of the model. Time: all variants take turns, in turning order; medians and ranges of the
rounds, and the ratio within a round to LoRA in bfloat16, the faster one.

Parts: two blocks of that model, single entries; what noise and guards add to twenty steps, their
start (measuring the weights) told apart.

Spectra: the seven matrices of one block of that model, on the GPU and on all cores of its host;
median seconds, and the largest relative difference of a norm or singular value of the report, and
of any of its numbers (a fit whose two best starts are near to a tie may take the other one).
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import peft
import torch
import transformers
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import frog
from benchmarks.measuring import heading, told
from benchmarks.random_choice import random_choice
from frog.numerics.units import unit_count, unit_entries
from frog.tuning import Tuner
from frog.tuning.gradients import compact_gradient, keep, pattern_of

SHARE = 0.01
warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large all of it is."""

    width: int = 2048
    inner: int = 8192
    blocks: int = 16
    vocabulary: int = 128256
    batch: int = 4
    length: int = 1024
    rounds: int = 7


SMALL = Size(width=64, inner=128, blocks=2, vocabulary=512, batch=2, length=32, rounds=2)


class Clock:
    """Time and memory of a device, when all that was asked of it is done."""

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.cuda = self.device.type == "cuda"

    def seconds(self, work: Callable[[], Any]) -> float:
        """How long it takes."""
        self.wait()
        started = time.perf_counter()
        work()
        self.wait()
        return time.perf_counter() - started

    def wait(self) -> None:
        if self.cuda:
            torch.cuda.synchronize()

    def held(self) -> int:
        """Bytes that are allocated."""
        return torch.cuda.memory_allocated() if self.cuda else 0

    def peak(self, work: Callable[[], Any]) -> int:
        """Most bytes that were allocated meanwhile."""
        self.wait()
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
        work()
        self.wait()
        return torch.cuda.max_memory_allocated() if self.cuda else 0


# ------------------------------------------------------------------------------ gradients


def gradients(size: Size, clock: Clock) -> list[str]:
    """Strategies for single entries and for blocks."""
    names = {"element": ("gather", "slabs", "pairs", "sampled"), "block": ("gather", "blocks")}
    every = list(dict.fromkeys(x for some in names.values() for x in some))
    lines = ["| chosen | matrix | tokens | share | type | " + " | ".join(every) + " |",
             "|---|---|---|---|---|" + "---|" * len(every)]  # fmt: skip
    tokens, draw = size.batch * size.length, np.random.default_rng(0)
    for granularity, shape, share, dtype in itertools.product(
        names, ((size.width, size.width), (size.inner, size.width)), (0.001, SHARE),
        (torch.bfloat16, torch.float32),
    ):  # fmt: skip
        block = (16, 16) if granularity == "block" else (1, 1)
        total = unit_count(shape, granularity, block)
        units = np.sort(draw.choice(total, max(1, round(share * total)), replace=False))
        x = torch.randn(tokens, shape[1], device=clock.device, dtype=dtype)
        dy = torch.randn(tokens, shape[0], device=clock.device, dtype=dtype)
        at = unit_entries(units, shape, granularity, block)
        cells = {
            name: of_strategy(x, dy, units, at, strategy=name, block=block, clock=clock)
            for name in names[granularity]
        }
        kind = str(dtype).removeprefix("torch.")
        lines.append(f"| {granularity} | {shape[0]} x {shape[1]} | {tokens} | {share:.1%} | {kind} "
                     "| " + " | ".join(cells.get(name, "-") for name in every) + " |")  # fmt: skip
    return lines


def of_strategy(
    x: torch.Tensor, dy: torch.Tensor, units: np.ndarray, at: tuple[np.ndarray, np.ndarray], *,
    strategy: str, block: tuple[int, int], clock: Clock,
) -> str:  # fmt: skip
    """Milliseconds and MB of one strategy, or why it cannot."""
    shape = (dy.shape[1], x.shape[1])
    try:
        made = pattern_of(shape, strategy, lambda: at, units, block, clock.device)
        work = lambda: compact_gradient(keep(x, made), dy, made)  # noqa: E731
        work()
        taken = statistics.median(clock.seconds(work) for _ in range(9))
        held = clock.held()
        return f"{1e3 * taken:.2f} ms, {(clock.peak(work) - held) / 1e6:.0f} MB"
    except RuntimeError as error:
        return f"{type(error).__name__}: {str(error).splitlines()[0][:60]}"


# ----------------------------------------------------------------------------------- step


def llama(size: Size, clock: Clock) -> nn.Module:
    """The model, its weights random."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=size.width, intermediate_size=size.inner, num_hidden_layers=size.blocks,
        num_attention_heads=size.width // 64, num_key_value_heads=max(1, size.width // 256),
        head_dim=64, vocab_size=size.vocabulary, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    with clock.device:
        model = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return model.train()


def frozen(model: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    """Forward, and the gradient of the input."""
    model.requires_grad_(False)
    model.enable_input_require_grads()  # type: ignore[operator]
    return model, []


def full(model: nn.Module) -> tuple[nn.Module, list[nn.Parameter]]:
    """The linear layers inside the blocks, whole."""
    chosen = [p for name, p in model.named_parameters() if name.endswith("_proj.weight")]
    model.requires_grad_(False)
    for parameter in chosen:
        parameter.requires_grad_(True)
    return model, chosen


def lora(model: nn.Module, *, wide: bool) -> tuple[nn.Module, list[nn.Parameter]]:
    """LoRA of the rank nearest to 1 %, its adapters in float32 (peft's default) or as the model."""
    shapes = [p.shape for name, p in model.named_parameters() if name.endswith("_proj.weight")]
    rank = round(SHARE * sum(m * n for m, n in shapes) / sum(m + n for m, n in shapes))
    names = [name for name, x in model.named_modules() if name.endswith("_proj")]
    config = peft.LoraConfig(r=max(1, rank), target_modules=names)
    made = peft.get_peft_model(model, config, autocast_adapter_dtype=wide)  # type: ignore[arg-type]
    return made, [x for x in made.parameters() if x.requires_grad]


def chosen(
    model: nn.Module, granularity: str, **settings: Any
) -> tuple[nn.Module, list[nn.Parameter]]:
    """FROG, a random 1 %."""
    picked = random_choice(model, SHARE, granularity, lambda name: name.endswith("_proj.weight"))
    tuner = Tuner(model, picked, **settings)
    return model, [compact.change for compact in tuner.compacts]


Variant = Callable[[nn.Module], tuple[nn.Module, list[nn.Parameter]]]
LORA = "LoRA (peft), bfloat16"
VARIANTS: dict[str, Variant] = {
    "frozen (floor)": frozen, "full AdamW": full, LORA: partial(lora, wide=False),
    "LoRA (peft), float32": partial(lora, wide=True),
    **{f"FROG {name}s": partial(chosen, granularity=name)
       for name in ("element", "row", "column", "block")},
}  # fmt: skip


class Bench:
    """One variant, ready to step."""

    def __init__(self, variant: Variant, size: Size, clock: Clock) -> None:
        before = clock.held()
        model = llama(size, clock)
        self.weights = clock.held() - before
        self.model, trained = variant(model)
        self.count = sum(x.numel() for x in trained)
        self.optimizer = torch.optim.AdamW(trained, lr=1e-5) if trained else None
        draw = torch.Generator().manual_seed(1)
        shape = (size.batch, size.length)
        self.tokens = torch.randint(0, size.vocabulary, shape, generator=draw).to(clock.device)
        self.others = before

    def step(self) -> None:
        """Forward, backward, update."""
        self.model(input_ids=self.tokens, labels=self.tokens).loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


def steps(size: Size, clock: Clock) -> list[str]:
    """Memory and time of a step by variant."""
    benches, peaks = {}, {}
    for name, variant in VARIANTS.items():
        benches[name] = bench = Bench(variant, size, clock)
        bench.step()  # moments are made here
        peaks[name] = (clock.peak(bench.step) - bench.others - bench.weights) / 2**30
        print(f"{name}: {peaks[name]:.2f} GiB", file=sys.stderr, flush=True)
    taken: dict[str, list[float]] = {name: [] for name in benches}
    names = list(benches)
    for turn in range(size.rounds):
        shift = turn % len(names)
        for name in names[shift:] + names[:shift]:
            taken[name].append(clock.seconds(benches[name].step))
    lines = ["| variant | trained | beyond the weights, GiB | step, ms | step / LoRA |",
             "|---|---|---|---|---|"]  # fmt: skip
    for name, bench in benches.items():
        ratios = [a / b for a, b in zip(taken[name], taken[LORA], strict=True)]
        milliseconds = told([1e3 * x for x in taken[name]], 1)
        lines.append(f"| {name} | {bench.count:,} | {peaks[name]:.2f} | {milliseconds} | "
                     f"{told(ratios)} |")  # fmt: skip
    return lines


def parts(size: Size, clock: Clock) -> list[str]:
    """What noise and guards cost beside the same steps without."""
    size = replace(size, blocks=min(2, size.blocks))
    kinds: dict[str, dict[str, Any]] = {
        "neither": {}, "guided noise": {"noise": frog.Noise.guided(0.05, schedule="constant")},
        "guards (auto)": {"guards": "auto"},
    }  # fmt: skip
    lines = ["| with | start, s | 20 steps, s | of those without |", "|---|---|---|---|"]
    plain = math.nan
    for name, settings in kinds.items():
        variant = partial(chosen, granularity="element", **settings)
        clock.wait()
        times = [time.perf_counter()]
        bench = Bench(variant, size, clock)
        for count in (1, 20):
            for _ in range(count):
                bench.step()
            clock.wait()
            times.append(time.perf_counter())
        first, taken = (b - a for a, b in itertools.pairwise(times))
        plain = plain if name != "neither" else taken
        lines.append(f"| {name} | {first:.1f} | {taken:.2f} | {taken / plain:.2f} |")
    return lines


# -------------------------------------------------------------------------------- spectra


def spectra(size: Size, clock: Clock) -> list[str]:
    """One block, measured on the device and on its host."""
    torch.manual_seed(0)
    narrow = max(1, size.width // 256) * 64
    shapes = {"q": (size.width, size.width), "k": (narrow, size.width),
              "v": (narrow, size.width), "o": (size.width, size.width),
              "gate": (size.inner, size.width), "up": (size.inner, size.width),
              "down": (size.width, size.inner)}  # fmt: skip
    model = {f"{k}_proj.weight": torch.randn(shape).bfloat16() for k, shape in shapes.items()}
    lines = ["| precision | host, s | GPU, s | host / GPU | norms, singular values | any number |",
             "|---|---|---|---|---|---|"]  # fmt: skip
    for precision in ("exact", "fast"):
        settings = frog.Settings(precision=precision)
        found: dict[str, Any] = {}
        taken: dict[str, list[float]] = {"cpu": [], str(clock.device): []}
        for _ in range(3):
            for device in taken:
                run = frog.Run(device=device)
                started = time.perf_counter()
                found[device] = frog.analyze(model, settings, run=run)
                taken[device].append(time.perf_counter() - started)
        middle = {device: statistics.median(x) for device, x in taken.items()}
        here, there = found["cpu"], found[str(clock.device)]
        host, device = middle["cpu"], middle[str(clock.device)]
        cells = [f"{host:.2f}", f"{device:.2f}", f"{host / device:.1f}"]
        for names in (SIZES, None):
            pairs = zip(here.layers, there.layers, strict=True)
            worst, which = max(difference(a, b, names) for a, b in pairs)
            cells.append(f"{worst:.1e} ({which})")
        lines.append(f"| {precision} | " + " | ".join(cells) + " |")
    return lines


SIZES = ("norm", "spectral_norm", "lambda_max", "sv_max", "sv_min", "stable_rank", "log_norm")


def difference(here: Any, there: Any, names: Sequence[str] | None) -> tuple[float, str]:
    """Largest relative difference of a number of one layer, and which it is."""
    return max(
        (abs(x - there.values[name]) / abs(x), f"{name} of {here.name}")
        for name, x in here.values.items()
        if x and math.isfinite(x) and (names is None or name in names)
    )


SECTIONS: dict[str, tuple[str, Callable[[Size, Clock], list[str]]]] = {
    "gradients": ("Gradients of single entries", gradients),
    "step": ("A training step", steps),
    "spectra": ("Spectra", spectra),
    "parts": ("Noise and guards", parts),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--small", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS))
    asked = parser.parse_args()
    if asked.device != "cpu" and not torch.cuda.is_available():
        print("needs a CUDA device; --device cpu --small tries whether it runs", file=sys.stderr)
        return
    size, clock = SMALL if asked.small else Size(), Clock(asked.device)
    name = torch.cuda.get_device_name() if clock.cuda else "no GPU"
    print(heading("What a GPU changes", name, about=__doc__))
    for section in asked.only:
        title, work = SECTIONS[section]
        print(f"\n### {title}\n\n" + "\n".join(work(size, clock)), flush=True)


if __name__ == "__main__":
    main()
