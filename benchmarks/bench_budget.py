"""Is the recommended budget near the best? Short runs at several budgets, beside `frog recommend`.

    PYTHONPATH=src:. python benchmarks/bench_budget.py [--write]

The runs are those of ``budget_runs.py`` (about fifteen minutes of CPU time, kept, resumable).
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

import frog
from benchmarks import budget_runs
from benchmarks.measuring import heading
from benchmarks.tasks import DATA, encode
from frog.allocation.amount import CHANGE, expected_change

RESULT = Path(__file__).parent / "results" / "budget_epyc_2026-11.md"
FACTS = {
    "signs": "ResNet20 to hand signs (1,500 images, 10 classes; 72 steps of 64)",
    "sentiment": "MiniLM to SST-2 (50 steps of 32, 2 classes)",
    "plays": "stories260k to Shakespeare (steps of 8 x 128 tokens)",
}
OLD = {
    "signs": "CIFAR-10 accuracy",
    "sentiment": "STS-B rho",
    "plays": "minus divergence from itself",
}


def groups(runs: list[dict[str, Any]]) -> Iterator[tuple[str, int, int, list[dict[str, Any]]]]:
    """Runs of one task, number of examples and of steps."""
    found: dict[tuple[str, int, int], list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        found[run["task"], run["examples"], run["steps"]].append(run)
    order = list(FACTS)
    for key in sorted(found, key=lambda x: (order.index(x[0]), x[1:])):
        yield *key, sorted(found[key], key=lambda x: (x["capped"], x["budget"], x["seed"]))


def workload(task: str, examples: int, steps: int, rate: float) -> frog.Workload:
    """What a user would have said of the runs beforehand."""
    if task == "signs":
        count = examples or len(np.load(DATA / "sign-digits/sign_digits_32x32.npz")["x_train"])
        return frog.Workload(full_rate=rate, steps=steps, examples=count, classes=10)
    if task == "sentiment":
        return frog.Workload(full_rate=rate, steps=steps, examples=32 * steps)
    text = (DATA / "tinyshakespeare/input.txt").read_text()[:400_000]
    tokens = min(steps * 8 * 127, len(encode(text)))
    return frog.Workload(full_rate=rate, steps=steps, tokens=tokens)


def mean_loss(runs: list[dict[str, Any]]) -> dict[float, float]:
    """Test loss at the end by budget, mean over seeds, of the runs without a cap."""
    found: dict[float, list[float]] = defaultdict(list)
    for run in runs:
        if not run["capped"]:
            found[run["budget"]].append(run["track"][-1]["loss"])
    return {budget: float(np.mean(values)) for budget, values in found.items()}


def between(losses: dict[float, float], share: float) -> float:
    """Loss at a share, by lines through the logarithm of the measured budgets."""
    known = sorted(losses)
    return float(np.interp(math.log(share), np.log(known), [losses[x] for x in known]))


def summary() -> Iterator[str]:
    yield "| runs | recommended | decided by | without data given | loss there | at 1 % | of full |"
    yield "|---|--:|---|--:|--:|--:|--:|"
    reports: dict[str, frog.ModelReport] = {}
    for task, examples, steps, runs in groups(budget_runs.results()):
        made = budget_runs.TASKS[task](0)
        if task not in reports:
            reports[task] = frog.analyze(made.encoder, frog.Settings(bootstrap=0))
        work = workload(task, examples, steps, made.full_rate)
        blind = frog.Workload(full_rate=made.full_rate)
        found, other = (
            frog.recommend(reports[task], x, include=made.include).amount for x in (work, blind)
        )
        losses = mean_loss(runs)
        by = next((x.name for x in found.bounds if x.decides), "least")
        few = f", {examples} images" if examples else ""
        yield (
            f"| {task}, {steps} steps{few} | {found.share:.1%} | {by} | {other.share:.1%} "
            f"({between(losses, other.share):.3f}) | {between(losses, found.share):.3f} "
            f"| {between(losses, 0.01):.3f} | {losses[1.0]:.3f} |"
        )


def tables() -> Iterator[str]:
    for task, examples, steps, runs in groups(budget_runs.results()):
        few = f", only {examples} images" if examples else ""
        yield f"### {FACTS[task]}: {steps} steps{few}"
        yield ""
        yield (
            f"| budget | seed | rate / RMS(W) | accuracy | test loss | {OLD[task]} | change | "
            "bracket | spectral share | intruders |"
        )
        yield "|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|"
        for run in runs:
            last, relative = run["track"][-1], run["rate"] / run["rms"]
            low, high = expected_change(math.sqrt(run["budget"]) * relative, run["steps"])
            yield (
                f"| {run['budget']:.1%}{' capped' if run['capped'] else ''} | {run['seed']} "
                f"| {relative:.4f} | {last['accuracy']:.3f} | {last['loss']:.3f} "
                f"| {last['old']:.3f} | {last['moved']:.3f} | {low:.3f} to {high:.3f} "
                f"| {run['spectral_share']:.2f} | {run['intruders']:.0f} |"
            )
        yield ""
        if examples:
            yield "Test loss along the run (a sixth of the steps each):"
            yield ""
            for run in runs:
                points = [f"{x['loss']:.2f}" for x in run["track"] if "loss" in x]
                yield f"- {run['budget']:.0%}: {', '.join(points)}"
            yield ""


def brackets() -> str:
    """How often the change lies within the bracket, and where in it."""
    inside, places = 0, []
    runs = budget_runs.results()
    for run in runs:
        step = math.sqrt(run["budget"]) * run["rate"] / run["rms"]
        low, high = expected_change(step, run["steps"])
        moved = run["track"][-1]["moved"]
        inside += low <= moved <= high
        places.append(moved / low)
    middle, worst = float(np.median(places)), max(places)
    return (
        f"The relative change lay within the bracket in {inside} of {len(runs)} runs; it was "
        f"{middle:.1f} times its lower end in the middle, {worst:.1f} times at most, "
        f"{min(places):.2f} times at least."
    )


KNOWN = {"signs": 0.915, "sentiment": 0.8237, "plays": 0.0}
"""Scores of the old tasks before tuning."""


def limits() -> str:
    """What runs within and beyond the limit of the relative change lost of the old task."""
    within, beyond = [], []
    for run in budget_runs.results():
        last = run["track"][-1]
        lost = KNOWN[run["task"]] - last["old"]
        far = last["moved"] > CHANGE / math.sqrt(run["budget"])
        (beyond if far else within).append((run["task"], lost))
    worst = max(lost for _, lost in within)
    scores = [lost for task, lost in beyond if task != "plays"]
    nats = [lost for task, lost in beyond if task == "plays"]
    return (
        f"The limit of the relative change, {CHANGE:g} / sqrt(share): the {len(within)} runs "
        f"within it lost at most {worst:.3f} of the old score; of those beyond, the "
        f"{len(scores)} with an accuracy lost {min(scores):.3f} to {max(scores):.3f}, the "
        f"{len(nats)} of the language model diverged by {min(nats):.2f} to {max(nats):.2f} nats."
    )


def lines() -> list[str]:
    spent = sum(x["seconds"] for x in budget_runs.results())
    return [
        heading(
            "Budgets: what is learnt, what is forgotten, and what is recommended",
            "one thread",
            note=f"; {spent:.0f} s of CPU time",
            about=budget_runs.__doc__,
        ),
        "Signs: two seeds (paired tests of 500 images, standard error of an accuracy 1.5 points);",
        "the others one seed each (872 sentences, 1.3 points; 8,128 tokens).",
        "",
        "## Recommended, and what came of it",
        "",
        "Losses between measured budgets are interpolated over log b. *Without data given* is the",
        "step bound alone.",
        "",
        *summary(),
        "",
        brackets(),
        "",
        limits(),
        "",
        "## All runs",
        "",
        *tables(),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    if not DATA.exists():
        raise SystemExit("needs the folder shared/data beside the checkout")
    torch.set_num_threads(1)
    budget_runs.run_all()
    text = "\n".join(lines())
    print(text)
    if write:
        RESULT.write_text(text.rstrip() + "\n")


if __name__ == "__main__":
    main()
