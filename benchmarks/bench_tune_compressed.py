"""Tuning and compressing together: what pruning costs, what noise buys before rounding, which
weights to train on a rounded model.

    PYTHONPATH=src:. python benchmarks/bench_tune_compressed.py > benchmarks/results/....md

ResNet20 of CIFAR-10 tuned on photographs of hand signs (as in bench_noise.py): as many weights as
1 % of the 18 convolutions of its blocks, and a new head, 60 steps of 64, AdamW at one learning rate
for all, BatchNorm as it is. Pruned: half of the weights of every such matrix, by magnitude, before
the tuning, which chooses among the others and leaves the zeros; as many weights train. Rounded: the
same matrices to nearest at groups of 64 inputs, symmetric, after the tuning; or (``on int4``) from
the start, with the gradient passed straight through the rounding, so that the model is rounded in
every step (as in the last phase of OFQ), at a third of the rate: there a weight
is to move by a level, not by many. Accuracy on 500 test images of the new task, and on 1,000 of
CIFAR-10 by the old head. Runs of one seed share the new head and the order of the batches, random
choices differ by seed. Differences are paired by seed, with a 95 % interval of Student's t. A run
is kept in ``benchmarks/.work/tune-compressed`` as soon as it is done.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from scipy.stats import t as student
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import parametrize

import frog
from benchmarks.measuring import heading
from benchmarks.tasks import KEPT, cifar_resnet, cifar_test, endless, sign_images
from frog.compression.pruning import keep_mask
from frog.numerics.rounding import Rounding, round_to_nearest, rounded_values
from frog.types import Selection

FOLDER = KEPT / "tune-compressed"
PARAMS = 267_264
"""Weights of the 18 convolutions."""

SHARE, STEPS, BATCH, RATE, HEAD_RATE, GROUP = 0.01, 60, 64, 1.5e-2, 1e-2, 64
MEASURED = ("signs", "signs int4", "signs int3", "CIFAR-10", "CIFAR-10 int4")
warnings.filterwarnings("ignore")


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way to tune; ``rounded`` trains the model as it is at so many bits."""

    score: str = "random"
    pruned: bool = False
    noise: int | None = None
    rounded: int | None = None
    rate: float = RATE


ARMS = {
    "dense, random": Arm(),
    "dense, random, noise of int4": Arm(noise=4),
    "pruned, random": Arm(pruned=True),
    "pruned, relevance": Arm(pruned=True, score="relevance"),
    "pruned, near-boundary": Arm(pruned=True, score="near-boundary"),
    "on int4, random": Arm(rounded=4, rate=RATE / 3),
    "on int4, near-boundary": Arm(rounded=4, score="near-boundary", rate=RATE / 3),
}
QUESTIONS = (
    ("What pruning costs, and which of the kept weights", "dense, random",
     ("pruned, random", "pruned, relevance", "pruned, near-boundary")),
    ("Among the kept weights", "pruned, random", ("pruned, relevance", "pruned, near-boundary")),
    ("Noise of the size of the error of int4, before rounding", "dense, random",
     ("dense, random, noise of int4",)),
    ("On the rounded model", "on int4, random", ("on int4, near-boundary",)),
)  # fmt: skip


def convolutions(model: nn.Module) -> dict[str, nn.Conv2d]:
    """Those of the blocks, by the name of their weight."""
    return {
        f"{name}.weight": x
        for name, x in model.named_modules()
        if isinstance(x, nn.Conv2d) and name.startswith("layer")
    }


def as_matrix(weight: Tensor) -> Tensor:
    """(outputs, inputs times places)."""
    return weight.detach().flatten(1)


def prune(model: nn.Module) -> None:
    """Half of every matrix, by magnitude."""
    for conv in convolutions(model).values():
        matrix = as_matrix(conv.weight)
        conv.weight.data.mul_(
            keep_mask(matrix, matrix.abs(), pruned=matrix.numel() // 2).view_as(conv.weight)
        )


def round_all(model: nn.Module, bits: int) -> None:
    """To nearest, in place."""
    for conv in convolutions(model).values():
        matrix = as_matrix(conv.weight)
        values = rounded_values(matrix, Rounding(bits=bits, group=GROUP))
        conv.weight.data.copy_(values.view_as(conv.weight))


def choose(model: nn.Module, arm: Arm, seed: int) -> Selection:
    """The weights that train."""
    plan = frog.allocate(frog.analyze(model, frog.Settings(bootstrap=0)), SHARE, include="^layer")
    keep = "nonzero" if arm.pruned else None
    choice = frog.Choice(keep=keep, bits=arm.rounded or 4, group=GROUP)
    return frog.select(model, plan, score=arm.score, seed=seed, choice=choice)


class StraightThrough(nn.Module):
    """The weight with the change of the chosen entries, rounded; the gradient passes as it is."""

    def __init__(self, index: Tensor, bits: int) -> None:
        super().__init__()
        self.index, self.how = index, Rounding(bits=bits, group=GROUP)
        self.change = nn.Parameter(torch.zeros(len(index)))

    def forward(self, weight: Tensor) -> Tensor:
        moved = weight.detach().flatten().index_add(0, self.index, self.change).view_as(weight)
        values = rounded_values(as_matrix(moved), self.how).view_as(weight)
        return moved + (values - moved).detach()


def through_rounding(model: nn.Module, chosen: Selection, bits: int) -> list[nn.Parameter]:
    """Put every convolution of the blocks behind the rounding; what trains."""
    found = {x.name: x for x in chosen.chosen}
    made = []
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, conv in convolutions(model).items():
        ((_, picked),) = [(k, v) for k, v in found.items() if k.startswith(name.rpartition(".")[0])]
        module = StraightThrough(torch.from_numpy(picked.index), bits)
        parametrize.register_parametrization(conv, "weight", module, unsafe=True)
        made.append(module.change)
    return made


def run(arm: Arm, seed: int, data: Any, old: Any) -> dict[str, float]:
    """Accuracies in percent, and what :func:`flipped` counts."""
    torch.manual_seed(seed)
    started = time.process_time()
    x, y, x_test, y_test = data
    model = cifar_resnet().eval()
    former, head = model.linear, nn.Linear(64, 10)
    model.linear = head
    if arm.pruned:
        prune(model)
    chosen = choose(model, arm, seed)
    before = {name: conv.weight.detach().clone() for name, conv in convolutions(model).items()}
    tuner = None
    if arm.rounded:
        trained = through_rounding(model, chosen, arm.rounded)
        head.requires_grad_(True)
        groups = [{"params": trained, "lr": arm.rate}, {"params": list(head.parameters())}]
        optimizer = torch.optim.AdamW(groups, lr=HEAD_RATE, weight_decay=0.0)
    else:
        noise = frog.Noise.rounding(arm.noise, group=GROUP, seed=seed) if arm.noise else None
        tuner = frog.Tuner(model, chosen, also=["^linear"], noise=noise)
        optimizer = tuner.optimizer(lr=arm.rate, also_lr=HEAD_RATE, weight_decay=0.0)
    warm = STEPS // 10
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (STEPS - s) / (STEPS - warm))
    )
    batches = endless(len(x), BATCH, seed)
    model.train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eval()
    for _ in range(STEPS):
        part = next(batches)
        functional.cross_entropy(model(x[part]), y[part]).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    model.eval()
    if tuner is None:
        for conv in convolutions(model).values():
            behind: Any = conv.parametrizations
            module = behind.weight[0]
            parametrize.remove_parametrizations(conv, "weight", leave_parametrized=False)
            conv.weight.data.view(-1).index_add_(0, module.index, module.change.detach())
    else:
        tuner.keep()
    kept = {"weights": float(chosen.count), "flipped": flipped(model, before, chosen.count)}
    kept["zeros"] = sum(float((c.weight == 0).sum()) for c in convolutions(model).values())

    @torch.no_grad()
    def accuracy(which: nn.Linear, x: Tensor, y: Tensor) -> float:
        model.linear = which
        found = torch.cat([model(part).argmax(1) for part in x.split(250)])
        return 100 * float((found == y).float().mean())

    kept |= {"signs": accuracy(head, x_test, y_test), "CIFAR-10": accuracy(former, *old)}
    whole = {name: conv.weight.detach().clone() for name, conv in convolutions(model).items()}
    for bits in (4, 3):
        round_all(model, bits)
        kept[f"signs int{bits}"] = accuracy(head, x_test, y_test)
        if bits == 4:
            kept["CIFAR-10 int4"] = accuracy(former, *old)
        for name, conv in convolutions(model).items():
            conv.weight.data.copy_(whole[name])
    return kept | {"seconds": time.process_time() - started}


def flipped(model: nn.Module, before: dict[str, Tensor], count: int) -> float:
    """Weights whose code of int4 is another than before, as a share of those that trained."""
    how, changed = Rounding(bits=4, group=GROUP), 0
    for name, conv in convolutions(model).items():
        now, then = (round_to_nearest(as_matrix(w), how).codes for w in (conv.weight, before[name]))
        changed += int((now != then).sum())
    return changed / count


# ------------------------------------------------------------------------------- tables


def known(name: str, seed: int, make: Callable[[], dict[str, float]]) -> dict[str, float]:
    """A run that was done before, else done now and kept."""
    file = FOLDER / f"{name.replace(', ', '_').replace(' / ', '-').replace(' ', '-')}-{seed}.json"
    if not file.exists():
        FOLDER.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(make()))
        part.replace(file)
    return json.loads(file.read_text())


def interval(pairs: list[float]) -> str:
    """Mean of paired differences and its 95 % interval."""
    half = student.ppf(0.975, len(pairs) - 1) * statistics.stdev(pairs) / len(pairs) ** 0.5
    mean = statistics.mean(pairs)
    return f"{mean:+.1f} [{mean - half:+.1f}, {mean + half:+.1f}]"


def tables(found: dict[str, list[dict[str, float]]], start: dict[str, float]) -> None:
    """Means of every arm, then the differences that were asked for."""
    print("## Accuracy in percent\n\nMean ± standard deviation over seeds. `codes`: weights whose")
    print("code of int4 is another than before, over those that trained (one that grows beyond its")
    print("group changes the scale of all 64).\n")
    print("| arm | " + " | ".join(MEASURED) + " | codes |\n|---|" + "--:|" * (len(MEASURED) + 1))
    for name, runs in found.items():
        cells = [
            f"{statistics.mean(values):.1f} ± {statistics.stdev(values):.1f}"
            for values in ([run[key] for run in runs] for key in MEASURED)
        ]
        share = statistics.mean(run["flipped"] for run in runs)
        print(f"| {name} | " + " | ".join(cells) + f" | {share:.2f} |")
    told = ", ".join(f"{name} {value:.1f}" for name, value in start.items())
    trained = sorted({int(run["weights"]) for runs in found.values() for run in runs})
    zeros = sorted(
        {int(run["zeros"]) for k, runs in found.items() if "pruned" in k for run in runs}
    )
    print(f"\nCIFAR-10 before any tuning: {told}. Weights that train: {trained}; zeros of a pruned")
    print(f"model after tuning: {zeros} of {PARAMS}.")
    for title, base, others in QUESTIONS:
        print(f"\n## {title}\n\nDifferences to `{base}`, paired by seed.\n")
        print("| arm | " + " | ".join(MEASURED) + " |\n|---|" + "--:|" * len(MEASURED))
        for name in others:
            cells = [
                interval([a[key] - b[key] for a, b in zip(found[name], found[base], strict=True)])
                for key in MEASURED
            ]
            print(f"| {name} | " + " | ".join(cells) + " |")
    looked = len(MEASURED) * sum(len(x[2]) for x in QUESTIONS)
    spent = sum(run["seconds"] for runs in found.values() for run in runs)
    print(f"\n{looked} differences were looked at: one or two of them leave their interval of 95 % "
          f"by chance. {spent:.0f} CPU seconds.")  # fmt: skip


@torch.no_grad()
def untuned(old: Any) -> dict[str, float]:
    """Accuracy on CIFAR-10 of the model as it is, pruned, and rounded."""
    made = {}
    changes: dict[str, Any] = {"dense": None, "pruned": prune} | {
        f"int{b}": lambda m, b=b: round_all(m, b) for b in (4, 3)
    }
    for name, change in changes.items():
        model = cifar_resnet().eval()
        if change is not None:
            change(model)
        found = torch.cat([model(part).argmax(1) for part in old[0].split(250)])
        made[name] = 100 * float((found == old[1]).float().mean())
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seeds", type=int, default=5)
    asked = parser.parse_args()
    torch.set_num_threads(1)
    data, old = sign_images(), cifar_test(1000)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in ARMS}
    for seed in range(asked.seeds):
        for name, arm in ARMS.items():
            found[name].append(known(name, seed, lambda a=arm, s=seed: run(a, s, data, old)))
    seeds = f"; seeds 0 to {asked.seeds - 1}"
    print(heading("Tuning and compressing together", note=seeds, about=__doc__))
    tables(found, untuned(old))


if __name__ == "__main__":
    main()
