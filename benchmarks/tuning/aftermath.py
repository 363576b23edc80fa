"""What guided noise buys: ``python -m benchmarks.tuning.aftermath``.

The recipe of the library on both ResNet tasks, with and without noise on the weights that do not
train, judged on validation as it is, after rounding or pruning all target matrices, and after
adding the change of the other task to it. Paired by seed; runs are kept as they are done. Writes
``aftermath.md`` and ``aftermath.json`` beside the packed records.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from benchmarks import measuring
from benchmarks.tuning import records
from benchmarks.tuning.cells import catalogue
from benchmarks.tuning.methods.noisy import NOISES
from benchmarks.tuning.rates import NEW_HEAD, NO_HEAD
from benchmarks.tuning.stages import FAST, SHARE
from benchmarks.tuning.task import Task
from benchmarks.tuning.train import train
from frog.compression.pruning import count_at, keep_mask
from frog.numerics.rounding import Rounding, round_in_place

WORK = records.WORK.with_name("aftermath")
SPLIT, SEEDS = "validation", 10
PRUNED = 0.3
Weights = Mapping[str, Tensor]
Run = dict[str, Any]


def variants() -> tuple[str, ...]:
    """Without noise first."""
    return ("", *NOISES)


def rounded(bits: int, weight: Tensor) -> None:
    """To nearest, one symmetric step for each output channel."""
    flat = weight.reshape(len(weight), -1).clone()
    round_in_place(flat, Rounding(bits=bits, group=None))
    weight.copy_(flat.view_as(weight))


def pruned(weight: Tensor) -> None:
    """Without the smallest weights of the matrix."""
    flat = weight.reshape(len(weight), -1)
    gone = count_at(flat.numel(), PRUNED)
    weight.copy_((flat * keep_mask(flat, flat.abs(), pruned=gone)).view_as(weight))


ACTIONS = {
    "int8": lambda weight: rounded(8, weight),
    "int4": lambda weight: rounded(4, weight),
    f"{PRUNED:.0%} pruned": pruned,
}


@torch.no_grad()
def judged(task: Task, weights: Weights) -> tuple[float, float]:
    """New and old quality with these target weights; the model's own are put back."""
    held = {k: v.detach().clone() for k, v in task.target_weights().items()}
    for name, weight in task.target_weights().items():
        weight.copy_(weights[name])
    found = task.new(SPLIT).quality, task.old(SPLIT).quality
    for name, weight in task.target_weights().items():
        weight.copy_(held[name])
    return found


def run_seed(tasks: Mapping[str, Task], noise: str, seed: int) -> list[Run]:
    """Both tasks tuned, and what becomes of each."""
    known = catalogue()
    changes: dict[str, dict[str, Tensor]] = {}
    made = []
    for name, task in tasks.items():
        task.begin(seed)
        start = {k: v.detach().clone() for k, v in task.target_weights().items()}
        method = known.methods[
            (NEW_HEAD if task.head else NO_HEAD) + (f"+{noise}" if noise else "")
        ]
        train(task, method, share=SHARE, rate=1.0, seed=seed, split=SPLIT)
        now = {k: v.detach().clone() for k, v in task.target_weights().items()}
        changes[name] = {k: now[k] - start[k] for k in now}
        found = {"as it is": judged(task, now)}
        for word, act in ACTIONS.items():
            changed = {k: v.clone() for k, v in now.items()}
            for weight in changed.values():
                act(weight)
            found[word] = judged(task, changed)
        made.append({"task": name, "noise": noise, "seed": seed, "found": found, "_now": now})
    for run in made:
        now = run.pop("_now")
        other = next(x for x in changes if x != run["task"])
        merged = {k: now[k] + changes[other][k] for k in now}
        run["found"]["merged"] = judged(tasks[run["task"]], merged)
    return made


def all_runs(seeds: int) -> list[Run]:
    """The runs of all seeds, those that are kept or made now."""
    tasks: dict[str, Task] = {}
    runs: list[Run] = []
    for seed in range(seeds):
        for noise in variants():
            file = WORK / f"{noise or 'none'}-{seed}.json".replace(" ", "-")
            if not file.exists():
                tasks = tasks or {name: catalogue().tasks[name]() for name in FAST}
                records.write(file, json.dumps(run_seed(tasks, noise, seed)))
                print(file.stem, flush=True)
            runs += json.loads(file.read_text())
    return runs


def difference(runs: Sequence[Run], task: str, noise: str, word: str, side: int) -> np.ndarray:
    """Noise minus none by seed, in points; side 0 is the new task, 1 the old one."""
    by = {(x["noise"], x["seed"]): x["found"][word][side] for x in runs if x["task"] == task}
    seeds = sorted({seed for _, seed in by})
    return np.array([by[noise, s] - by["", s] for s in seeds])


def shown(values: np.ndarray) -> str:
    """Mean with a 95 % t-interval."""
    half = stats.t.ppf(0.975, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():+.2f} [{values.mean() - half:+.2f}, {values.mean() + half:+.2f}]"


def report(runs: Sequence[Run], command: str) -> str:
    """Levels without noise, and what noise changes."""
    seeds = len({x["seed"] for x in runs})
    words = list(runs[0]["found"])
    lines = [
        "# What guided noise buys", "", f"{date.today().isoformat()}, `{command}`", "",
        f"Machine: `{json.dumps(measuring.machine())}`", "",
        f"The library's recipe at its automatic rate, 1 % of the weights, {seeds} seeds, "
        "validation. Rounding is to nearest with a symmetric step for each output channel, pruning "
        "by magnitude within a matrix, both of all convolutions; merged: the change of the other "
        "task added. Differences to the same seed without noise, in points, with 95 % "
        "t-intervals.", "",
    ]  # fmt: skip
    for side, what in enumerate(("New quality", "Old quality")):
        lines += [f"## {what}", "", "| task | noise | " + " | ".join(words) + " |",
                  "| --- | --- |" + " --- |" * len(words)]  # fmt: skip
        for task in dict.fromkeys(x["task"] for x in runs):
            plain = [x for x in runs if x["task"] == task and not x["noise"]]
            means = [np.mean([x["found"][w][side] for x in plain]) for w in words]
            lines.append(f"| {task} | none | " + " | ".join(f"{m:.2f}" for m in means) + " |")
            for noise in variants()[1:]:
                cells = [shown(difference(runs, task, noise, w, side)) for w in words]
                lines.append(f"| {task} | {noise} | " + " | ".join(cells) + " |")
        lines.append("")
    return "\n".join(lines).rstrip() + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is missing and write."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.tuning.aftermath",
                                     description=__doc__)  # fmt: skip
    parser.add_argument("--seeds", type=int, default=SEEDS)
    parser.add_argument("--folder", type=Path, default=records.PACKED)
    given = parser.parse_args(arguments)
    torch.set_num_threads(1)
    runs = all_runs(given.seeds)
    command = "python -m benchmarks.tuning.aftermath " + " ".join(arguments or sys.argv[1:])
    records.write(given.folder / "aftermath.md", report(runs, command.strip()))
    records.write(given.folder / "aftermath.json", json.dumps(runs, indent=1) + "\n")
    print(given.folder / "aftermath.md")
    return 0


if __name__ == "__main__":
    sys.exit(main())
