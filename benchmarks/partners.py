"""Really fine-tuned partners of real models, made once and kept: what a healthy change looks like.

    PYTHONPATH=src:. python benchmarks/partners.py [--only minilm-a,resnet-a] [--folder FOLDER]

MiniLM is tuned on SST-2 with a linear head, ResNet20 on photographs of hand signs, a Llama of 260k
parameters on Shakespeare, in full, by a plain loop with a seed; ResNet20 is also trained from
nothing, with a checkpoint every epoch. Each partner is a folder with ``model.safetensors`` (names
as in the base) and ``about.json`` (what was done, and the score on test data before and after:
accuracy, for the Llama cross-entropy per token).
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from safetensors.torch import save_file
from torch.nn import functional

from benchmarks.tasks import KEPT, TASKS, minilm_folder


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How a partner is made; ``steps`` of ``batch`` examples, AdamW, linear decay to zero."""

    model: str
    steps: int
    lr: float
    seed: int
    batch: int = 32
    weight_decay: float = 0.01
    keep_every: int = 0


RECIPES = {
    "minilm-a": Recipe(model="minilm", steps=80, lr=5e-5, seed=0),
    "resnet-a": Recipe(model="resnet20", steps=98, lr=1e-3, seed=0),
    "resnet-b": Recipe(model="resnet20", steps=98, lr=1e-3, seed=1),
    "minilm-b": Recipe(model="minilm", steps=70, lr=2e-5, seed=1),
    "resnet-long": Recipe(model="resnet20", steps=490, lr=1e-3, seed=2),
    "resnet-hot": Recipe(model="resnet20", steps=98, lr=1e-2, seed=3),
    "resnet-new": Recipe(model="untrained", steps=490, lr=3e-3, seed=4, keep_every=49),
    "stories-a": Recipe(model="stories", steps=100, lr=3e-4, seed=0),
    "stories-b": Recipe(model="stories", steps=100, lr=3e-4, seed=1),
    "stories-hot": Recipe(model="stories", steps=100, lr=3e-3, seed=2),
    "resnet-later": Recipe(model="resnet20", steps=196, lr=3e-3, seed=5),
    "stories-later": Recipe(model="stories", steps=60, lr=1e-3, seed=6),
    "minilm-long": Recipe(model="minilm", steps=216, lr=5e-5, seed=2),
    "minilm-hot": Recipe(model="minilm", steps=70, lr=5e-4, seed=3),
}
"""Two seeds of each, one that is tuned longer, one with ten times the learning rate;
those called *later* were made after all limits of scale collapse had been set."""


def partner(name: str, folder: Path = KEPT) -> Path:
    """Folder of a partner, made where it is not there yet."""
    place = folder / name
    if not (place / "about.json").exists():
        make(name, folder)
    return place


def make(name: str, folder: Path) -> None:
    recipe = RECIPES[name]
    torch.set_num_threads(1)
    torch.manual_seed(recipe.seed)
    started = time.perf_counter()
    task = TASKS[recipe.model]()
    before, place = task.accuracy(), folder / name

    def keep(step: int) -> None:
        if recipe.keep_every and step % recipe.keep_every == 0:
            save(task, place / f"checkpoint-{step}")

    keep(0)
    tune(task, recipe, keep)
    save(task, place)
    about = {
        **asdict(recipe),
        "score_before": before,
        "score": task.accuracy(),
        "test_examples": task.tested,
        "seconds": round(time.perf_counter() - started),
    }
    (place / "about.json").write_text(json.dumps(about, indent=1) + "\n")
    print(name, about, flush=True)


def save(task: Any, place: Path) -> None:
    """A folder that any tool reads."""
    place.mkdir(parents=True, exist_ok=True)
    save_file(task.state(), place / "model.safetensors")
    task.save_config(place)


def base_of(model: str, folder: Path = KEPT) -> Path:
    """What the partners were tuned from: MiniLM's own folder, or ResNet20 as plain tensors."""
    if model == "minilm":
        return minilm_folder()
    place = folder / f"{model}-base"
    if not (place / "model.safetensors").exists():
        save(TASKS[model](), place)
    return place


def tune(task: Any, recipe: Recipe, keep: Callable[[int], None]) -> None:
    """A plain loop: cross-entropy, AdamW, learning rate falling linearly to zero."""
    optimizer = torch.optim.AdamW(
        task.model.parameters(), lr=recipe.lr, weight_decay=recipe.weight_decay
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / recipe.steps)
    task.model.train()
    batches = task.batches(recipe.batch, recipe.seed)
    for step in range(1, recipe.steps + 1):
        inputs, labels = next(batches)
        loss = functional.cross_entropy(task.logits(inputs), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        keep(step)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join(RECIPES))
    parser.add_argument("--folder", type=Path, default=KEPT)
    given = parser.parse_args()
    for model in ("resnet20", "stories"):
        base_of(model, given.folder)
    for name in given.only.split(","):
        partner(name, given.folder)


if __name__ == "__main__":
    main()
