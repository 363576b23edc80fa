"""Answer keys for rankings of layers, measured here: damage one matrix, or tune one alone.

    PYTHONPATH=src:. python benchmarks/layer_keys.py [--only NAME,...]

A *damage* key is the harm done by pruning 50 % of one matrix by magnitude, or by Gaussian noise of
20 % of its norm, all else intact. A *tuning* key is how much the test loss of a new task falls
when one matrix alone is tuned for a few steps, at the best of three learning rates and over two
seeds (MiniLM, which is slow: one rate, one seed). Every number is kept in
``benchmarks/.work/layer-keys`` as soon as it is known: an interrupted run goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np
import torch
from safetensors.torch import load_file
from torch.nn import functional

from benchmarks.tasks import (
    DATA,
    KEPT,
    ResNet,
    cifar_resnet,
    cifar_test,
    encode,
    minilm_folder,
    pooled,
    sentences,
    sign_images,
    stories_model,
)

FOLDER = KEPT / "layer-keys"
NOISE = 0.2
SEEDS = (0, 1)


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A model with its matrices by name, and the harm that its present state does (0 = none)."""

    model: torch.nn.Module
    matrices: dict[str, torch.nn.Parameter]
    harm: Callable[[], float]


@dataclass(frozen=True, kw_only=True)
class Task:
    """A new task: its training batches and the losses on two halves of its test set."""

    model: torch.nn.Module
    matrices: dict[str, torch.nn.Parameter]
    batches: Callable[[int], Iterator[tuple[Any, torch.Tensor]]]
    loss: Callable[[Any, torch.Tensor], torch.Tensor]
    halves: Callable[[], tuple[float, float]]
    rates: tuple[float, ...]
    steps: int
    seeds: tuple[int, ...] = SEEDS


# -------------------------------------------------------------------------- measurement


def damage(subject: Subject, name: str, how: str) -> float:
    """The harm of one damaged matrix; ``prune-50``, ``prune-80``, ... or ``noise`` (two draws)."""
    parameter = subject.matrices[name]
    intact = parameter.detach().clone()
    harms = []
    for seed in SEEDS if how == "noise" else (0,):
        with torch.no_grad():
            parameter.copy_(_noised(intact, seed) if how == "noise" else _pruned(intact, how))
            harms.append(subject.harm())
            parameter.copy_(intact)
    return float(np.mean(harms))


def _noised(weight: torch.Tensor, seed: int) -> torch.Tensor:
    draw = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    return weight + draw * (NOISE * weight.norm() / draw.norm())


def _pruned(weight: torch.Tensor, how: str) -> torch.Tensor:
    count = int(weight.numel() * int(how.removeprefix("prune-")) / 100)
    threshold = weight.abs().flatten().kthvalue(count).values
    return torch.where(weight.abs() <= threshold, 0.0, weight)


def tuned(task: Task, name: str, seed: int, rate: float) -> tuple[float, float]:
    """Losses on both halves of the test set after this matrix alone was tuned."""
    parameter = task.matrices[name]
    intact = parameter.detach().clone()
    for other in task.model.parameters():
        other.requires_grad_(other is parameter)
    optimizer = torch.optim.AdamW([parameter], lr=rate, weight_decay=0.0)
    batches = task.batches(seed)
    for step in range(task.steps):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / task.steps)
        optimizer.zero_grad()
        task.loss(*next(batches)).backward()
        optimizer.step()
    after = task.halves()
    with torch.no_grad():
        parameter.copy_(intact)
    return after


def tuning_gain(kept: dict[str, list[float]], name: str) -> float:
    """Fall of the loss on one half at the rate that is best on the other, both ways, over seeds."""
    before = kept["before"]
    gains = []
    runs: dict[str, list[list[float]]] = {}
    for key in sorted(kept):
        if key.startswith(f"{name}|"):
            runs.setdefault(key.split("|")[2], []).append(kept[key])
    for chosen, judged in ((0, 1), (1, 0)):
        best = min(runs, key=lambda r: sum(run[chosen] for run in runs[r]))
        gains += [before[judged] - run[judged] for run in runs[best]]
    return float(np.mean(gains))


# ------------------------------------------------------------------------------ subjects


def resnet20() -> Subject:
    """CIFAR-10 ResNet20; harm is the rise of the loss on 500 test images."""
    return _classifier(cifar_resnet(), cifar_test(500))


def distiller(state: str) -> Subject:
    """One of the distiller ResNet20s; harm is the rise of the loss on 500 test images."""
    model = with_projections()
    model.load_state_dict(
        load_file(DATA / f"distiller-resnet20/checkpoint_trained_{state}.safetensors")
    )
    return _classifier(model, cifar_test(500, (0.5,) * 3, (0.5,) * 3))


def with_projections() -> torch.nn.Module:
    """ResNet20 with 1 x 1 convolutions as shortcuts and a head named ``fc``."""
    model = ResNet()
    for stage, width in ((2, 16), (3, 32)):
        block = getattr(model, f"layer{stage}")[0]
        block.downsample = torch.nn.Sequential(
            torch.nn.Conv2d(width, 2 * width, 1, 2, bias=False), torch.nn.BatchNorm2d(2 * width)
        )
        block.forward = _projected(block)
    model.fc, model.linear = model.linear, torch.nn.Identity()
    plain = model.forward
    model.forward = lambda x: model.fc(plain(x))
    return model


def _projected(block: torch.nn.Module) -> Callable[[torch.Tensor], torch.Tensor]:
    def forward(x: torch.Tensor) -> torch.Tensor:
        y = block.bn2(block.conv2(functional.relu(block.bn1(block.conv1(x)))))
        return functional.relu(y + block.downsample(x))

    return forward


def _classifier(model: torch.nn.Module, data: tuple[torch.Tensor, torch.Tensor]) -> Subject:
    model.eval()
    x, y = data

    def loss() -> float:
        with torch.no_grad():
            return float(functional.cross_entropy(model(x), y))

    intact = loss()
    return Subject(model=model, matrices=_matrices(model, "conv"), harm=lambda: loss() - intact)


def minilm() -> Subject:
    """MiniLM; harm is 1 - the mean cosine with the intact embeddings of 128 STS-B sentences."""
    from transformers import AutoModel, AutoTokenizer

    model = AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    lines = (DATA / "stsb-en/stsb-en-test.csv").read_text(encoding="utf-8").splitlines()
    texts = [line.split(",")[0].strip('"') for line in lines[:1280:10]]
    batch = tokenizer(texts, padding=True, truncation=True, max_length=32, return_tensors="pt")

    def embed() -> torch.Tensor:
        with torch.no_grad():
            mask = batch["attention_mask"][..., None]
            states = model(**batch).last_hidden_state * mask
        return functional.normalize(states.sum(1), dim=1)

    intact = embed()
    return Subject(
        model=model,
        matrices=_matrices(model, "encoder.layer"),
        harm=lambda: float(1 - (embed() * intact).sum(1).mean()),
    )


def stories() -> Subject:
    """stories260k; harm is the divergence from its own predictions on text it wrote itself."""
    model = stories_model().eval()
    torch.manual_seed(0)
    start = torch.ones(24, 1, dtype=torch.long)
    text = model.generate(
        start, attention_mask=torch.ones_like(start), do_sample=True, max_new_tokens=191,
        min_new_tokens=191, pad_token_id=0, top_k=0,
    )  # fmt: skip

    def predicted() -> torch.Tensor:
        with torch.no_grad():
            return functional.log_softmax(model(text).logits, dim=-1)

    intact = predicted()
    return Subject(
        model=model,
        matrices=_matrices(model, "proj"),
        harm=lambda: float((intact.exp() * (intact - predicted())).sum(-1).mean()),
    )


def _matrices(model: torch.nn.Module, part: str) -> dict[str, torch.nn.Parameter]:
    wanted = {
        name: parameter
        for name, parameter in model.named_parameters()
        if parameter.ndim >= 2 and (part in name or "downsample.0" in name)
    }
    return wanted


# --------------------------------------------------------------------------------- tasks


def signs() -> Task:
    """ResNet20 on photographs of hand signs; its new head was fitted on frozen features first."""
    model = cifar_resnet()
    model.eval()
    x, y, test, labels = sign_images()
    _fit_head(model, x, y)

    def batches(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(seed)
        while True:
            picked = rng.choice(len(x), 32, replace=False)
            yield x[picked], y[picked]

    def halves() -> tuple[float, float]:
        with torch.no_grad():
            each = functional.cross_entropy(model(test[:400]), labels[:400], reduction="none")
        return float(each[0::2].mean()), float(each[1::2].mean())

    return Task(
        model=model,
        matrices=_matrices(model, "conv"),
        batches=batches,
        loss=lambda inputs, targets: functional.cross_entropy(model(inputs), targets),
        halves=halves,
        rates=(1e-3, 3e-3, 1e-2),
        steps=20,
    )


def _fit_head(model: torch.nn.Module, x: torch.Tensor, y: torch.Tensor) -> None:
    head, model.linear = torch.nn.Linear(64, 10), torch.nn.Identity()
    with torch.no_grad():
        features = torch.cat([model(part) for part in x.split(128)])
    model.linear = _fitted(head, features, y)


def _fitted(
    head: torch.nn.Linear, features: torch.Tensor, y: torch.Tensor, penalty: float = 0.0
) -> torch.nn.Linear:
    for parameter in head.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.AdamW(head.parameters(), lr=1e-2, weight_decay=0.0)
    for _ in range(200):
        optimizer.zero_grad()
        loss = functional.cross_entropy(head(features), y)
        (loss + penalty * head.weight.square().sum()).backward()
        optimizer.step()
    return head.requires_grad_(False)


def shakespeare() -> Task:
    """stories260k on plays: a domain that it has never seen."""
    model = stories_model()
    text = (DATA / "tinyshakespeare/input.txt").read_text()
    train = torch.tensor(encode(text[:200_000]))
    test = torch.tensor(encode(text[-40_000:]))
    test = test[: len(test) // 128 * 128].view(-1, 128)[:64]

    def batches(seed: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        rng = np.random.default_rng(seed)
        while True:
            starts = rng.integers(0, len(train) - 128, 8)
            picked = torch.stack([train[s : s + 128] for s in starts])
            yield picked, picked

    def loss(inputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        logits = model(inputs).logits[:, :-1]
        return functional.cross_entropy(logits.flatten(0, 1), targets[:, 1:].flatten())

    def halves() -> tuple[float, float]:
        with torch.no_grad():
            return float(loss(test[0::2], test[0::2])), float(loss(test[1::2], test[1::2]))

    return Task(
        model=model,
        matrices=_matrices(model, "proj"),
        batches=batches,
        loss=loss,
        halves=halves,
        rates=(1e-2, 3e-2, 1e-1),
        steps=20,
    )


def sentiment() -> Task:
    """MiniLM on film reviews (SST-2); its head was fitted on frozen features first."""
    from transformers import AutoModel, AutoTokenizer

    encoder = AutoModel.from_pretrained(minilm_folder()).eval()
    tokenizer = AutoTokenizer.from_pretrained(minilm_folder())
    head = torch.nn.Linear(encoder.config.hidden_size, 2)
    texts, labels = sentences("train")
    held, held_labels = sentences("dev")
    order = sorted(range(160), key=lambda i: len(held[i]))

    def features(part: list[str]) -> torch.Tensor:
        batch = tokenizer(part, padding=True, truncation=True, max_length=48, return_tensors="pt")
        return pooled(encoder, batch)

    with torch.no_grad():
        known = torch.cat([features(texts[i : i + 16]) for i in range(0, 640, 16)])
    # without a penalty the head fits 640 sentences so well that its test loss is above chance
    _fitted(head, known, torch.tensor(labels[:640]), penalty=0.01)

    def batches(seed: int) -> Iterator[tuple[list[str], torch.Tensor]]:
        rng = np.random.default_rng(seed)
        while True:
            picked = rng.choice(len(texts), 16, replace=False)
            yield [texts[i] for i in picked], torch.tensor(labels[picked])

    def halves() -> tuple[float, float]:
        with torch.no_grad():
            parts = [order[i : i + 32] for i in range(0, len(order), 32)]
            logits = torch.cat([head(features([held[i] for i in part])) for part in parts])
        truth = torch.tensor(held_labels[order])
        each = functional.cross_entropy(logits, truth, reduction="none")
        return float(each[0::2].mean()), float(each[1::2].mean())

    return Task(
        model=encoder,
        matrices=_matrices(encoder, "encoder.layer"),
        batches=batches,
        loss=lambda part, truth: functional.cross_entropy(head(features(part)), truth),
        halves=halves,
        rates=(1e-3,),
        steps=8,
        seeds=(0,),
    )


# --------------------------------------------------------------------------------- keys

DAMAGED: dict[str, tuple[Callable[[], Subject], tuple[str, ...]]] = {
    "stories": (stories, ("prune-50", "noise")),
    "minilm": (minilm, ("prune-50", "noise")),
    "resnet20": (resnet20, ("prune-50", "prune-80", "noise")),
    "distiller-dense": (lambda: distiller("dense"), ("prune-80",)),
    "distiller-ch": (lambda: distiller("ch_regularized_dense"), ("prune-80",)),
}
TUNED: dict[str, Callable[[], Task]] = {
    "shakespeare": shakespeare,
    "signs": signs,
    "sentiment": sentiment,
}


def kept(name: str) -> dict:
    """What is known of a key so far."""
    file = FOLDER / f"{name}.json"
    return json.loads(file.read_text()) if file.exists() else {}


def keep(name: str, known: dict) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    part = FOLDER / f"{name}.part"
    part.write_text(json.dumps(known, indent=1))
    part.replace(FOLDER / f"{name}.json")


def measure(name: str) -> dict:
    """Measure what is missing of a key, and keep it."""
    torch.set_num_threads(1)
    known = kept(name)
    started = time.process_time()
    if name in DAMAGED:
        make, hows = DAMAGED[name]
        subject = make()
        for matrix in subject.matrices:
            for how in hows:
                if f"{matrix}|{how}" not in known:
                    known[f"{matrix}|{how}"] = damage(subject, matrix, how)
                    keep(name, known)
    else:
        task = TUNED[name]()
        known.setdefault("before", task.halves())
        # by chance, so that what an interrupted run leaves is no corner of the network
        for matrix in np.random.default_rng(0).permutation(list(task.matrices)).tolist():
            for seed in task.seeds:
                for rate in task.rates:
                    if f"{matrix}|{seed}|{rate:g}" not in known:
                        known[f"{matrix}|{seed}|{rate:g}"] = tuned(task, matrix, seed, rate)
                        keep(name, known)
    spent = time.process_time() - started
    print(f"{name}: {len(known)} numbers, {spent:.0f} s of CPU time in this run", flush=True)
    return known


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default=",".join((*DAMAGED, *TUNED)))
    for name in parser.parse_args().only.split(","):
        measure(name)


if __name__ == "__main__":
    main()
