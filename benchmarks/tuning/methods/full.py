"""Dense tuning of parameters as they stand: all target weights, the head, biases, norm layers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from torch import nn

from benchmarks.tuning.method import Attached, Method, NotApplicable, add
from benchmarks.tuning.task import Task

BIAS_FACTOR = 30.0
"""Rate of biases and gains over that of full tuning: few weights need larger steps. By training
losses of short runs on ``signs`` and ``plays``, where 10 was too small."""


def dense(parameters: Iterable[nn.Parameter], rate: float) -> Attached:
    """Train whole parameters; stored as values in 32 bits, their places need no index."""
    trained = [p.requires_grad_(True) for p in parameters]
    count = sum(p.numel() for p in trained)
    groups = [{"params": trained, "lr": rate}] if trained else []
    return Attached(groups=groups, trainable=count, delta_bytes=4 * count)


def is_norm(module: nn.Module) -> bool:
    """A normalisation layer; models name their own ones by the word, too (``T5LayerNorm``)."""
    return "norm" in type(module).__name__.lower() and not list(module.children())


def norm_parameters(task: Task) -> list[nn.Parameter]:
    """Gains and biases of the encoder's normalisation layers."""
    modules = [m for m in task.encoder.modules() if is_norm(m)]
    return unique(task, (p for m in modules for p in m.parameters(recurse=False)))


def bias_parameters(task: Task) -> list[nn.Parameter]:
    """All biases of the encoder, those of its normalisation layers with them."""
    named = task.encoder.named_parameters()
    return unique(task, (p for name, p in named if name.split(".")[-1] == "bias"))


def unique(task: Task, parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Each parameter once, without the head, which the loop trains."""
    head = {id(task.model.get_parameter(name)) for name in task.head}
    return list({id(p): p for p in parameters if id(p) not in head}.values())


def _full(task: Task, share: float, rate: float, seed: int) -> Attached:
    del share, seed
    return dense(task.target_weights().values(), rate)


def _head(task: Task, share: float, rate: float, seed: int) -> Attached:
    del share, rate, seed
    if not task.head:
        raise NotApplicable(f"{task.name} has no new head to train by itself")
    return dense((), 0.0)


def _some(
    find: Callable[[Task], list[nn.Parameter]], task: Task, share: float, rate: float, seed: int
) -> Attached:
    del share, seed
    found = find(task)
    if not found:
        raise NotApplicable(f"the encoder of {task.name} has none of what {find.__name__} finds")
    return dense(found, rate)


add(Method(
    name="full", family="control", words="All weights of all target matrices train",
    source="the usual fine-tuning", build=_full, rate=lambda task, share: task.full_rate,
    budgeted=False,
))  # fmt: skip
add(Method(
    name="head", family="control", words="Only the new head trains, the model is frozen",
    source="linear probing, Alain and Bengio 2016, arXiv:1610.01644", build=_head,
    rate=lambda task, share: task.head_rate, budgeted=False,
))  # fmt: skip
add(Method(
    name="bitfit", family="peer", words="All biases of the encoder train, norm layers' too",
    source="BitFit, Ben Zaken et al. 2022, arXiv:2106.10199", build=partial(_some, bias_parameters),
    rate=lambda task, share: BIAS_FACTOR * task.full_rate, budgeted=False,
))  # fmt: skip
add(Method(
    name="norms", family="peer", words="Gains and biases of the norm layers train",
    source="Frankle et al. 2021, arXiv:2003.00152; Zhao et al. 2024, arXiv:2312.11420",
    build=partial(_some, norm_parameters),
    rate=lambda task, share: BIAS_FACTOR * task.full_rate, budgeted=False,
))  # fmt: skip
