"""Training runs with a measured checkpoint every epoch: healthy, over-trained, random labels.

    PYTHONPATH=src:. python benchmarks/training_runs.py [--only NAME,...]

Every checkpoint is measured by FROG as it is made (no data, no forward pass) and by its loss and
error on test images; the weights are not kept. A finished run is kept in
``benchmarks/.work/training-runs``, so an interrupted call goes on with the next one.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass

os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import torch
from PIL import Image
from torch.nn import functional

import frog
from benchmarks.tasks import DATA, KEPT, cifar_resnet, sign_images

FOLDER = KEPT / "training-runs"


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A run: ``examples`` of the training set, optimiser (``sgd`` with momentum 0.9, ``adamw``)."""

    net: str
    examples: int
    epochs: int
    rate: float
    seed: int
    optimizer: str = "sgd"
    shuffled_labels: bool = False
    batch: int = 64


RUNS = {
    f"mlp, lr {rate:g}, seed {seed}": Recipe(
        net="mlp", examples=3000, epochs=16, rate=rate, seed=seed
    )
    for rate in (0.003, 0.02, 0.1)
    for seed in (0, 1)
}
RUNS |= {
    "mlp, AdamW, seed 0": Recipe(
        net="mlp", examples=3000, epochs=16, rate=1e-3, seed=0, optimizer="adamw"
    ),
    **{
        f"mlp, 200 images, seed {seed}": Recipe(
            net="mlp", examples=200, epochs=40, rate=0.01, seed=seed, batch=20
        )
        for seed in (0, 1)
    },
    "mlp, diverged": Recipe(net="mlp", examples=200, epochs=40, rate=0.1, seed=0, batch=20),
    "mlp, 200 images, AdamW": Recipe(
        net="mlp", examples=200, epochs=40, rate=3e-3, seed=0, optimizer="adamw", batch=20
    ),
    **{
        f"mlp, random labels, seed {seed}": Recipe(
            net="mlp", examples=3000, epochs=30, rate=0.1, seed=seed, shuffled_labels=True
        )
        for seed in (0, 1)
    },
    "mlp, random labels, AdamW": Recipe(
        net="mlp",
        examples=3000,
        epochs=30,
        rate=1e-3,
        seed=0,
        optimizer="adamw",
        shuffled_labels=True,
    ),
    "resnet20 to signs, lr 0.0003": Recipe(
        net="resnet20", examples=1024, epochs=8, rate=3e-4, seed=0, optimizer="adamw", batch=32
    ),
    "resnet20 to signs, lr 0.003": Recipe(
        net="resnet20", examples=1024, epochs=8, rate=3e-3, seed=0, optimizer="adamw", batch=32
    ),
    "resnet20 to signs, 100 images": Recipe(
        net="resnet20", examples=100, epochs=24, rate=1e-3, seed=0, optimizer="adamw", batch=20
    ),
}
SETTINGS = {
    "mlp": frog.Settings(bootstrap=0, curves=False),
    "resnet20": frog.Settings(bootstrap=0, curves=False, min_evals=16),
}
"""The convolutions of a CIFAR ResNet have 16 to 64 eigenvalues: fitted all the same."""


def run(name: str) -> list[dict]:
    """The epochs of a run, each with its losses, errors and FROG's summary."""
    file = FOLDER / f"{name.replace(', ', '_').replace(' ', '-')}.json"
    if file.exists():
        return json.loads(file.read_text())["epochs"]
    torch.set_num_threads(1)
    started = time.process_time()
    epochs = train(RUNS[name])
    FOLDER.mkdir(parents=True, exist_ok=True)
    spent = round(time.process_time() - started, 1)
    text = json.dumps({"recipe": asdict(RUNS[name]), "cpu_seconds": spent, "epochs": epochs})
    file.with_suffix(".part").write_text(text)
    file.with_suffix(".part").replace(file)
    print(f"{name}: {spent:.0f} s, test error {epochs[-1]['test_error']:.3f}", flush=True)
    return epochs


def train(recipe: Recipe) -> list[dict]:
    torch.manual_seed(recipe.seed)
    rng = np.random.default_rng(recipe.seed)
    model, (x, y), test = {"mlp": digits, "resnet20": signs}[recipe.net]()
    picked = rng.permutation(len(x))[: recipe.examples]
    x, y = x[picked], y[picked]
    if recipe.shuffled_labels:
        y = y[rng.permutation(len(y))]
    if recipe.optimizer == "sgd":
        optimizer = torch.optim.SGD(model.parameters(), lr=recipe.rate, momentum=0.9)
    else:
        optimizer = torch.optim.AdamW(model.parameters(), lr=recipe.rate, weight_decay=0.0)
    epochs = [checkpoint(0, model, (x, y), test, recipe)]
    for epoch in range(1, recipe.epochs + 1):
        model.train()
        order = torch.from_numpy(rng.permutation(len(x)))
        for part in order.split(recipe.batch):
            optimizer.zero_grad()
            functional.cross_entropy(model(x[part]), y[part]).backward()
            optimizer.step()
        epochs.append(checkpoint(epoch, model, (x, y), test, recipe))
    return epochs


def checkpoint(
    epoch: int,
    model: torch.nn.Module,
    train: tuple[torch.Tensor, torch.Tensor],
    test: tuple[torch.Tensor, torch.Tensor],
    recipe: Recipe,
) -> dict:
    model.eval()
    train_loss, train_error = judged(model, *(part[:500] for part in train))
    test_loss, test_error = judged(model, *test)
    report = frog.analyze(model, SETTINGS[recipe.net], run=frog.Run(jobs=1))
    summary = {k: v for k, v in report.summary.items() if isinstance(v, float)}
    return {
        "epoch": epoch,
        "train_loss": train_loss,
        "train_error": train_error,
        "test_loss": test_loss,
        "test_error": test_error,
        "summary": summary,
        "layers": {
            x.name: {k: x.values[k] for k in ("alpha", "stable_rank", "log_spectral_norm")}
            for x in report.measured
        },
    }


def judged(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> tuple[float, float]:
    with torch.no_grad():
        logits = torch.cat([model(part) for part in x.split(250)])
    loss = float(functional.cross_entropy(logits, y))
    return loss, float((logits.argmax(1) != y).float().mean())


def digits() -> tuple[torch.nn.Module, tuple, tuple]:
    """A fresh 784-512-512-10 network, 6,000 training and 3,000 test images of MNIST."""
    model = torch.nn.Sequential(
        torch.nn.Linear(784, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 512),
        torch.nn.ReLU(),
        torch.nn.Linear(512, 10),
    )
    folder = DATA / "mnist-sheets"
    labels = json.loads((folder / "labels.json").read_text())

    def sheet(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        image = np.asarray(Image.open(folder / name).convert("L")).reshape(3000, 784)
        return (torch.tensor(image) / 255 - 0.13) / 0.31, torch.tensor(labels[name])

    first, second = sheet("mnist_batch_0.png"), sheet("mnist_batch_1.png")
    train = torch.cat([first[0], second[0]]), torch.cat([first[1], second[1]])
    return model, train, sheet("mnist_batch_20.png")


def signs() -> tuple[torch.nn.Module, tuple, tuple]:
    """CIFAR-10's ResNet20 with a fresh head, photographs of hand signs."""
    model = cifar_resnet()
    model.linear.reset_parameters()
    x, y, x_test, y_test = sign_images()
    return model, (x, y), (x_test, y_test)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="|".join(RUNS), help="names with | between them")
    for name in parser.parse_args().only.split("|"):
        run(name)


if __name__ == "__main__":
    main()
