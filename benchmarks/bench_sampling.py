"""Layer sampling: memory and time of a step, and whether measured odds train better than even ones.

    PYTHONPATH=src python benchmarks/bench_sampling.py > benchmarks/results/sampling_....md
    PYTHONPATH=src python benchmarks/bench_sampling.py --only cost
    PYTHONPATH=src python benchmarks/bench_sampling.py --only quality

Cost: a Llama of 8 blocks (width 512, 26 million weights, random) on 512 tokens and MiniLM (6
blocks, 22 million weights) on 16 x 32 tokens, float32, AdamW. Memory: the peak of all that torch
allocates from making the tuner and the optimizer through five steps, with a change of layers after
every second, above that of the frozen model, which computes the gradient of its embeddings' output
only; exact and repeatable. The copies of the start, for reverting, lie in the memory of the CPU:
beside a GPU they take none of its memory, so they are told apart. Moments and file are those after
the fifth step. Time: CPU seconds of a step, all contenders interleaved in every round, as ratios
within a round; median and range.

Quality: MiniLM on SST-2, sentences of the training set cut to 32 tokens, batches of 16; head and
pooler always train, two of six blocks at a time, drawn anew every four steps, at the default
temperature. Every way sees the same batches, the same new head and the same dropout seed; compared
are the losses and accuracies on 400 sentences of the development set, as differences to uniform
within a seed. ``full`` trains all six blocks all the time. Rates were not tuned.
"""

from __future__ import annotations

import argparse
import io
import math
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
import transformers
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))

import frog
from benchmarks.measuring import allocator_peak, heading, load_average
from benchmarks.tasks import DATA, minilm_folder

ROUNDS, STEPS = 4, 2
RUN_STEPS, BATCH, EVERY, SEEDS = 32, 16, 4, 3
WAYS = ("uniform", "alpha", "-alpha", "evenness")
warnings.filterwarnings("ignore")
transformers.logging.set_verbosity_error()
transformers.logging.disable_progress_bar()

Made = tuple[torch.optim.Optimizer | None, Any]


def llama() -> tuple[nn.Module, dict[str, Any]]:
    """A stack of Llama blocks, and a batch."""
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=512, intermediate_size=1408, num_hidden_layers=8, num_attention_heads=8,
        num_key_value_heads=8, vocab_size=1024, tie_word_embeddings=True,
    )  # fmt: skip
    ids = torch.randint(0, 1024, (4, 128))
    return transformers.LlamaForCausalLM(config), {"input_ids": ids, "labels": ids}


def encoder() -> tuple[nn.Module, dict[str, Any]]:
    """MiniLM with a new head, and a batch."""
    torch.manual_seed(0)
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(minilm_folder(), num_labels=2)
    return model, {"input_ids": torch.randint(1000, 20000, (16, 32)),
                   "labels": torch.randint(0, 2, (16,))}  # fmt: skip


# --------------------------------------------------------------------------------- cost


def frozen(model: nn.Module) -> Made:
    """The floor."""
    model.requires_grad_(False)
    return None, None


def full(model: nn.Module) -> Made:
    """All weights."""
    return torch.optim.AdamW(model.parameters(), lr=1e-5), None


def sampled(**settings: Any) -> Callable[[nn.Module], Made]:
    """Two blocks at a time."""

    def make(model: nn.Module) -> Made:
        sampler = frog.LayerSampler(model, None, active=2, every=2, **settings)
        return sampler.optimizer(lr=1e-5), sampler

    return make


def tuned(model: nn.Module) -> Made:
    """1 % of every matrix, at random."""
    tuner = frog.Tuner(model, SELECTIONS[type(model).__name__])
    return tuner.optimizer(lr=1e-3), tuner


CONTENDERS: dict[str, Callable[[nn.Module], Made]] = {
    "frozen (floor)": frozen,
    "full AdamW": full,
    "LayerSampler, embeddings and head too": sampled(),
    "LayerSampler, head or norms only": sampled(),  # set for each model
    "Tuner, 1 % of the weights": tuned,
}
SELECTIONS: dict[str, frog.Selection] = {}


class Bench:
    """A model that is ready to step."""

    def __init__(self, source: Callable[[], Any], make: Callable[[nn.Module], Made]) -> None:
        self.model, self.batch = source()
        self.model.train()
        self.make = make
        self.measured: dict[str, float] = {}

    def start(self) -> None:
        """Make what trains, and let the first block's input want a gradient, as in a network."""
        self.optimizer, self.held = self.make(self.model)
        if self.optimizer is None:
            self.model.get_input_embeddings().register_forward_hook(
                lambda module, args, output: output.requires_grad_(True)
            )

    def step(self) -> None:
        """Forward, backward, update."""
        self.model(**self.batch).loss.backward()
        if self.optimizer is not None:
            self.optimizer.step()
            self.optimizer.zero_grad()


def peak_of(source: Callable[[], Any], make: Callable[[nn.Module], Made]) -> tuple[float, Bench]:
    """Peak in MB above the model, of all that torch allocates in making and five steps."""
    bench = Bench(source, make)
    with allocator_peak() as peak:
        bench.start()
        for _ in range(5):
            bench.step()
    bench.measured = {
        "trains": bench.held.trainable if bench.held is not None
        else sum(x.numel() for x in bench.model.parameters() if x.requires_grad),
        "copies": getattr(bench.held, "held_bytes", 0) / 2**20,
        "moments": state_bytes(bench.optimizer) / 2**20,
        "file": file_bytes(bench.optimizer) / 2**20,
    }  # fmt: skip
    return peak(), bench


def state_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of the moments."""
    states = optimizer.state.values() if optimizer is not None else ()
    return sum(x.numel() * x.element_size() for one in states for x in one.values()
               if torch.is_tensor(x))  # fmt: skip


def file_bytes(optimizer: torch.optim.Optimizer | None) -> int:
    """Bytes of the saved optimizer."""
    sink = io.BytesIO()
    if optimizer is not None:
        torch.save(optimizer.state_dict(), sink)
    return sink.tell()


def cost(title: str, source: Callable[[], Any]) -> None:
    """One table."""
    contenders = {**CONTENDERS, "LayerSampler, head or norms only": sampled(always=always(source))}
    model = source()[0]
    quick = frog.Settings(bootstrap=0, curves=False)
    plan = frog.allocate(frog.analyze(model, quick, include=r"layers?\.\d"), 0.01)
    SELECTIONS[type(model).__name__] = frog.select(model, plan)
    found = {name: peak_of(source, make) for name, make in contenders.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(ROUNDS):
        for name, (_, bench) in found.items():
            before = time.process_time()
            for _ in range(STEPS):
                bench.step()
            seconds[name].append((time.process_time() - before) / STEPS)
    floor, whole = found["frozen (floor)"][0], found["full AdamW"][0]
    print(f"\n### {title}\n")
    print("| contender | train at a time | moments MB | optimizer file MB | extra peak MB "
          "| of it copies of the start MB | extra vs full, without the copies "
          "| CPU ms a step | CPU vs full |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|")
    for name, (peak, bench) in found.items():
        told = bench.measured
        share = (peak - floor - told["copies"]) / (whole - floor)
        pairs = zip(seconds[name], seconds["full AdamW"], strict=True)
        ratios = sorted(a / b for a, b in pairs)
        print(f"| {name} | {told['trains']:,} | {told['moments']:.1f} | {told['file']:.1f} "
              f"| {peak - floor:.1f} | {told['copies']:.1f} | {share:.3f} "
              f"| {1e3 * statistics.median(seconds[name]):.0f} "
              f"| {statistics.median(ratios):.2f} [{ratios[0]:.2f}, {ratios[-1]:.2f}] |",
              flush=True)  # fmt: skip


def always(source: Callable[[], Any]) -> list[str]:
    """What trains all the time beside the blocks, without the embeddings."""
    return ["classifier", "pooler"] if source is encoder else [r"^model\.norm"]


# ------------------------------------------------------------------------------ quality


def sentences(name: str, most: int) -> Iterator[tuple[str, int]]:
    """Sentences and labels of one file, in an order of our own."""
    lines = (DATA / "sst2" / f"{name}.tsv").read_text().splitlines()
    for place in np.random.default_rng(0).permutation(len(lines))[:most]:
        text, label = lines[place].rsplit("\t", 1)
        yield text, int(label)


class Task:
    """SST-2 as token ids."""

    def __init__(self) -> None:
        self.tokenizer = transformers.AutoTokenizer.from_pretrained(minilm_folder())
        self.train = list(sentences("train", 7000))
        self.dev = list(sentences("dev", 400))

    def coded(self, rows: list[tuple[str, int]]) -> dict[str, torch.Tensor]:
        """A padded batch."""
        texts = [text for text, _ in rows]
        made = self.tokenizer(texts, padding=True, truncation=True, max_length=32,
                              return_tensors="pt")  # fmt: skip
        return {**made, "labels": torch.tensor([label for _, label in rows])}

    def judged(self, model: nn.Module) -> tuple[float, float]:
        """Mean loss and accuracy on the development sentences."""
        model.eval()
        rows = sorted(self.dev, key=lambda row: len(row[0]))
        loss = right = 0.0
        with torch.no_grad():
            for start in range(0, len(rows), 50):
                batch = self.coded(rows[start : start + 50])
                found = model(**batch)
                loss += float(found.loss) * len(batch["labels"])
                right += float((found.logits.argmax(1) == batch["labels"]).sum())
        return loss / len(rows), right / len(rows)


def trained(task: Task, report: frog.ModelReport, by: str, seed: int) -> tuple[float, float]:
    """One run, judged: ``by`` a way to draw, or ``full`` for all blocks all the time."""
    torch.manual_seed(seed)
    kind = transformers.AutoModelForSequenceClassification
    model = kind.from_pretrained(minilm_folder(), num_labels=2)
    kept = ["classifier", "pooler"]
    if by == "full":
        for name, parameter in model.named_parameters():
            parameter.requires_grad_("embeddings" not in name)
        head = [x for n, x in model.named_parameters() if "classifier" in n or "pooler" in n]
        blocks = [x for n, x in model.named_parameters() if "encoder.layer" in n]
        optimizer: Any = torch.optim.AdamW([{"params": blocks}, {"params": head, "lr": 1e-3}],
                                           lr=1e-4)  # fmt: skip
    else:
        sampler = frog.LayerSampler(model, report, active=2, every=EVERY, by=by, always=kept,
                                    seed=seed)  # fmt: skip
        optimizer = sampler.optimizer(lr=1e-4, also_lr=1e-3)
    model.train()
    order = np.random.default_rng(seed).permutation(len(task.train))
    for step in range(RUN_STEPS):
        rows = [task.train[i] for i in order[step * BATCH : (step + 1) * BATCH]]
        model(**task.coded(rows)).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    found = task.judged(model)
    print(f"{by}, seed {seed}: {found[0]:.4f} {found[1]:.4f}", file=sys.stderr, flush=True)
    return found


def quality() -> None:
    """One table."""
    report = frog.analyze(str(minilm_folder()), frog.Settings(curves=False))
    task = Task()
    print("\n### MiniLM on SST-2\n\nChances of the six blocks in a draw:\n")
    print("| way | " + " | ".join(f"block {i}" for i in range(6)) + " |\n|" + "---|" * 7)
    for by in WAYS:
        model, _ = encoder()
        sampler = frog.LayerSampler(model, report, by=by)
        print(f"| {by} | " + " | ".join(f"{x:.2f}" for x in sampler.chances.values()) + " |")
    found = {by: [trained(task, report, by, seed) for seed in range(SEEDS)]
             for by in (*WAYS, "full")}  # fmt: skip
    print(f"\n{RUN_STEPS} steps, {SEEDS} seeds; mean, and difference to uniform within a seed "
          "with its standard error:\n")  # fmt: skip
    print("| way | loss | difference | accuracy | difference |\n|---|---|---|---|---|")
    for by, runs in found.items():
        cells = []
        for which in (0, 1):
            values = [run[which] for run in runs]
            pairs = zip(values, (x[which] for x in found["uniform"]), strict=True)
            gaps = [a - b for a, b in pairs]
            error = statistics.stdev(gaps) / math.sqrt(len(gaps))
            told = f"{statistics.mean(gaps):+.4f} ± {error:.4f}" if by != "uniform" else ""
            cells += [f"{statistics.mean(values):.4f}", told]
        print(f"| {by} | " + " | ".join(cells) + " |", flush=True)
    told = [f"{by} " + ", ".join(f"{x[0]:.4f}" for x in runs) for by, runs in found.items()]
    print("\nLosses by seed: " + "; ".join(told))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", choices=["cost", "quality"])
    asked = parser.parse_args()
    torch.set_num_threads(1)
    started = time.process_time()
    print(heading("Layer sampling: what a step costs, and what measured odds bring",
                  f"one thread, load {load_average()} at the start", about=__doc__))  # fmt: skip
    if asked.only != "quality":
        cost("A Llama of 8 blocks, 512 tokens", llama)
        cost("MiniLM, 512 tokens", encoder)
    if asked.only != "cost":
        quality()
    print(f"\n{(time.process_time() - started) / 60:.1f} CPU minutes in all.")


if __name__ == "__main__":
    main()
