"""Short runs at several budgets: what is learnt, what is forgotten, how far the weights move.

    PYTHONPATH=src:. python benchmarks/budget_runs.py [--only NAME,...]

A random choice of each budget is tuned on a new task by :class:`frog.Tuner`, the new head with it,
AdamW without weight decay, warm-up over a tenth of the steps, then linear decay. The learning rate
is the full one over the budget; a run marked *capped* has at most ``CAP`` RMS(W). 100 % is plain
tuning of the same matrices. Every run is kept in ``benchmarks/.work/budget`` as soon as it is
done: an interrupted call goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from scipy.stats import spearmanr
from torch import nn
from torch.nn import functional

import frog
from benchmarks.tasks import (
    DATA,
    KEPT,
    cifar_resnet,
    cifar_test,
    encode,
    endless,
    minilm_folder,
    pooled,
    sentences,
    sign_images,
    stories_model,
)
from frog.numerics.drift import change

FOLDER = KEPT / "budget"
CAP = 0.15
"""Largest learning rate over RMS(W), the entries' size, in a capped run."""

HEAD_RATE = 1e-2


@dataclass(frozen=True, kw_only=True)
class Run:
    """One run: ``budget`` is a share of the matrices, ``examples`` (0: all) of the training set."""

    task: str
    budget: float
    seed: int
    capped: bool = False
    examples: int = 0
    steps: int = 0

    @property
    def name(self) -> str:
        few = f"-{self.examples}of" if self.examples else f"-{self.steps}" if self.steps else ""
        return f"{self.task}{few}-{self.budget:g}{'-capped' if self.capped else ''}-{self.seed}"


@dataclass(kw_only=True)
class Task:
    """A model with a new head, its training batches and the scores of the new and the old task."""

    model: nn.Module
    encoder: nn.Module
    loss: Callable[[Any], torch.Tensor]
    batches: Callable[[int], Iterator[Any]]
    new: Callable[[], tuple[float, float]]
    old: Callable[[], float]
    include: str
    full_rate: float
    steps: int


def signs(examples: int) -> Task:
    """ResNet20 of CIFAR-10 on photographs of ten hand signs; old score: accuracy on CIFAR-10."""
    model = cifar_resnet()
    old_head, model.linear = model.linear, nn.Linear(64, 10)
    x, y, test, labels = sign_images()
    if examples:
        picked = np.random.default_rng(7).choice(len(x), examples, replace=False)
        x, y = x[picked], y[picked]
    images, truth = cifar_test(1000)

    @torch.no_grad()
    def new() -> tuple[float, float]:
        logits = model(test)
        loss = functional.cross_entropy(logits, labels)
        return float((logits.argmax(1) == labels).float().mean()), float(loss)

    @torch.no_grad()
    def old() -> float:
        head, model.linear = model.linear, old_head
        right = float((model(images).argmax(1) == truth).float().mean())
        model.linear = head
        return right

    return Task(
        model=model,
        encoder=model,
        loss=lambda part: functional.cross_entropy(model(x[part]), y[part]),
        batches=lambda seed: endless(len(x), min(64, len(x)), seed),
        new=new,
        old=old,
        include="conv",
        full_rate=1.5e-4,
        steps=72,
    )


def sentiment(examples: int) -> Task:
    """MiniLM on film reviews (SST-2); old score: Spearman's rho on every third pair of STS-B."""
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(minilm_folder())
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    head = nn.Linear(encoder.config.hidden_size, 2)
    model = nn.ModuleDict({"encoder": encoder, "head": head})
    texts, labels = sentences("train")
    held, held_labels = sentences("dev")
    order = sorted(range(len(held)), key=lambda i: len(held[i]))
    rows = [
        line.rsplit(",", 1)
        for line in (DATA / "stsb-en/stsb-en-test.csv").read_text(encoding="utf-8").splitlines()
    ][::3]
    pairs = [_halves(row[0]) for row in rows]
    gold = [float(row[1]) for row in rows]

    def embed(part: list[str]) -> torch.Tensor:
        batch = tokenizer(part, padding=True, truncation=True, max_length=64, return_tensors="pt")
        return pooled(encoder, batch)

    @torch.no_grad()
    def new() -> tuple[float, float]:
        logits = torch.cat([head(embed([held[i] for i in order[at : at + 32]]))
                            for at in range(0, len(order), 32)])  # fmt: skip
        truth = torch.tensor(held_labels[order])
        loss = functional.cross_entropy(logits, truth)
        return float((logits.argmax(1) == truth).float().mean()), float(loss)

    @torch.no_grad()
    def old() -> float:
        both = [s for pair in pairs for s in pair]
        by_length = sorted(range(len(both)), key=lambda i: len(both[i]))
        found = torch.zeros(len(both), encoder.config.hidden_size)
        for at in range(0, len(both), 64):
            part = by_length[at : at + 64]
            found[part] = functional.normalize(embed([both[i] for i in part]), dim=1)
        cosines = (found[0::2] * found[1::2]).sum(1)
        return float(spearmanr(cosines.numpy(), gold).statistic)

    def batches(seed: int) -> Iterator[tuple[list[str], torch.Tensor]]:
        for part in endless(examples or len(texts), 32, seed):
            yield [texts[i] for i in part], torch.tensor(labels[part])

    return Task(
        model=model,
        encoder=encoder,
        loss=lambda batch: functional.cross_entropy(head(embed(batch[0])), batch[1]),
        batches=batches,
        new=new,
        old=old,
        include="encoder.layer",
        full_rate=1e-4,
        steps=50,
    )


def _halves(text: str) -> tuple[str, str]:
    """Two sentences of a line of CSV, the first perhaps in quotes."""
    import csv

    first, second = next(csv.reader([text]))[:2]
    return first, second


def plays(examples: int) -> Task:
    """stories260k on Shakespeare; old score: minus its divergence from itself on its own text."""
    del examples
    model = stories_model()
    text = (DATA / "tinyshakespeare/input.txt").read_text()
    train = torch.tensor(encode(text[:400_000]))
    held = torch.tensor(encode(text[-40_000:]))
    held = held[: len(held) // 128 * 128].view(-1, 128)[:64]
    torch.manual_seed(0)
    start = torch.ones(16, 1, dtype=torch.long)
    own = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=True, max_new_tokens=127,
        min_new_tokens=127, pad_token_id=0, top_k=0,
    )  # fmt: skip
    with torch.no_grad():
        before = functional.log_softmax(model(own).logits, dim=-1)

    def logits_of(part: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return model(part).logits[:, :-1].flatten(0, 1), part[:, 1:].flatten()

    @torch.no_grad()
    def new() -> tuple[float, float]:
        logits, truth = logits_of(held)
        right = float((logits.argmax(1) == truth).float().mean())
        return right, float(functional.cross_entropy(logits, truth))

    @torch.no_grad()
    def old() -> float:
        now = functional.log_softmax(model(own).logits, dim=-1)
        return -float((before.exp() * (before - now)).sum(-1).mean())

    def batches(seed: int) -> Iterator[torch.Tensor]:
        draw = np.random.default_rng(seed)
        while True:
            starts = draw.integers(0, len(train) - 128, 8)
            yield torch.stack([train[s : s + 128] for s in starts])

    return Task(
        model=model,
        encoder=model,
        loss=lambda part: functional.cross_entropy(*logits_of(part)),
        batches=batches,
        new=new,
        old=old,
        include="proj",
        full_rate=3e-4,
        steps=150,
    )


TASKS: dict[str, Callable[[int], Task]] = {"signs": signs, "sentiment": sentiment, "plays": plays}
BUDGETS = (0.001, 0.003, 0.01, 0.03, 0.1, 1.0)


def planned() -> list[Run]:
    """Every run, the cheap ones first."""
    runs = []
    runs += [Run(task="plays", budget=b, seed=0) for b in (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)]
    runs += [
        Run(task="plays", budget=b, seed=0, steps=steps)
        for steps, budgets in ((15, BUDGETS[2:5]), (50, BUDGETS[2:5]), (450, (0.03, 0.1)))
        for b in (*budgets, 0.3, 1.0)
    ]
    for task, seeds in (("signs", (0, 1)), ("sentiment", (0,))):
        for seed in seeds:
            runs += [Run(task=task, budget=b, seed=seed) for b in BUDGETS]
            runs += [Run(task=task, budget=b, seed=seed, capped=True) for b in BUDGETS[:2]]
        if task == "signs":
            runs += [
                Run(task=task, budget=b, seed=0, examples=100, steps=144) for b in (0.01, 0.1, 1.0)
            ]
    return runs


def measure(run: Run) -> dict[str, Any]:
    """Train one run and tell what came of it; ``track`` has the scores along the way."""
    torch.manual_seed(run.seed)
    torch.set_num_threads(1)
    started = time.process_time()
    task = TASKS[run.task](run.examples)
    task.model.eval()  # no dropout, BatchNorm as it is
    report = frog.analyze(task.encoder, frog.Settings(bootstrap=0))
    before = {k: v.detach().clone() for k, v in task.encoder.state_dict().items()}
    plan = frog.allocate(report, min(run.budget, 0.5), include=task.include)
    names = [x.name for x in plan.layers]
    norm = sum(float(before[name].square().sum()) for name in names)
    rms = math.sqrt(norm / plan.params)
    rate = task.full_rate / run.budget
    rate = min(rate, CAP * rms) if run.capped else rate
    steps = run.steps or task.steps
    head = [p for n, p in task.model.named_parameters() if n.startswith(("linear", "head."))]
    if run.budget < 1:
        chosen = frog.select(task.encoder, plan, seed=run.seed)
        tuner = frog.Tuner(task.encoder, chosen)
        for parameter in head:
            parameter.requires_grad_(True)
        groups = [{"params": [x.change for x in tuner.compacts], "lr": rate}]
    else:
        tuner = None
        tuned = [p for n, p in task.encoder.named_parameters() if n in names]
        for parameter in task.encoder.parameters():
            parameter.requires_grad_(any(parameter is x for x in (*tuned, *head)))
        groups = [{"params": tuned, "lr": rate}]
    if head:
        groups.append({"params": head, "lr": HEAD_RATE})
    optimizer = torch.optim.AdamW(groups, weight_decay=0.0)
    warm = max(1, steps // 10)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda s: min((s + 1) / warm, (steps - s) / (steps - warm))
    )
    track, batches = [], task.batches(run.seed)
    parts = 6 if run.examples else 1  # few examples: does the test loss turn?
    marks = {steps * part // parts for part in range(1, parts + 1)}
    for step in range(1, steps + 1):
        optimizer.zero_grad()
        loss = task.loss(next(batches))
        loss.backward()
        optimizer.step()
        schedule.step()
        moved = (
            _moved(task.encoder, before, names, norm) if step % 6 == 0 or step in marks else None
        )
        if step in marks:
            accuracy, test = task.new()
            scores = {"accuracy": accuracy, "loss": test, "old": task.old()}
            track.append({"step": step, "train": float(loss.detach()), "moved": moved} | scores)
        elif moved is not None:
            track.append({"step": step, "train": float(loss.detach()), "moved": moved})
    after = {k: v.detach() for k, v in task.encoder.state_dict().items()}
    shapes = [_shape_of_change(before[name], after[name]) for name in names]
    return {
        **asdict(run),
        "rate": rate,
        "rms": rms,
        "params": plan.params,
        "count": plan.total if run.budget < 1 else plan.params,
        "steps": steps,
        "track": track,
        "spectral_share": float(np.nanmean([x.spectral_share for x in shapes])),
        "intruders": float(np.nansum([x.intruders for x in shapes])),
        "seconds": round(time.process_time() - started, 1),
    }


def _moved(
    model: nn.Module, before: dict[str, torch.Tensor], names: list[str], norm: float
) -> float:
    after = model.state_dict()
    return math.sqrt(sum(float((after[n] - before[n]).square().sum()) for n in names) / norm)


def _shape_of_change(old: torch.Tensor, new: torch.Tensor) -> Any:
    def slabs(matrix: np.ndarray) -> Callable[[int, int], Iterator[np.ndarray]]:
        return lambda axis, size: (
            matrix[at : at + size] if axis == 0 else matrix[:, at : at + size]
            for at in range(0, matrix.shape[axis], size)
        )  # fmt: skip

    a, b = (x.reshape(len(x), -1).numpy() for x in (old, new))
    return change(slabs(a), slabs(b), a.shape, k=10)


def results() -> list[dict[str, Any]]:
    """All runs that are done."""
    return [json.loads(x.read_text()) for x in sorted(FOLDER.glob("*.json"))]


def run_all(only: Sequence[str] = ()) -> None:
    """Every run that is not there yet; ``only`` names tasks."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    for run in planned():
        file = FOLDER / f"{run.name}.json"
        if file.exists() or (only and run.task not in only):
            continue
        found = measure(run)
        part = file.with_suffix(".part")
        part.write_text(json.dumps(found, indent=1))
        part.replace(file)
        last = found["track"][-1]
        scores = ", ".join(f"{k} {last[k]:.3f}" for k in ("accuracy", "loss", "old", "moved"))
        print(f"{run.name}: {scores}, {found['seconds']} s", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="")
    run_all([x for x in parser.parse_args().only.split(",") if x])


if __name__ == "__main__":
    main()
