"""Do rounds around the plan so far make better plans than units measured alone?

    PYTHONPATH=src:. python benchmarks/bench_rounds.py [--only minilm,...] [--splits 3] [--write]

Plans as ``frog plan`` makes them (64 sentences for MiniLM, its default), without rounds, with one
and with three, beside plans by alpha of both signs, held against the uniform plan on data that they
were not made on. Runs are kept, cells too: it can be stopped. A quarter of an hour of CPU time
a split of MiniLM. ``--write`` puts the tables into ``benchmarks/results``.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch

import frog
from benchmarks import compression_runs as runs
from benchmarks.bench_compression import over_splits
from benchmarks.measuring import RESULTS, heading
from benchmarks.tasks import DATA
from frog.compression.baselines import Plan, uniform
from frog.compression.judging import Trial, differences, measure
from frog.compression.planned import levels_of
from frog.compression.scores import Evidence, score_named
from frog.types.level_plans import Pruning, Quantisation, Targets

RESULT = RESULTS / "rounds_epyc-avx512_2026-11"
FOLDER = runs.FOLDER.with_name("rounds")
PAIRS = 32
"""Of sentences, for MiniLM: 64 rows are the default of ``frog plan``."""
ROUNDS = (0, 1, 3)
ASKED = (("bits", 4.0), ("prune", 0.4), ("prune", 0.5))
INCLUDE = {"minilm": r"encoder\.layer", "stories": "proj", "resnet20": "conv"}
FACTS = {
    "minilm": f"MiniLM-L6: made on {2 * PAIRS} sentences of STS-B, judged on 96 others",
    "stories": "stories260k: made on 8 rows of its own text, judged on 64 others",
    "resnet20": "ResNet20: made on 32 training images of CIFAR-10, judged on 200 test images",
}
ALPHAS = ("alpha", "-alpha")


def subject_of(name: str) -> runs.Subject:
    """The model and its data, MiniLM with more sentences than in ``bench_compression``."""
    return runs.minilm(made=PAIRS) if name == "minilm" else runs.SUBJECTS[name]()


def plans_of(
    subject: runs.Subject, action: str, budget: float, made: Sequence[Any], log: Path
) -> dict[str, Plan]:
    """Plans by name: in so many rounds, and by alpha."""
    make: Any = frog.plan_bits if action == "bits" else frog.plan_prune
    how = Quantisation() if action == "bits" else Pruning()
    given = partial(make, subject.model, budget, how=how,
                    targets=Targets(include=INCLUDE.get(subject.name)))  # fmt: skip
    found: dict[str, Plan] = {}
    for rounds in ROUNDS:
        calibration = frog.Calibration(
            batches=made, outputs=subject.outputs, log=log, rounds=rounds
        )
        word = f"{rounds} round{'' if rounds == 1 else 's'}" if rounds else "alone"
        found[f"measured, {word}"] = levels_of(given(calibration=calibration))
    evidence = Evidence(
        model=subject.model, units=subject.units, report=frog.analyze(subject.model, runs.SETTINGS)
    )
    alphas = {name: score_named(name).importance(evidence) for name in ALPHAS}
    return found | runs.scored_plans(subject, case_of(action, budget), alphas)


def case_of(action: str, budget: float) -> runs.Case:
    """The same in the words of ``bench_compression``."""
    return runs.Case(kind="bits" if action == "bits" else "magnitude", target=budget)


def run(
    subject: runs.Subject, split: int, *, asked: Sequence[tuple[str, float]] = ASKED,
    folder: Path = FOLDER,
) -> dict[str, Any]:  # fmt: skip
    """All plans on one split; what is kept is not run again."""
    file = folder / f"{subject.name}-{split}.json"
    kept: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    folder.mkdir(parents=True, exist_ok=True)
    for action, budget in asked:
        key = f"{budget:g} bits" if action == "bits" else f"{budget:.0%} pruned"
        if key in kept:
            continue
        cpu = time.process_time()
        made = subject.made(split)
        plans = plans_of(subject, action, budget, made, folder / f"{subject.name}.cells.jsonl")
        first = next(iter(plans.values()))
        matrices = [x for unit in subject.units for x in unit.matrices if x.name in first]
        params = {x.name: math.prod(x.shape) for x in matrices}
        case = case_of(action, budget)
        even = uniform({name: case.level(budget) for name in first}, params)
        trial = Trial(batches=subject.judged(split), outputs=subject.outputs,
                      metrics=subject.metrics)  # fmt: skip
        seen = measure(subject.model, {"": {}, "uniform": even, **plans}, matrices=matrices,
                       trial=trial)  # fmt: skip
        rows = {}
        for name, found in seen.items():
            plan = even if name == "uniform" else plans.get(name, {})
            against = differences(found, seen["uniform"], subject.metrics, seed=split)
            size = sum(plan[x].size(n) if x in plan else n for x, n in params.items())
            rows[name or "unchanged"] = {
                "size": size / sum(params.values()) if name else math.nan,
                "error": found.error, "angle": found.angle, **found.values(subject.metrics),
                "against": {x.measure: x.change for x in against},
            }  # fmt: skip
        kept[key] = {"plans": rows, "cpu_s": round(time.process_time() - cpu, 1)}
        file.write_text(json.dumps(kept))
    return kept


def table(splits: Mapping[int, dict[str, Any]], case: str) -> Iterator[str]:
    """One case: every plan against the uniform one, in the mean and split by split."""
    found = [splits[x][case]["plans"] for x in sorted(splits)]
    metric = next(x for x in found[0]["uniform"]["against"] if x not in ("error", "angle"))
    yield (
        "| plan | size | error | error against uniform | split by split | 1 - cos against uniform "
        f"| split by split | {metric} |"
    )
    yield "|---|--:|--:|--:|---|--:|---|--:|"
    for name in found[0]:
        rows = [x[name] for x in found]
        plain = name in ("unchanged", "uniform")
        each, turned = ([x["against"][measure] for x in rows] for measure in ("error", "angle"))
        cells = [
            f"{np.mean([x['size'] for x in rows]):.4f}" if name != "unchanged" else "–",
            f"{np.mean([x['error'] for x in rows]):.4f}",
            "–" if plain else over_splits(each),
            "–" if plain else ", ".join(f"{x:+.1%}" for x in each),
            "–" if plain else over_splits(turned),
            "–" if plain else ", ".join(f"{x:+.1%}" for x in turned),
            f"{np.mean([x[metric] for x in rows]):.4f}",
        ]
        yield f"| {name} | " + " | ".join(cells) + " |"
    yield ""


def lines(kept: Mapping[str, Mapping[int, dict[str, Any]]]) -> Iterator[str]:
    """The whole report."""
    yield heading("Rounds around the plan so far", "one thread")
    yield (
        "Plans as `frog plan` makes them, judged on data that they were not made on; every split "
        "draws both anew (seeds from 0). Error is ||Y - Y0|| / ||Y0|| of embeddings or logits, "
        "1 - cos about half its square; below 0 is better. Means with 95 % t-intervals over "
        "splits. Bits: groups of 64, widths 2, 3, 4, 5, 6, 8; pruning by magnitude, sparsities in "
        "steps of 10 % up to 90 %. Three rounds were chosen on sentences of another part of STS-B. "
        "`alpha` keeps what has a low alpha, as published, `-alpha` the reverse."
    )
    yield ""
    for name, splits in kept.items():
        yield f"## {FACTS[name]}"
        yield ""
        for case in splits[min(splits)]:
            yield f"### {name}: {case}"
            yield ""
            yield from table(splits, case)
        spent = sum(x[case]["cpu_s"] for x in splits.values() for case in x)
        yield f"{len(splits)} splits, {spent:.0f} CPU seconds."
        yield ""


def main() -> None:
    """Run what is missing and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="resnet20,stories,minilm")
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--write", action="store_true")
    given = parser.parse_args()
    if not DATA.exists():
        raise SystemExit("needs the folder shared/data beside the checkout: see the docstring")
    torch.set_num_threads(1)
    kept = {}
    for name in given.only.split(","):
        subject = subject_of(name)
        kept[name] = {split: run(subject, split) for split in range(given.splits)}
    text = "\n".join(lines(kept)).rstrip()
    print(text)
    if given.write:
        Path(f"{RESULT}.md").write_text(text + "\n")


if __name__ == "__main__":
    main()
