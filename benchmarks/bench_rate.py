"""Is the automatic learning rate near the best of a sweep, for masks and budgets of any kind?

    PYTHONPATH=src:. python benchmarks/bench_rate.py > benchmarks/results/rate_....md
    PYTHONPATH=src:. python benchmarks/bench_rate.py --task signs --masks random --budgets 0.01

MiniLM with mean pooling and a fresh linear head on SST-2 (32 steps of 12 sentences, 256 held out),
ResNet20 of CIFAR-10 with a fresh head on photographs of hand signs (48 steps of 32 images, 500 held
out). For each mask and budget the rate full / share is computed, the share measured on 5 batches
other than those that chose the mask (5 batches, with the head fitted on frozen features first, and
put back), and the model trained at multiples of it, without the cap. The measure is the loss on
held-out examples; the old task's accuracy stands beside it in brackets (ResNet20: 500 images of
CIFAR-10 with the old head; it needs Pillow). AdamW without decay, warm-up over 10 % of the steps,
then a linear fall to 0; dropout off, statistics of BatchNorm frozen. The head trains at the
automatic rate of whole parameters, ten times that of full tuning, where no other is named. One
seed; rates differ by factors of about three.

Every run is kept in ``--log``, and not run again: an interrupted call goes on.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from torch import nn
from torch.nn import functional

sys.path.insert(0, str(Path(__file__).parents[1]))

import frog
from benchmarks.measuring import heading, load_average
from benchmarks.tasks import KEPT, SentimentTask, SignTask, cifar_test, pooled
from frog.tuning.rates import CAP
from frog.tuning.rates.defaults import ALSO, full_rate

SETTINGS = frog.Settings(bootstrap=0, curves=False, min_evals=16)


class Sentiment(nn.Module):
    """MiniLM on sentences."""

    steps, batch, full = 32, 12, (1e-5, 3e-5, 1e-4, 3e-4, 1e-3)
    whole, leave = "head", "embeddings|pooler|head"

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["task"] = SentimentTask()
        self.encoder, self.head = self.task.encoder, nn.Linear(384, 2)
        texts, labels = self.task.test
        order = sorted(range(0, 768, 3), key=lambda i: len(texts[i]))
        self.__dict__["held"] = [
            ([texts[i] for i in part], torch.tensor([int(labels[i]) for i in part]))
            for part in (order[k : k + 64] for k in range(0, 256, 64))
        ]

    def forward(self, inputs: Any, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        logits = self.head(pooled(self.encoder, inputs))
        return functional.cross_entropy(logits, labels), logits

    def batches(self, seed: int) -> Iterator[tuple[Any, torch.Tensor]]:
        for inputs, labels in self.task.batches(self.batch, seed):
            yield {k: v[:, :32] for k, v in inputs.items()}, labels

    def examples(self) -> Iterator[tuple[Any, torch.Tensor]]:
        for texts, labels in self.held:
            yield {k: v[:, :32] for k, v in self.task.encoded(texts).items()}, labels

    def old(self) -> float:
        return float("nan")


class Signs(nn.Module):
    """ResNet20 on hand signs; the old head is kept for the old task."""

    steps, batch, full = 48, 32, (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
    whole, leave = r"^net\.linear", "linear"

    def __init__(self) -> None:
        super().__init__()
        self.__dict__["task"] = SignTask()
        self.net = self.task.model
        self.__dict__["kept"] = {k: v.clone() for k, v in self.net.linear.state_dict().items()}
        self.__dict__["cifar"] = None
        if find_spec("PIL") is not None:
            self.__dict__["cifar"] = cifar_test(500)
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
        if self.cifar is None:
            return float("nan")
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


def full_tuning(model: Any, seed: int) -> Iterator[dict[str, Any]]:
    """All targeted matrices trained whole, at the rates of the grid."""
    start = {k: v.clone() for k, v in model.state_dict().items()}
    report = frog.analyze(model, SETTINGS)
    plan = frog.allocate(report, 1.0, exclude=model.leave)
    whole = {x.name for x in plan.layers}
    named = dict(model.named_parameters())
    head = [v for k, v in named.items() if k.split(".")[-2] in ("head", "linear")]
    also = ALSO * full_rate(model, "adam")[0]
    for lr in model.full:
        started = time.process_time()
        for name, parameter in named.items():
            parameter.requires_grad_(name in whole or any(parameter is x for x in head))
        optimizer = torch.optim.AdamW(
            [{"params": [named[k] for k in whole], "lr": lr}, {"params": head, "lr": also}],
            weight_decay=0.0,
        )
        train(model, optimizer, seed)
        cpu = round(time.process_time() - started, 1)
        yield {"mask": "full tuning", "budget": 1.0, "lr": lr, **judge(model), "cpu": cpu}
        model.load_state_dict(start)
        for parameter in named.values():
            parameter.grad = None


@dataclass(frozen=True, kw_only=True)
class Setting:
    """One run: a mask at ``times`` its rate, the head at ``head`` times the rate of full tuning."""

    mask: str
    budget: float
    times: float = 1.0
    head: float = ALSO
    layers: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A selection, and its rate as measured: once for all runs, which start alike."""

    report: Any
    chosen: Any
    rate: Any
    share_fitted: float


def prepared(model: Any, mask: str, budget: float, seed: int) -> Prepared:
    report = frog.analyze(model, SETTINGS)
    plan = frog.allocate(report, budget, exclude=model.leave)
    choice = None
    if "gradient" in mask:
        names, data = [x.name for x in plan.layers], some(model, 1000 + seed, 5)
        with fitted_head(model, seed):
            found = frog.collect_gradients(model, data, names=names, loss=loss_of)
        choice = frog.Choice(gradients=found)
    chosen = frog.select(model, plan, score=mask, choice=choice, seed=seed)
    others = some(model, 2000 + seed, 5)
    with frog.Tuner(model, chosen) as tuner:
        rate = tuner.rate(others, loss=loss_of)
        with fitted_head(model, seed):
            fitted = tuner.rate(others, loss=loss_of).share
    return Prepared(report=report, chosen=chosen, rate=rate, share_fitted=fitted or 0.0)


def run(model: Any, asked: Setting, made: Prepared, seed: int) -> dict[str, Any]:
    """Train once, and leave the model as it was."""
    plan, rate = made.chosen.plan, made.rate
    if asked.layers:
        kind, _, strength = asked.layers.partition(" ")
        plan = frog.layer_rates(plan, made.report, kind, strength=float(strength))
    tuner = frog.Tuner(model, made.chosen, plan=plan, also=[model.whole])
    lr = rate.full / rate.share * asked.times
    optimizer = tuner.optimizer(lr=lr, also_lr=rate.full * asked.head, weight_decay=0.0)
    train(model, optimizer, seed)
    facts = {
        "lr": lr, "full": rate.full, "share": rate.share, "chance": rate.chance,
        "share_fitted": made.share_fitted, "rms": rate.cap / CAP, **judge(model),
    }  # fmt: skip
    tuner.revert()
    return facts


def settings(
    grid: Sequence[float], masks: Sequence[str], budgets: Sequence[float]
) -> list[Setting]:
    sweeps = [
        Setting(mask=mask, budget=budget, times=times)
        for mask in masks for budget in budgets for times in grid
    ]  # fmt: skip
    heads = [Setting(mask="random", budget=0.01, head=x) for x in (1.0, 3.0, 30.0)]
    layers = [
        Setting(mask="random", budget=0.01, layers=x)
        for x in ("sigmoid 0.25", "sigmoid -0.25", "linear 1.0")
    ]
    return sweeps + heads + layers


# ---------------------------------------------------------------------------- the tables


def tables(rows: list[dict[str, Any]]) -> Iterator[str]:
    for task in dict.fromkeys(x["task"] for x in rows):
        mine = [x for x in rows if x["task"] == task]
        yield f"\n## {TASKS[task].__doc__.strip()[:-1]}\n"
        yield from _full(mine)
        yield from _sweeps([x for x in mine if not x.get("layers") and x.get("head") == ALSO])
        yield from _variants(mine)


def _full(rows: list[dict[str, Any]]) -> Iterator[str]:
    found = [x for x in rows if x["mask"] == "full tuning"]
    if found:
        yield "| full tuning at lr | held-out loss | accuracy | old task |\n|---|---|---|---|"
        for x in found:
            yield f"| {x['lr']:g} | {x['loss']:.3f} | {x['accuracy']:.1%} | {_old(x)} |"
        yield ""


def _sweeps(rows: list[dict[str, Any]]) -> Iterator[str]:
    grid = sorted({x["times"] for x in rows if "times" in x})
    heads = ["mask", "budget", "share / chance", "share, head fitted", "full / share (over RMS)"]
    heads += ["cap", "auto", *(f"x {t:g}" for t in grid), "best lr", "auto / best"]
    yield f"| {' | '.join(heads)} |"
    yield "|---" * (9 + len(grid)) + "|"
    for key in sorted({(x["mask"], x["budget"]) for x in rows if "times" in x}):
        cells = {x["times"]: x for x in rows if "times" in x and (x["mask"], x["budget"]) == key}
        one = next(iter(cells.values()))
        plain, cap = one["full"] / one["share"], CAP * one["rms"]
        best = min(cells.values(), key=lambda x: x["loss"])
        auto = min(plain, cap)
        losses = [
            f" {'**' * (x is best)}{x['loss']:.3f}{'**' * (x is best)} ({_old(x)}) |" if x else " |"
            for x in (cells.get(t) for t in grid)
        ]
        yield (
            f"| {key[0]} | {key[1]:.2%} | {one['share']:.2%} / {one['chance']:.2%} | "
            f"{_share(one)} | {plain:.3g} ({plain / one['rms']:.2f}) | {cap:.3g} | "
            f"{auto:.3g} |{''.join(losses)} {best['lr']:.3g} | {auto / best['lr']:.2f} |"
        )
    yield ""


def _variants(rows: list[dict[str, Any]]) -> Iterator[str]:
    ours = [x for x in rows if x["budget"] == 0.01 and x["mask"] == "random"]
    plain = [x for x in ours if x["times"] == 1.0]
    if len(plain) < 2:
        return
    yield "| random, 1 %, at full / share | loss | accuracy | old task |\n|---|---|---|---|"
    for x in sorted(plain, key=lambda x: (x["layers"], x["head"])):
        what = f"ratios by layer: {x['layers']}" if x["layers"] else f"head at {x['head']:g} x full"
        yield f"| {what} | {x['loss']:.3f} | {x['accuracy']:.1%} | {_old(x)} |"


def _share(row: dict[str, Any]) -> str:
    return f"{row['share_fitted']:.2%}" if "share_fitted" in row else "-"


def _old(row: dict[str, Any]) -> str:
    return f"{row['old']:.0%}" if row["old"] == row["old"] else "-"


def numbers(text: str) -> list[float]:
    return [float(x) for x in text.split(",")]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--task", default="sst2,signs")
    parser.add_argument("--masks", default="random,magnitude,gradient")
    parser.add_argument("--budgets", type=numbers, default=[0.005, 0.01, 0.05])
    parser.add_argument("--grid", type=numbers, default=[0.1, 0.3, 1.0, 3.0])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=KEPT / "rate.jsonl")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    asked.log.parent.mkdir(parents=True, exist_ok=True)
    rows = [json.loads(x) for x in asked.log.read_text().splitlines()] if asked.log.exists() else []
    load = load_average()

    def keep(row: dict[str, Any]) -> None:
        rows.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
        with asked.log.open("a") as file:
            file.write(json.dumps(row) + "\n")

    for name in asked.task.split(","):
        torch.manual_seed(asked.seed)
        model = TASKS[name]()
        common = {"task": name, "seed": asked.seed}
        if not any(x["task"] == name and x["mask"] == "full tuning" for x in rows):
            for row in full_tuning(model, asked.seed):
                keep(common | row)
        made: dict[tuple[str, float], Prepared] = {}
        for setting in settings(asked.grid, asked.masks.split(","), asked.budgets):
            known = common | asdict(setting)
            if any(known.items() <= x.items() for x in rows):
                continue
            start = time.process_time()
            key = (setting.mask, setting.budget)
            if key not in made:
                made[key] = prepared(model, *key, asked.seed)
            found = run(model, setting, made[key], asked.seed)
            keep(known | found | {"cpu": round(time.process_time() - start, 1)})
    spent = sum(x["cpu"] for x in rows)
    print(heading("The automatic learning rate beside sweeps", f"load {load} at the start",
                  note=f"; {spent:.0f} CPU seconds in {len(rows)} runs"))  # fmt: skip
    print("\n".join(__doc__.split("\n\n")[2:3]))
    print("\n".join(tables(rows)))


if __name__ == "__main__":
    main()
