"""Tasks of the fine-tuning benchmark: splits apart, fresh models alike, scores from examples."""

from __future__ import annotations

import subprocess
import sys
from itertools import combinations
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks.tuning.task import SPLITS, Task
from benchmarks.tuning.tasks import TASKS
from tests.conftest import shared

NEEDED = {
    "signs": ("data/sign-digits", "data/cifar10-clean", "data/resnet-cifar10"),
    "photos": ("data/cifar10-jpeg", "data/cifar10-clean", "data/resnet-cifar10"),
    "plays": ("data/stories260k", "data/tinyshakespeare"),
    "sentiment": ("data/sst2", "data/stsb-en"),
    "intents": ("data/banking77", "data/stsb-en"),
}
TARGETS = {"signs": 19, "photos": 19, "plays": 35, "sentiment": 36, "intents": 36}
LANGUAGE = ("sentiment", "intents")


@pytest.fixture(scope="module")
def made() -> dict[str, Task]:
    """Tasks made so far."""
    return {}


@pytest.fixture(params=sorted(TASKS))
def task(request: pytest.FixtureRequest, made: dict[str, Task]) -> Task:
    name = request.param
    for folder in NEEDED[name]:
        shared(folder)
    if name in LANGUAGE:
        request.getfixturevalue("minilm")
    if name not in made:
        made[name] = TASKS[name]()
    made[name].begin(0)
    return made[name]


def test_the_list_of_tasks_loads_nothing() -> None:
    code = (
        "import sys, benchmarks.tuning.tasks as t; assert t.TASKS;"
        "sys.exit('transformers' in sys.modules or t.__name__ + '.signs' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_targets_are_matrices_of_the_encoder(task: Task) -> None:
    weights = task.target_weights()
    assert len(weights) == TARGETS[task.name]
    assert all(x.ndim >= 2 for x in weights.values())
    assert task.target_count() == sum(x.numel() for x in weights.values())
    prefix = f"{task.prefix}." if task.prefix else ""
    assert not {f"{prefix}{name}" for name in weights} & set(task.head)
    for name in task.head:
        task.model.get_parameter(name)


def test_a_seed_gives_the_same_model_and_batches(task: Task) -> None:
    first, head = _state(task), [task.model.get_parameter(x).clone() for x in task.head]
    batch = _plain(next(task.batches(3)))
    with torch.no_grad():
        for weight in task.target_weights().values():
            weight.add_(1.0)
    task.begin(0)
    again = _state(task)
    assert all(torch.equal(first[k], again[k]) for k in first)
    assert _plain(next(task.batches(3))) == batch
    assert _plain(next(task.batches(4))) != batch
    task.begin(1)
    assert all(
        not torch.equal(x, task.model.get_parameter(n))
        for n, x in zip(task.head, head, strict=True)
    )


def test_splits_share_no_example(task: Task) -> None:
    held: Any = task.held  # type: ignore[attr-defined]
    parts = {"train": task.train, **held}  # type: ignore[attr-defined]
    if task.name == "plays":
        windows = {s: {tuple(row) for row in parts[s].tolist()} for s in SPLITS}
        train = parts["train"].tolist()
        windows["train"] = {tuple(train[i : i + 128]) for i in range(len(train) - 127)}
        own: Any = task.own  # type: ignore[attr-defined]
        assert not torch.equal(own["validation"], own["test"])
        parts = windows
    else:
        parts = {s: {str(_plain(x)) for x in of[0]} for s, of in parts.items()}
    for one, other in combinations(parts.values(), 2):
        assert not one & other


def test_quality_comes_from_the_examples(task: Task) -> None:
    draw = np.random.default_rng(0)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=task.bf16):
        scores = []
        if task.name != "intents":  # the old task of sentiment, and slow
            scores.append((task.old("test"), True))
        if task.name != "sentiment":
            scores.append((task.new("validation"), False))
    for score, old in scores:
        assert task.quality_of(score.each, old=old) == pytest.approx(score.quality)
        count = len(score.each)
        order = draw.permutation(count)
        assert task.quality_of(score.each, order, old=old) == pytest.approx(score.quality)
        half = task.quality_of(score.each, order[: count // 2 + 1], old=old)
        assert half != score.quality
        assert half == pytest.approx(score.quality, abs=25.0)


def test_every_target_gets_a_gradient(task: Task) -> None:
    batch = next(task.batches(0))
    loss = task.loss(batch)
    loss.backward()
    assert all(x.grad is not None and x.grad.any() for x in task.target_weights().values())
    with torch.no_grad():
        before = task.outputs(batch)
        for weight in task.target_weights().values():
            weight.mul_(1.1)
        assert before.ndim == 2
        assert not torch.equal(before, task.outputs(batch))


def _state(task: Task) -> dict[str, torch.Tensor]:
    return {k: v.clone() for k, v in task.model.state_dict().items()}


def _plain(value: Any) -> Any:
    """Tensors as lists, to compare."""
    if isinstance(value, torch.Tensor):
        return hash(value.numpy().tobytes())
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(x) for x in value] if isinstance(value, (tuple, list)) else value


@pytest.mark.parametrize("task", LANGUAGE, indirect=True)
def test_spearman_needs_all_cosines(task: Task) -> None:
    with pytest.raises(ValueError, match="one cosine per pair"):
        task.quality_of(np.zeros(7), old=True)
