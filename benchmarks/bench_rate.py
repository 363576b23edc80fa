"""Is the automatic learning rate near the best of a sweep, for masks and budgets of any kind?

    PYTHONPATH=src:. python benchmarks/bench_rate.py > benchmarks/results/rate_....md
    PYTHONPATH=src:. python benchmarks/bench_rate.py --task signs --masks random --budgets 0.01

MiniLM with mean pooling and a fresh linear head on SST-2 (40 steps of 16 sentences), ResNet20 of
CIFAR-10 with a fresh head on photographs of hand signs (48 steps of 32 images). For each mask and
budget the automatic rate is computed (from the budget alone, and with the gradient share on batches
other than those that chose the mask), and the model trained at multiples of the latter; the measure is
the loss on held-out examples, the old task's accuracy (ResNet20: CIFAR-10) stands beside it. AdamW
without decay, warm-up over 10 % of the steps, then a linear fall to 0; the head trains at the
automatic rate of whole parameters in every run.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

import frog
from benchmarks.measuring import command, load_average, machine
from benchmarks.partners import CHANNEL_MEAN, CHANNEL_STD, SentimentTask, SignTask

MASKS = {"random": "random", "magnitude": "magnitude", "gradient": "gradient"}
BUDGETS = (0.005, 0.01, 0.05)
GRID = (0.1, 0.3, 1.0, 3.0, 10.0)
SETTINGS = frog.Settings(bootstrap=0, curves=False, min_evals=16)


class Sentiment(nn.Module):
    """MiniLM on sentences."""

    steps, batch, full = 40, 16, (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    head, leave = "head", "embeddings|pooler|head"

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["task"] = SentimentTask()
        self.encoder, self.head = self.task.encoder, nn.Linear(384, 2)
        texts, labels = self.task.test
        order = sorted(range(436), key=lambda i: len(texts[2 * i]))
        self.__dict__["held"] = [
            ([texts[2 * i] for i in part], torch.tensor([int(labels[2 * i]) for i in part]))
            for part in (order[k : k + 64] for k in range(0, 436, 64))
        ]

    def forward(self, inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        states = self.encoder(**inputs).last_hidden_state
        mask = inputs["attention_mask"][..., None]
        logits = self.head((states * mask).sum(1) / mask.sum(1))
        return functional.cross_entropy(logits, labels), logits

    def batches(self, seed: int) -> Iterator[tuple[Any, torch.Tensor]]:
        for inputs, labels in self.task.batches(self.batch, seed):
            yield {k: v[:, :48] for k, v in inputs.items()}, labels

    def examples(self) -> Iterator[tuple[Any, torch.Tensor]]:
        for texts, labels in self.held:
            yield self.task._encoded(texts), labels

    def old(self) -> float:
        return float("nan")


class Signs(nn.Module):
    """ResNet20 on hand signs; the old head is kept for the old task."""

    steps, batch, full = 48, 32, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    head, leave = r"^net\.linear", "linear"

    def __init__(self) -> None:
        super().__init__()
        from benchmarks.layer_keys import cifar_test

        self.__dict__["task"] = SignTask()
        self.net = self.task.model
        self.__dict__["kept"] = {k: v.clone() for k, v in self.net.linear.state_dict().items()}
        self.__dict__["cifar"] = cifar_test(500, CHANNEL_MEAN, CHANNEL_STD)
        self.net.linear.reset_parameters()

    def forward(self, inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.net(inputs)
        return functional.cross_entropy(logits, labels), logits

    def batches(self, seed: int) -> Iterator[tuple[Any, torch.Tensor]]:
        return self.task.batches(self.batch, seed)

    def examples(self) -> Iterator[tuple[Any, torch.Tensor]]:
        labels = torch.tensor(self.task.y_test).long()
        yield from zip(self.task.x_test.split(125), labels.split(125), strict=True)

    @torch.no_grad()
    def old(self) -> float:
        fresh = {k: v.clone() for k, v in self.net.linear.state_dict().items()}
        self.net.linear.load_state_dict(self.kept)
        x, y = self.cifar
        right = sum(
            int((self.net(a).argmax(1) == b).sum())
            for a, b in zip(x.split(125), y.split(125), strict=True)
        )
        self.net.linear.load_state_dict(fresh)
        return right / len(y)


TASKS = {"sst2": Sentiment, "signs": Signs}


def loss_of(model: Any, batch: Any) -> torch.Tensor:
    return model(*batch)[0]


def some(model: Any, seed: int, count: int) -> list[Any]:
    stream = model.batches(seed)
    return [next(stream) for _ in range(count)]


def train(model: Any, optimizer: torch.optim.Optimizer, seed: int) -> None:
    def factor(step: int) -> float:
        warm = max(1, model.steps // 10)
        return min((step + 1) / warm, (model.steps - step) / (model.steps - warm))

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    model.train()
    for module in model.modules():
        if isinstance(module, (nn.Dropout, nn.BatchNorm2d)):
            module.eval()
    for batch in some(model, seed, model.steps):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        schedule.step()


@torch.no_grad()
def judge(model: Any) -> dict[str, float]:
    model.eval()
    loss = right = count = 0.0
    for inputs, labels in model.examples():
        value, logits = model(inputs, labels)
        loss += float(value) * len(labels)
        right += float((logits.argmax(1) == labels).sum())
        count += len(labels)
    return {"loss": loss / count, "accuracy": right / count, "old": model.old()}


@contextlib.contextmanager
def fitted_head(model: Any, seed: int) -> Iterator[None]:
    """The head after 30 steps on frozen features: the gradient of a random one says little."""
    head = [v for k, v in model.named_parameters() if k.split(".")[-2] in ("head", "linear")]
    before = [x.detach().clone() for x in head]
    wanted = [(x, x.requires_grad) for x in model.parameters()]
    for parameter, _ in wanted:
        parameter.requires_grad_(any(parameter is x for x in head))
    optimizer = torch.optim.Adam(head, lr=1e-2)
    model.eval()
    for batch in some(model, 3000 + seed, 30):
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
    for parameter, needs in wanted:
        parameter.requires_grad_(needs)
        parameter.grad = None
    try:
        yield
    finally:
        with torch.no_grad():
            for parameter, old in zip(head, before, strict=True):
                parameter.copy_(old)


def full_tuning(model: Any, seed: int, also: float) -> Iterator[dict[str, Any]]:
    """All targeted matrices trained whole, at the rates of the grid."""
    start = {k: v.clone() for k, v in model.state_dict().items()}
    report = frog.analyze(model, SETTINGS)
    plan = frog.allocate(report, 1.0, exclude=model.leave)
    whole = {x.name for x in plan.layers}
    named = dict(model.named_parameters())
    head = [v for k, v in named.items() if k.split(".")[-2] in ("head", "linear")]
    for lr in model.full:
        for name, parameter in named.items():
            parameter.requires_grad_(name in whole or any(parameter is x for x in head))
        optimizer = torch.optim.AdamW(
            [{"params": [named[k] for k in whole], "lr": lr}, {"params": head, "lr": also}],
            weight_decay=0.0,
        )
        train(model, optimizer, seed)
        yield {"mask": "full tuning", "budget": 1.0, "lr": lr, **judge(model)}
        model.load_state_dict(start)
        for parameter in named.values():
            parameter.grad = None


def sweep(
    model: Any, mask: str, budget: float, seed: int, grid: tuple[float, ...]
) -> Iterator[dict[str, Any]]:
    """One mask at multiples of its automatic rate."""
    report = frog.analyze(model, SETTINGS)
    plan = frog.allocate(report, budget, exclude=model.leave)
    names = [x.name for x in plan.layers]
    choice = None
    if "gradient" in mask:
        data = some(model, 1000 + seed, 5)
        with fitted_head(model, seed):
            found = frog.collect_gradients(model, data, names=names, loss=loss_of)
        choice = frog.Choice(gradients=found)
    chosen = frog.select(model, plan, score=mask, choice=choice, seed=seed)
    others = some(model, 2000 + seed, 5)
    for times in grid:
        tuner = frog.Tuner(model, chosen, also=[model.head])
        plain = tuner.rate()
        with fitted_head(model, seed):
            knowing = tuner.rate(others, loss=loss_of)
        rate = tuner.rate(others, loss=loss_of)
        lr = rate.full / (rate.share or rate.budget) * times
        optimizer = tuner.optimizer(lr=lr, also_lr=rate.also, weight_decay=0.0)
        train(model, optimizer, seed)
        yield {
            "mask": mask, "budget": budget, "times": times, "lr": lr, "auto": rate.lr,
            "by_budget": plain.lr, "share": rate.share, "chance": rate.chance, "share_fitted": knowing.share,
            "full": rate.full, "cap": rate.cap, **judge(model),
        }  # fmt: skip
        tuner.revert()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="sst2,signs")
    parser.add_argument("--masks", default="random,magnitude,gradient")
    parser.add_argument("--budgets", default="0.005,0.01,0.05")
    parser.add_argument("--grid", default="0.1,0.3,1,3,10")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-full", action="store_true")
    parser.add_argument("--log", type=Path)
    asked = parser.parse_args()
    grid = tuple(float(x) for x in asked.grid.split(","))
    rows: list[dict[str, Any]] = []
    load, started = load_average(), time.process_time()
    torch.set_num_threads(1)
    for name in asked.task.split(","):
        torch.manual_seed(asked.seed)
        model = TASKS[name]()
        runs: list[Iterator[dict[str, Any]]] = []
        if not asked.no_full:
            also = 1e-3 if name == "sst2" else 1e-2
            runs.append(full_tuning(model, asked.seed, also))
        for mask in asked.masks.split(","):
            for budget in (float(x) for x in asked.budgets.split(",")):
                runs.append(sweep(model, mask, budget, asked.seed, grid))
        for run in runs:
            for row in run:
                rows.append({"task": name, "seed": asked.seed, **row})
                text = json.dumps(rows[-1])
                print(text, file=sys.stderr, flush=True)
                if asked.log:
                    with asked.log.open("a") as file:
                        file.write(text + "\n")
    print(load, time.process_time() - started, machine(), command())


if __name__ == "__main__":
    main()
